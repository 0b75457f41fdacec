//! Pieces of the tree as they are stored: 256 hashes of one level, of which those that no record
//! needs any more are folded together.
//!
//! As in C2SP's tlog-tiles: a tile of the lowest level holds hashes of records, one of a higher level
//! the roots of 256 tiles below. A tile is written whole, once. When records of it have been removed,
//! what proofs of the others need is left: their own hashes, and of all between the roots of the
//! largest subtrees ([`Tile::pruned`]). So hashes take no more than a part of what their records do,
//! and the root of a tile never changes.

use std::collections::BTreeMap;

use crate::tlog::tree::{Hash, node_hash};

/// Levels of the tree in one tile, and the hashes at its bottom.
pub(super) const HEIGHT: u8 = 8;
pub(super) const WIDTH: usize = 1 << HEIGHT;

/// First byte of a stored tile: its first hashes follow, up to all of them.
const WHOLE: u8 = 0;
/// First byte of a stored tile: what is left follows, then the hashes from the left.
const PRUNED: u8 = 1;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tile {
    /// The hashes from the first on.
    Whole(Vec<Hash>),
    Pruned {
        left: Left,
        /// By level and place: of what is left, and of the largest subtrees without any.
        nodes: BTreeMap<(u8, usize), Hash>,
    },
}

impl Tile {
    pub(super) fn decode(bytes: &[u8]) -> Option<Tile> {
        let (kind, bytes) = bytes.split_first()?;
        let (left, bytes) = match *kind {
            WHOLE => (None, bytes),
            PRUNED => Left::decode(bytes).map(|(left, rest)| (Some(left), rest))?,
            _ => return None,
        };
        let (hashes, []) = bytes.as_chunks() else {
            return None;
        };
        let Some(left) = left else {
            let fits = (1..=WIDTH).contains(&hashes.len());
            return fits.then(|| Tile::Whole(hashes.to_vec()));
        };
        let places = left.places();
        let fits = places.len() == hashes.len();
        fits.then(|| Tile::Pruned {
            nodes: places.into_iter().zip(hashes.iter().copied()).collect(),
            left,
        })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Tile::Whole(hashes) => [&[WHOLE][..], hashes.as_flattened()].concat(),
            Tile::Pruned { left, nodes } => {
                let mut bytes = vec![PRUNED];
                bytes.extend_from_slice(&left.encode());
                for hash in left.places().iter().filter_map(|place| nodes.get(place)) {
                    bytes.extend_from_slice(hash);
                }
                bytes
            }
        }
    }

    /// Of the subtree of 2^`level` hashes at `place`, counted in such subtrees. `None`: it isn't
    /// there yet, or no more.
    pub(super) fn node(&self, level: u8, place: usize) -> Option<Hash> {
        match self {
            Tile::Whole(hashes) => {
                let begin = place << level;
                hashes.get(begin..begin + (1 << level)).map(fold)
            }
            Tile::Pruned { nodes, .. } => match nodes.get(&(level, place)) {
                Some(hash) => Some(*hash),
                None => {
                    let below = level.checked_sub(1)?;
                    let left = self.node(below, 2 * place)?;
                    Some(node_hash(&left, &self.node(below, 2 * place + 1)?))
                }
            },
        }
    }

    /// Its entry in the tile above.
    pub(super) fn root(&self) -> Option<Hash> {
        self.node(HEIGHT, 0)
    }

    /// How many hashes it begins with, where it holds no others.
    pub(super) fn begun(&self) -> &[Hash] {
        match self {
            Tile::Whole(hashes) => hashes,
            Tile::Pruned { .. } => &[],
        }
    }

    /// What proofs of `left` need of it; `None` where it lacks that, or isn't full.
    pub(super) fn pruned(&self, left: Left) -> Option<Tile> {
        let places = left.places().into_iter();
        let nodes = places.map(|place| Some((place, self.node(place.0, place.1)?)));
        let nodes = nodes.collect::<Option<_>>()?;
        Some(Tile::Pruned { left, nodes })
    }
}

/// The root of as many hashes as a power of two.
pub(super) fn fold(hashes: &[Hash]) -> Hash {
    let mut level = hashes.to_vec();
    while level.len() > 1 {
        let pairs = level.as_chunks::<2>().0.iter();
        level = pairs.map(|[left, right]| node_hash(left, right)).collect();
    }
    level.first().copied().unwrap_or_default()
}

/// Which places of a tile are left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Left([u64; WIDTH / 64]);

impl Left {
    pub(super) fn add(&mut self, place: usize) {
        if let Some(word) = self.0.get_mut(place / 64) {
            *word |= 1 << (place % 64);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Left::default()
    }

    pub(super) fn has(&self, place: usize) -> bool {
        let word = self.0.get(place / 64);
        word.is_some_and(|word| word >> (place % 64) & 1 == 1)
    }

    /// Where hashes are kept, from the left.
    fn places(&self) -> Vec<(u8, usize)> {
        let mut places = Vec::new();
        self.visit(HEIGHT, 0, &mut places);
        places
    }

    fn visit(&self, level: u8, place: usize, places: &mut Vec<(u8, usize)>) {
        let mut all = place << level..(place + 1) << level;
        match level.checked_sub(1) {
            Some(below) if all.any(|place| self.has(place)) => {
                self.visit(below, 2 * place, places);
                self.visit(below, 2 * place + 1, places);
            }
            _ => places.push((level, place)),
        }
    }

    fn decode(bytes: &[u8]) -> Option<(Left, &[u8])> {
        let (words, rest) = bytes.split_first_chunk::<{ WIDTH / 8 }>()?;
        let mut left = Left::default();
        for (word, bytes) in left.0.iter_mut().zip(words.as_chunks().0) {
            *word = u64::from_be_bytes(*bytes);
        }
        Some((left, rest))
    }

    fn encode(&self) -> [u8; WIDTH / 8] {
        let mut bytes = [0; WIDTH / 8];
        for (word, bytes) in self.0.iter().zip(bytes.as_chunks_mut().0) {
            *bytes = word.to_be_bytes();
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tlog::tree::leaf_hash;

    fn whole(count: usize) -> Tile {
        Tile::Whole((0..count).map(|n| leaf_hash(&n.to_be_bytes())).collect())
    }

    #[test]
    fn what_is_no_tile_isnt_read() {
        for bad in [
            &[][..],
            &[WHOLE],
            &[WHOLE, 1],
            &[2; 33],
            &[PRUNED; 33],
            &[WHOLE; 1 + 257 * 32],
        ] {
            assert_eq!(Tile::decode(bad), None, "{bad:?}");
        }
        // Without anything left it is its root.
        let root = whole(WIDTH).pruned(Left::default()).unwrap();
        assert_eq!(root.encode().len(), 1 + 32 + 32);
        assert_eq!(root.root(), whole(WIDTH).root());
        assert_eq!(whole(255).pruned(Left::default()), None);
        assert_eq!(whole(255).root(), None);
    }

    proptest! {
        #[test]
        fn a_pruned_tile_proves_what_is_left(
            left in prop::collection::btree_set(0..WIDTH, 0..40),
            more in prop::collection::btree_set(0..WIDTH, 0..40),
        ) {
            let whole = whole(WIDTH);
            let mut few = Left::default();
            left.iter().for_each(|place| few.add(*place));
            let mut many = few;
            more.iter().for_each(|place| many.add(*place));
            let pruned = whole.pruned(few).unwrap();
            // At once, or one after the other.
            prop_assert_eq!(&whole.pruned(many).unwrap().pruned(few).unwrap(), &pruned);
            let read = Tile::decode(&pruned.encode()).unwrap();
            prop_assert_eq!(&read, &pruned);
            prop_assert_eq!(read.root(), whole.root());
            for place in left {
                for level in 0..HEIGHT {
                    let (own, beside) = (place >> level, place >> level ^ 1);
                    prop_assert_eq!(read.node(level, own), whole.node(level, own));
                    prop_assert_eq!(read.node(level, beside), whole.node(level, beside));
                }
            }
        }
    }
}
