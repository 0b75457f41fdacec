//! The realms' keys as they are kept, how one set vouches for another ([`vouch`]), and where changes
//! come from: issuers over HTTPS ([`refresh`]), the realms' deny files ([`deny`]). [`floor`] keeps
//! the time floors. What is in force is [`authority`](crate::authority)'s to say.

mod backup;
mod deny;
mod floor;
mod refresh;
mod stored;
#[cfg(test)]
mod tests;
mod vouch;
mod words;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::backup::{Backup, NewCopy};
pub use self::deny::{DenyFiles, DenyStatus, NewDenyFiles, check_deny_file};
pub use self::floor::Floor;
pub use self::refresh::{Flight, Lines, Outcome, Refresher, Report, Source, Why};
use self::stored::Stored;
pub use self::vouch::{Circumstances, History, Thumbprints, Verdict};
use crate::auth::{KeySet, KeySetError};
use crate::identity::is_topic_level;
use crate::store::{MAX_KEY, Store, StoreError, Tree};
use crate::time::{Mark, Moment, Timestamp, Uptime};

/// The copies of what is pinned, in the state folder.
pub const FOLDER: &str = "keys";

/// The largest key set: a realm has a few keys of 1 to 3 KiB each. Their history needs room beside
/// it in one value of the store.
const MAX_JWKS: usize = 56 * 1024;

/// In the store while it is the one that was opened before; no realm has such a name.
const OPENED: &[u8] = b".opened";

#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("not a usable key set: {0}")]
    Invalid(String),
}

/// Where realm keys survive everything. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Keyring(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: Store,
    tree: Tree,
    backup: Backup,
    restored: Vec<String>,
    ignored: Vec<String>,
    /// For how long the daemon had run when a realm's keys were confirmed.
    ran_then: Tree,
    ran: Duration,
    begun: Uptime,
}

/// A usable key set with its exact bytes. Holding one says nothing of who vouches for it.
#[derive(Debug, Clone)]
pub struct Set {
    pub keys: KeySet,
    jwks: Arc<[u8]>,
}

/// A realm's keys in force.
#[derive(Debug, Clone)]
pub struct Pinned {
    pub keys: KeySet,
    /// The exact bytes.
    pub jwks: Arc<[u8]>,
    pub confirmed: Mark,
    pub history: History,
    /// What changed last, and when, since the start.
    pub changed: Option<(Timestamp, Difference)>,
}

/// Keys that came into force and keys that left, by thumbprint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    pub added: Vec<String>,
    pub removed: Vec<String>,
}

impl Difference {
    pub fn between(old: &Thumbprints, new: &Thumbprints) -> Difference {
        Difference {
            added: new.difference(old).cloned().collect(),
            removed: old.difference(new).cloned().collect(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }
}

impl Set {
    pub fn parse(jwks: &[u8]) -> Result<Set, KeysError> {
        if jwks.len() > MAX_JWKS {
            let what = format!("it is larger than {} KiB", MAX_JWKS / 1024);
            return Err(KeysError::Invalid(what));
        }
        let keys = KeySet::parse(jwks).map_err(|e| KeysError::Invalid(e.0))?;
        let jwks = jwks.into();
        Ok(Set { keys, jwks })
    }

    /// Only these of its keys.
    pub fn only(&self, thumbprints: &Thumbprints) -> Result<Set, KeysError> {
        let invalid = |e: KeySetError| KeysError::Invalid(e.0);
        let jwks = KeySet::only(&self.jwks, thumbprints).map_err(invalid)?;
        let keys = KeySet::stored(&jwks).map_err(invalid)?;
        let jwks = jwks.into();
        Ok(Set { keys, jwks })
    }

    pub fn jwks(&self) -> Arc<[u8]> {
        Arc::clone(&self.jwks)
    }
}

impl From<&Pinned> for Set {
    fn from(pinned: &Pinned) -> Set {
        Set {
            keys: pinned.keys.clone(),
            jwks: Arc::clone(&pinned.jwks),
        }
    }
}

impl Pinned {
    /// Only these of its keys.
    pub fn only(&self, thumbprints: &Thumbprints) -> Result<Set, KeysError> {
        Set::from(self).only(thumbprints)
    }

    /// Whether nothing of it has changed.
    fn is(&self, other: &Pinned) -> bool {
        self.jwks == other.jwks
            && self.confirmed == other.confirmed
            && self.history == other.history
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
            restored,
            ignored,
            ran_then: store.tree("keys_confirmed")?,
            ran,
            begun,
        })))
    }

    /// Realms whose keys the store had lost and the copies gave back, for the audit.
    pub fn restored(&self) -> &[String] {
        &self.0.restored
    }

    /// Realms with a copy that isn't what the store has kept, for the audit.
    pub fn ignored(&self) -> &[String] {
        &self.0.ignored
    }

    /// The keys of every realm. What is damaged is told and left out: one realm without keys mustn't
    /// keep the others from their start.
    pub fn load(&self) -> Result<BTreeMap<String, Pinned>, KeysError> {
        let mut all = BTreeMap::new();
        for (name, bytes) in self.0.tree.range(&[], usize::MAX)? {
            let name = String::from_utf8(name)
                .ok()
                .filter(|name| is_realm_name(name));
            let Some(realm) = name else { continue };
            match self.read(&realm, &bytes) {
                Ok(pinned) => {
                    tell_left_out(&realm, &pinned.keys);
                    all.insert(realm, pinned);
                }
                Err(KeysError::Invalid(why)) => {
                    tracing::error!(realm, why, "the pinned keys can't be used; pin them again");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    fn read(&self, realm: &str, bytes: &[u8]) -> Result<Pinned, KeysError> {
        let damaged = || KeysError::Invalid("what is stored is damaged".to_owned());
        let stored = Stored::from_bytes(bytes).ok_or_else(damaged)?;
        let keys = KeySet::stored(&stored.jwks).map_err(|e| KeysError::Invalid(e.0))?;
        Ok(Pinned {
            history: stored.history(&keys),
            keys,
            confirmed: self.0.mark(realm, stored.confirmed_at)?,
            jwks: stored.jwks.into(),
            changed: None,
        })
    }

    /// Saves what `new` has and `old` hadn't, as far as it is worth a write, with what `also`
    /// writes: both or neither is durable when this returns. Stored is the time that is known, so a
    /// clock that is behind makes keys look older after a restart, and for how long the daemon had
    /// run, so that one that is ahead makes them young for no longer than it runs. Blocks.
    pub fn save<E: From<StoreError>>(
        &self,
        old: &BTreeMap<String, Pinned>,
        new: &BTreeMap<String, Pinned>,
        now: Moment,
        also: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let (mut staged, mut before) = (Vec::new(), Vec::new());
        for (realm, pinned) in new {
            if old.get(realm).is_some_and(|old| old.is(pinned)) {
                continue;
            }
            let saved = self.0.tree.get(realm.as_bytes())?;
            if saved
                .as_deref()
                .and_then(Stored::from_bytes)
                .is_some_and(|s| !s.is_due(pinned))
            {
                continue;
            }
            before.push((realm, saved));
            staged.push(self.0.stage(realm, pinned, now)?);
        }
        if staged.is_empty() {
            return also();
        }
        let written = self.0.store.commit(|| {
            staged.iter().try_for_each(|(row, _)| self.0.insert(row))?;
            also()
        });
        if let Err(error) = written {
            // A store that can still be written has no keys that nobody recorded.
            for (realm, saved) in before {
                let _ = match saved {
                    Some(saved) => self.0.tree.insert(realm.as_bytes(), &saved),
                    None => self.0.tree.remove(realm.as_bytes()),
                };
            }
            return Err(error);
        }
        for (row, copy) in staged {
            if let Err(error) = copy.put() {
                let realm = row.realm;
                tracing::warn!(realm, %error, "the copy of the pinned keys is the one before");
            }
        }
        Ok(())
    }
}

/// What is stored of a realm.
struct Row {
    realm: String,
    keys: Vec<u8>,
    ran_then: [u8; 16],
}

impl Shared {
    /// The copy is on the disk before the store changes, so that keys which were refused for want
    /// of it aren't found in force after a restart. The store is what counts.
    fn stage(
        &self,
        realm: &str,
        pinned: &Pinned,
        now: Moment,
    ) -> Result<(Row, NewCopy), StoreError> {
        let stored = Stored {
            jwks: pinned.jwks.to_vec(),
            confirmed_at: pinned.confirmed.at(),
            history: Some(pinned.history.clone()),
        };
        let ran = self.ran.saturating_add(now.uptime.since(self.begun));
        let ran = ran.saturating_sub(pinned.confirmed.age(now));
        let ran = u64::try_from(ran.as_millis()).unwrap_or(u64::MAX);
        let mut ran_then = [0; 16];
        ran_then[..8].copy_from_slice(&stored.confirmed_at.0.to_be_bytes());
        ran_then[8..].copy_from_slice(&ran.to_be_bytes());
        let row = Row {
            realm: realm.to_owned(),
            keys: stored.to_bytes()?,
            ran_then,
        };
        Ok((row, self.backup.stage(realm, &stored)?))
    }

    fn insert(&self, row: &Row) -> Result<(), StoreError> {
        let name = row.realm.as_bytes();
        self.ran_then.insert(name, &row.ran_then)?;
        self.tree.insert(name, &row.keys)
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
pub fn tell_left_out(realm: &str, keys: &KeySet) {
    for skipped in keys.skipped().iter().filter(|skipped| skipped.signs) {
        tracing::warn!(realm, %skipped, "a key of the realm's set is left out");
    }
}

/// Whether `name` may name a file and a key of the store.
fn is_realm_name(name: &str) -> bool {
    is_topic_level(name) && !name.starts_with('.') && name.len() <= MAX_KEY
}
