//! The store's part of deliveries, and which of them run in this process.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::entry::{Entry, State};
use crate::admission::Settings;
use crate::store::{Batch, Store, StoreError, Tree};
use crate::time::Timestamp;

/// How long a delivery that was begun and never answered is remembered: longer than a broker is
/// likely to keep the session that would bring it again.
const BEGUN_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// Keys are `d` + duplicate key → entry, `a` + attempt key → duplicate key.
#[derive(Debug, Clone)]
pub(in crate::admission) struct Inbox(Arc<Shelf>);

#[derive(Debug)]
struct Shelf {
    tree: Tree,
    store: Store,
    /// Deliveries between their claim and their answer, in this process.
    busy: Mutex<BTreeSet<[u8; 32]>>,
}

/// A delivery claimed by this process; dropped, it may be claimed again.
#[derive(Debug)]
pub(super) struct Busy {
    shelf: Arc<Shelf>,
    key: [u8; 32],
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut busy = self
            .shelf
            .busy
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        busy.remove(&self.key);
    }
}

impl Inbox {
    pub(in crate::admission) fn open(store: &Store) -> Result<Inbox, StoreError> {
        Ok(Inbox(Arc::new(Shelf {
            tree: store.tree("inbox")?,
            store: store.clone(),
            busy: Mutex::default(),
        })))
    }

    /// `None`: it runs already.
    pub(super) fn claim(&self, key: [u8; 32]) -> Option<Busy> {
        let mut busy = self.0.busy.lock().unwrap_or_else(PoisonError::into_inner);
        busy.insert(key).then(|| Busy {
            shelf: Arc::clone(&self.0),
            key,
        })
    }

    pub(super) fn get(&self, key: &[u8; 32]) -> Result<Option<Entry>, StoreError> {
        let Some(value) = self.0.tree.get(&named(b'd', key))? else {
            return Ok(None);
        };
        let entry = serde_json::from_slice(&value);
        entry
            .map(Some)
            .map_err(|e| StoreError::Corrupt(e.to_string()))
    }

    /// The delivery that this exact message began.
    pub(super) fn by_attempt(&self, attempt: &[u8; 32]) -> Result<Option<[u8; 32]>, StoreError> {
        let value = self.0.tree.get(&named(b'a', attempt))?;
        Ok(value.and_then(|key| key.try_into().ok()))
    }

    /// Rides on the next sync.
    pub(super) fn put(&self, key: &[u8; 32], entry: &Entry) -> Result<(), StoreError> {
        let value = serde_json::to_vec(entry).map_err(|e| StoreError::Io(e.to_string()))?;
        let mut batch = Batch::default();
        batch.insert(&named(b'd', key), &value);
        batch.insert(&named(b'a', &entry.attempt_key), key);
        self.0.tree.apply(batch)
    }

    /// Durable when this returns. Blocks.
    pub(super) fn put_durably(&self, key: &[u8; 32], entry: &Entry) -> Result<(), StoreError> {
        self.0.store.commit(|| self.put(key, entry))
    }

    /// Forgets what is out of its window, and the oldest beyond the bound. What runs stays.
    pub(in crate::admission) fn prune(
        &self,
        now: Timestamp,
        settings: &Settings,
    ) -> Result<(), StoreError> {
        let mut kept = self.entries()?;
        kept.sort_by_key(|(_, entry)| entry.touched);
        let mut excess = kept.len().saturating_sub(settings.duplicates);
        let busy = self
            .0
            .busy
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mut batch = Batch::default();
        for (key, entry) in kept {
            let window = match entry.state {
                State::Begun => BEGUN_KEPT,
                State::Answered(_) => settings.duplicate_window,
            };
            let old = now.since(entry.touched) > window || excess > 0;
            if old && !busy.contains(&key) {
                excess = excess.saturating_sub(1);
                batch.remove(&named(b'd', &key));
                batch.remove(&named(b'a', &entry.attempt_key));
            }
        }
        self.0.tree.apply(batch)
    }

    fn entries(&self) -> Result<Vec<([u8; 32], Entry)>, StoreError> {
        let pairs = self.0.tree.range(b"d", usize::MAX)?;
        let parsed = pairs.iter().filter_map(|(key, value)| {
            let key = key.strip_prefix(b"d")?.try_into().ok()?;
            Some((key, serde_json::from_slice(value).ok()?))
        });
        Ok(parsed.collect())
    }
}

fn named(kind: u8, key: &[u8; 32]) -> [u8; 33] {
    let mut name = [kind; 33];
    name[1..].copy_from_slice(key);
    name
}
