//! The daemon's health, as `slmd status` and `/readyz?verbose` tell it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::problem::Problem;
use super::{FleetStatus, RealmStatus, TrustFailure};
use crate::time::Timestamp;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub device: String,
    pub ready: bool,
    pub not_ready_because: Option<String>,
    /// `None`: the daemon is of a release that didn't tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problems: Option<Vec<Problem>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
    /// `None`: records can be written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreStatus>,
    pub uptime_seconds: u64,
    pub clock: ClockStatus,
    pub realms: Vec<RealmStatus>,
    pub engine: EngineStatus,
    /// `None`: no broker is configured.
    pub mqtt: Option<MqttStatus>,
    /// `None`: no fleet is followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<FleetStatus>,
    pub audit: AuditStatus,
    /// For administrators: the public socket doesn't tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inside: Option<Inside>,
}

/// Why nothing can be recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    pub folder: String,
    pub why: String,
    /// There is no room: it goes on by itself when there is.
    pub full: bool,
}

/// What only the admin socket tells.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Inside {
    /// Sockets' paths, and addresses as URLs.
    pub listeners: Vec<String>,
    /// Where the broker is.
    pub broker: Option<String>,
    /// Where the log collector is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collector: Option<String>,
    /// When the server's certificate in force ends, where there is TLS.
    pub certificate_ends_at: Option<String>,
    /// Resident, mapped files included.
    pub memory_bytes: Option<u64>,
    pub kernels: String,
    pub threads: usize,
    pub requests: Requests,
    pub answers: Answers,
    /// Of 1; when it is full, those who have most of it lose their oldest records.
    pub audit_fill: f64,
    pub audit_max_bytes: u64,
    pub audit_oldest_at: Option<String>,
    /// Of the state folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    pub folder: String,
    /// For the daemon's user.
    pub free_bytes: u64,
    pub size_bytes: u64,
}

/// Decisions since the start.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Requests {
    pub permitted: u64,
    /// By reason.
    pub refused: BTreeMap<String, u64>,
}

/// What the engine has done since the start.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Answers {
    pub count: u64,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    /// `None` before there was an answer of two tokens.
    pub tokens_per_second: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClockStatus {
    pub now: String,
    /// No decision is made by an earlier time.
    pub floor: String,
    pub floor_ahead_seconds: u64,
    pub synchronised: bool,
    /// By realm: what its tokens alone tell of the time.
    pub realm_floors: BTreeMap<String, String>,
    /// By realm: what one client's tokens alone tell, which counts for no other.
    pub client_floors: BTreeMap<String, ClientFloor>,
}

impl ClockStatus {
    /// What time decisions are made by: never before the floor.
    pub fn moment(&self) -> Timestamp {
        let now = self.now.as_str().max(&self.floor).parse();
        now.unwrap_or_default()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientFloor {
    pub client: String,
    pub floor: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineStatus {
    pub running: usize,
    pub waiting: usize,
    #[serde(default)]
    pub models: Vec<ModelStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelStatus {
    pub name: String,
    /// Whether its endpoints may answer; not where the fleet wants it on its list and it isn't.
    pub listed: bool,
}

/// The broker connection.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MqttStatus {
    pub connected: bool,
    /// Why not, or a denied subscription, or a takeover by another client with our id.
    pub problem: Option<String>,
    pub reconnects: u64,
    /// Refusals since the start that couldn't be told to whoever asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untold: Option<Untold>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Untold {
    pub count: u64,
    /// Reason, topic, and why it couldn't be told.
    pub last: String,
    pub last_seconds_ago: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditStatus {
    /// Of the record that comes next.
    pub next_index: u64,
    /// Where else records go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exports: Vec<ExportStatus>,
    /// Who watches the log.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub witnesses: Vec<WitnessStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportStatus {
    /// `syslog` or `journald`.
    pub to: String,
    /// It has all records before this.
    pub confirmed_index: u64,
    /// Records that cap or retention took before they were sent, since the start.
    pub missing: u64,
    /// Why it doesn't get on.
    pub problem: Option<String>,
}

/// A witness of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WitnessStatus {
    pub name: String,
    /// Where it is asked; one without brings what it has cosigned over the fleet's broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    pub cosigned: Option<Cosigned>,
    /// It knows a log that this one can't have grown from.
    #[serde(default)]
    pub alarm: bool,
    /// What is wrong, by a name that doesn't change and in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<TrustFailure>,
}

/// The last that it has cosigned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cosigned {
    pub epoch: u64,
    pub size: u64,
    pub at: String,
}
