//! Administration: what a daemon's admin socket is asked, and what it answers.
//!
//! [`route`] is the table of operations, and the types here are what travels: the daemon fills them,
//! the socket sends them, the command line prints them. Their members are public names, which scripts
//! read. A reader passes over what it doesn't know, so that a newer daemon may say more. Times are
//! RFC 3339 in UTC with milliseconds, so their order as text is their order.

mod diagnosis;
mod fleet;
mod keys;
mod problem;
pub mod route;
mod status;
#[cfg(test)]
pub(crate) mod tests;

use serde::{Deserialize, Serialize};

pub use self::diagnosis::{
    draining, fleet_problems, held_keys, problems, realm_problems, store as store_problem, unread,
};
pub use self::fleet::{FleetStatus, MirrorStatus, RootPinned, TrustFailure, Trusted};
pub use self::keys::{
    EndpointStatus, Fetched, Keys, KeysChanged, Listed, PinHeld, Pinned, RealmStatus,
    RefreshStatus, Refreshed,
};
pub use self::problem::{Kind, Problem};
pub use self::route::{Call, Operation};
pub use self::status::{
    Answers, AuditStatus, ClientFloor, ClockStatus, Cosigned, DiskStatus, EngineStatus,
    ExportStatus, Inside, ModelStatus, MqttStatus, Requests, Status, StoreStatus, Untold,
    WitnessStatus,
};

/// The configuration was read anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// How many there are.
    pub realms: usize,
    /// Sections that have changed and wait for a restart.
    pub needs_restart: Vec<String>,
}

/// Sets the time floor, also back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetTime {
    pub to: ResetTo,
}

/// Verifies the audit log, also against a checkpoint that somebody has kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyAudit {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
}

/// The last line of records that were filtered, where a newer release wrote some that can't be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    pub left_out: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResetTo {
    Now,
    /// Since 1970.
    #[serde(untagged)]
    Seconds(u64),
}

/// Erases the salt of a request's prompt hash, and its texts.
#[derive(Debug, Serialize, Deserialize)]
pub struct Forget {
    /// Its own id or the beginning of that, or the index of its access.
    pub request: String,
}

/// Shows the salt of a prompt's hash, for who has the text and compares it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct ShowSalt {
    /// Of the access.
    pub index: u64,
}

/// The time floor was set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeReset {
    pub was: String,
    pub floor: String,
}
