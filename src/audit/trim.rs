//! Removing the oldest records, by size and by age.

use std::time::Duration;

use super::append::{OVERHEAD, State, is_refusal, parse};
use super::record::{Event, Record};
use super::{AuditError, MAX_READ, Shared};
use crate::store::Writer;
use crate::time::Timestamp;

/// What the database takes on the disk beside its records' garbage: segments in use and spare.
const DISK_BASE: u64 = 6 * 1024 * 1024;

/// sled frees a segment once half of it is garbage. Measured: two bytes on the disk per byte of
/// records at caps from 6 to 64 MiB; half a byte more is kept in reserve.
const DISK_FACTOR: (u64, u64) = (5, 2);

/// With a cap too small for the base, the log still holds some records.
const LEAST: u64 = 64 * 1024;

/// Removing is done in steps of this part of the space, so that neither the log is rewritten nor
/// a truncation recorded with every record.
const STEP: u64 = 16;

const RETENTION_EVERY: Duration = Duration::from_secs(3600);

impl State {
    /// What records may take by themselves.
    pub(super) fn budget(&self) -> u64 {
        let room = self.settings.max_bytes.saturating_sub(DISK_BASE);
        (room / DISK_FACTOR.0 * DISK_FACTOR.1).max(LEAST)
    }
}

/// The oldest records, all before `until`.
#[derive(Debug, Clone, Copy, Default)]
struct Oldest {
    until: u64,
    bytes: u64,
    refused: u64,
}

impl Oldest {
    fn add(&mut self, record: &Record, cost: u64) {
        self.until = record.index + 1;
        self.bytes += cost;
        if is_refusal(&record.event) {
            self.refused += cost;
        }
    }
}

impl Shared {
    pub(super) fn enforce_cap(
        &self,
        state: &mut State,
        writer: &Writer<'_>,
        now: Timestamp,
    ) -> Result<(), AuditError> {
        if state.bytes <= state.budget() {
            return Ok(());
        }
        let goal = state.bytes - state.budget() + state.budget() / STEP;
        let mut oldest = Oldest::default();
        self.visit_oldest(state, |record, cost| {
            if oldest.bytes < goal {
                oldest.add(record, cost);
            }
            oldest.bytes < goal
        })?;
        self.remove(state, writer, oldest, now)
    }

    /// Once an hour, removes what is older than the retention. Only while the time is known: a
    /// clock gone wrong must not empty the log.
    pub(super) fn retain(
        &self,
        state: &mut State,
        now: Timestamp,
        synchronised: bool,
    ) -> Result<(), AuditError> {
        let recent = |last: Timestamp| now >= last && now.since(last) < RETENTION_EVERY;
        if !synchronised || state.last_retention.is_some_and(recent) {
            return Ok(());
        }
        let retention = state.settings.retention;
        self.store.write(|writer| {
            self.keep_up(state, writer)?;
            let (mut seen, mut old) = (Oldest::default(), Oldest::default());
            self.visit_oldest(state, |record, cost| {
                seen.add(record, cost);
                // A time that wasn't known says nothing: such a record goes with the next known.
                if record.synchronised && now.since(record.time) > retention {
                    old = seen;
                }
                !record.synchronised || now.since(record.time) > retention
            })?;
            self.remove(state, writer, old, now)
        })?;
        state.last_retention = Some(now);
        self.report(state);
        Ok(())
    }

    /// Shows records and what they cost from the oldest on, until `visit` says no.
    fn visit_oldest(
        &self,
        state: &State,
        mut visit: impl FnMut(&Record, u64) -> bool,
    ) -> Result<(), AuditError> {
        let mut from = state.first;
        loop {
            let page = self.records.range(&from.to_be_bytes(), MAX_READ)?;
            if page.is_empty() {
                return Ok(());
            }
            for (key, json) in page {
                let record = parse(&key, &json)?;
                if !visit(&record, json.len() as u64 + OVERHEAD) {
                    return Ok(());
                }
                from = record.index + 1;
            }
        }
    }

    /// Records the truncation, then removes: a crash between leaves too much, never a gap that
    /// nothing tells of.
    fn remove(
        &self,
        state: &mut State,
        writer: &Writer<'_>,
        oldest: Oldest,
        now: Timestamp,
    ) -> Result<(), AuditError> {
        if oldest.until <= state.first {
            return Ok(());
        }
        let truncated = Event::Truncated {
            first_index: oldest.until,
            removed: oldest.until - state.first,
        };
        self.append_one(state, writer, truncated, None, now)?;
        for index in state.first..oldest.until {
            let key = index.to_be_bytes();
            writer.remove(&self.salts, &key)?;
            writer.remove(&self.records, &key)?;
            state.first = index + 1;
        }
        state.bytes = state.bytes.saturating_sub(oldest.bytes);
        state.refused = state.refused.saturating_sub(oldest.refused);
        Ok(())
    }
}
