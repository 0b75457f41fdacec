//! Appending: dense indexes, whatever happens to the store beneath.

use std::collections::VecDeque;

use super::counts::Counts;
use super::kept::{Kept, cost, index_of, line};
use super::owners::{Owner, Owners};
use super::record::{Access, Event, Record, Summary, VERSION};
use super::refusals::Refusals;
use super::{AuditError, MAX_RECORD, Noted, Settings, Shared};
use crate::store::Writer;
use crate::time::Timestamp;

/// Unsynced records kept in memory, in bytes; beyond, the caller waits for a sync.
const MAX_PENDING: usize = 1024 * 1024;

/// Kinds of reads, of administrators' looks, and of principals' refusals, that are counted at once.
const COUNTED_READS: usize = 512;
const COUNTED_LOOKS: usize = 64;
const COUNTED_REFUSALS: usize = 256;

#[derive(Debug)]
pub(super) struct Head {
    pub(super) settings: Settings,
    /// The first index that is left, and the one after the last.
    pub(super) first: u64,
    pub(super) next: u64,
    pub(super) owners: Owners,
    pub(super) reads: Counts,
    /// By the admin socket: apart, so that no crowd of readers takes their room.
    pub(super) looks: Counts,
    pub(super) refusals: Refusals,
    /// Refusals of principals beyond those recorded one by one.
    pub(super) refused: Counts,
    pub(super) last_retention: Option<Timestamp>,
    /// The store's, as the counters above know it.
    pub(super) generation: u64,
    /// Records that may not be on the disk yet: when the store loses them, they are written again.
    pending: VecDeque<Pending>,
    pending_bytes: usize,
}

#[derive(Debug)]
struct Pending {
    index: u64,
    json: Vec<u8>,
    salt: Option<[u8; 16]>,
}

impl Head {
    pub(super) fn new(settings: Settings) -> Head {
        Head {
            settings,
            first: 0,
            next: 0,
            owners: Owners::default(),
            reads: Counts::new(COUNTED_READS),
            looks: Counts::new(COUNTED_LOOKS),
            refusals: Refusals::default(),
            refused: Counts::new(COUNTED_REFUSALS),
            last_retention: None,
            generation: 0,
            pending: VecDeque::new(),
            pending_bytes: 0,
        }
    }

    /// Everything before this is on the disk.
    pub(super) fn durable(&self) -> u64 {
        self.pending.front().map_or(self.next, |first| first.index)
    }

    /// Notes that everything before `next` is on the disk.
    pub(super) fn settle(&mut self, next: u64) {
        while let Some(pending) = self.pending.pop_front_if(|p| p.index < next) {
            self.pending_bytes -= pending.json.len();
        }
    }

    /// A salt that was erased isn't written again.
    pub(super) fn forget_salt(&mut self, index: u64) {
        let mut pending = self.pending.iter_mut();
        if let Some(pending) = pending.find(|pending| pending.index == index) {
            pending.salt = None;
        }
    }
}

impl Shared {
    /// Finds out what the store holds.
    pub(super) fn recover(&self) -> Result<(), AuditError> {
        let mut state = self.state();
        self.store.write(|writer| {
            self.survey(&mut state, writer)?;
            // A crash can leave the salt of a record that never was.
            for (key, _) in self.salts.range(&state.next.to_be_bytes(), usize::MAX)? {
                writer.remove(&self.salts, &key)?;
            }
            Ok(())
        })
    }

    pub(super) fn append(
        &self,
        state: &mut Head,
        mut event: Event,
        salt: Option<[u8; 16]>,
        now: Timestamp,
    ) -> Result<u64, AuditError> {
        match &mut event {
            Event::Access(access) => access.bound(),
            Event::Finish(finished) => finished.bound(),
            _ => {}
        }
        if state.pending_bytes > MAX_PENDING {
            self.store.write(|writer| self.keep_up(state, writer))?;
            self.store.sync()?;
            state.settle(state.next);
        }
        self.store.write(|writer| {
            self.keep_up(state, writer)?;
            let index = self.append_one(state, writer, event, salt, now)?;
            self.enforce_cap(state, writer, now)?;
            self.report(state);
            Ok(index)
        })
    }

    pub(super) fn append_one(
        &self,
        state: &mut Head,
        writer: &Writer<'_>,
        event: Event,
        salt: Option<[u8; 16]>,
        now: Timestamp,
    ) -> Result<u64, AuditError> {
        let record = Record {
            version: VERSION,
            index: state.next,
            time: now,
            synchronised: self.clocks.synchronised(),
            boot_id: self.boot_id.clone(),
            event,
        };
        // INVARIANT: a record is made of strings, numbers and JSON values; none can fail.
        let json = serde_json::to_vec(&record).expect("records are JSON");
        if json.len() > MAX_RECORD {
            return Err(AuditError::TooLarge);
        }
        let pending = Pending {
            index: record.index,
            json,
            salt,
        };
        self.write(writer, &pending)?;
        let cost = cost(&pending.json);
        state.next += 1;
        state.owners.add(Owner::of(&record.event), cost);
        state.pending_bytes += pending.json.len();
        state.pending.push_back(pending);
        self.metrics.records.inc();
        Ok(record.index)
    }

    /// Records a refusal by itself while its rate allows, and counts it else.
    pub(super) fn refuse(&self, state: &mut Head, access: &Access, now: Timestamp) -> Noted {
        let limit = state.settings.refusals_per_minute;
        if state.refusals.admit(access, limit) {
            let event = Event::Access(Box::new(access.clone()));
            match self.append(state, event, None, now) {
                Ok(_) => return Noted::ByItself,
                // What can't be written is at least counted, for when it can.
                Err(error) => tracing::error!(%error, "a refusal could not be recorded by itself"),
            }
        }
        self.metrics.summarised.inc();
        let one = Summary::of(access, now);
        let named = one.tag().is_some() && state.refused.begin(&one, now);
        if !(named && state.refused.count(&one, now)) {
            state.refusals.add(access, now);
        }
        Noted::Counted
    }

    /// Writes what was counted and is due, or all of it at the end.
    pub(super) fn summarise(
        &self,
        state: &mut Head,
        now: Timestamp,
        end: bool,
    ) -> Result<(), AuditError> {
        let counts: [fn(&mut Head) -> &mut Counts; 3] = [
            |state| &mut state.reads,
            |state| &mut state.looks,
            |state| &mut state.refused,
        ];
        for counts in counts {
            while let Some(summary) = counts(state).next_summary(now, end) {
                let event = Event::AccessesSummary(Box::new(summary.clone()));
                self.append(state, event, None, now)?;
                counts(state).summarised(&summary, now);
            }
            counts(state).prune(now);
        }
        if !end && !state.refusals.is_due(now) {
            return Ok(());
        }
        while let Some((kind, summary)) = state.refusals.next_summary() {
            self.append(state, summary, None, now)?;
            state.refusals.summarised(kind);
        }
        state.refusals.restart(now);
        Ok(())
    }

    /// After a reopening, writes again what the store lost, under the same indexes.
    pub(super) fn keep_up(&self, state: &mut Head, writer: &Writer<'_>) -> Result<(), AuditError> {
        if state.generation == writer.generation() {
            return Ok(());
        }
        let next = state.next;
        self.survey(state, writer)?;
        for pending in state.pending.iter().filter(|p| p.index >= state.next) {
            self.write(writer, pending)?;
        }
        if next > state.next {
            self.survey(state, writer)?;
        }
        Ok(())
    }

    /// Sets the counters by what the store holds.
    fn survey(&self, state: &mut Head, writer: &Writer<'_>) -> Result<(), AuditError> {
        state.owners = Owners::default();
        let (mut first, mut next, mut unread) = (None, 0, 0);
        loop {
            let page = self
                .records
                .range(&u64::to_be_bytes(next), super::MAX_READ)?;
            let Some((last, _)) = page.last() else { break };
            next = index_of(last)? + 1;
            for pair in page {
                let kept = Kept::new(&line(pair)?);
                first.get_or_insert(kept.index);
                unread += i64::from(kept.record.is_none());
                state.owners.add(kept.owner(), kept.bytes);
            }
        }
        if unread > 0 {
            tracing::warn!(unread, "the audit log holds records of a newer release");
        }
        self.metrics.unread.set(unread);
        state.first = first.unwrap_or(next);
        state.next = next;
        state.generation = writer.generation();
        self.report(state);
        Ok(())
    }

    fn write(&self, writer: &Writer<'_>, record: &Pending) -> Result<(), AuditError> {
        let key = record.index.to_be_bytes();
        // The salt first: a record without its salt couldn't be verified.
        if let Some(salt) = &record.salt {
            writer.insert(&self.salts, &key, salt)?;
        }
        writer.insert(&self.records, &key, &record.json)?;
        Ok(())
    }

    /// Tells watchers and metrics.
    pub(super) fn report(&self, state: &Head) {
        self.next.send_if_modified(|next| {
            let moved = *next != state.next;
            *next = state.next;
            moved
        });
        let bytes = state.owners.total();
        self.metrics
            .bytes
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
        let fill = bytes as f64 / state.budget().max(1) as f64;
        self.metrics.fill.set(fill.min(1.0));
    }
}
