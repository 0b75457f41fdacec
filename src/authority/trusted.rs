//! What the fleet has in force, and what more of it is signed comes to. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::Refused;
use crate::auth::{Policy, Revocations};
use crate::fleet::{Held, Signed, Unread};
use crate::time::{Mark, Moment};
use crate::trust::Versions;
use crate::trust::targets::Lifted;

/// What the fleet has in force.
#[derive(Debug, Clone)]
pub struct Fleet {
    pub signed: Signed,
    /// By realm: what was ever revoked, and has neither ended nor been lifted.
    pub denied: BTreeMap<String, Revocations>,
    /// Of what was kept.
    pub unread: Unread,
}

impl Fleet {
    /// As it was kept. `unfinished`: what follows from it may not be written.
    pub(super) fn kept(held: &Held, unfinished: bool) -> Fleet {
        let (mut signed, unread) = Signed::kept(held);
        signed.again = unfinished;
        let read = |(realm, list): (&String, &Vec<u8>)| {
            Some((realm.clone(), Revocations::parse(list).ok()?))
        };
        Fleet {
            signed,
            denied: held.denied.iter().filter_map(read).collect(),
            unread,
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
        before.unread != self.unread
            || versions(before) != versions(self)
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
        let mut told = json!({
            "root": root,
            "timestamp": timestamp,
            "snapshot": snapshot,
            "targets": targets,
            "revocation": revocation,
            "keys": keys,
            "denied": denied,
            "policy": self.signed.policy != before.signed.policy,
            "models": models,
        });
        if before.unread != self.unread {
            let left = (!self.unread.is_empty()).then(|| self.unread.to_string());
            told["unread"] = left.into();
        }
        told
    }

    /// What nobody has told anew: `signed` is of other realms.
    fn left_unread(&self, signed: &Signed) -> Unread {
        let mut left = self.unread.clone();
        left.anywhere = None;
        let lists = &self.signed.held.denied;
        let lost = |realm: &str| lists.contains_key(realm) && !self.denied.contains_key(realm);
        left.realms
            .retain(|realm, _| lost(realm) && !signed.asked.contains(realm));
        left
    }

    /// With `signed` in place of what is in force; its keys are somebody else's to take up.
    pub(super) fn followed_by(
        &self,
        mut signed: Signed,
        denied: BTreeMap<String, Revocations>,
    ) -> Fleet {
        let unread = self.left_unread(&signed);
        // What was interrupted has no record yet.
        signed.again = false;
        let files = denied.iter();
        signed.held.denied = files
            .map(|(realm, list)| (realm.clone(), list.to_file()))
            .collect();
        for realm in unread.realms.keys() {
            let file = self.signed.held.denied.get(realm).cloned();
            signed
                .held
                .denied
                .insert(realm.clone(), file.unwrap_or_default());
        }
        Fleet {
            signed,
            denied,
            unread,
        }
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
