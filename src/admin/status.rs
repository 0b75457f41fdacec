//! The daemon's health, as `slmd status` and `/readyz?verbose` tell it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::RealmStatus;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub device: String,
    pub ready: bool,
    pub not_ready_because: Option<String>,
    pub uptime_seconds: u64,
    pub clock: ClockStatus,
    pub realms: Vec<RealmStatus>,
    pub engine: EngineStatus,
    /// `None`: no broker is configured.
    pub mqtt: Option<MqttStatus>,
    pub audit: AuditStatus,
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

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientFloor {
    pub client: String,
    pub floor: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineStatus {
    pub running: usize,
    pub waiting: usize,
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
}
