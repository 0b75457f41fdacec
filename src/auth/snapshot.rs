//! What is in force: realms with their keys and policies, and the deny-list.

use std::collections::BTreeMap;

use super::deny::DenyList;
use super::realm::Realm;

/// Everything but the time that a decision depends on. Two snapshots of one epoch are the same.
#[derive(Debug)]
pub struct Snapshot {
    pub epoch: u64,
    /// By issuer.
    pub realms: BTreeMap<String, Realm>,
    pub deny: DenyList,
}

impl Snapshot {
    /// Whether what is revoked isn't known in any realm.
    pub fn opens_none(&self) -> bool {
        let closed = |realm: &Realm| self.deny.unknown.contains(&realm.issuer);
        !self.realms.is_empty() && self.realms.values().all(closed)
    }

    pub fn new(epoch: u64, realms: Vec<Realm>, deny: DenyList) -> Snapshot {
        let by_issuer = |realm: Realm| (realm.issuer.clone(), realm);
        Snapshot {
            epoch,
            realms: realms.into_iter().map(by_issuer).collect(),
            deny,
        }
    }
}
