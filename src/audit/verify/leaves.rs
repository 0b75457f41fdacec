//! Looking at records and at their hashes in the tree: what costs a verification its time, so that it
//! goes over several tiles at once.
//!
//! Of a record nothing is kept beyond its look but what is found, so that there is one tile's records
//! in memory for each thread, however many tiles a step has.

use std::panic::resume_unwind;
use std::thread;

use super::glance::Glance;
use super::{Piece, STEP, Verifier};
use crate::audit::kept::index_of;
use crate::audit::record::Line;
use crate::audit::tile::WIDTH;
use crate::audit::{AuditError, MAX_READ};
use crate::store::StoreError;
use crate::tlog::tree::leaf_hash;

/// Threads that look at tiles: while one reads, another one hashes. No more, for what else the device
/// does.
const THREADS: usize = 2;

/// A tile of the lowest level, and the indexes of the records that it is of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) number: u64,
    pub(super) begin: u64,
    pub(super) end: u64,
}

/// What was seen there.
pub(super) enum Seen {
    Records(Vec<Looked>, Piece),
    /// With the database's own words.
    Damaged(String),
}

/// A record that was looked at.
pub(super) struct Looked {
    pub(super) index: u64,
    pub(super) glance: Option<Glance>,
    pub(super) hash: Compared,
    /// Of what tells of removed records, all that it says.
    pub(super) truncation: Option<Line>,
}

/// A record's hash and what the tree has in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compared {
    Same,
    Other,
    /// The tile has none there.
    Missing,
    NoTile,
}

impl Looked {
    pub(super) fn new(index: u64, json: Vec<u8>, hash: Compared) -> Looked {
        let glance = Glance::of(&json);
        let tells = glance.is_some_and(|glance| glance.is_truncation);
        Looked {
            index,
            glance,
            hash,
            truncation: tells.then_some(Line { index, json }),
        }
    }
}

impl Verifier {
    /// The tiles from `first` on that one step looks at.
    pub(super) fn spans(&self, first: u64) -> Vec<Span> {
        let spans = (first..first + STEP).map(|number| {
            let begin = self.base.saturating_add(number * WIDTH as u64);
            let end = begin.saturating_add(WIDTH as u64).min(self.end);
            Span { number, begin, end }
        });
        spans.take_while(|span| span.begin < self.end).collect()
    }

    /// Of each of these tiles, in their order.
    pub(super) fn look_at(&self, spans: &[Span]) -> Result<Vec<Seen>, AuditError> {
        let share = spans.len().div_ceil(THREADS).max(1);
        thread::scope(|scope| {
            let look = |spans: &[Span]| {
                let seen = spans.iter().map(|span| self.look(*span));
                seen.collect::<Result<Vec<_>, AuditError>>()
            };
            let shares = spans.chunks(share);
            let threads: Vec<_> = shares
                .map(|spans| scope.spawn(move || look(spans)))
                .collect();
            let mut seen = Vec::with_capacity(spans.len());
            for thread in threads {
                seen.extend(thread.join().unwrap_or_else(|panic| resume_unwind(panic))?);
            }
            Ok(seen)
        })
    }

    fn look(&self, span: Span) -> Result<Seen, AuditError> {
        let read = self.with_epoch(|epoch| {
            let page = self.page(span.begin, span.end)?;
            let piece = Piece::look(epoch, &self.tiles, 0, span.number)?;
            Ok::<_, AuditError>((page, piece))
        })?;
        let (page, mut piece) = match read {
            Err(AuditError::Store(StoreError::Corrupt(why))) => return Ok(Seen::Damaged(why)),
            read => read?,
        };
        piece.fold();
        let look = |(index, json): (u64, Vec<u8>)| {
            // INVARIANT: below 256.
            let place = (index - span.begin) as usize;
            let hash = match piece.tile.as_ref().map(|tile| tile.node(0, place)) {
                Some(Some(hash)) if hash == leaf_hash(&json) => Compared::Same,
                Some(Some(_)) => Compared::Other,
                Some(None) => Compared::Missing,
                None => Compared::NoTile,
            };
            Looked::new(index, json, hash)
        };
        let looked = page.into_iter().map(look).collect();
        Ok(Seen::Records(looked, piece))
    }

    /// Records from one index to before another, no more than a tile has.
    pub(super) fn page(&self, from: u64, end: u64) -> Result<Vec<(u64, Vec<u8>)>, AuditError> {
        let most = usize::try_from(end.saturating_sub(from)).unwrap_or(MAX_READ);
        let page = self
            .records
            .range(&from.to_be_bytes(), most.min(MAX_READ))?;
        let page = page
            .into_iter()
            .map(|(key, json)| Ok((index_of(&key)?, json)));
        let page: Result<Vec<_>, AuditError> = page.collect();
        page.map(|page| page.into_iter().filter(|(index, _)| *index < end).collect())
    }
}
