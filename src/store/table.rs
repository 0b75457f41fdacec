//! A named map on two sled trees, so that no page ever becomes a blob.
//!
//! sled splits a leaf by its number of items (over 16), not by its size, and writes a page over
//! 128 KiB (a quarter of a segment) to a file of its own that it never syncs. So a value over
//! [`PART`] bytes lies in parts in a second tree, under a random id that the first one names.
//! Parts are written before the value that names them and removed after it.

use std::collections::{BTreeMap, BTreeSet};

use super::error::{StoreError, from_sled};
use super::{MAX_KEY, MAX_VALUE};

/// 20 items of this size (16, and what a merge adds) with their keys stay under 128 KiB.
const PART: usize = 5 * 1024;

/// First byte of a stored value: the value follows.
const WHOLE: u8 = 0;
/// First byte of a stored value: the id of its parts follows, and their number.
const IN_PARTS: u8 = 1;

/// What the second tree's name ends with.
const SUFFIX: &str = "/parts";

pub(super) struct Table {
    values: sled::Tree,
    parts: sled::Tree,
}

/// A key and its value.
pub(super) type Pair = (Vec<u8>, Vec<u8>);

impl Table {
    pub(super) fn open(db: &sled::Db, name: &str) -> Result<Table, StoreError> {
        let parts = format!("{name}{SUFFIX}");
        Ok(Table {
            values: db.open_tree(name).map_err(from_sled)?,
            parts: db.open_tree(parts).map_err(from_sled)?,
        })
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        // A writer may replace the parts between our two reads; it can't do so for ever.
        for _ in 0..8 {
            let Some(stored) = self.values.get(key).map_err(from_sled)? else {
                return Ok(None);
            };
            if let Some(value) = self.whole(&stored)? {
                return Ok(Some(value));
            }
        }
        Err(StoreError::Corrupt("a value lacks parts".into()))
    }

    pub(super) fn insert(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let stored = self.store(key, value)?;
        let old = self.values.insert(key, stored).map_err(from_sled)?;
        self.forget(old.as_deref())
    }

    pub(super) fn remove(&self, key: &[u8]) -> Result<(), StoreError> {
        let old = self.values.remove(key).map_err(from_sled)?;
        self.forget(old.as_deref())
    }

    pub(super) fn apply(
        &self,
        changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    ) -> Result<(), StoreError> {
        let (mut batch, mut old) = (sled::Batch::default(), Vec::new());
        for (key, value) in changes {
            old.push(self.values.get(&key).map_err(from_sled)?);
            match value {
                Some(value) => batch.insert(&*key, self.store(&key, &value)?),
                None => batch.remove(&*key),
            }
        }
        self.values.apply_batch(batch).map_err(from_sled)?;
        old.iter().try_for_each(|old| self.forget(old.as_deref()))
    }

    pub(super) fn range(&self, from: &[u8], limit: usize) -> Result<Vec<Pair>, StoreError> {
        let mut pairs = Vec::new();
        for pair in self.values.range(from..).take(limit) {
            let (key, stored) = pair.map_err(from_sled)?;
            // Parts that are gone: the value was removed or replaced since.
            let value = match self.whole(&stored)? {
                None => self.get(&key)?,
                whole => whole,
            };
            pairs.extend(value.map(|value| (key.to_vec(), value)));
        }
        Ok(pairs)
    }

    pub(super) fn keys(&self, from: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, StoreError> {
        let keys = self.values.range(from..).keys().take(limit);
        keys.map(|key| Ok(key.map_err(from_sled)?.to_vec()))
            .collect()
    }

    pub(super) fn last(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let last = self.values.last().map_err(from_sled)?;
        Ok(last.map(|(key, _)| key.to_vec()))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether a tree of the database belongs to this table.
    pub(super) fn is_of(tree: &[u8], name: &str) -> bool {
        let rest = tree.strip_prefix(name.as_bytes());
        rest.is_some_and(|rest| rest.is_empty() || rest == SUFFIX.as_bytes())
    }

    /// Removes parts that no value names.
    pub(super) fn sweep(db: &sled::Db, spared: impl Fn(&[u8]) -> bool) -> Result<(), StoreError> {
        let names = db.tree_names().into_iter();
        for name in names.filter(|name| !spared(name)) {
            let Some(name) = std::str::from_utf8(&name)
                .ok()
                .and_then(|n| n.strip_suffix(SUFFIX))
            else {
                continue;
            };
            let table = Table::open(db, name)?;
            if table.parts.is_empty() {
                continue;
            }
            let mut named = BTreeSet::new();
            for stored in table.values.iter().values() {
                named.extend(parts_of(&stored.map_err(from_sled)?).map(|(id, _)| id));
            }
            for key in table.parts.iter().keys() {
                let key = key.map_err(from_sled)?;
                if !key.first_chunk().is_some_and(|id| named.contains(id)) {
                    table.parts.remove(&key).map_err(from_sled)?;
                }
            }
        }
        Ok(())
    }

    /// Writes the parts of a long value; returns what is to be stored under the key itself.
    fn store(&self, key: &[u8], value: &[u8]) -> Result<Vec<u8>, StoreError> {
        check("key", key.len(), MAX_KEY)?;
        check("value", value.len(), MAX_VALUE)?;
        if value.len() <= PART {
            return Ok([&[WHOLE], value].concat());
        }
        let id = crate::identity::random::<8>();
        let mut count = 0_u8;
        for part in value.chunks(PART) {
            let key = part_key(id, count);
            self.parts.insert(key, part).map_err(from_sled)?;
            count += 1;
        }
        Ok([&[IN_PARTS][..], &id, &[count]].concat())
    }

    /// The value that `stored` means; `None` when its parts are gone.
    fn whole(&self, stored: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        if let Some((&WHOLE, value)) = stored.split_first() {
            return Ok(Some(value.to_vec()));
        }
        let Some((id, count)) = parts_of(stored) else {
            return Err(StoreError::Corrupt("a value of unknown form".into()));
        };
        let mut value = Vec::new();
        for index in 0..count {
            let part = self.parts.get(part_key(id, index)).map_err(from_sled)?;
            let Some(part) = part else { return Ok(None) };
            value.extend_from_slice(&part);
        }
        Ok(Some(value))
    }

    /// Removes the parts of a value that is no more.
    fn forget(&self, old: Option<&[u8]>) -> Result<(), StoreError> {
        let Some((id, count)) = old.and_then(parts_of) else {
            return Ok(());
        };
        for index in 0..count {
            self.parts.remove(part_key(id, index)).map_err(from_sled)?;
        }
        Ok(())
    }
}

fn parts_of(stored: &[u8]) -> Option<([u8; 8], u8)> {
    let (id, count) = stored.strip_prefix(&[IN_PARTS])?.split_first_chunk()?;
    let [count] = *count else { return None };
    Some((*id, count))
}

fn part_key(id: [u8; 8], index: u8) -> Vec<u8> {
    [&id[..], &[index]].concat()
}

fn check(what: &'static str, size: usize, limit: usize) -> Result<(), StoreError> {
    if size > limit {
        return Err(StoreError::TooLarge { what, size, limit });
    }
    Ok(())
}
