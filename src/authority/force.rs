//! What is in force, and what a change makes of it. Pure: nothing here reads, writes or waits.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::Refused;
use super::trusted::Fleet;
use crate::audit;
use crate::auth::{DenyList, Endpoint, Policy, Realm, Revocations, Snapshot};
use crate::fleet::Signed;
use crate::keysync::{Circumstances, Difference, History, Pinned, Set, Source, Verdict};
use crate::prompt::Scope;
use crate::time::{Booted, Mark, Moment, Timestamp};

/// A realm as it is configured: without its keys, which are pinned in the store.
#[derive(Debug, Clone, PartialEq)]
pub struct RealmConfig {
    pub name: String,
    pub issuer: String,
    pub policy: Policy,
    pub endpoints: Vec<Endpoint>,
    /// Where its keys are fetched from, where they are.
    pub jwks: Option<Source>,
    /// What is revoked before it expires.
    pub deny_file: Option<PathBuf>,
    /// Groups of this machine by name; the policy has their ids.
    pub local_groups: BTreeMap<String, Vec<Scope>>,
}

/// All that decides about a token, but for the time.
#[derive(Debug, Clone, Default)]
pub struct Force {
    pub realms: Vec<RealmConfig>,
    /// By realm, also of those that aren't configured now.
    pub keys: BTreeMap<String, Pinned>,
    /// By realm, of the deny files.
    pub denied: BTreeMap<String, Revocations>,
    /// `None`: no root is pinned.
    pub fleet: Option<Arc<Fleet>>,
    /// Endpoints answer only with bundles that the fleet's list names.
    pub listed_models_only: bool,
}

/// What can happen to what is in force.
#[derive(Debug, Clone)]
pub enum Change {
    /// `denied`: the deny files as they are now, of which those count that weren't followed.
    Configuration {
        realms: Vec<RealmConfig>,
        denied: BTreeMap<String, Revocations>,
        listed_models_only: bool,
        /// What the record says; at the start there is none.
        told: Option<Value>,
    },
    /// A person has chosen the realm's keys.
    Pinned { realm: String, set: Set },
    /// The realm's issuer has answered. `passed`: since its answer before.
    Fetched {
        realm: String,
        set: Set,
        passed: Duration,
    },
    /// The fleet's managers have signed it.
    Signed(Box<Signed>),
    /// A person trusts a root, by its fingerprint; `signed` is all that follows from it as yet.
    Rooted {
        fingerprint: String,
        signed: Box<Signed>,
    },
    /// Deny files have changed.
    DenyFile(Vec<(String, Revocations)>),
    /// The floor of time is set, also back.
    TimeReset {
        was: Timestamp,
        to: Timestamp,
        at: Booted,
    },
}

/// What is to be recorded of a change.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Note {
    pub(super) what: audit::Change,
    pub(super) detail: Value,
}

/// What a change comes to.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) force: Force,
    pub(super) notes: Vec<Note>,
    pub(super) done: Done,
}

/// What came of a change, for whoever asked for it.
#[derive(Debug, Clone, Default)]
pub struct Done {
    pub difference: Difference,
    /// Of a fetched set.
    pub verdict: Option<Verdict>,
}

/// What `change` makes of `force` at `now`. A refusal is of a change that can't be; it leaves all as
/// it was.
pub(super) fn next(force: &Force, change: &Change, now: Moment) -> Result<Next, Refused> {
    let mut next = Next {
        force: force.clone(),
        notes: Vec::new(),
        done: Done::default(),
    };
    match change {
        Change::Configuration {
            realms,
            denied,
            listed_models_only,
            told,
        } => {
            next.force.realms.clone_from(realms);
            next.force.denied = force.denied_of(realms, denied);
            next.force.listed_models_only = *listed_models_only;
            next.note(audit::Change::ConfigurationReloaded, told.clone());
        }
        Change::Pinned { realm, set } => next.pinned(force, realm, set, now)?,
        Change::Fetched { realm, set, passed } => {
            next.fetched(force.realm(realm)?, set, *passed, now)?;
        }
        Change::Signed(signed) => next.signed(signed, now)?,
        Change::Rooted {
            fingerprint,
            signed,
        } => next.rooted(signed, fingerprint),
        Change::DenyFile(lists) => {
            for (realm, list) in lists.iter().filter(|(realm, _)| force.realm(realm).is_ok()) {
                next.force.denied.insert(realm.clone(), list.clone());
                let detail = json!({"realm": realm, "entries": list.entries()});
                next.note(audit::Change::DenyListReplaced, Some(detail));
            }
        }
        Change::TimeReset { was, to, .. } => {
            for pinned in next.force.keys.values_mut() {
                pinned.confirmed = pinned.confirmed.mended(now);
            }
            let (was, floor) = (was.to_string(), to.to_string());
            next.note(
                audit::Change::TimeReset,
                Some(json!({"was": was, "floor": floor})),
            );
        }
    }
    Ok(next)
}

impl Next {
    pub(super) fn note(&mut self, what: audit::Change, detail: Option<Value>) {
        self.notes
            .extend(detail.map(|detail| Note { what, detail }));
    }

    fn pinned(
        &mut self,
        force: &Force,
        realm: &str,
        set: &Set,
        now: Moment,
    ) -> Result<(), Refused> {
        force.realm(realm)?;
        let pinned = Pinned {
            keys: set.keys.clone(),
            jwks: set.jwks(),
            confirmed: Mark::here(now),
            history: History::by_hand(&set.keys.thumbprints()),
            changed: None,
        };
        self.put(realm, pinned, now);
        let detail = json!({
            "realm": realm,
            "keys": set.keys.keys(),
            "fingerprint": set.keys.fingerprint(),
            "left_out": set.keys.skipped(),
            "added": self.done.difference.added,
            "removed": self.done.difference.removed,
        });
        self.note(audit::Change::KeysPinned, Some(detail));
        Ok(())
    }

    /// What becomes of a sound set. Where nothing is pinned, nobody vouches for it.
    fn fetched(
        &mut self,
        realm: &RealmConfig,
        set: &Set,
        passed: Duration,
        now: Moment,
    ) -> Result<(), Refused> {
        self.done.verdict = Some(Verdict::Foreign);
        let Some(old) = self.force.keys.get(&realm.name).cloned() else {
            return Ok(());
        };
        // Which keys the fleet has revoked must be known before its issuer can add any.
        let alone = self.force.fleet.is_some() && !realm.adds_keys();
        if alone || self.force.is_unread(&realm.name) {
            return self.confirmed(&realm.name, old, set, now);
        }
        let Some(set) = &self.force.revived_by_none(&realm.name, set, now)? else {
            return Ok(());
        };
        let denied = self.force.denied_in(&realm.name);
        let circumstances = Circumstances {
            passed,
            vouch_after: realm.vouch_after(),
            denied: &|thumbprint| {
                let denied = denied.as_ref();
                denied.is_some_and(|list| list.revokes_key(thumbprint, now.known))
            },
        };
        let was = old.keys.thumbprints();
        let judged = old
            .history
            .next(&was, &set.keys.thumbprints(), &circumstances);
        let (verdict, confirmed) = match judged.verdict {
            Verdict::Foreign => return Ok(()),
            Verdict::Held => (Verdict::Held, old.confirmed),
            _ if old.keys.same_keys(&set.keys) => (Verdict::Confirmed, Mark::here(now)),
            _ => (Verdict::Taken, Mark::here(now)),
        };
        self.done.verdict = Some(verdict);
        let left = match verdict {
            Verdict::Held if judged.in_force == was => Set::from(&old),
            Verdict::Held => old.only(&judged.in_force)?,
            Verdict::Confirmed if old.keys.same_set(&set.keys) => Set::from(&old),
            // The same keys by other names or beside others that are left out, too.
            _ => set.clone(),
        };
        let pinned = Pinned {
            jwks: left.jwks(),
            keys: left.keys,
            confirmed,
            history: judged.history,
            changed: None,
        };
        self.put(&realm.name, pinned, now);
        if verdict == Verdict::Taken || !self.done.difference.is_empty() {
            self.notes
                .push(refreshed(&realm.name, &self.done.difference));
        }
        Ok(())
    }

    /// Where the fleet signs the keys, their issuer only says that it still has them all: what it adds
    /// or has dropped is for the fleet to sign.
    fn confirmed(
        &mut self,
        realm: &str,
        old: Pinned,
        set: &Set,
        now: Moment,
    ) -> Result<(), Refused> {
        let served = set.keys.thumbprints();
        if !old.keys.thumbprints().is_subset(&served) || old.keys.is_empty() {
            return Ok(());
        }
        self.done.verdict = Some(Verdict::Confirmed);
        let confirmed = Mark::here(now);
        self.put(realm, Pinned { confirmed, ..old }, now);
        Ok(())
    }

    pub(super) fn put(&mut self, realm: &str, mut pinned: Pinned, now: Moment) {
        let old = self.force.keys.get(realm);
        let was = old.map(|old| old.keys.thumbprints()).unwrap_or_default();
        let difference = Difference::between(&was, &pinned.keys.thumbprints());
        pinned.changed = match difference.is_empty() {
            true => old.and_then(|old| old.changed.clone()),
            false => Some((now.known, difference.clone())),
        };
        self.force.keys.insert(realm.to_owned(), pinned);
        self.done.difference = difference;
    }
}

impl Force {
    pub fn realm(&self, name: &str) -> Result<&RealmConfig, Refused> {
        let found = self.realms.iter().find(|realm| realm.name == name);
        found.ok_or_else(|| {
            let names: Vec<&str> = self.realms.iter().map(|r| r.name.as_str()).collect();
            Refused::NoRealm {
                realm: name.to_owned(),
                known: names.join(", "),
            }
        })
    }

    /// As decisions see it.
    pub(super) fn snapshot(&self, epoch: u64) -> Snapshot {
        let realms = self.realms.iter().map(|realm| {
            let pinned = self.keys.get(&realm.name);
            let fleet = self.fleet.as_deref();
            let confirmed = |pinned: &Pinned| match fleet {
                Some(fleet) => fleet.confirmed(&realm.name, pinned.confirmed),
                None => pinned.confirmed,
            };
            let narrow = |fleet: &Fleet| fleet.narrow(&realm.name, &realm.policy);
            Realm {
                name: realm.name.clone(),
                issuer: realm.issuer.clone(),
                policy: fleet.map_or_else(|| realm.policy.clone(), narrow),
                endpoints: realm.endpoints.iter().cloned().map(Arc::new).collect(),
                keys: pinned.map(|pinned| pinned.keys.clone()).unwrap_or_default(),
                confirmed: pinned.map(confirmed),
            }
        });
        let lists = self
            .realms
            .iter()
            .filter_map(|realm| Some((realm.issuer.clone(), self.denied_in(&realm.name)?)));
        let unknown = self
            .realms
            .iter()
            .filter(|realm| self.is_unread(&realm.name));
        let deny = DenyList {
            realms: lists.collect(),
            unknown: unknown.map(|realm| realm.issuer.clone()).collect(),
        };
        Snapshot::new(epoch, realms.collect(), deny)
    }

    /// Whether what the fleet says of the realm was kept and can't be read.
    fn is_unread(&self, realm: &str) -> bool {
        let fleet = self.fleet.as_ref();
        fleet.is_some_and(|fleet| fleet.unread.is_about(realm))
    }

    /// What is revoked in a realm, by its file or by the fleet.
    fn denied_in(&self, realm: &str) -> Option<Revocations> {
        let local = self.denied.get(realm);
        match &self.fleet {
            Some(fleet) => fleet.denied(realm, local),
            None => local.cloned(),
        }
    }

    /// Without the keys that `next` hasn't, and what is to be recorded of that: what may count while
    /// `next` isn't written yet. `None`: nothing leaves.
    pub(super) fn without_what_leaves(&self, next: &Force) -> Option<(Force, Vec<Note>)> {
        let (mut less, mut notes) = (self.clone(), Vec::new());
        for (realm, pinned) in &self.keys {
            let was = pinned.keys.thumbprints();
            let stays = next.keys.get(realm).map(|next| next.keys.thumbprints());
            let stays = &was & &stays.unwrap_or_default();
            if stays == was {
                continue;
            }
            notes.push(refreshed(realm, &Difference::between(&was, &stays)));
            match (pinned.only(&stays), less.keys.get_mut(realm)) {
                (Ok(set), Some(left)) => (left.keys, left.jwks) = (set.keys.clone(), set.jwks()),
                // What can't be parted goes whole.
                _ => drop(less.keys.remove(realm)),
            }
        }
        (!notes.is_empty()).then_some((less, notes))
    }

    /// A fetched set without the keys that the fleet has revoked; `None`: it has no other.
    fn revived_by_none(&self, realm: &str, set: &Set, now: Moment) -> Result<Option<Set>, Refused> {
        let signed = self
            .fleet
            .as_ref()
            .and_then(|fleet| fleet.denied.get(realm));
        let Some(denied) = signed else {
            return Ok(Some(set.clone()));
        };
        let mut stay = set.keys.thumbprints();
        let all = stay.len();
        stay.retain(|key| !denied.revokes_key(key, now.known));
        match stay.len() {
            0 => Ok(None),
            left if left == all => Ok(Some(set.clone())),
            _ => Ok(Some(set.only(&stay)?)),
        }
    }

    /// A file that is followed already has been looked at since.
    fn denied_of(
        &self,
        realms: &[RealmConfig],
        read: &BTreeMap<String, Revocations>,
    ) -> BTreeMap<String, Revocations> {
        let list = |realm: &RealmConfig| {
            let path = realm.deny_file.as_ref()?;
            let followed = self.realm(&realm.name).ok();
            let followed = followed.is_some_and(|old| old.deny_file.as_ref() == Some(path));
            let lists = if followed { &self.denied } else { read };
            Some((realm.name.clone(), lists.get(&realm.name)?.clone()))
        };
        realms.iter().filter_map(list).collect()
    }
}

impl RealmConfig {
    fn vouch_after(&self) -> Duration {
        let source = self.jwks.as_ref();
        source.map_or(Duration::MAX, |source| source.vouch_after)
    }

    fn adds_keys(&self) -> bool {
        self.jwks.as_ref().is_none_or(|source| source.adds)
    }

    /// Keys that vouch for a fetched set, in force or not, by thumbprint.
    pub(super) fn vouching(&self, pinned: &Pinned) -> Vec<String> {
        pinned.history.vouching(self.vouch_after())
    }
}

fn refreshed(realm: &str, difference: &Difference) -> Note {
    let (added, removed) = (&difference.added, &difference.removed);
    Note {
        what: audit::Change::KeysRefreshed,
        detail: json!({"realm": realm, "added": added, "removed": removed}),
    }
}
