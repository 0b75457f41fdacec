//! Realms and their keys, as administration tells of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::auth::{KeyInfo, KeySet, Skipped};
use crate::keysync::{DenyStatus, Difference};

/// A key set: what is used of it, and what isn't.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    pub keys: Vec<KeyInfo>,
    /// Empty where there are no keys to compare.
    pub fingerprint: String,
    pub left_out: Vec<Skipped>,
}

impl From<&KeySet> for Keys {
    fn from(set: &KeySet) -> Keys {
        Keys {
            keys: set.keys(),
            fingerprint: match set.is_empty() {
                true => String::new(),
                false => set.fingerprint(),
            },
            left_out: set.skipped().to_vec(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Listed {
    pub realms: Vec<RealmStatus>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RealmStatus {
    pub name: String,
    pub issuer: String,
    #[serde(flatten)]
    pub keys: Keys,
    /// Who has chosen them: "fleet", "hand" or "https".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys_source: Option<String>,
    pub keys_age_seconds: Option<u64>,
    pub keys_confirmed_at: Option<String>,
    /// Scopes that the keys will be too old for, unless they are confirmed.
    pub scope_stops_at: BTreeMap<String, String>,
    pub endpoints: Vec<EndpointStatus>,
    pub keys_changed: Option<KeysChanged>,
    /// `None`: the realm isn't refreshed.
    pub refresh: Option<RefreshStatus>,
    /// A fetched set that waits for a person.
    pub held: Option<Keys>,
    pub deny_list: Option<DenyStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointStatus {
    pub client_id: String,
    pub model: String,
}

/// The last change of a realm's keys since the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysChanged {
    pub at: String,
    #[serde(flatten)]
    pub change: Difference,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefreshStatus {
    pub last_outcome: Option<String>,
    pub last_at: Option<String>,
    /// Where it failed.
    pub why: Option<String>,
    pub next_at: String,
    /// Thumbprints of keys that vouch for a fetched set.
    pub vouching: Vec<String>,
}

/// Keys that a person has pinned, and what that changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinned {
    pub realm: String,
    #[serde(flatten)]
    pub keys: Keys,
    #[serde(flatten)]
    pub change: Difference,
}

/// Pins a set that was fetched and is held.
#[derive(Debug, Serialize, Deserialize)]
pub struct PinHeld {
    pub fingerprint: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    #[serde(flatten)]
    pub keys: Keys,
    /// It is what is pinned: nothing is held.
    pub pinned: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refreshed {
    pub realm: String,
    pub outcome: String,
    pub why: Option<String>,
    pub changed: Option<KeysChanged>,
    pub held: Option<Keys>,
}
