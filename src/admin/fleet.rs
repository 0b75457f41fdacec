//! The fleet that a device follows, as administration tells of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FleetStatus {
    /// `None`: a root is pinned, and no fleet is configured.
    pub name: Option<String>,
    /// SHA-256 of the root that is trusted now; `None`: none is pinned.
    pub root_fingerprint: Option<String>,
    /// What is kept of it and can't be read; tokens of the realms that this may be about are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread: Option<String>,
    /// Versions of what is trusted.
    pub root: Option<u64>,
    pub timestamp: Option<u64>,
    pub snapshot: Option<u64>,
    pub targets: Option<u64>,
    pub revocation: Option<u64>,
    /// When the timestamp ends. From then on keys that the fleet has signed grow old.
    pub expires_at: Option<String>,
    pub expired: bool,
    /// By realm, how many revocations of the fleet count.
    pub revoked: BTreeMap<String, usize>,
    pub mirrors: Vec<MirrorStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorStatus {
    pub mirror: String,
    /// `None`: not yet.
    pub asked_at: Option<String>,
    /// Why it gave nothing good then.
    pub refused: Option<TrustFailure>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustFailure {
    /// A name that doesn't change.
    pub reason: String,
    pub why: String,
}

/// What of the fleet is trusted; `null` where none is followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trusted {
    pub fleet: Option<FleetStatus>,
}

/// A root that a person trusts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootPinned {
    pub fingerprint: String,
    pub version: u64,
}
