//! Proofs (C2SP tlog-proof, version 1): a file that shows to anybody, offline, that a log holds an
//! entry, and which witnesses have seen that log.

use std::fmt;

use super::checkpoint::{Checkpoint, CheckpointError};
use super::note::{self, Note, VerifierKey};
use super::policy::{Cosigned, Policy, PolicyFault};
use super::text;
use super::tree::{Hash, ProofError, leaf_hash, verify_inclusion};

/// The longest file.
pub const MAX_LEN: usize = note::MAX_LEN + 64 * 1024;
/// No tree is higher.
const MAX_HASHES: usize = 63;

const HEADER: &str = "c2sp.org/tlog-proof@v1";

/// What a file says; nobody has checked it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The entry's in the log, from 0.
    pub index: u64,
    /// From the leaf's sibling to the root's child.
    pub hashes: Vec<Hash>,
    /// The log's signed note, with what witnesses have added.
    pub checkpoint: String,
    /// Whatever the one who made the file has put there: nobody has signed it.
    pub extra: Option<Vec<u8>>,
}

/// Why bytes are no proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    #[error("it is larger than {MAX_LEN} bytes")]
    TooLarge,
    #[error("it doesn't begin with the line {HEADER}")]
    Header,
    #[error("its extra data isn't base64")]
    Extra,
    #[error("its index is missing, or no number")]
    Index,
    #[error("one of its hashes isn't 32 bytes in base64, or there are more than {MAX_HASHES}")]
    Hash,
    #[error("its checkpoint is no signed note: {0}")]
    Note(note::NoteError),
}

/// What a proof has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    pub checkpoint: Checkpoint,
    /// The policy's witnesses that have cosigned it.
    pub witnesses: Vec<Cosigned>,
}

/// Why a proof shows nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unproven {
    #[error("the checkpoint: {0}")]
    Checkpoint(CheckpointError),
    #[error("the policy names other logs")]
    Log,
    #[error("the checkpoint: {0}")]
    Policy(PolicyFault),
    #[error("the log doesn't hold that entry there: {0}")]
    Inclusion(ProofError),
}

impl Proof {
    pub fn parse(bytes: &[u8]) -> Result<Proof, FormError> {
        if bytes.len() > MAX_LEN {
            return Err(FormError::TooLarge);
        }
        let unreadable = |_| FormError::Note(note::NoteError::Characters);
        let text = std::str::from_utf8(bytes).map_err(unreadable)?;
        let rest = text.strip_prefix(HEADER).ok_or(FormError::Header)?;
        let rest = rest.strip_prefix('\n').ok_or(FormError::Header)?;
        let (extra, rest) = match rest.strip_prefix("extra ") {
            None => (None, rest),
            Some(rest) => {
                let (extra, rest) = rest.split_once('\n').ok_or(FormError::Extra)?;
                (Some(text::bytes(extra).ok_or(FormError::Extra)?), rest)
            }
        };
        let (index, mut rest) = rest.split_once('\n').ok_or(FormError::Index)?;
        let index = index.strip_prefix("index ").and_then(text::decimal);
        let index = index.ok_or(FormError::Index)?;
        let mut hashes = Vec::new();
        let checkpoint = loop {
            let (line, behind) = rest.split_once('\n').ok_or(FormError::Hash)?;
            if line.is_empty() {
                break behind;
            }
            let hash = text::hash(line).filter(|_| hashes.len() < MAX_HASHES);
            hashes.push(hash.ok_or(FormError::Hash)?);
            rest = behind;
        };
        Note::parse(checkpoint.as_bytes()).map_err(FormError::Note)?;
        Ok(Proof {
            index,
            hashes,
            checkpoint: checkpoint.to_owned(),
            extra,
        })
    }

    /// Whether the log that has `log` holds `leaf` where the proof says, by a checkpoint that is good
    /// by `policy`.
    pub fn check(
        &self,
        leaf: &[u8],
        log: &VerifierKey,
        policy: &Policy,
    ) -> Result<Proven, Unproven> {
        if !policy.logs().is_empty() && !policy.logs().contains(log) {
            return Err(Unproven::Log);
        }
        let opened = Checkpoint::open(self.checkpoint.as_bytes(), log);
        let (checkpoint, note) = opened.map_err(Unproven::Checkpoint)?;
        let witnesses = policy.check(&note).map_err(Unproven::Policy)?;
        let (size, root) = (checkpoint.size, &checkpoint.root);
        verify_inclusion(&leaf_hash(leaf), self.index, size, &self.hashes, root)
            .map_err(Unproven::Inclusion)?;
        Ok(Proven {
            checkpoint,
            witnesses,
        })
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}")?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", text::base64(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        for hash in &self.hashes {
            writeln!(f, "{}", text::base64(hash))?;
        }
        write!(f, "\n{}", self.checkpoint)
    }
}

#[cfg(test)]
mod tests;
