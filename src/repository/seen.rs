//! What a fleet's witness has seen of its devices' logs, so that none is rewritten unseen, and what
//! shows it where one was.
//!
//! ```text
//! DEVICE/KEY/EPOCH.note    the last checkpoint, with the witness's cosignature
//! DEVICE/KEY/accepted      the newest epoch that a person has accepted
//! DEVICE/KEY/evidence/     what was kept and what was shown, where they don't fit together
//! ```
//!
//! `KEY` is the thumbprint of the device's key: a box that was replaced has a log of its own. All notes
//! are signed by the device, so that they are evidence to others, too.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::cosigner::Cosigner;
use super::devices::coded;
use super::{RepositoryError, put, read};
use crate::digest::{hex, percent_encoded, sha256};
use crate::files::{self, Care};
use crate::identity::PublicKey;
use crate::time::Timestamp;
use crate::tlog::checkpoint::{Checkpoint, CheckpointError};
use crate::tlog::note::{self, Note};
use crate::tlog::text;
use crate::tlog::tree::Hash;
use crate::tlog::witness::{Doubt, judge};
use crate::trust::report::Audit;

const MAX_NOTE: u64 = note::MAX_LEN as u64;
/// Of one log; a device that shows more of them is found out long since.
const MOST_EVIDENCE: usize = 64;

/// The folder, for one command at a time.
#[derive(Debug)]
pub struct Seen {
    folder: PathBuf,
    _lock: File,
}

/// Whose log is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Device<'a> {
    pub name: &'a str,
    pub key: &'a PublicKey,
}

/// What a device's report shows of its log.
#[derive(Debug, Clone)]
pub struct Shown {
    pub epoch: u64,
    pub checkpoint: Checkpoint,
    /// With our cosignature, where it was cosigned.
    pub note: Note,
}

/// How that stands to what was seen before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The log has only grown.
    Good,
    /// It began another epoch, which no person has accepted: the one before can't be told to go on.
    BeganAnew {
        before: u64,
    },
    /// The device no longer shows its log, and did before.
    Withheld,
    /// Nothing was ever seen of its log, and nothing is shown.
    Nothing,
    Refused(Unsound),
    /// No evidence; but nobody can say any more that it has only grown.
    Unproven(u64),
    Forked {
        why: Fork,
        evidence: PathBuf,
    },
}

/// Why what is shown isn't the device's checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unsound {
    #[error("{0}")]
    Checkpoint(CheckpointError),
    #[error("its checkpoint is of another device's log, or of none")]
    Origin,
    #[error("one of its proofs isn't hashes in base64")]
    Proof,
}

/// What a log can't do that was never rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fork {
    #[error("{0}")]
    Doubt(Doubt),
    #[error("it is back at epoch {1}, and was at epoch {0}")]
    Epoch(u64, u64),
    #[error("the same epoch has another name than it had")]
    Origin,
}

impl Fork {
    pub fn name(self) -> &'static str {
        match self {
            Fork::Doubt(doubt) => doubt.name(),
            Fork::Epoch(..) => "epoch_back",
            Fork::Origin => "other_origin",
        }
    }
}

/// What is kept of one log.
#[derive(Debug, Default)]
struct Kept {
    newest: Option<(u64, Checkpoint)>,
    accepted: u64,
}

impl Seen {
    /// Made where it is missing.
    pub fn open(folder: &Path) -> Result<Seen, RepositoryError> {
        fs::create_dir_all(folder).map_err(RepositoryError::file(folder))?;
        let file = folder.join(".lock");
        let lock = files::lock_file(&file).map_err(RepositoryError::file(&file))?;
        let locked = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive);
        locked.map_err(|_| RepositoryError::Busy(folder.to_owned()))?;
        Ok(Seen {
            folder: folder.to_owned(),
            _lock: lock,
        })
    }

    /// Judges what a device shows. What is good is cosigned and kept, what isn't is kept as evidence.
    /// `accept`: a person has looked into it, and takes the log as it is from now on.
    pub fn look(
        &self,
        device: Device<'_>,
        audit: Option<&Audit>,
        accept: bool,
        cosigner: Option<(&Cosigner, Timestamp)>,
    ) -> Result<(Found, Option<Shown>), RepositoryError> {
        let folder = self.of(device);
        let kept = Kept::read(&folder, device.key)?;
        let Some(audit) = audit else {
            let found = kept.newest.map_or(Found::Nothing, |_| Found::Withheld);
            return Ok((found, None));
        };
        let (mut shown, proofs) = match Shown::read(device, audit) {
            Ok(read) => read,
            Err(why) => return Ok((Found::Refused(why), None)),
        };
        let mut found = kept.judge(&shown, &proofs);
        if let Found::Forked { why, evidence } = &mut found {
            *evidence = keep_evidence(&folder, *why, &kept, audit)?;
        }
        if accept && found != Found::Good {
            set_aside(&folder, shown.epoch)?;
            found = Found::Good;
        }
        if matches!(found, Found::Good | Found::BeganAnew { .. }) {
            if let Some((cosigner, now)) = cosigner {
                cosigner.cosign(&mut shown.note, now);
            }
            let first = kept.newest.is_none();
            if (first || accept) && kept.accepted < shown.epoch {
                put_accepted(&folder, shown.epoch)?;
            }
            let file = note_file(&folder, shown.epoch);
            put(&file, shown.note.to_string().as_bytes())?;
        }
        Ok((found, Some(shown)))
    }

    fn of(&self, device: Device<'_>) -> PathBuf {
        let log = self.folder.join(coded(device.name));
        log.join(device.key.thumbprint())
    }
}

impl Shown {
    #[expect(
        clippy::type_complexity,
        reason = "proofs by the size that they begin at"
    )]
    fn read(device: Device<'_>, audit: &Audit) -> Result<(Shown, Vec<(u64, Vec<Hash>)>), Unsound> {
        let (epoch, checkpoint, note) = opened(audit.checkpoint.as_bytes(), device.key)?;
        let log = checkpoint.origin.rsplit('/').nth(1);
        if log != Some(&percent_encoded(device.name)) {
            return Err(Unsound::Origin);
        }
        let proofs = audit.consistency.iter().map(|one| {
            let hashes = one.proof.iter().map(|hash| text::hash(hash));
            Some((one.from, hashes.collect::<Option<_>>()?))
        });
        let proofs: Option<_> = proofs.collect();
        let shown = Shown {
            epoch,
            checkpoint,
            note,
        };
        Ok((shown, proofs.ok_or(Unsound::Proof)?))
    }
}

/// The checkpoint that `note` is, and its epoch, by the device's key.
fn opened(note: &[u8], key: &PublicKey) -> Result<(u64, Checkpoint, Note), Unsound> {
    let (checkpoint, note) = Checkpoint::by(note, key).map_err(Unsound::Checkpoint)?;
    let epoch = checkpoint.origin.rsplit('/').next();
    let epoch = epoch.and_then(text::decimal).ok_or(Unsound::Origin)?;
    Ok((epoch, checkpoint, note))
}

impl Kept {
    fn read(folder: &Path, key: &PublicKey) -> Result<Kept, RepositoryError> {
        let mut kept = Kept::default();
        if let Some(epoch) = epochs(folder)?.into_iter().max() {
            let file = note_file(folder, epoch);
            let note = read(&file, MAX_NOTE, Care::Trusted)?.unwrap_or_default();
            let wrong = |why: Unsound| {
                let what = format!("{why}; restore it from a copy");
                RepositoryError::wrong(&file, what)
            };
            let (_, checkpoint, _) = opened(&note, key).map_err(wrong)?;
            kept.newest = Some((epoch, checkpoint));
        }
        let file = folder.join("accepted");
        if let Some(epoch) = read(&file, MAX_NOTE, Care::Trusted)? {
            let epoch = std::str::from_utf8(&epoch).ok();
            let epoch = epoch.and_then(|epoch| text::decimal(epoch.trim_end()));
            let wrong = || RepositoryError::wrong(&file, "it is no epoch's number");
            kept.accepted = epoch.ok_or_else(wrong)?;
        }
        Ok(kept)
    }

    fn judge(&self, shown: &Shown, proofs: &[(u64, Vec<Hash>)]) -> Found {
        let forked = |why| Found::Forked {
            why,
            evidence: PathBuf::new(),
        };
        let Some((epoch, checkpoint)) = &self.newest else {
            return Found::Good;
        };
        if shown.epoch < *epoch {
            return forked(Fork::Epoch(*epoch, shown.epoch));
        }
        if shown.epoch == *epoch {
            if shown.checkpoint.origin != checkpoint.origin {
                return forked(Fork::Origin);
            }
            let proof = proofs.iter().find(|(from, _)| *from == checkpoint.size);
            let proof = proof.map(|(_, proof)| proof.as_slice());
            match judge(Some(checkpoint), &shown.checkpoint, proof) {
                Ok(_) => {}
                Err(Doubt::Unproven(size)) => return Found::Unproven(size),
                Err(doubt) => return forked(Fork::Doubt(doubt)),
            }
        }
        match shown.epoch > self.accepted {
            true => Found::BeganAnew {
                before: self.accepted,
            },
            false => Found::Good,
        }
    }
}

/// The two notes, beside each other; the same evidence once.
fn keep_evidence(
    folder: &Path,
    why: Fork,
    kept: &Kept,
    audit: &Audit,
) -> Result<PathBuf, RepositoryError> {
    let all = folder.join("evidence");
    let digest = hex(&sha256(audit.checkpoint.as_bytes()));
    let epoch = kept.newest.as_ref().map_or(0, |(epoch, _)| *epoch);
    let own = all.join(format!("{epoch}-{}", &digest[..16]));
    if own.is_dir() {
        return Ok(own);
    }
    if entries(&all)?.len() >= MOST_EVIDENCE {
        return Ok(all);
    }
    let file = note_file(folder, epoch);
    let before = read(&file, MAX_NOTE, Care::Trusted)?.unwrap_or_default();
    let proofs = serde_json::json!(audit.consistency).to_string();
    put(&own.join("kept.note"), &before)?;
    put(&own.join("consistency.json"), proofs.as_bytes())?;
    put(
        &own.join("why"),
        format!("{}: {why}\n", why.name()).as_bytes(),
    )?;
    put(&own.join("shown.note"), audit.checkpoint.as_bytes())?;
    Ok(own)
}

/// What was kept of this epoch and later ones is no longer what counts.
fn set_aside(folder: &Path, from: u64) -> Result<(), RepositoryError> {
    for epoch in epochs(folder)? {
        if epoch >= from {
            let (old, all) = (note_file(folder, epoch), folder.join("evidence"));
            fs::create_dir_all(&all).map_err(RepositoryError::file(&all))?;
            let note = read(&old, MAX_NOTE, Care::Trusted)?.unwrap_or_default();
            let digest = hex(&sha256(&note));
            let new = all.join(format!("{epoch}-{}.set-aside.note", &digest[..16]));
            fs::rename(&old, &new).map_err(RepositoryError::file(&old))?;
        }
    }
    Ok(())
}

fn put_accepted(folder: &Path, epoch: u64) -> Result<(), RepositoryError> {
    put(&folder.join("accepted"), format!("{epoch}\n").as_bytes())
}

fn note_file(folder: &Path, epoch: u64) -> PathBuf {
    folder.join(format!("{epoch}.note"))
}

fn epochs(folder: &Path) -> Result<Vec<u64>, RepositoryError> {
    let names = entries(folder)?.into_iter();
    let epoch = |name: String| name.strip_suffix(".note").and_then(text::decimal);
    Ok(names.filter_map(epoch).collect())
}

fn entries(folder: &Path) -> Result<Vec<String>, RepositoryError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(RepositoryError::file(folder))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(RepositoryError::file(folder))?;
        names.extend(entry.file_name().into_string().ok());
    }
    Ok(names)
}

#[cfg(test)]
mod tests;
