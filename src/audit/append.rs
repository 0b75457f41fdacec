//! Appending: dense indexes, whatever happens to the store beneath.

use std::collections::VecDeque;

use super::record::{Access, Event, Record, Verdict};
use super::refusals::Refusals;
use super::{AuditError, MAX_RECORD, Settings, Shared};
use crate::reason::{Reason, RefuseReason};
use crate::store::Writer;
use crate::time::Timestamp;

/// Unsynced records kept in memory, in bytes; beyond, the caller waits for a sync.
const MAX_PENDING: usize = 1024 * 1024;

/// What a record costs beside its JSON: key, salt, page structure.
pub(super) const OVERHEAD: u64 = 64;

#[derive(Debug)]
pub(super) struct State {
    pub(super) settings: Settings,
    /// The first index that is left, and the one after the last.
    pub(super) first: u64,
    pub(super) next: u64,
    pub(super) bytes: u64,
    /// The refusals' share of `bytes`.
    pub(super) refused: u64,
    pub(super) refusals: Refusals,
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

impl State {
    pub(super) fn new(settings: Settings) -> State {
        State {
            settings,
            first: 0,
            next: 0,
            bytes: 0,
            refused: 0,
            refusals: Refusals::default(),
            last_retention: None,
            generation: 0,
            pending: VecDeque::new(),
            pending_bytes: 0,
        }
    }

    /// Everything before `next` is on the disk.
    pub(super) fn settle(&mut self, next: u64) {
        while let Some(pending) = self.pending.pop_front_if(|p| p.index < next) {
            self.pending_bytes -= pending.json.len();
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
        state: &mut State,
        event: Event,
        salt: Option<[u8; 16]>,
        now: Timestamp,
    ) -> Result<u64, AuditError> {
        if state.pending_bytes > MAX_PENDING {
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
        state: &mut State,
        writer: &Writer<'_>,
        event: Event,
        salt: Option<[u8; 16]>,
        now: Timestamp,
    ) -> Result<u64, AuditError> {
        let record = Record {
            index: state.next,
            time: now,
            synchronised: crate::time::synchronised(),
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
        let cost = pending.json.len() as u64 + OVERHEAD;
        state.next += 1;
        state.bytes += cost;
        if is_refusal(&record.event) {
            state.refused += cost;
        }
        state.pending_bytes += pending.json.len();
        state.pending.push_back(pending);
        self.metrics.records.inc();
        Ok(record.index)
    }

    /// Records a refusal by itself while its rate and the refusals' half of the space allow.
    pub(super) fn refuse(
        &self,
        state: &mut State,
        access: Access,
        now: Timestamp,
    ) -> Result<(), AuditError> {
        let transport = access.origin.transport();
        let reason = access.reason;
        let reason = reason.unwrap_or(Reason::Refused(RefuseReason::Internal));
        let limit = state.settings.refusals_per_minute;
        let has_space = state.refused < state.budget() / 2;
        if state.refusals.admit(transport, reason, limit) && has_space {
            let event = Event::Access(Box::new(access));
            match self.append(state, event, None, now) {
                // Whoever sends a refusal of that size chose its parts himself.
                Err(AuditError::TooLarge) => {}
                appended => return appended.map(drop),
            }
        }
        state.refusals.add(transport, reason, now);
        self.metrics.summarised.inc();
        Ok(())
    }

    /// Once a minute, writes what was counted.
    pub(super) fn summarise(
        &self,
        state: &mut State,
        now: Timestamp,
        early: bool,
    ) -> Result<(), AuditError> {
        if !early && !state.refusals.is_due(now) {
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
    pub(super) fn keep_up(&self, state: &mut State, writer: &Writer<'_>) -> Result<(), AuditError> {
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
    fn survey(&self, state: &mut State, writer: &Writer<'_>) -> Result<(), AuditError> {
        (state.bytes, state.refused) = (0, 0);
        let (mut first, mut next) = (None, 0);
        loop {
            let page = self
                .records
                .range(&u64::to_be_bytes(next), super::MAX_READ)?;
            let Some((last, _)) = page.last() else { break };
            next = index_of(last)? + 1;
            for (key, json) in &page {
                first.get_or_insert(index_of(key)?);
                let cost = json.len() as u64 + OVERHEAD;
                state.bytes += cost;
                if is_refusal(&parse(key, json)?.event) {
                    state.refused += cost;
                }
            }
        }
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
    pub(super) fn report(&self, state: &State) {
        self.next.send_if_modified(|next| {
            let moved = *next != state.next;
            *next = state.next;
            moved
        });
        let bytes = i64::try_from(state.bytes).unwrap_or(i64::MAX);
        self.metrics.bytes.set(bytes);
        let fill = state.bytes as f64 / state.budget().max(1) as f64;
        self.metrics.fill.set(fill.min(1.0));
    }
}

pub(super) fn parse(key: &[u8], json: &[u8]) -> Result<Record, AuditError> {
    let index = index_of(key)?;
    serde_json::from_slice(json).map_err(|_| AuditError::Unreadable(index))
}

pub(super) fn index_of(key: &[u8]) -> Result<u64, AuditError> {
    let key = <[u8; 8]>::try_from(key).map_err(|_| AuditError::Unreadable(u64::MAX))?;
    Ok(u64::from_be_bytes(key))
}

pub(super) fn is_refusal(event: &Event) -> bool {
    matches!(event, Event::Access(access) if access.decision == Verdict::Deny)
}
