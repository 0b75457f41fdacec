//! A log in memory, for tests.

use std::convert::Infallible;

use super::checkpoint::Checkpoint;
use super::tree::{Hash, Hashes, consistency, leaf_hash, node_hash, root};

/// The leaves' hashes.
#[derive(Debug, Clone)]
pub struct Leaves(Vec<Hash>);

impl Hashes for Leaves {
    type Error = Infallible;

    fn hash(&self, level: u8, index: u64) -> Result<Hash, Infallible> {
        match level.checked_sub(1) {
            None => Ok(self.0[index as usize]),
            Some(below) => {
                let half = |side| self.hash(below, 2 * index + side);
                Ok(node_hash(&half(0)?, &half(1)?))
            }
        }
    }
}

impl Leaves {
    /// Numbers, but one of them may be something else.
    pub fn new(count: u64, other: Option<u64>) -> Leaves {
        let leaf = |n: u64| match other == Some(n) {
            true => leaf_hash(b"other"),
            false => leaf_hash(&n.to_be_bytes()),
        };
        Leaves((0..count).map(leaf).collect())
    }

    pub fn at(&self, origin: &str, size: u64) -> Checkpoint {
        Checkpoint {
            origin: origin.to_owned(),
            size,
            root: root(size, self).unwrap(),
        }
    }

    pub fn proof(&self, from: u64, to: u64) -> Vec<Hash> {
        consistency(from, to, self).unwrap()
    }
}
