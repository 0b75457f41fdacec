//! Checkpoints: what this device signs of its log (C2SP tlog-checkpoint), in the store and in a file
//! beside it.
//!
//! The file outlives a store that is lost or set back, so that the next start sees it and begins a new
//! epoch. It is written once what it speaks of is on the disk.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::epoch::{Epoch, ProofError};
use super::{AuditError, Log};
use crate::digest::percent_encoded;
use crate::files::{self, Care};
use crate::identity::{Key, PublicKey};
use crate::store::{StoreError, Tree};
use crate::time::Timestamp;
use crate::tlog::checkpoint::Checkpoint;
use crate::tlog::note::{self, Algorithm, Note, VerifierKey};
use crate::tlog::tree::{Hash, consistency, inclusion};

/// In the state folder.
pub const FOLDER: &str = "audit";
const FILE: &str = "checkpoint";

/// Its key in the store.
const LAST: &[u8] = b"last";
/// Of sizes that proofs of consistency may begin at.
const HELD: &[u8] = b"held";

/// The most of these.
pub const MAX_HELD: usize = 64;

/// A signed checkpoint of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    pub epoch: u64,
    /// The index of the epoch's first record, which is leaf 0.
    pub base: u64,
    /// Leaves that it covers.
    pub size: u64,
    pub root: Hash,
    pub origin: String,
    /// As it is published: a signed note.
    pub note: String,
}

impl Signed {
    /// Whether it covers the record with this index.
    pub fn covers(&self, index: u64) -> bool {
        (self.base..self.base.saturating_add(self.size)).contains(&index)
    }

    fn is_of(&self, epoch: &Epoch) -> Result<(), ProofError> {
        match (self.epoch, self.base) == (epoch.number, epoch.base) {
            true => Ok(()),
            false => Err(ProofError::OtherEpoch),
        }
    }
}

/// A checkpoint that this device signed some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) epoch: u64,
    pub(super) size: u64,
    pub(super) root: Hash,
    pub(super) origin: String,
    pub(super) note: String,
}

impl Known {
    /// A note that is signed by the device, for a log whose origin ends in the epoch's number.
    pub(super) fn read(note: &[u8], key: &PublicKey) -> Option<Known> {
        let (checkpoint, note) = Checkpoint::by(note, key).ok()?;
        let (_, epoch) = checkpoint.origin.rsplit_once('/')?;
        Some(Known {
            epoch: epoch.parse().ok()?,
            size: checkpoint.size,
            root: checkpoint.root,
            origin: checkpoint.origin,
            note: note.to_string(),
        })
    }

    fn signed(&self, base: u64) -> Signed {
        Signed {
            epoch: self.epoch,
            base,
            size: self.size,
            root: self.root,
            origin: self.origin.clone(),
            note: self.note.clone(),
        }
    }
}

/// Who signs, and where the checkpoints are.
#[derive(Debug)]
pub(super) struct Signer {
    key: Key,
    /// Of the origin, without the epoch's number.
    name: String,
    file: PathBuf,
    tree: Tree,
    /// Held while one is made, so that the newest is the last.
    turn: Mutex<()>,
    newest: watch::Sender<Option<Arc<Signed>>>,
}

impl Signer {
    pub(super) fn new(tree: Tree, key: Key, folder: &Path, origin: &str, device: &str) -> Signer {
        Signer {
            key,
            name: format!("{origin}/{}", percent_encoded(device)),
            file: file(folder),
            tree,
            turn: Mutex::default(),
            newest: watch::Sender::new(None),
        }
    }

    pub(super) fn public(&self) -> &PublicKey {
        self.key.public()
    }

    /// What the file and the store hold, as [`kept`].
    pub(super) fn kept(&self) -> Result<Vec<(&'static str, Vec<u8>)>, StoreError> {
        kept(&self.tree, &self.file)
    }

    /// What the file and the store hold, and what was signed last: the newest last.
    pub(super) fn known(&self) -> Result<Vec<Known>, StoreError> {
        let newest = self.newest.borrow().as_deref().cloned();
        let newest = newest.map(|newest| ("signed last", newest.note.into_bytes()));
        let mut known = Vec::new();
        for (place, note) in self.kept()?.into_iter().chain(newest) {
            match Known::read(&note, self.key.public()) {
                Some(read) => known.push(read),
                None => tracing::warn!("the checkpoint {place} isn't this device's"),
            }
        }
        known.sort_by_key(|known| (known.epoch, known.size));
        Ok(known)
    }

    /// From now on this is the newest, where it is of the epoch.
    pub(super) fn resume(&self, known: &[Known], epoch: &Epoch) {
        let last = known.iter().rfind(|known| known.epoch == epoch.number);
        let last = last.map(|last| Arc::new(last.signed(epoch.base)));
        self.newest.send_replace(last);
    }

    fn sign(&self, epoch: u64, base: u64, size: u64, root: Hash) -> Option<Signed> {
        let origin = format!("{}/{epoch}", self.name);
        let checkpoint = Checkpoint { origin, size, root };
        let text = checkpoint.to_string();
        let public = self.key.public();
        let verifier = VerifierKey::new(&checkpoint.origin, Algorithm::Ed25519, public).ok()?;
        let signature = self.key.sign_note(&text)?;
        let note = Note::signed(&text, &verifier, &signature)?.to_string();
        Some(Signed {
            epoch,
            base,
            size,
            root,
            origin: checkpoint.origin,
            note,
        })
    }

    fn put_outside(&self, note: &str) -> io::Result<()> {
        if let Some(folder) = self.file.parent() {
            files::private_folder(folder)?;
        }
        files::replace(&self.file, note.as_bytes())
    }

    pub(super) fn newest(&self) -> Option<Arc<Signed>> {
        self.newest.borrow().clone()
    }

    pub(super) fn held(&self) -> Result<Vec<u64>, StoreError> {
        let held = self.tree.get(HELD)?.unwrap_or_default();
        let sizes = held.as_chunks().0.iter().copied();
        Ok(sizes.map(u64::from_be_bytes).collect())
    }
}

/// The last checkpoint in the store, and in the file beside it: each with its place in words.
pub(super) fn kept(tree: &Tree, file: &Path) -> Result<Vec<(&'static str, Vec<u8>)>, StoreError> {
    let outside = match files::read(file, note::MAX_LEN as u64, Care::Kept) {
        Ok(note) => Some(note),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            let file = file.display();
            tracing::warn!(%file, %error, "the last checkpoint can't be read");
            None
        }
    };
    let inside = tree.get(LAST)?.map(|note| ("in the store", note));
    let outside = outside.map(|note| ("beside the store", note));
    Ok(outside.into_iter().chain(inside).collect())
}

/// Where the checkpoint lies beside the store.
pub(super) fn file(state_folder: &Path) -> PathBuf {
    state_folder.join(FOLDER).join(FILE)
}

impl Log {
    /// The newest of this epoch.
    pub fn checkpoint(&self) -> Option<Arc<Signed>> {
        self.0.signer.newest()
    }

    /// Tells of each new one.
    pub fn checkpoints(&self) -> watch::Receiver<Option<Arc<Signed>>> {
        self.0.signer.newest.subscribe()
    }

    /// Signs the log as it is; durable when this returns. Blocks.
    pub fn sign_now(&self, now: Timestamp) -> Result<Arc<Signed>, AuditError> {
        let signer = &self.0.signer;
        let _turn = signer.turn.lock();
        self.state().signed_at = Some(now);
        self.0.sync()?;
        let (epoch, base, size, root) = {
            let state = self.state();
            let Epoch { number, base, .. } = state.epoch;
            let size = state.durable().saturating_sub(base);
            let root = state.epoch.root(size, &self.0.tiles)?;
            (number, base, size, root)
        };
        if let Some(newest) = signer.newest()
            && (newest.epoch, newest.size) == (epoch, size)
        {
            return Ok(newest);
        }
        let signed = signer.sign(epoch, base, size, root);
        let signed = Arc::new(signed.ok_or(AuditError::Origin)?);
        signer.tree.insert(LAST, signed.note.as_bytes())?;
        if let Err(error) = signer.put_outside(&signed.note) {
            let file = signer.file.display();
            tracing::error!(%file, %error, "the checkpoint could not be kept beside the store");
            self.0.store.sync()?;
        }
        signer.newest.send_replace(Some(Arc::clone(&signed)));
        self.0.metrics.signed.set(size);
        self.0.metrics.signed_at.set(now.as_secs());
        Ok(signed)
    }

    /// Signs where enough has come, or something has and it is time.
    pub(super) fn sign_when_due(&self, now: Timestamp) -> Result<(), AuditError> {
        let due = {
            let state = self.state();
            let newest = self.checkpoint().filter(|n| n.epoch == state.epoch.number);
            let covered = newest.map_or(0, |newest| newest.size);
            let more = state.durable().saturating_sub(state.epoch.base + covered);
            let interval = state.settings.checkpoint_interval;
            let waits = |last: Timestamp| now >= last && now.since(last) < interval;
            let many = more >= state.settings.checkpoint_records;
            more > 0 && (many || !state.signed_at.is_some_and(waits))
        };
        match due {
            true => self.sign_now(now).map(drop),
            false => Ok(()),
        }
    }

    /// The proof that the record with this index is in the log that `signed` speaks of. Blocks.
    pub fn inclusion(&self, index: u64, signed: &Signed) -> Result<Vec<Hash>, ProofError> {
        if !signed.covers(index) {
            return Err(ProofError::Beyond);
        }
        let state = self.state();
        signed.is_of(&state.epoch)?;
        let view = state.epoch.view(&self.0.tiles);
        inclusion(index - signed.base, signed.size, &view)
    }

    /// The proof that the log of `from` leaves is the beginning of that which `signed` speaks of. Blocks.
    pub fn consistency(&self, from: u64, signed: &Signed) -> Result<Vec<Hash>, ProofError> {
        if from > signed.size {
            return Err(ProofError::Beyond);
        }
        let state = self.state();
        signed.is_of(&state.epoch)?;
        consistency(from, signed.size, &state.epoch.view(&self.0.tiles))
    }

    /// Keeps what proofs of consistency need that begin at these sizes of the current epoch, whatever
    /// is removed, in place of those named before; the first [`MAX_HELD`] of them. Blocks.
    pub fn hold(&self, sizes: &[u64]) -> Result<(), AuditError> {
        let sizes = &sizes[..sizes.len().min(MAX_HELD)];
        let mut state = self.state();
        if state.held != sizes {
            let bytes: Vec<u8> = sizes.iter().copied().flat_map(u64::to_be_bytes).collect();
            self.0.signer.tree.insert(HELD, &bytes)?;
            state.held = sizes.to_vec();
        }
        Ok(())
    }
}
