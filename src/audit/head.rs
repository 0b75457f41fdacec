//! The head record: what is known of the log up to an index, so that opening reads only the records
//! after it.
//!
//! It can be lost without harm: everything in it is counted anew from the records, only more slowly.

use super::owners::{Owner, Owners};
use crate::digest::sha256;
use crate::store::{Batch, MAX_VALUE, StoreError, Tree, Writer};

/// First byte of its form.
const FORM: u8 = 1;

/// The longest part of it that is one value.
const PART: usize = MAX_VALUE / 2;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) epoch: u64,
    pub(super) base: u64,
    /// The first index that is left, and the one after the last.
    pub(super) first: u64,
    pub(super) next: u64,
    /// Records of the epoch that were removed.
    pub(super) removed: u64,
    /// Records that this release can't read.
    pub(super) unread: u64,
    pub(super) owners: Owners,
}

/// What the store holds of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Damaged,
    Whole(Head),
}

impl Head {
    pub(super) fn encode(&self) -> Vec<u8> {
        let numbers = [
            self.epoch,
            self.base,
            self.first,
            self.next,
            self.removed,
            self.unread,
        ];
        let mut bytes = vec![FORM];
        bytes.extend(numbers.map(u64::to_be_bytes).as_flattened());
        for (owner, taken) in self.owners.each() {
            let (kind, which) = owner.code();
            bytes.push(kind);
            bytes.extend(which.to_be_bytes());
            bytes.extend(taken.to_be_bytes());
        }
        bytes.extend(sha256(&bytes));
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Head> {
        let (said, hash) = bytes.split_last_chunk::<32>()?;
        let (form, rest) = said.split_first()?;
        let (numbers, rest) = rest.split_first_chunk::<{ 6 * 8 }>()?;
        let (entries, []) = rest.as_chunks::<13>() else {
            return None;
        };
        if *form != FORM || sha256(said) != *hash {
            return None;
        }
        let mut numbers = numbers
            .as_chunks()
            .0
            .iter()
            .copied()
            .map(u64::from_be_bytes);
        let mut next = || numbers.next();
        let [epoch, base, first] = [next()?, next()?, next()?];
        let [next, removed, unread] = [next()?, next()?, next()?];
        let mut owners = Owners::default();
        for [kind, a, b, c, d, taken @ ..] in entries {
            let owner = Owner::of_code(*kind, u32::from_be_bytes([*a, *b, *c, *d]))?;
            owners.add(owner, u64::from_be_bytes(*taken));
        }
        Some(Head {
            epoch,
            base,
            first,
            next,
            removed,
            unread,
            owners,
        })
    }

    /// Returns its size.
    pub(super) fn write(&self, tree: &Tree, writer: &Writer<'_>) -> Result<usize, StoreError> {
        let bytes = self.encode();
        let mut batch = Batch::default();
        for key in tree.keys(&[], usize::MAX)? {
            batch.remove(&key);
        }
        for (n, part) in (0_u16..).zip(bytes.chunks(PART)) {
            batch.insert(&n.to_be_bytes(), part);
        }
        writer.apply(tree, batch)?;
        Ok(bytes.len())
    }

    pub(super) fn read(tree: &Tree) -> Result<Found, StoreError> {
        let parts = tree.range(&[], usize::MAX)?;
        if parts.is_empty() {
            return Ok(Found::Nothing);
        }
        let bytes: Vec<u8> = parts.into_iter().flat_map(|(_, part)| part).collect();
        Ok(Head::decode(&bytes).map_or(Found::Damaged, Found::Whole))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    fn head(owners: u16) -> Head {
        let mut taken = Owners::default();
        for n in 0..owners {
            taken.add(Owner::Principal(n), u64::from(n) + 1);
        }
        for owner in [
            Owner::Refusals(7),
            Owner::Admin(u32::MAX),
            Owner::Daemon,
            Owner::Truncations,
            Owner::Unknown,
        ] {
            taken.add(owner, 5);
        }
        Head {
            epoch: 1,
            base: 2,
            first: 3,
            next: 4,
            removed: 5,
            unread: 6,
            owners: taken,
        }
    }

    #[test]
    fn it_comes_back_however_many_owners_there_are() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let tree = store.tree("h").unwrap();
        assert_eq!(Head::read(&tree).unwrap(), Found::Nothing);
        for owners in [0, 20_000, 3] {
            let head = head(owners);
            store.write(|writer| head.write(&tree, writer)).unwrap();
            assert_eq!(Head::read(&tree).unwrap(), Found::Whole(head));
        }
        assert_eq!(tree.len(), 1);
    }

    #[test]
    fn a_changed_byte_is_seen() {
        let bytes = head(3).encode();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 4;
            assert_eq!(Head::decode(&changed), None, "{at}");
            assert_eq!(Head::decode(&bytes[..at]), None);
        }
    }
}
