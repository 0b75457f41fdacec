//! What the fleet has in force, and what more of it is signed comes to. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::Refused;
use crate::auth::{Policy, Revocations};
use crate::fleet::{Held, Signed};
use crate::time::{Mark, Moment};
use crate::trust::Versions;
use crate::trust::targets::Lifted;

/// What the fleet has in force.
#[derive(Debug, Clone)]
pub struct Fleet {
    pub signed: Signed,
    /// By realm: what was ever revoked, and has neither ended nor been lifted.
    pub denied: BTreeMap<String, Revocations>,
}

impl Fleet {
    /// As it was kept. What can't be read of it is told and left out, but for what is revoked.
    pub(super) fn kept(held: &Held) -> Fleet {
        let signed = Signed::kept(held).unwrap_or_else(|error| {
            tracing::error!(%error, "what is kept of the fleet's trust can't be used");
            Signed::unread(held)
        });
        let denied =
            held.denied
                .iter()
                .filter_map(|(realm, file)| match Revocations::parse(file) {
                    Ok(list) => Some((realm.clone(), list)),
                    Err(why) => {
                        tracing::error!(realm, why, "what the fleet has revoked can't be read");
                        None
                    }
                });
        Fleet {
            signed,
            denied: denied.collect(),
        }
    }

    /// Signed lists and the local one: what either revokes is.
    pub(super) fn denied(&self, realm: &str, local: Option<&Revocations>) -> Option<Revocations> {
        match (self.denied.get(realm), local) {
            (None, local) => local.cloned(),
            (Some(signed), None) => Some(signed.clone()),
            (Some(signed), Some(local)) => {
                let mut both = local.clone();
                both.join(signed);
                Some(both)
            }
        }
    }

    pub(super) fn narrow(&self, realm: &str, policy: &Policy) -> Policy {
        match self.signed.policy.get(realm) {
            Some(fleet) => policy.narrowed_by(fleet),
            None => policy.clone(),
        }
    }

    /// A confirmation as it counts for keys that the fleet has signed: none is younger than what
    /// has passed since the timestamp's end, or whoever withholds a newer one would win time.
    pub(super) fn confirmed(&self, realm: &str, confirmed: Mark) -> Mark {
        match (self.signed.keys.contains_key(realm), self.signed.expires) {
            (true, Some(end)) => confirmed.ended(end),
            _ => confirmed,
        }
    }

    /// Whether the fleet's list names the bundle.
    pub(super) fn lists(&self, model: &str, digest: &str) -> bool {
        let listed = self.signed.models.get(model);
        listed.is_some_and(|digests| digests.contains(&format!("sha256:{digest}")))
    }

    /// Whether there is more to tell than that the same was signed anew.
    pub(super) fn is_news(&self, before: &Fleet) -> bool {
        let versions = |fleet: &Fleet| (fleet.signed.versions.root, fleet.signed.versions.targets);
        let (old, new) = (&before.signed, &self.signed);
        versions(before) != versions(self)
            || old.held.targets != new.held.targets
            || before.denied != self.denied
    }

    pub(super) fn told(&self, before: &Fleet, keys: &Map<String, Value>) -> Value {
        let Versions {
            root,
            timestamp,
            snapshot,
            targets,
            revocation,
        } = self.signed.versions;
        let denied = self.denied.iter();
        let denied = denied.filter(|(realm, list)| before.denied.get(*realm) != Some(list));
        let denied: BTreeMap<&String, usize> = denied
            .map(|(realm, list)| (realm, list.entries()))
            .collect();
        let models = self.signed.models.iter();
        let models = models.filter(|(name, list)| before.signed.models.get(*name) != Some(list));
        let models: Vec<&String> = models.map(|(name, _)| name).collect();
        json!({
            "root": root,
            "timestamp": timestamp,
            "snapshot": snapshot,
            "targets": targets,
            "revocation": revocation,
            "keys": keys,
            "denied": denied,
            "policy": self.signed.policy != before.signed.policy,
            "models": models,
        })
    }
}

/// What the fleet has revoked: a list that lacks an entry lifts nothing. Its end is judged by the
/// fleet's own clock: ours may be wrong.
pub(super) fn revoked(
    before: &Fleet,
    signed: &Signed,
    now: Moment,
) -> Result<BTreeMap<String, Revocations>, Refused> {
    let mut denied = before.denied.clone();
    for (realm, list) in &signed.denied {
        denied.entry(realm.clone()).or_default().join(list);
    }
    let nothing = BTreeSet::<Lifted>::new();
    for (realm, list) in &mut denied {
        list.lift(signed.lifted.get(realm).unwrap_or(&nothing));
        list.expire(signed.issued.unwrap_or_default());
        if !list.fits() {
            list.expire(now.known);
        }
        if !list.fits() {
            return Err(Refused::TooManyRevoked(realm.clone()));
        }
    }
    Ok(denied)
}
