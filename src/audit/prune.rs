//! What the tree keeps when records are removed: proofs of those that are left stay whole, and hashes
//! that no proof needs go.

use std::collections::BTreeSet;

use super::epoch::Filled;
use super::kept::index_of;
use super::state::State;
use super::tile::{Left, Tile, WIDTH};
use super::{AuditError, Shared};
use crate::store::Writer;

/// A tile is written anew where at least so large a part of it goes: each of its bytes is written
/// again a few times at most.
const PART: usize = 4;

impl Shared {
    /// Stores what only the records say so far that are about to go.
    pub(super) fn before_removing(
        &self,
        state: &mut State,
        writer: &Writer<'_>,
        indexes: impl Iterator<Item = u64>,
    ) -> Result<(), AuditError> {
        let open = state.epoch.base + state.epoch.full(0) * WIDTH as u64;
        let stored = open + state.epoch.stored(0) as u64;
        match indexes.max().is_some_and(|last| last >= stored) {
            true => Ok(state.epoch.store_open(0, &self.tiles, writer)?),
            false => Ok(()),
        }
    }

    /// A tile was filled of which records had gone before.
    pub(super) fn filled(
        &self,
        state: &mut State,
        writer: &Writer<'_>,
        filled: Filled,
    ) -> Result<(), AuditError> {
        let Filled { level, tile, begun } = filled;
        match level > 0 || begun {
            true => self.prune(state, writer, level, BTreeSet::from([tile])),
            false => Ok(()),
        }
    }

    /// Takes out what the tree needs no more once these records are gone.
    pub(super) fn prune_around(
        &self,
        state: &mut State,
        writer: &Writer<'_>,
        indexes: impl Iterator<Item = u64>,
    ) -> Result<(), AuditError> {
        let base = state.epoch.base;
        let leaves = indexes.filter_map(|index| index.checked_sub(base));
        let tiles = leaves.map(|leaf| leaf / WIDTH as u64).collect();
        self.prune(state, writer, 0, tiles)
    }

    /// Goes through tiles of a level, and those above of what is gone altogether.
    fn prune(
        &self,
        state: &mut State,
        writer: &Writer<'_>,
        mut level: u8,
        mut tiles: BTreeSet<u64>,
    ) -> Result<(), AuditError> {
        while !tiles.is_empty() {
            let full = state.epoch.full(level);
            let mut above = BTreeSet::new();
            for tile in tiles.into_iter().filter(|tile| *tile < full) {
                if self.prune_one(state, writer, level, tile)? {
                    above.insert(tile / WIDTH as u64);
                }
            }
            (level, tiles) = (level + 1, above);
        }
        Ok(())
    }

    /// Whether nothing is left of the tile.
    fn prune_one(
        &self,
        state: &mut State,
        writer: &Writer<'_>,
        level: u8,
        tile: u64,
    ) -> Result<bool, AuditError> {
        let key = state.epoch.key(level, tile);
        let Some(stored) = self.tiles.get(&key)? else {
            return Ok(true);
        };
        let left = self.left(state, level, tile)?;
        if left.is_empty() {
            // Its root is in the tile above.
            if tile / WIDTH as u64 == state.epoch.full(level + 1) {
                state.epoch.store_open(level + 1, &self.tiles, writer)?;
            }
            writer.remove(&self.tiles, &key)?;
            return Ok(true);
        }
        // A damaged tile is left for who verifies the log.
        let pruned = Tile::decode(&stored).and_then(|tile| tile.pruned(left));
        if let Some(pruned) = pruned.map(|pruned| pruned.encode())
            && pruned.len() <= stored.len() - stored.len() / PART
        {
            writer.insert(&self.tiles, &key, &pruned)?;
        }
        Ok(false)
    }

    /// What of a tile proofs can be asked for.
    fn left(&self, state: &State, level: u8, tile: u64) -> Result<Left, AuditError> {
        let begin = tile * WIDTH as u64;
        let mut left = Left::default();
        let mut add = |place: u64| {
            if let Some(place) = place.checked_sub(begin) {
                left.add(usize::try_from(place).unwrap_or(WIDTH));
            }
        };
        if let Some(below) = level.checked_sub(1) {
            for key in self.tiles.keys(&state.epoch.key(below, begin), WIDTH)? {
                if let Some(tile) = state.epoch.tile_of(below, &key) {
                    add(tile);
                }
            }
            return Ok(left);
        }
        let from = state.epoch.base + begin;
        for key in self.records.keys(&from.to_be_bytes(), WIDTH)? {
            add(index_of(&key)? - state.epoch.base);
        }
        // What was signed, and what others go on from: the last leaf of each.
        let signed = self.signer.newest();
        let signed = signed.filter(|signed| signed.epoch == state.epoch.number);
        let durable = state.durable().saturating_sub(state.epoch.base);
        let sizes = state.held.iter().copied();
        for size in sizes
            .chain(signed.map(|signed| signed.size))
            .chain([durable])
        {
            if let Some(last) = size.checked_sub(1) {
                add(last);
            }
        }
        Ok(left)
    }
}
