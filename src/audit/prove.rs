//! Proofs as files that others check (C2SP tlog-proof).

use std::sync::Arc;

use super::checkpoint::Signed;
use super::epoch::ProofError;
use super::{AuditError, Log};
use crate::time::Timestamp;
use crate::tlog::proof::Proof;

impl Log {
    /// The proof that the record with this index is in the log that `signed` speaks of. Blocks.
    pub fn proof(&self, index: u64, signed: &Signed) -> Result<Proof, ProofError> {
        let hashes = self.inclusion(index, signed)?;
        Ok(Proof {
            index: index - signed.base,
            hashes,
            checkpoint: signed.note.clone(),
            extra: None,
        })
    }

    /// The newest checkpoint where it covers the record with this index, or one that is signed now.
    /// Blocks.
    pub fn checkpoint_over(&self, index: u64, now: Timestamp) -> Result<Arc<Signed>, AuditError> {
        match self.checkpoint().filter(|newest| newest.covers(index)) {
            Some(newest) => Ok(newest),
            None => self.sign_now(now),
        }
    }
}
