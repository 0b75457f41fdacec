//! What is in force: realms with their keys and policies, and the deny-list.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::deny::DenyList;
use super::keyset::KeySet;
use super::policy::{Endpoint, Policy};
use crate::prompt::Scope;
use crate::time::{Mark, Moment, Timestamp};

/// Everything but the time that a decision depends on. Two snapshots of one epoch are the same.
#[derive(Debug)]
pub struct Snapshot {
    pub epoch: u64,
    /// By issuer.
    pub realms: BTreeMap<String, Realm>,
    pub deny: DenyList,
}

impl Snapshot {
    pub fn new(epoch: u64, realms: Vec<Realm>, deny: DenyList) -> Snapshot {
        let by_issuer = |realm: Realm| (realm.issuer.clone(), realm);
        Snapshot {
            epoch,
            realms: realms.into_iter().map(by_issuer).collect(),
            deny,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Realm {
    pub name: String,
    pub issuer: String,
    pub policy: Policy,
    pub endpoints: Vec<Arc<Endpoint>>,
    pub keys: KeySet,
    /// When the keys were last confirmed.
    pub confirmed: Option<Mark>,
}

impl Realm {
    /// When the keys will be too old for the scope, if ever, by the clock of `now`.
    pub fn stops_at(&self, scope: Scope, now: Moment) -> Option<Timestamp> {
        let grace = self.policy.offline_grace.get(&scope)?;
        Some(self.confirmed?.shown(now).saturating_add(*grace))
    }

    pub fn endpoint(&self, client_id: &str) -> Option<&Arc<Endpoint>> {
        self.endpoints.iter().find(|e| e.client_id == client_id)
    }
}
