//! Removing records: by size from those who have most of them, by age from everybody.
//!
//! What is left keeps its index, and no index is given twice: a gap is a gap for good, and a
//! truncation tells of it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::kept::{Kept, line};
use super::owners::Owner;
use super::record::{Event, Loss, MAX_LOSSES};
use super::sealed;
use super::state::State;
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

/// Records removed in one go; bounds what is noted meanwhile.
pub(super) const MOST: usize = 16_384;

const RETENTION_EVERY: Duration = Duration::from_secs(3600);

impl State {
    /// What records may take by themselves.
    pub(super) fn budget(&self) -> u64 {
        let room = self.settings.max_bytes.saturating_sub(DISK_BASE);
        (room / DISK_FACTOR.0 * DISK_FACTOR.1).max(LEAST)
    }
}

/// A record to remove.
#[derive(Debug, Clone, Copy)]
struct Removal {
    index: u64,
    owner: Owner,
    bytes: u64,
    /// Where it is known.
    text_bytes: Option<u64>,
    unread: bool,
}

impl Removal {
    fn of(kept: &Kept) -> Removal {
        Removal {
            index: kept.index,
            owner: kept.owner(),
            bytes: kept.bytes,
            text_bytes: kept.text_bytes(),
            unread: kept.record.is_none(),
        }
    }
}

/// Records to remove, and what is left.
#[derive(Debug, Default)]
struct Removals {
    records: Vec<Removal>,
    losses: BTreeMap<Owner, Loss>,
    /// The oldest record that stays.
    first_left: Option<u64>,
}

impl Removals {
    fn add(&mut self, kept: &Kept) {
        let removal = Removal::of(kept);
        let Removal { index, owner, .. } = removal;
        self.records.push(removal);
        let loss = self.losses.entry(owner).or_insert_with(|| Loss {
            whose: owner.whose(),
            principal: None,
            subject: None,
            client: None,
            from: index,
            to: index,
            removed: 0,
        });
        (loss.to, loss.removed) = (index, loss.removed + 1);
        if let Some(record) = kept.record.as_ref().filter(|_| loss.principal.is_none()) {
            name(loss, &record.event);
        }
    }

    /// The largest losses, and how many records the others have lost.
    fn largest(&self) -> (Vec<Loss>, u64) {
        let mut losses: Vec<Loss> = self.losses.values().cloned().collect();
        losses.sort_by_key(|loss| (std::cmp::Reverse(loss.removed), loss.from));
        let others = losses.split_off(losses.len().min(MAX_LOSSES));
        (losses, others.iter().map(|loss| loss.removed).sum())
    }
}

fn name(loss: &mut Loss, event: &Event) {
    match event {
        Event::Access(access) => {
            loss.principal = access.tag();
            loss.subject.clone_from(&access.subject);
            loss.client.clone_from(&access.client);
        }
        Event::AccessesSummary(summary) => {
            loss.principal = summary.tag();
            loss.subject.clone_from(&summary.subject);
            loss.client.clone_from(&summary.client);
        }
        _ => {}
    }
}

impl Shared {
    pub(super) fn enforce_cap(
        &self,
        state: &mut State,
        writer: &Writer<'_>,
        now: Timestamp,
    ) -> Result<(), AuditError> {
        // Refusals among themselves first; what that leaves may fit.
        for _ in 0..2 {
            let mut excess = state.owners.excess(state.budget());
            if excess.is_empty() {
                return Ok(());
            }
            let mut open = excess.len();
            let mut removals = Removals::default();
            let newest = state.next.saturating_sub(1);
            self.visit(state.first, |kept| {
                let left = excess.get_mut(&kept.owner()).filter(|left| **left > 0);
                let fits = kept.index < newest && removals.records.len() < MOST;
                match left.filter(|_| fits) {
                    Some(left) => {
                        *left = left.saturating_sub(kept.bytes);
                        open -= usize::from(*left == 0);
                        removals.add(kept);
                    }
                    None => {
                        removals.first_left.get_or_insert(kept.index);
                    }
                }
                (open > 0 && removals.records.len() < MOST) || removals.first_left.is_none()
            })?;
            self.remove(state, writer, &removals, now)?;
        }
        Ok(())
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
        let done = self.store.write(|writer| {
            self.keep_up(state, writer)?;
            // A time that wasn't known, or can't be read, says nothing: such a record goes with the
            // next known.
            let (mut removals, mut old, mut done) = (Removals::default(), 0, true);
            self.visit(state.first, |kept| {
                let known = kept.record.as_ref().filter(|record| record.synchronised);
                let is_old = known.map(|record| now.since(record.time) > retention);
                let fits = is_old != Some(false) && removals.records.len() < MOST;
                match fits {
                    true => removals.records.push(Removal::of(kept)),
                    false => removals.first_left = removals.first_left.or(Some(kept.index)),
                }
                if is_old == Some(true) {
                    (old, done) = (removals.records.len(), fits);
                }
                is_old != Some(false) && done
            })?;
            if let Some(stays) = removals.records.get(old) {
                removals.first_left = Some(stays.index);
            }
            removals.records.truncate(old);
            self.remove(state, writer, &removals, now)?;
            Ok::<_, AuditError>(done)
        })?;
        if done {
            state.last_retention = Some(now);
        }
        self.report(state);
        Ok(())
    }

    /// Shows records from `from` on, until `visit` says no.
    fn visit(&self, mut from: u64, mut visit: impl FnMut(&Kept) -> bool) -> Result<(), AuditError> {
        loop {
            let page = self.records.range(&from.to_be_bytes(), MAX_READ)?;
            if page.is_empty() {
                return Ok(());
            }
            for pair in page {
                let kept = Kept::new(&line(pair)?);
                if !visit(&kept) {
                    return Ok(());
                }
                from = kept.index + 1;
            }
        }
    }

    /// Records the truncation, then removes: a crash between leaves too much, never a gap that
    /// nothing tells of.
    fn remove(
        &self,
        state: &mut State,
        writer: &Writer<'_>,
        removals: &Removals,
        now: Timestamp,
    ) -> Result<(), AuditError> {
        if removals.records.is_empty() {
            return Ok(());
        }
        let first_index = removals.first_left.unwrap_or(state.next);
        let (losses, of_others) = removals.largest();
        let base = state.epoch.base;
        let of_epoch = |removal: &&Removal| removal.index >= base;
        state.removed += removals.records.iter().filter(of_epoch).count() as u64;
        let truncated = Event::Truncated {
            first_index,
            removed: removals.records.len() as u64,
            removed_in_all: Some(state.removed),
            losses,
            of_others,
        };
        self.append_one(state, writer, truncated, None, now)?;
        let indexes = removals.records.iter().map(|removal| removal.index);
        self.before_removing(state, writer, indexes.clone())?;
        for removal in &removals.records {
            let key = removal.index.to_be_bytes();
            writer.remove(&self.salts, &key)?;
            sealed::remove(&self.texts, writer, removal.index, removal.text_bytes)?;
            writer.remove(&self.records, &key)?;
            state.owners.remove(removal.owner, removal.bytes);
            self.metrics.removed.inc();
            state.unread = state.unread.saturating_sub(u64::from(removal.unread));
        }
        self.prune_around(state, writer, indexes)?;
        state.first = first_index;
        self.write_head(state, writer)
    }
}
