//! The tree of an epoch as it grows: the unfinished tile of each level in memory, the others in the
//! store.
//!
//! A tile is stored in the same write as the record that fills it. What a crash has kept from the disk
//! is made again from what is below: from the tiles of the level below, or from the records. An
//! unfinished tile is stored before a record of it is removed.

use std::cell::RefCell;

use super::tile::{HEIGHT, Tile, WIDTH, fold};
use crate::store::{StoreError, Tree, Writer};
use crate::tlog::tree::{Hash, Hashes, leaf_hash, root};

/// An unfinished tile of a higher level is stored with every so many of its hashes, so that opening
/// reads as few tiles of the level below.
const SOME: usize = 16;

/// Why a tree can't be continued.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("the record {0} is missing")]
    NoRecord(u64),
    #[error("tile {1} of level {0} is damaged")]
    Tile(u8, u64),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why there is no proof.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    #[error("the checkpoint is of another epoch than the log")]
    OtherEpoch,
    #[error("the checkpoint doesn't cover it")]
    Beyond,
    #[error("what the proof needs went with the records there")]
    Gone,
    #[error("tile {1} of level {0} of the audit log is damaged")]
    Damaged(u8, u64),
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Epoch {
    pub(super) number: u64,
    /// The index of its first record, which is leaf 0.
    pub(super) base: u64,
    pub(super) size: u64,
    /// By level.
    open: Vec<Open>,
}

/// An unfinished tile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Open {
    hashes: Vec<Hash>,
    /// How many of them are stored.
    stored: usize,
}

/// A tile that was filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Filled {
    pub(super) level: u8,
    pub(super) tile: u64,
    /// Records of it were removed before.
    pub(super) begun: bool,
}

impl Epoch {
    pub(super) fn new(number: u64, base: u64) -> Epoch {
        Epoch {
            number,
            base,
            ..Epoch::default()
        }
    }

    /// With nothing of what is unfinished.
    pub(super) fn unread(number: u64, base: u64, next: u64) -> Epoch {
        let size = next.saturating_sub(base);
        Epoch {
            size,
            ..Epoch::new(number, base)
        }
    }

    /// Tiles of a level that are full.
    pub(super) fn full(&self, level: u8) -> u64 {
        let above = u32::from(level + 1) * u32::from(HEIGHT);
        self.size.checked_shr(above).unwrap_or(0)
    }

    pub(super) fn key(&self, level: u8, tile: u64) -> Vec<u8> {
        let number = self.number.to_be_bytes();
        [&number[..], &[level], &tile.to_be_bytes()].concat()
    }

    /// The tile that a key is of, where it is of this level.
    pub(super) fn tile_of(&self, level: u8, key: &[u8]) -> Option<u64> {
        let number = self.number.to_be_bytes();
        let tile = key.strip_prefix(&[&number[..], &[level]].concat()[..])?;
        tile.try_into().ok().map(u64::from_be_bytes)
    }

    /// Takes the next leaf, and stores what it fills.
    pub(super) fn push(
        &mut self,
        tiles: &Tree,
        writer: &Writer<'_>,
        leaf: Hash,
    ) -> Result<Vec<Filled>, StoreError> {
        let (mut filled, mut hash) = (Vec::new(), leaf);
        self.size += 1;
        for level in 0..u8::MAX {
            let at = usize::from(level);
            if self.open.len() == at {
                self.open.push(Open::default());
            }
            self.open[at].hashes.push(hash);
            let hashes = self.open[at].hashes.len();
            if hashes < WIDTH {
                if level > 0 && hashes.is_multiple_of(SOME) {
                    self.store_open(level, tiles, writer)?;
                }
                break;
            }
            // It is full, so its number is that of the last.
            let tile = self.full(level) - 1;
            let Open { hashes, stored } = std::mem::take(&mut self.open[at]);
            hash = fold(&hashes);
            let bytes = Tile::Whole(hashes).encode();
            writer.insert(tiles, &self.key(level, tile), &bytes)?;
            let begun = stored > 0;
            filled.push(Filled { level, tile, begun });
        }
        Ok(filled)
    }

    /// Stores the unfinished tile of a level as far as it goes, unless it is.
    pub(super) fn store_open(
        &mut self,
        level: u8,
        tiles: &Tree,
        writer: &Writer<'_>,
    ) -> Result<(), StoreError> {
        let key = self.key(level, self.full(level));
        let Some(open) = self.open.get_mut(usize::from(level)) else {
            return Ok(());
        };
        if open.stored < open.hashes.len() {
            let bytes = Tile::Whole(open.hashes.clone()).encode();
            writer.insert(tiles, &key, &bytes)?;
            open.stored = open.hashes.len();
        }
        Ok(())
    }

    /// How many hashes of an unfinished tile are stored.
    pub(super) fn stored(&self, level: u8) -> usize {
        let open = self.open.get(usize::from(level));
        open.map_or(0, |open| open.stored)
    }

    /// The tree of the records from `base` to before `next`, of which the store has tiles and
    /// records; what tiles it lacks are written.
    pub(super) fn load(
        number: u64,
        (base, next): (u64, u64),
        from: &Source<'_>,
    ) -> Result<Epoch, Broken> {
        let mut epoch = Epoch::new(number, base);
        epoch.size = next.saturating_sub(base);
        let (mut left, mut level) = (epoch.size, 0);
        while left > 0 {
            // INVARIANT: a remainder of 256.
            let count = (left % WIDTH as u64) as usize;
            let tile = epoch.full(level);
            let mut hashes = from.begun(&epoch, level, tile)?;
            hashes.truncate(count);
            let stored = hashes.len();
            let hashes = from.hashes(&epoch, level, tile, hashes, count)?;
            epoch.open.push(Open { hashes, stored });
            (left, level) = (left / WIDTH as u64, level + 1);
        }
        Ok(epoch)
    }

    /// A tile as far as there is one.
    pub(super) fn tile(
        &self,
        tiles: &Tree,
        level: u8,
        tile: u64,
    ) -> Result<Option<Tile>, ProofError> {
        if tile == self.full(level) {
            let open = self.open.get(usize::from(level));
            let open = open.filter(|open| !open.hashes.is_empty());
            return Ok(open.map(|open| Tile::Whole(open.hashes.clone())));
        }
        let stored = tiles.get(&self.key(level, tile))?;
        let read = stored.map(|bytes| {
            let read = Tile::decode(&bytes).filter(|read| read.root().is_some());
            read.ok_or(ProofError::Damaged(level, tile))
        });
        read.transpose()
    }

    /// The root of its first leaves.
    pub(super) fn root(&self, size: u64, tiles: &Tree) -> Result<Hash, ProofError> {
        root(size, &self.view(tiles))
    }

    pub(super) fn view<'a>(&'a self, tiles: &'a Tree) -> View<'a> {
        View {
            epoch: self,
            tiles,
            last: RefCell::default(),
        }
    }
}

/// What a tree is loaded from.
pub(super) struct Source<'a> {
    pub(super) records: &'a Tree,
    pub(super) tiles: &'a Tree,
    pub(super) writer: &'a Writer<'a>,
}

impl Source<'_> {
    fn tile(&self, epoch: &Epoch, level: u8, tile: u64) -> Result<Option<Tile>, Broken> {
        let stored = self.tiles.get(&epoch.key(level, tile))?;
        let read = stored.map(|bytes| Tile::decode(&bytes).ok_or(Broken::Tile(level, tile)));
        read.transpose()
    }

    /// The hashes that an unfinished tile is stored with.
    fn begun(&self, epoch: &Epoch, level: u8, tile: u64) -> Result<Vec<Hash>, Broken> {
        let stored = self.tile(epoch, level, tile)?;
        Ok(stored.map_or_else(Vec::new, |stored| stored.begun().to_vec()))
    }

    /// The first `count` hashes of a tile, of which it has some.
    fn hashes(
        &self,
        epoch: &Epoch,
        level: u8,
        tile: u64,
        mut hashes: Vec<Hash>,
        count: usize,
    ) -> Result<Vec<Hash>, Broken> {
        while hashes.len() < count {
            let below = tile * WIDTH as u64 + hashes.len() as u64;
            hashes.push(match level.checked_sub(1) {
                Some(level) => self.root(epoch, level, below)?,
                None => self.leaf(epoch.base + below)?,
            });
        }
        Ok(hashes)
    }

    /// The root of a full tile, which is made again where it isn't stored as such.
    fn root(&self, epoch: &Epoch, level: u8, tile: u64) -> Result<Hash, Broken> {
        let stored = self.tile(epoch, level, tile)?;
        if let Some(root) = stored.as_ref().and_then(Tile::root) {
            return Ok(root);
        }
        let begun = stored.map_or_else(Vec::new, |stored| stored.begun().to_vec());
        let hashes = self.hashes(epoch, level, tile, begun, WIDTH)?;
        let root = fold(&hashes);
        let bytes = Tile::Whole(hashes).encode();
        self.writer
            .insert(self.tiles, &epoch.key(level, tile), &bytes)?;
        Ok(root)
    }

    fn leaf(&self, index: u64) -> Result<Hash, Broken> {
        let record = self.records.get(&index.to_be_bytes())?;
        let record = record.ok_or(Broken::NoRecord(index))?;
        Ok(leaf_hash(&record))
    }
}

/// The hashes of a tree, for roots and proofs.
pub(super) struct View<'a> {
    epoch: &'a Epoch,
    tiles: &'a Tree,
    /// The tile that was read last: a proof asks for several hashes of one.
    last: RefCell<Option<((u8, u64), Tile)>>,
}

impl Hashes for View<'_> {
    type Error = ProofError;

    fn hash(&self, level: u8, index: u64) -> Result<Hash, ProofError> {
        let (tiles, within) = (level / HEIGHT, level % HEIGHT);
        let first = index << within;
        let tile = first / WIDTH as u64;
        // INVARIANT: below 256.
        let begin = (first % WIDTH as u64) as usize;
        if tile == self.epoch.full(tiles) {
            let open = self.epoch.open.get(usize::from(tiles));
            let hashes = open.and_then(|open| open.hashes.get(begin..begin + (1 << within)));
            return hashes.map(fold).ok_or(ProofError::Gone);
        }
        let mut last = self.last.borrow_mut();
        if last.as_ref().is_none_or(|(of, _)| *of != (tiles, tile)) {
            let read = self.epoch.tile(self.tiles, tiles, tile)?;
            *last = Some(((tiles, tile), read.ok_or(ProofError::Gone)?));
        }
        let node = last
            .as_ref()
            .and_then(|(_, t)| t.node(within, begin >> within));
        node.ok_or(ProofError::Gone)
    }
}
