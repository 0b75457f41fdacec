//! Finding out what the store holds, when the log is opened and when the store was.
//!
//! The head record tells of most records; only those after it are read. A log that can't go on
//! provably begins a new epoch, and says so in its first record.

use serde::{Deserialize, Serialize};

use super::change::Change;
use super::checkpoint::Known;
use super::epoch::{Broken, Epoch, ProofError, Source};
use super::head::{Found, Head};
use super::kept::{Kept, index_of, line};
use super::owners::Owners;
use super::record::{Event, Record};
use super::state::State;
use super::{AuditError, MAX_READ, Shared};
use crate::prompt::Origin;
use crate::store::Writer;

/// The epoch's key in the store, beside the checkpoints'.
const EPOCH: &[u8] = b"epoch";

/// Why the log can't go on in its epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Why {
    /// It has records of a release without a tree.
    NoTree,
    /// This device has signed more than the store holds.
    BehindCheckpoint,
    /// This device has signed something else than the store holds.
    OtherRoot,
    /// More records are missing than were removed.
    RecordsMissing,
    TreeDamaged,
}

/// How the epoch began, as the store has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Begun {
    pub(super) epoch: u64,
    pub(super) base: u64,
    /// `None`: it was the log's beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    why: Option<Why>,
    /// The newest checkpoint before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checkpoint: Option<String>,
}

impl Begun {
    pub(super) fn read(checkpoints: &crate::store::Tree) -> Result<Option<Begun>, AuditError> {
        let read = checkpoints.get(EPOCH)?;
        Ok(read.and_then(|begun| serde_json::from_slice(&begun).ok()))
    }

    /// Whether the epoch's first record says so; one that began with the log has none.
    pub(super) fn is_told_by(&self, record: &[u8]) -> bool {
        let record = serde_json::from_slice(record).ok();
        let event = record.map(|record: Record| record.event);
        match event {
            Some(Event::Change { what, detail, .. }) if what == Change::AuditEpochBegun.into() => {
                serde_json::to_value(self).is_ok_and(|begun| begun == detail)
            }
            _ => self.why.is_none(),
        }
    }
}

impl Shared {
    pub(super) fn recover(&self) -> Result<(), AuditError> {
        let mut state = self.state();
        let known = self.signer.known()?;
        self.store.write(|writer| {
            self.resume(&mut state, writer, &known)?;
            // A crash can leave the salt and the text of a record that never was.
            for beside in [&self.salts, &self.texts] {
                for key in beside.keys(&state.next.to_be_bytes(), usize::MAX)? {
                    writer.remove(beside, &key)?;
                }
            }
            self.forget_other_epochs(&state, writer)
        })?;
        state.held = self.signer.held()?;
        self.signer.resume(&known, &state.epoch);
        Ok(())
    }

    /// After a reopening, writes again what the store lost, under the same indexes.
    pub(super) fn keep_up(&self, state: &mut State, writer: &Writer<'_>) -> Result<(), AuditError> {
        if state.generation == writer.generation() {
            return Ok(());
        }
        let last = self.records.last()?;
        let next = last.map_or(Ok(0), |key| Ok::<_, AuditError>(index_of(&key)? + 1))?;
        for pending in state.pending.iter().filter(|p| p.index >= next) {
            self.write(writer, pending)?;
        }
        let known = self.signer.known()?;
        self.resume(state, writer, &known)
    }

    /// Sets counters and tree by what the store holds. `known`: what was signed of it, the newest
    /// last.
    fn resume(
        &self,
        state: &mut State,
        writer: &Writer<'_>,
        known: &[Known],
    ) -> Result<(), AuditError> {
        state.generation = writer.generation();
        let why = match Begun::read(&self.checkpoints)? {
            Some(begun) => match self.go_on(state, writer, &begun, known)? {
                None => {
                    if state.unread > 0 {
                        let unread = state.unread;
                        tracing::warn!(unread, "the audit log holds records of a newer release");
                    }
                    self.report(state);
                    return Ok(());
                }
                why => why,
            },
            None => {
                self.survey(state, u64::MAX)?;
                match known.is_empty() {
                    true if state.next == 0 => None,
                    true => Some(Why::NoTree),
                    false => Some(Why::BehindCheckpoint),
                }
            }
        };
        self.begin(state, writer, why, known)
    }

    /// Goes on in an epoch, or says why that can't be.
    fn go_on(
        &self,
        state: &mut State,
        writer: &Writer<'_>,
        begun: &Begun,
        known: &[Known],
    ) -> Result<Option<Why>, AuditError> {
        state.epoch = Epoch::new(begun.epoch, begun.base);
        let counted = match Head::read(&self.heads)? {
            Found::Whole(head) => self.follow(state, head)?,
            Found::Nothing | Found::Damaged => false,
        };
        if !counted && let Some(why) = self.survey(state, begun.base)? {
            return Ok(Some(why));
        }
        let from = Source {
            records: &self.records,
            tiles: &self.tiles,
            writer,
        };
        match Epoch::load(begun.epoch, (begun.base, state.next), &from) {
            Ok(epoch) => state.epoch = epoch,
            Err(Broken::Store(error)) => return Err(error.into()),
            Err(Broken::NoRecord(_)) => return Ok(Some(Why::RecordsMissing)),
            Err(Broken::Tile(..)) => return Ok(Some(Why::TreeDamaged)),
        }
        if let Some(why) = self.compare(&state.epoch, known)? {
            return Ok(Some(why));
        }
        // A crash can have kept its first record from the disk.
        if state.epoch.size == 0 && begun.why.is_some() {
            self.tell(state, writer, begun)?;
        }
        Ok(None)
    }

    /// Takes up what the head says and reads what came after; `false` where that isn't all there is
    /// to it.
    fn follow(&self, state: &mut State, head: Head) -> Result<bool, AuditError> {
        let of_epoch = (head.epoch, head.base) == (state.epoch.number, state.epoch.base);
        // The newest record is never removed.
        let last = head.next.checked_sub(1);
        let lasts = last.map(|last| self.records.get(&last.to_be_bytes()));
        if !of_epoch || lasts.transpose()?.is_some_and(|last| last.is_none()) {
            return Ok(false);
        }
        let size = head.encode().len();
        state.headed(head.next, size);
        (state.first, state.next) = (head.first, head.next);
        (state.removed, state.unread) = (head.removed, head.unread);
        state.owners = head.owners;
        loop {
            let page = self.records.range(&state.next.to_be_bytes(), MAX_READ)?;
            if page.is_empty() {
                return Ok(true);
            }
            for pair in page {
                let kept = Kept::new(&line(pair)?);
                // A removal that a crash may have cut short.
                let removal = kept.is_truncation();
                if removal || kept.index != state.next {
                    return Ok(false);
                }
                state.count(&kept);
            }
        }
    }

    /// Sets the counters by all records, those of the epoch from `base` on; says where more are
    /// missing than were removed.
    fn survey(&self, state: &mut State, base: u64) -> Result<Option<Why>, AuditError> {
        state.owners = Owners::default();
        (state.next, state.unread) = (0, 0);
        state.headed(0, 0);
        let (mut first, mut found, mut removed) = (None, 0, 0);
        loop {
            let page = self.records.range(&state.next.to_be_bytes(), MAX_READ)?;
            if page.is_empty() {
                break;
            }
            for pair in page {
                let kept = Kept::new(&line(pair)?);
                first.get_or_insert(kept.index);
                if kept.index >= base {
                    found += 1;
                    removed = kept.removed_in_all().unwrap_or(removed);
                }
                state.count(&kept);
            }
        }
        state.first = first.unwrap_or(state.next);
        // Fewer where a crash cut a removal short.
        state.removed = state.next.saturating_sub(base) - found;
        Ok((state.removed > removed).then_some(Why::RecordsMissing))
    }

    /// Whether the tree is what was signed.
    fn compare(&self, epoch: &Epoch, known: &[Known]) -> Result<Option<Why>, AuditError> {
        for signed in known.iter().filter(|known| known.epoch >= epoch.number) {
            if signed.epoch > epoch.number || signed.size > epoch.size {
                return Ok(Some(Why::BehindCheckpoint));
            }
            match epoch.root(signed.size, &self.tiles) {
                Ok(root) if root == signed.root => {}
                Ok(_) => return Ok(Some(Why::OtherRoot)),
                Err(ProofError::Store(error)) => return Err(error.into()),
                Err(ProofError::Damaged(..)) => return Ok(Some(Why::TreeDamaged)),
                // An older one than the last, whose hashes are kept.
                Err(_) => {}
            }
        }
        Ok(None)
    }

    /// Begins a new epoch with the next record; with none of its own at the log's beginning.
    fn begin(
        &self,
        state: &mut State,
        writer: &Writer<'_>,
        why: Option<Why>,
        known: &[Known],
    ) -> Result<(), AuditError> {
        let signed = known.last().map_or(0, |known| known.epoch);
        let begun = Begun {
            epoch: state.epoch.number.max(signed) + 1,
            base: state.next,
            why,
            checkpoint: known.last().map(|known| known.note.clone()),
        };
        // INVARIANT: numbers and strings.
        let json = serde_json::to_vec(&begun).expect("an epoch is JSON");
        writer.insert(&self.checkpoints, EPOCH, &json)?;
        state.epoch = Epoch::new(begun.epoch, begun.base);
        state.removed = 0;
        state.held = Vec::new();
        self.forget_other_epochs(state, writer)?;
        if why.is_some() {
            self.tell(state, writer, &begun)?;
        }
        self.write_head(state, writer)?;
        self.report(state);
        Ok(())
    }

    fn tell(
        &self,
        state: &mut State,
        writer: &Writer<'_>,
        begun: &Begun,
    ) -> Result<(), AuditError> {
        let Begun { epoch, base, .. } = begun;
        tracing::warn!(epoch, base, why = ?begun.why, "the audit log begins a new epoch");
        // INVARIANT: numbers and strings.
        let detail = serde_json::to_value(begun).expect("an epoch is JSON");
        let event = Event::Change {
            origin: Origin::Daemon,
            what: Change::AuditEpochBegun.into(),
            detail,
        };
        self.append_one(state, writer, event, None, self.clocks.now())?;
        Ok(())
    }

    /// Removes the tiles of earlier epochs.
    fn forget_other_epochs(&self, state: &State, writer: &Writer<'_>) -> Result<(), AuditError> {
        let own = state.epoch.number.to_be_bytes();
        loop {
            let mut keys = self.tiles.keys(&[], MAX_READ)?;
            keys.retain(|key| !key.starts_with(&own));
            if keys.is_empty() {
                return Ok(());
            }
            for key in keys {
                writer.remove(&self.tiles, &key)?;
            }
        }
    }
}
