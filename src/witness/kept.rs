//! What comes back from witnesses: judged, and kept in the store.
//!
//! A note counts when this device has signed it, the witness has cosigned it, and the log as it is has
//! grown from it. It needs no trust in who has brought it.

use super::{Refused, Shared, State, Watcher};
use crate::audit::{AuditError, MAX_HELD, Signed};
use crate::time::{MAX_SECS, Timestamp};
use crate::tlog::checkpoint::{Checkpoint, CheckpointError};
use crate::tlog::note::Note;
use crate::tlog::text;
use crate::tlog::tree::verify_consistency;

/// How many of the reported sizes the next report has proofs from.
const MAX_PUBLISHED: usize = 4;
const PUBLISHED: &[u8] = b"published";
/// Keys that are looked at when the daemon begins.
const MOST_KEPT: usize = 256;
/// Before a witness's key: its last note.
const NOTE: &[u8] = b"note/";

/// The last that a witness has cosigned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cosigned {
    pub(super) epoch: u64,
    pub(super) size: u64,
    /// As the witness says.
    pub(super) at: Timestamp,
}

/// Sizes that were reported, the newest last.
#[derive(Debug, Default)]
pub(super) struct Published {
    epoch: u64,
    sizes: Vec<u64>,
}

impl Published {
    pub(super) fn of(&self, epoch: u64) -> impl DoubleEndedIterator<Item = u64> {
        let sizes = self.sizes.iter().filter(move |_| self.epoch == epoch);
        sizes.copied()
    }

    fn read(bytes: &[u8]) -> Published {
        let mut numbers = bytes.as_chunks().0.iter().copied().map(u64::from_be_bytes);
        Published {
            epoch: numbers.next().unwrap_or_default(),
            sizes: numbers.take(MAX_PUBLISHED).collect(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let numbers = std::iter::once(self.epoch).chain(self.sizes.iter().copied());
        numbers.flat_map(u64::to_be_bytes).collect()
    }

    /// `false`: it was reported before.
    fn add(&mut self, epoch: u64, size: u64) -> bool {
        if self.epoch != epoch {
            (self.epoch, self.sizes) = (epoch, Vec::new());
        }
        if self.sizes.last() == Some(&size) {
            return false;
        }
        self.sizes.push(size);
        let surplus = self.sizes.len().saturating_sub(MAX_PUBLISHED);
        self.sizes.drain(..surplus);
        true
    }
}

impl Shared {
    /// Takes up what was kept before the daemon began; of witnesses that are no longer configured
    /// nothing stays.
    pub(super) fn recall(&self) -> Result<(), AuditError> {
        if let Some(bytes) = self.tree.get(PUBLISHED)? {
            *self.published.lock() = Published::read(&bytes);
        }
        let keys: Vec<Vec<u8>> = self.watchers.iter().map(Watcher::stored).collect();
        for key in self.tree.keys(NOTE, MOST_KEPT)? {
            if key.starts_with(NOTE) && !keys.contains(&key) {
                self.tree.remove(&key)?;
            }
        }
        for (watcher, key) in self.watchers.iter().zip(&keys) {
            if let Some(note) = self.tree.get(key)? {
                let mut state = watcher.state.lock();
                let taken = self.judge(watcher, &state, &note);
                let taken = taken.map(|(signed, at)| self.adopt(watcher, &mut state, signed, at));
                drop(state);
                self.told(watcher, taken);
            }
        }
        self.hold()
    }

    /// What a witness has cosigned.
    pub(super) fn take(&self, watcher: &Watcher, note: &[u8]) -> Result<(), Refused> {
        let mut state = watcher.state.lock();
        let (signed, at) = self.judge(watcher, &state, note)?;
        let own = |error: AuditError| Refused::Log(error.to_string());
        let bytes = signed.note.as_bytes();
        let kept = || self.tree.insert(&watcher.stored(), bytes);
        let kept = self.store.commit(kept).map_err(AuditError::Store);
        kept.map_err(own)?;
        self.adopt(watcher, &mut state, signed, at);
        drop(state);
        self.hold().map_err(own)
    }

    /// What `note` says, if the log as it is has grown from there and it is news.
    fn judge(
        &self,
        watcher: &Watcher,
        state: &State,
        note: &[u8],
    ) -> Result<(Signed, Timestamp), Refused> {
        let newest = self.log.checkpoint().ok_or(Refused::Old)?;
        let (checkpoint, note) = self.own(note)?;
        let key = &watcher.witness.key;
        let at = note.verify(key).map_err(|_| Refused::NotCosigned)?;
        let at = Timestamp::from_secs(at.unwrap_or_default().min(MAX_SECS));
        if checkpoint.origin != newest.origin {
            return match epoch_of(&checkpoint.origin) {
                Some(epoch) if epoch > newest.epoch => {
                    Err(Refused::LaterEpoch(epoch, newest.epoch))
                }
                Some(epoch) if epoch < newest.epoch => Err(Refused::Old),
                _ => Err(Refused::Foreign),
            };
        }
        let Checkpoint { size, root, .. } = checkpoint;
        if size > newest.size {
            return Err(Refused::Ahead(size, newest.size));
        }
        let kept = state.cosigned.as_ref();
        let kept = kept.filter(|kept| kept.epoch == newest.epoch);
        if kept.is_some_and(|kept| (size, at) <= (kept.size, kept.at)) {
            return Err(Refused::Old);
        }
        let proof = self.log.consistency(size, &newest);
        let proof = proof.map_err(|error| Refused::Log(error.to_string()))?;
        let grown = verify_consistency(size, &root, newest.size, &newest.root, &proof);
        grown.map_err(|_| Refused::Rewritten(size))?;
        let signed = Signed {
            size,
            root,
            note: note.to_string(),
            ..Signed::clone(&newest)
        };
        Ok((signed, at))
    }

    /// A checkpoint that this device has signed, of whichever log.
    pub(super) fn own(&self, note: &[u8]) -> Result<(Checkpoint, Note), Refused> {
        Checkpoint::by(note, &self.device).map_err(|error| match error {
            CheckpointError::Note(error) => Refused::Malformed(error),
            _ => Refused::Foreign,
        })
    }

    fn adopt(&self, watcher: &Watcher, state: &mut State, signed: Signed, at: Timestamp) {
        state.cosigned = Some(Cosigned {
            epoch: signed.epoch,
            size: signed.size,
            at,
        });
        (state.known, state.disputed) = (None, None);
        self.log.set_cosigned(&watcher.witness.key, signed);
    }

    pub(super) fn published(&self, checkpoint: &Checkpoint) -> Result<(), AuditError> {
        let bytes = {
            let epoch = epoch_of(&checkpoint.origin).unwrap_or_default();
            let mut published = self.published.lock();
            if !published.add(epoch, checkpoint.size) {
                return Ok(());
            }
            published.bytes()
        };
        // What a power cut takes back was shown all the same, but is proven from no more.
        self.tree.insert(PUBLISHED, &bytes)?;
        self.hold()
    }

    /// The log keeps what proofs from there need.
    pub(super) fn hold(&self) -> Result<(), AuditError> {
        let Some(newest) = self.log.checkpoint() else {
            return Ok(());
        };
        let mut sizes = self.proof_sizes(newest.epoch);
        sizes.retain(|size| (1..=newest.size).contains(size));
        sizes.truncate(MAX_HELD);
        sizes.sort_unstable();
        self.log.hold(&sizes)
    }
}

impl Watcher {
    fn stored(&self) -> Vec<u8> {
        [NOTE, self.witness.key.to_string().as_bytes()].concat()
    }
}

fn epoch_of(origin: &str) -> Option<u64> {
    text::decimal(origin.rsplit('/').next()?)
}
