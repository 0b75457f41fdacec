//! What a log knows while it is open.

use std::collections::VecDeque;

use super::Settings;
use super::counts::Counts;
use super::epoch::Epoch;
use super::head::Head;
use super::kept::Kept;
use super::owners::Owners;
use super::refusals::Refusals;
use crate::time::Timestamp;

/// Kinds of reads, of administrators' looks, and of principals' refusals, that are counted at once.
const COUNTED_READS: usize = 512;
const COUNTED_LOOKS: usize = 64;
const COUNTED_REFUSALS: usize = 256;
/// Kinds of repeats by those for whom there is no room: transports and actions are few.
const COUNTED_CROWD: usize = 16;

/// The head is written once in so many records,
const HEAD_EVERY: u64 = 256;
/// but no more of its bytes for each of them.
const HEAD_BYTES: u64 = 8;

#[derive(Debug)]
pub(super) struct State {
    pub(super) settings: Settings,
    /// The first index that is left, and the one after the last.
    pub(super) first: u64,
    pub(super) next: u64,
    pub(super) owners: Owners,
    /// Records that this release can't read.
    pub(super) unread: u64,
    pub(super) epoch: Epoch,
    /// Records of the epoch that were removed.
    pub(super) removed: u64,
    /// Sizes of the epoch at which proofs of consistency may begin.
    pub(super) held: Vec<u64>,
    /// When a checkpoint was signed, or tried to be.
    pub(super) signed_at: Option<Timestamp>,
    pub(super) reads: Counts,
    /// By the admin socket: apart, so that no crowd of readers takes their room.
    pub(super) looks: Counts,
    pub(super) refusals: Refusals,
    /// Refusals of principals beyond those recorded one by one.
    pub(super) refused: Counts,
    /// Repeats of principals that found no room among the reads.
    pub(super) crowd: Counts,
    pub(super) last_retention: Option<Timestamp>,
    /// The store's, as the counters above know it.
    pub(super) generation: u64,
    /// Records that may not be on the disk yet: when the store loses them, they are written again.
    pub(super) pending: VecDeque<Pending>,
    pub(super) pending_bytes: usize,
    /// Up to where the head record speaks, and its size.
    headed: u64,
    head_size: u64,
}

#[derive(Debug)]
pub(super) struct Pending {
    pub(super) index: u64,
    pub(super) json: Vec<u8>,
    pub(super) salt: Option<[u8; 16]>,
    /// Encrypted; empty where there is none.
    pub(super) text: Vec<u8>,
}

impl Pending {
    pub(super) fn bytes(&self) -> usize {
        self.json.len() + self.text.len()
    }
}

impl State {
    pub(super) fn new(settings: Settings) -> State {
        State {
            settings,
            first: 0,
            next: 0,
            owners: Owners::default(),
            unread: 0,
            epoch: Epoch::default(),
            removed: 0,
            held: Vec::new(),
            signed_at: None,
            reads: Counts::new(COUNTED_READS),
            looks: Counts::new(COUNTED_LOOKS),
            refusals: Refusals::default(),
            refused: Counts::new(COUNTED_REFUSALS),
            crowd: Counts::new(COUNTED_CROWD),
            last_retention: None,
            generation: 0,
            pending: VecDeque::new(),
            pending_bytes: 0,
            headed: 0,
            head_size: 0,
        }
    }

    /// Everything before this is on the disk.
    pub(super) fn durable(&self) -> u64 {
        self.pending.front().map_or(self.next, |first| first.index)
    }

    /// Notes that everything before `next` is on the disk.
    pub(super) fn settle(&mut self, next: u64) {
        while let Some(pending) = self.pending.pop_front_if(|p| p.index < next) {
            self.pending_bytes -= pending.bytes();
        }
    }

    /// What was erased beside a record isn't written again.
    pub(super) fn forget_beside(&mut self, index: u64) {
        let mut pending = self.pending.iter_mut();
        if let Some(pending) = pending.find(|pending| pending.index == index) {
            let before = pending.bytes();
            (pending.salt, pending.text) = (None, Vec::new());
            self.pending_bytes -= before - pending.bytes();
        }
    }

    /// Counts the next record.
    pub(super) fn count(&mut self, kept: &Kept) {
        self.next = kept.index + 1;
        self.unread += u64::from(kept.record.is_none());
        self.owners.add(kept.owner(), kept.bytes);
    }

    pub(super) fn head(&self) -> Head {
        Head {
            epoch: self.epoch.number,
            base: self.epoch.base,
            first: self.first,
            next: self.next,
            removed: self.removed,
            unread: self.unread,
            owners: self.owners.clone(),
        }
    }

    /// Whether so many records have come that a new head is worth its bytes.
    pub(super) fn head_is_due(&self) -> bool {
        let since = self.next.saturating_sub(self.headed);
        since >= HEAD_EVERY.max(self.head_size / HEAD_BYTES)
    }

    /// Notes that the head record speaks up to `next`.
    pub(super) fn headed(&mut self, next: u64, size: usize) {
        (self.headed, self.head_size) = (next, size as u64);
    }
}
