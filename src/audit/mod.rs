//! The record of every decision and finish, durable before the work that it speaks of starts.
//!
//! Records are JSON under dense indexes in the store, whose bytes never change: they are the leaves of
//! a Merkle tree (RFC 6962), and the device signs its head. A tree is of one [`epoch`], stored in
//! [`tile`]s; [`checkpoint`] signs and proves.
//!
//! [`Log`] appends ([`append`]), counts reads ([`counts`]) and refusals ([`refusals`]) that come too
//! fast, and removes records by cap and retention ([`trim`]): beyond the cap those who have most
//! lose their own oldest ([`owners`]), so that nobody can push out another's evidence. Indexes are
//! dense when they are given and have gaps where records were removed; the hashes that the tree needs
//! of these stay ([`prune`]). Opening reads the [`head`] record and what came after ([`recover`]).
//! [`Reader`] shows those that a [`Filter`] asks for, [`Log::page`] those of them that a [`View`] lets
//! somebody see, and [`export`] sends them on.

mod append;
mod change;
mod checkpoint;
mod commitment;
mod cosigned;
pub mod counts;
mod encrypted;
mod epoch;
#[cfg(test)]
mod epoch_tests;
pub mod export;
mod filter;
#[cfg(test)]
mod filter_tests;
mod forget;
#[cfg(test)]
mod golden_tests;
mod head;
mod kept;
mod matcher;
mod metrics;
mod owners;
mod page;
#[cfg(test)]
mod page_tests;
mod prove;
mod prune;
mod reader;
mod record;
mod recover;
mod refusals;
#[cfg(test)]
mod release_tests;
mod sealed;
#[cfg(test)]
mod share_tests;
mod state;
mod tag;
#[cfg(test)]
pub(crate) mod tests;
mod text;
mod tile;
#[cfg(test)]
mod tree_tests;
mod trim;
pub mod verify;
#[cfg(test)]
mod verify_tests;
mod view;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

pub use self::change::{Change, What};
use self::checkpoint::Signer;
pub use self::checkpoint::{FOLDER, MAX_HELD, Signed};
pub use self::commitment::{Salt, Unshown, prompt_commitment};
use self::cosigned::Cosigned;
pub use self::cosigned::Witness;
pub use self::encrypted::Sealed;
pub use self::epoch::ProofError;
pub use self::filter::{Filter, Unfit};
pub use self::forget::{Forgotten, Unforgotten};
pub use self::metrics::Metrics;
pub use self::page::{Asked, MAX_PAGE, Order, Page};
pub use self::reader::{MAX_LAST, Reader, Start, Step, Wanted};
pub use self::record::{Access, Event, Finished, Line, Loss, Record, Summary, Verdict};
pub use self::sealed::TextOf;
use self::state::State;
pub use self::tag::Tag;
pub use self::view::View;
use crate::identity::{Identity, Key};
use crate::prompt::Origin;
use crate::store::{Store, StoreError, Tree};
use crate::time::{Clocks, Timestamp};

/// The largest record.
pub const MAX_RECORD: usize = 32 * 1024;

/// The most records that one [`Log::read`] returns.
const MAX_READ: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// What the log may take on the disk, the database's own overhead included.
    pub max_bytes: u64,
    pub retention: Duration,
    /// Refusals recorded one by one a minute, of each principal and of each origin and reason; the
    /// rest is counted.
    pub refusals_per_minute: u32,
    /// What the log's name begins with, where checkpoints name it. Taken when the log is opened.
    pub origin: String,
    /// A checkpoint is signed after so many records,
    pub checkpoint_records: u64,
    /// and where there is one that none covers, after so long.
    pub checkpoint_interval: Duration,
    pub export: export::Settings,
    /// Who watches the log. Taken when the daemon starts.
    pub witnesses: Vec<Witness>,
}

/// Whose log it is.
#[derive(Debug, Clone, Copy)]
pub struct Device<'a> {
    pub identity: &'a Identity,
    /// Signs checkpoints.
    pub key: &'a Key,
    /// The state folder, for the checkpoint beside the store.
    pub folder: &'a Path,
}

#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("an audit record is larger than 32 KiB")]
    TooLarge,
    #[error("the audit log has a key that is no index")]
    NoIndex,
    #[error("the text beside record {0} isn't the one that the record names")]
    Text(u64),
    #[error("the log's tree: {0}")]
    Tree(#[from] ProofError),
    #[error("audit.origin can't name a log in a checkpoint")]
    Origin,
}

/// What became of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    /// It has a record of its own.
    ByItself,
    /// It is one of many, or can't be written now: its summary is written when that is due.
    Counted,
}

/// Trees of the store that grow with the log: opening reads no more of them than it needs.
pub const TREES: [&str; 3] = ["audit", "audit_salts", "audit_tiles"];

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Log(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: Store,
    clocks: Clocks,
    records: Tree,
    /// Salts of prompt commitments by the record's index, apart so that one can be erased.
    salts: Tree,
    /// Encrypted, likewise.
    texts: Tree,
    /// The tree's hashes.
    tiles: Tree,
    heads: Tree,
    /// The last checkpoint, and how the epoch began.
    checkpoints: Tree,
    signer: Signer,
    cosigned: Mutex<Cosigned>,
    boot_id: String,
    state: Mutex<State>,
    next: watch::Sender<u64>,
    metrics: Metrics,
}

impl Log {
    pub fn open(
        store: &Store,
        settings: Settings,
        device: Device<'_>,
        clocks: Clocks,
    ) -> Result<Log, AuditError> {
        let Device {
            identity,
            key,
            folder,
        } = device;
        let checkpoints = store.tree("audit_checkpoints")?;
        let (log, name) = (checkpoints.clone(), &identity.device);
        let shared = Shared {
            clocks,
            store: store.clone(),
            records: store.tree(TREES[0])?,
            salts: store.tree(TREES[1])?,
            texts: store.tree("audit_texts")?,
            tiles: store.tree(TREES[2])?,
            heads: store.tree("audit_head")?,
            signer: Signer::new(log, key.clone(), folder, &settings.origin, name),
            checkpoints,
            cosigned: Mutex::default(),
            boot_id: identity.boot_id.clone(),
            state: Mutex::new(State::new(settings)),
            next: watch::Sender::new(0),
            metrics: Metrics::default(),
        };
        shared.recover()?;
        Ok(Log(Arc::new(shared)))
    }

    pub fn clocks(&self) -> &Clocks {
        &self.0.clocks
    }

    /// Records a permitted access with the salt of its prompt hash, in the caller's
    /// [`Store::commit`]. After an error the record may be there or not; the access must not happen.
    pub fn append_permit(
        &self,
        access: Access,
        salt: [u8; 16],
        now: Timestamp,
    ) -> Result<u64, AuditError> {
        let event = Event::Access(Box::new(access));
        self.0.append(&mut self.state(), event, Some(salt), now)
    }

    /// Counts a permitted read, where one of the same principal and kind is on record for the last
    /// ten minutes. `false`: it isn't counted; record it with [`Log::append_read`].
    pub fn count_read(&self, access: &Access, now: Timestamp) -> bool {
        let one = Summary::of(access, now);
        self.is_counting(access, now) && self.counted(self.state().reads.count(&one, now))
    }

    /// Whether reads like this one are counted now. None is while nothing can be recorded: what is
    /// counted would be written when there is room, but its access must not happen before.
    pub fn is_counting(&self, access: &Access, now: Timestamp) -> bool {
        let counting = self
            .state()
            .reads
            .is_counting(&Summary::of(access, now), now);
        counting && self.0.store.problem().is_none()
    }

    /// Records a permitted read by itself; rides on the next sync. When that has succeeded, call
    /// [`Log::begin_counting`].
    pub fn append_read(&self, access: Access, now: Timestamp) -> Result<u64, AuditError> {
        let event = Event::Access(Box::new(access));
        self.0.append(&mut self.state(), event, None, now)
    }

    /// Counts reads like this one, which is on record, from now on.
    pub fn begin_counting(&self, access: &Access, now: Timestamp) {
        self.state().reads.begin(&Summary::of(access, now), now);
    }

    /// Records a repeat of what is on record, or counts it where one of the same principal and kind
    /// was recorded in the last ten minutes; in a crowd one of any principal. Rides on the next sync.
    pub fn repeat(&self, access: Access, now: Timestamp) -> Result<(), AuditError> {
        let mut state = self.state();
        let one = Summary::of(&access, now);
        if self.counted(state.reads.count(&one, now)) {
            return Ok(());
        }
        let mut kind = one;
        if !state.reads.begin(&kind, now) {
            kind = kind.of_anybody();
            if self.counted(state.crowd.count(&kind, now)) {
                return Ok(());
            }
            state.crowd.begin(&kind, now);
        }
        let event = Event::Access(Box::new(access));
        let recorded = self.0.append(&mut state, event, None, now);
        if recorded.is_err() {
            // What can't be written is counted, for when it can.
            let counted = state.reads.count(&kind, now) || state.crowd.count(&kind, now);
            self.counted(counted);
        }
        recorded.map(drop)
    }

    /// Counts a look by the admin socket, or records it, durably. Blocks.
    pub fn look(&self, origin: Origin, what: &What, now: Timestamp) -> Result<(), AuditError> {
        let one = Summary::of_admin(&origin, what, now);
        if self.counted(self.state().looks.count(&one, now)) {
            return Ok(());
        }
        let recorded = self.change(origin, what.clone(), serde_json::Value::Null, now);
        // An operator must see also what can't be recorded: that the disk is full.
        self.state().looks.begin(&one, now);
        if recorded.is_err() {
            self.counted(self.state().looks.count(&one, now));
        }
        recorded.map(drop)
    }

    fn counted(&self, counted: bool) -> bool {
        if counted {
            self.0.metrics.counted.inc();
        }
        counted
    }

    /// Rides on the next sync.
    pub fn refuse(&self, access: &Access, now: Timestamp) -> Noted {
        self.0.refuse(&mut self.state(), access, now)
    }

    /// Rides on the next sync.
    pub fn finish(&self, finished: Finished, now: Timestamp) -> Result<u64, AuditError> {
        let event = Event::Finish(Box::new(finished));
        self.0.append(&mut self.state(), event, None, now)
    }

    /// Durable when this returns. Blocks.
    pub fn change(
        &self,
        origin: Origin,
        what: impl Into<What>,
        detail: serde_json::Value,
        now: Timestamp,
    ) -> Result<u64, AuditError> {
        let what = what.into();
        let event = Event::Change {
            origin,
            what,
            detail,
        };
        let append = || self.0.append(&mut self.state(), event, None, now);
        let index = self.0.store.commit(append)?;
        self.state().settle(index + 1);
        Ok(index)
    }

    /// Housekeeping: summaries, retention, cap, sync, checkpoint. Called about once a second. Blocks.
    /// `synchronised`: whether the clock was when it said `now`.
    pub fn tick(&self, now: Timestamp, synchronised: bool) -> Result<(), AuditError> {
        self.0.summarise(&mut self.state(), now, false)?;
        self.0.retain(&mut self.state(), now, synchronised)?;
        self.0.sync()?;
        self.sign_when_due(now)
    }

    /// Writes what is only counted so far, signs the log and syncs. Blocks.
    pub fn close(&self, now: Timestamp) -> Result<(), AuditError> {
        self.0.summarise(&mut self.state(), now, true)?;
        self.sign_now(now)?;
        let mut state = self.state();
        self.0.store.write(|writer| {
            self.0.keep_up(&mut state, writer)?;
            state.epoch.store_open(0, &self.0.tiles, writer)?;
            self.0.write_head(&mut state, writer)
        })?;
        drop(state);
        self.0.sync()
    }

    /// Up to `limit` records with index ≥ `from`, and no more than 256. All are durable: what
    /// somebody has read must not be gone, or another, after a power cut. Blocks.
    pub fn read(&self, from: u64, limit: usize) -> Result<Vec<Line>, AuditError> {
        let mut pairs = self
            .0
            .records
            .range(&from.to_be_bytes(), limit.min(MAX_READ))?;
        if let Some((last, _)) = pairs.last()
            && kept::index_of(last)? >= self.state().durable()
        {
            let synced = self.0.sync();
            // On a full disk all but the last second's records can still be read.
            let durable = self.state().durable().to_be_bytes();
            pairs.retain(|(key, _)| key[..] < durable[..]);
            if pairs.is_empty() {
                synced?;
            }
        }
        pairs.into_iter().map(kept::line).collect()
    }

    /// The record with this index, where it is there. Durable, as what [`Log::read`] returns. Blocks.
    pub fn line(&self, index: u64) -> Result<Option<Line>, AuditError> {
        let line = self.read(index, 1)?.pop();
        Ok(line.filter(|line| line.index == index))
    }

    /// As [`Log::read`], but what isn't durable yet is left out, and nobody waits for the disk.
    fn read_durable(&self, from: u64, limit: usize) -> Result<Vec<Line>, AuditError> {
        let durable = self.state().durable().to_be_bytes();
        let mut pairs = self.0.records.range(&from.to_be_bytes(), limit)?;
        pairs.retain(|(key, _)| key[..] < durable[..]);
        pairs.into_iter().map(kept::line).collect()
    }

    /// Shows each record that has `name` in its bytes and that this release can read, the oldest first,
    /// until `each` has enough. Blocks, as long as reading the log takes.
    fn naming<B>(
        &self,
        name: &str,
        mut each: impl FnMut(u64, Event) -> ControlFlow<B>,
    ) -> Result<Option<B>, AuditError> {
        // Cheaper than to read what every record says.
        let may_be = |json: &[u8]| str::from_utf8(json).is_ok_and(|text| text.contains(name));
        let mut from = 0;
        loop {
            let page = self.read(from, MAX_READ)?;
            let Some(last) = page.last() else {
                return Ok(None);
            };
            from = last.index + 1;
            for line in page.iter().filter(|line| may_be(&line.json)) {
                let Some(record) = line.record() else {
                    continue;
                };
                if let ControlFlow::Break(enough) = each(line.index, record.event) {
                    return Ok(Some(enough));
                }
            }
        }
    }

    /// The index from which on there are `count` records before `end`, or all of them.
    pub fn last(&self, count: u64, end: u64) -> Result<u64, AuditError> {
        let first = self.state().first;
        let mut span = count;
        loop {
            let from = end.saturating_sub(span).max(first);
            let found = self.indexes(from, end)?;
            let surplus = (found.len() as u64).checked_sub(count);
            match surplus.and_then(|surplus| usize::try_from(surplus).ok()) {
                Some(surplus) => return Ok(found.get(surplus).copied().unwrap_or(end)),
                None if from == first => return Ok(first),
                None => span = span.saturating_mul(2),
            }
        }
    }

    fn indexes(&self, mut from: u64, end: u64) -> Result<Vec<u64>, AuditError> {
        let mut indexes = Vec::new();
        loop {
            let page = self.0.records.range(&from.to_be_bytes(), MAX_READ)?;
            for (key, _) in &page {
                let index = kept::index_of(key)?;
                if index >= end {
                    return Ok(indexes);
                }
                indexes.push(index);
                from = index + 1;
            }
            if page.is_empty() {
                return Ok(indexes);
            }
        }
    }

    /// How full it is, of 1.
    pub fn fill(&self) -> f64 {
        self.0.metrics.fill.get()
    }

    /// The time of its oldest record, where this release can read that. Blocks.
    pub fn oldest(&self) -> Result<Option<Timestamp>, AuditError> {
        let first = self.state().first;
        let oldest = self.0.records.range(&first.to_be_bytes(), 1)?.pop();
        let oldest = oldest.map(kept::line).transpose()?;
        let record = oldest.and_then(|line| line.record());
        Ok(record.map(|record| record.time))
    }

    pub fn next_index(&self) -> u64 {
        *self.0.next.borrow()
    }

    /// Resolves when a record with index ≥ `from` may exist.
    pub async fn wait(&self, from: u64) {
        let mut next = self.0.next.subscribe();
        // INVARIANT: the sender lives as long as `self`; an error can't happen, and would only
        // make the caller look again.
        let _ = next.wait_for(|next| *next > from).await;
    }

    pub fn set_settings(&self, settings: Settings) {
        self.state().settings = settings;
    }

    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state()
    }
}

impl Shared {
    /// A panic elsewhere leaves the counters behind at worst; the next reopening sets them right.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn sync(&self) -> Result<(), AuditError> {
        let (next, generation) = {
            let mut state = self.state();
            // What a reopening lost is written again before it counts as synced.
            self.store
                .write(|writer| self.keep_up(&mut state, writer))?;
            (state.next, state.generation)
        };
        self.store.sync()?;
        let mut state = self.state();
        if state.generation == generation {
            state.settle(next);
        }
        Ok(())
    }
}
