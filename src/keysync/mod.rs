//! The pinned keys of each realm: kept in the store, changed by an explicit pin, or by a refresh
//! ([`refresh`]) with a set that is vouched for ([`vouch`]). [`floor`] keeps the time floors,
//! [`deny`] follows the realms' deny files.

mod backup;
mod deny;
mod floor;
mod refresh;
#[cfg(test)]
mod refresh_tests;
mod stored;
#[cfg(test)]
mod tests;
mod vouch;
mod words;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::backup::Backup;
pub use self::deny::{Changed, DenyFiles, DenyStatus, NewDenyFiles};
pub use self::floor::Floor;
pub use self::refresh::{Fetched, Held, Lines, Outcome, Refresher, Report, Source, Told, Why};
use self::stored::Stored;
use self::vouch::{History, Thumbprints};
use crate::auth::KeySet;
use crate::identity::is_topic_level;
use crate::store::{MAX_KEY, Store, StoreError, Tree};
use crate::time::{Mark, Moment, Timestamp, Uptime};

/// The largest key set: a realm has a few keys of 1 to 3 KiB each. Their history needs room beside
/// it in one value of the store.
const MAX_JWKS: usize = 56 * 1024;

/// A confirmation is saved when it is this far from the saved one: seldom, for the flash's sake.
const SAVE_EVERY: Duration = Duration::from_secs(300);

/// In the store while it is the one that was opened before; no realm has such a name.
const OPENED: &[u8] = b".opened";

#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("not a usable key set: {0}")]
    Invalid(String),
}

/// Realm keys that survive everything. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Keyring(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: Store,
    tree: Tree,
    backup: Backup,
    pinned: Mutex<BTreeMap<String, Pinned>>,
    restored: Vec<String>,
    ignored: Vec<String>,
    /// For how long the daemon had run when a realm's keys were confirmed.
    ran_then: Tree,
    ran: Duration,
    begun: Uptime,
}

#[derive(Debug, Clone)]
pub struct Pinned {
    pub keys: KeySet,
    pub confirmed: Mark,
    history: History,
    /// The last change in this process.
    changed: Option<(Timestamp, Change)>,
}

/// Keys that came into force and keys that left, by thumbprint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub added: Vec<String>,
    pub removed: Vec<String>,
}

impl Change {
    fn between(old: &Thumbprints, new: &Thumbprints) -> Change {
        Change {
            added: new.difference(old).cloned().collect(),
            removed: old.difference(new).cloned().collect(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }
}

impl Pinned {
    /// What changed last, and when, since the daemon's start.
    pub fn changed(&self) -> Option<&(Timestamp, Change)> {
        self.changed.as_ref()
    }
}

impl Keyring {
    /// `backup_folder`: the last good set also lives as a plain file outside sled. What the store
    /// lost is restored from there, with the time at which it was confirmed. What the store has kept
    /// counts, whatever a copy says: else whoever can write a file could pin keys. `ran`: for how
    /// long the daemon has run until now.
    pub fn open(
        store: &Store,
        backup_folder: PathBuf,
        ran: Duration,
        begun: Uptime,
    ) -> Result<Keyring, KeysError> {
        let tree = store.tree("keys")?;
        let backup = Backup::open(backup_folder)?;
        let damaged = store.recovery().is_some();
        let lost = damaged || tree.get(OPENED)?.is_none();
        let (mut restored, mut ignored) = (Vec::new(), Vec::new());
        for (realm, copy) in backup.all()? {
            let held = tree.get(realm.as_bytes())?;
            let held = held.and_then(|bytes| Stored::from_bytes(&bytes));
            // A damaged store may also have gone back to an earlier set.
            let older = |held: &Stored| damaged && held.confirmed_at <= copy.confirmed_at;
            if lost && held.as_ref().is_none_or(older) {
                let bytes = copy.to_bytes()?;
                store.commit(|| tree.insert(realm.as_bytes(), &bytes))?;
                restored.push(realm);
                continue;
            }
            match held {
                Some(held) if held.jwks == copy.jwks => {}
                // A crash came before the copy of the last change.
                Some(held) if copy.confirmed_at <= held.confirmed_at => {
                    backup.write(&realm, &held)?;
                }
                held => {
                    backup.set_aside(&realm, held.as_ref())?;
                    ignored.push(realm);
                }
            }
        }
        if lost {
            store.commit(|| tree.insert(OPENED, b"1"))?;
        }
        Ok(Keyring(Arc::new(Shared {
            store: store.clone(),
            tree,
            backup,
            pinned: Mutex::new(BTreeMap::new()),
            restored,
            ignored,
            ran_then: store.tree("keys_confirmed")?,
            ran,
            begun,
        })))
    }

    /// Sets the stored confirmations right after the clock was. Blocks.
    pub fn mend(&self, now: Moment) -> Result<(), KeysError> {
        let mut pinned = self.pinned();
        for (realm, bytes) in self.0.tree.range(&[], usize::MAX)? {
            let (Ok(realm), Some(mut stored)) =
                (String::from_utf8(realm), Stored::from_bytes(&bytes))
            else {
                continue;
            };
            let known = pinned.get_mut(&realm);
            let mended = match &known {
                Some(known) => known.confirmed,
                None => self.0.mark(&realm, stored.confirmed_at)?,
            };
            let mended = mended.mended(now);
            if mended.at() != stored.confirmed_at {
                stored.confirmed_at = mended.at();
                self.0.save(&realm, &stored, mended.age(now), now)?;
            }
            if let Some(known) = known {
                known.confirmed = mended;
            }
        }
        Ok(())
    }

    /// Realms whose keys the store had lost and the copies gave back, for the audit.
    pub fn restored(&self) -> &[String] {
        &self.0.restored
    }

    /// Realms with a copy that isn't what the store has kept, for the audit.
    pub fn ignored(&self) -> &[String] {
        &self.0.ignored
    }

    pub fn get(&self, realm: &str) -> Result<Option<Pinned>, KeysError> {
        if let Some(pinned) = self.pinned().get(realm) {
            return Ok(Some(pinned.clone()));
        }
        let Some(bytes) = self.0.tree.get(realm.as_bytes())? else {
            return Ok(None);
        };
        let damaged = || KeysError::Invalid(format!("the stored keys of {realm:?} are damaged"));
        let stored = Stored::from_bytes(&bytes).ok_or_else(damaged)?;
        let keys = KeySet::stored(&stored.jwks).map_err(|e| KeysError::Invalid(e.0))?;
        tell_left_out(realm, &keys);
        let pinned = Pinned {
            history: stored.history(&keys),
            keys,
            confirmed: self.0.mark(realm, stored.confirmed_at)?,
            changed: None,
        };
        self.pinned().insert(realm.to_owned(), pinned.clone());
        Ok(Some(pinned))
    }

    /// Replaces the realm's keys by a person's choice; durable when this returns. Blocks.
    pub fn pin(
        &self,
        realm: &str,
        jwks: &[u8],
        now: Moment,
    ) -> Result<(KeySet, Change), KeysError> {
        if !is_realm_name(realm) {
            let what = format!("{realm:?} can't be a realm's name");
            return Err(KeysError::Invalid(what));
        }
        let keys = KeySet::parse(jwks).map_err(|e| KeysError::Invalid(e.0))?;
        let history = History::by_hand(&keys.thumbprints());
        let confirmed = Mark::here(now);
        let change = self.replace(realm, keys.clone(), jwks, history, confirmed, now)?;
        Ok((keys, change))
    }

    /// [`Keyring::pin`]s what is in force, where `fingerprint` names it.
    fn pin_again(
        &self,
        realm: &str,
        fingerprint: &str,
        now: Moment,
    ) -> Option<Result<(KeySet, Change), KeysError>> {
        let known = self.get(realm).ok().flatten();
        known.filter(|known| known.keys.fingerprint() == fingerprint)?;
        let saved = self.saved(realm).transpose()?;
        Some(saved.and_then(|saved| self.pin(realm, &saved.jwks, now)))
    }

    /// Puts keys in force that their history allows.
    fn replace(
        &self,
        realm: &str,
        keys: KeySet,
        jwks: &[u8],
        history: History,
        confirmed: Mark,
        now: Moment,
    ) -> Result<Change, KeysError> {
        if jwks.len() > MAX_JWKS {
            let what = format!("it is larger than {} KiB", MAX_JWKS / 1024);
            return Err(KeysError::Invalid(what));
        }
        // What can't be read any more is replaced without a word on what it was.
        let old = self.get(realm).ok().flatten();
        let old = old.map(|old| old.keys.thumbprints()).unwrap_or_default();
        let change = Change::between(&old, &keys.thumbprints());
        let stored = Stored {
            jwks: jwks.to_vec(),
            confirmed_at: confirmed.at(),
            history: Some(history.clone()),
        };
        // One pin at a time, or store and copy could end up with different sets.
        let mut pinned = self.pinned();
        self.0.save(realm, &stored, confirmed.age(now), now)?;
        tell_left_out(realm, &keys);
        let changed = Some((now.known, change.clone())).filter(|_| !change.is_empty());
        let before = pinned.get(realm).and_then(|old| old.changed.clone());
        let entry = Pinned {
            keys,
            confirmed,
            history,
            changed: changed.or(before),
        };
        pinned.insert(realm.to_owned(), entry);
        Ok(change)
    }

    /// Leaves only these of the realm's keys in force. Nobody has confirmed them.
    fn reduce(
        &self,
        realm: &str,
        to: &Thumbprints,
        history: History,
        now: Moment,
    ) -> Result<Change, KeysError> {
        let lost = || KeysError::Invalid("nothing is pinned".to_owned());
        let saved = self.saved(realm)?.ok_or_else(lost)?;
        let confirmed = self.get(realm)?.ok_or_else(lost)?.confirmed;
        let jwks = KeySet::only(&saved.jwks, to).map_err(|e| KeysError::Invalid(e.0))?;
        let keys = KeySet::parse(&jwks).map_err(|e| KeysError::Invalid(e.0))?;
        self.replace(realm, keys, &jwks, history, confirmed, now)
    }

    /// Notes that the realm's keys are still its keys, whatever the wall clock says. Blocks where
    /// it saves.
    pub fn confirm(&self, realm: &str, now: Moment) -> Result<(), KeysError> {
        self.note(realm, Some(Mark::here(now)), None, now)
    }

    /// Notes what an answer says without a change of keys. Stored is the time that is known, so a
    /// clock that is behind makes keys look older after a restart, and for how long the daemon had
    /// run, so that one that is ahead makes them young for no longer than it runs. Blocks where it
    /// saves.
    fn note(
        &self,
        realm: &str,
        confirmed: Option<Mark>,
        history: Option<History>,
        now: Moment,
    ) -> Result<(), KeysError> {
        self.get(realm)?;
        let mut pinned = self.pinned();
        let Some(entry) = pinned.get_mut(realm) else {
            return Ok(());
        };
        entry.confirmed = confirmed.unwrap_or(entry.confirmed);
        entry.history = history.unwrap_or_else(|| entry.history.clone());
        let Some(mut saved) = self.saved(realm)? else {
            return Ok(());
        };
        let watched = entry.history.ahead_of(&saved.history(&entry.keys));
        if watched.max(apart(entry.confirmed.at(), saved.confirmed_at)) >= SAVE_EVERY {
            saved.confirmed_at = entry.confirmed.at();
            saved.history = Some(entry.history.clone());
            self.0.save(realm, &saved, entry.confirmed.age(now), now)?;
        }
        Ok(())
    }

    fn saved(&self, realm: &str) -> Result<Option<Stored>, KeysError> {
        let saved = self.0.tree.get(realm.as_bytes())?;
        Ok(saved.and_then(|bytes| Stored::from_bytes(&bytes)))
    }

    fn pinned(&self) -> MutexGuard<'_, BTreeMap<String, Pinned>> {
        self.0.pinned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// The copy is on the disk before the store changes, so that keys which were refused for want
    /// of it aren't found in force after a restart. The store is what counts.
    /// `age`: of the confirmation.
    fn save(
        &self,
        realm: &str,
        stored: &Stored,
        age: Duration,
        now: Moment,
    ) -> Result<(), KeysError> {
        let (bytes, name) = (stored.to_bytes()?, realm.as_bytes());
        let ran = self.ran.saturating_add(now.uptime.since(self.begun));
        let ran = u64::try_from(ran.saturating_sub(age).as_millis()).unwrap_or(u64::MAX);
        let then = [stored.confirmed_at.0, ran].map(u64::to_be_bytes).concat();
        let copy = self.backup.stage(realm, stored)?;
        self.store.commit(|| {
            self.ran_then.insert(name, &then)?;
            self.tree.insert(name, &bytes)
        })?;
        copy.put()?;
        Ok(())
    }

    /// A stored confirmation. Where nothing is known of the run at that time, it was the last.
    fn mark(&self, realm: &str, confirmed_at: Timestamp) -> Result<Mark, StoreError> {
        let then = self.ran_then.get(realm.as_bytes())?;
        let then = then
            .as_deref()
            .and_then(|then| match then.as_chunks::<8>() {
                ([at, ran], []) => Some([*at, *ran].map(u64::from_be_bytes)),
                _ => None,
            });
        let then = then.filter(|[at, _]| *at == confirmed_at.0);
        let ran = then.map_or(Duration::ZERO, |[_, then]| {
            self.ran.saturating_sub(Duration::from_millis(then))
        });
        Ok(Mark::before(confirmed_at, ran, self.begun))
    }
}

/// A key that signs tokens and isn't used will be missed. One that encrypts won't.
fn tell_left_out(realm: &str, keys: &KeySet) {
    for skipped in keys.skipped().iter().filter(|skipped| skipped.signs) {
        tracing::warn!(realm, %skipped, "a key of the realm's set is left out");
    }
}

fn apart(a: Timestamp, b: Timestamp) -> Duration {
    a.since(b).max(b.since(a))
}

/// Whether `name` may name a file and a key of the store.
fn is_realm_name(name: &str) -> bool {
    is_topic_level(name) && !name.starts_with('.') && name.len() <= MAX_KEY
}
