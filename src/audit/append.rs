//! Appending: dense indexes, whatever happens to the store beneath.

use super::counts::Counts;
use super::kept::{cost, text_bytes};
use super::owners::Owner;
use super::record::{Access, Event, Record, Summary, VERSION};
use super::sealed;
use super::state::{Pending, State};
use super::{AuditError, MAX_RECORD, Noted, Shared};
use crate::store::{StoreError, Writer};
use crate::time::Timestamp;
use crate::tlog::tree::leaf_hash;

/// Unsynced records kept in memory, in bytes; beyond, the caller waits for a sync.
const MAX_PENDING: usize = 1024 * 1024;

impl Shared {
    pub(super) fn append(
        &self,
        state: &mut State,
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
            let appended = self.append_within(state, writer, event, salt, now);
            appended.inspect_err(|error| {
                // What is to be removed can't be read: it would be so with every record.
                if let AuditError::Store(error @ StoreError::Corrupt(_)) = error {
                    writer.give_up(error);
                }
            })
        })
    }

    fn append_within(
        &self,
        state: &mut State,
        writer: &Writer<'_>,
        event: Event,
        salt: Option<[u8; 16]>,
        now: Timestamp,
    ) -> Result<u64, AuditError> {
        self.keep_up(state, writer)?;
        let index = self.append_one(state, writer, event, salt, now)?;
        self.enforce_cap(state, writer, now)?;
        if state.head_is_due() {
            self.write_head(state, writer)?;
        }
        self.report(state);
        Ok(index)
    }

    pub(super) fn append_one(
        &self,
        state: &mut State,
        writer: &Writer<'_>,
        mut event: Event,
        salt: Option<[u8; 16]>,
        now: Timestamp,
    ) -> Result<u64, AuditError> {
        let text = event.take_text();
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
            text,
        };
        self.write(writer, &pending)?;
        let cost = cost(&pending.json) + text_bytes(&record.event);
        let leaf = leaf_hash(&pending.json);
        state.next += 1;
        state.owners.add(Owner::of(&record.event), cost);
        state.pending_bytes += pending.bytes();
        state.pending.push_back(pending);
        self.metrics.records.inc();
        self.metrics.last.set(now.as_secs());
        for filled in state.epoch.push(&self.tiles, writer, leaf)? {
            self.filled(state, writer, filled)?;
        }
        Ok(record.index)
    }

    /// Records a refusal by itself while its rate allows, and counts it else.
    pub(super) fn refuse(&self, state: &mut State, access: &Access, now: Timestamp) -> Noted {
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
        state: &mut State,
        now: Timestamp,
        end: bool,
    ) -> Result<(), AuditError> {
        let counts: [fn(&mut State) -> &mut Counts; 4] = [
            |state| &mut state.reads,
            |state| &mut state.looks,
            |state| &mut state.refused,
            |state| &mut state.crowd,
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

    pub(super) fn write_head(
        &self,
        state: &mut State,
        writer: &Writer<'_>,
    ) -> Result<(), AuditError> {
        let size = state.head().write(&self.heads, writer)?;
        state.headed(state.next, size);
        Ok(())
    }

    pub(super) fn write(&self, writer: &Writer<'_>, record: &Pending) -> Result<(), AuditError> {
        let key = record.index.to_be_bytes();
        // The salt first: a record without its salt couldn't be verified; and the text that it names.
        if let Some(salt) = &record.salt {
            writer.insert(&self.salts, &key, salt)?;
        }
        sealed::write(&self.texts, writer, record.index, &record.text)?;
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
        let unread = i64::try_from(state.unread).unwrap_or(i64::MAX);
        self.metrics.unread.set(unread);
        let bytes = state.owners.total();
        self.metrics
            .bytes
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
        let fill = bytes as f64 / state.budget().max(1) as f64;
        self.metrics.fill.set(fill.min(1.0));
        let leaves = state.next.saturating_sub(state.epoch.base);
        self.metrics.leaves.set(leaves);
    }
}
