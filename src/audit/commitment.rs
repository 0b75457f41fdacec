//! What a record says of a prompt, and the salt that lets somebody who has the text compare it.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::change::Change;
use super::record::{Access, Event};
use super::{AuditError, Log};
use crate::digest::{digest, hex};
use crate::prompt::Origin;
use crate::time::Timestamp;

/// A commitment to a prompt that tells nothing about it without `salt`.
pub fn prompt_commitment(salt: &[u8; 16], token_ids: &[u32]) -> String {
    let bytes: Vec<u8> = token_ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    hex(&digest(&[salt, &bytes]))
}

/// Of the prompt's hash of one access.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Salt {
    pub request_id: String,
    pub salt: [u8; 16],
}

/// Why no salt is shown.
#[derive(Debug, thiserror::Error)]
pub enum Unshown {
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error("the log has no access with the index {0}, or a newer release wrote it")]
    Unknown(u64),
    #[error("record {0} has no prompt's hash: nothing was asked of the model there")]
    NoPrompt(u64),
    #[error(
        "the salt of record {0}'s hash was erased (slmd audit forget): no text can be compared with it"
    )]
    Erased(u64),
}

impl Log {
    /// The salt of this access, which whoever has it can guess the prompt with: that it was shown is
    /// recorded, durably, before. Blocks.
    pub fn show_salt(&self, index: u64, to: Origin, now: Timestamp) -> Result<Salt, Unshown> {
        let record = self.line(index)?.and_then(|line| line.record());
        let access = match record.map(|record| record.event) {
            Some(Event::Access(access)) if access.prompt_hash.is_some() => *access,
            Some(_) => return Err(Unshown::NoPrompt(index)),
            None => return Err(Unshown::Unknown(index)),
        };
        let salt = self.salt(index)?.ok_or(Unshown::Erased(index))?;
        let Access {
            realm, request_id, ..
        } = access;
        let request_id = request_id.as_str().to_owned();
        let detail = json!({"realm": realm, "request_id": request_id, "index": index});
        self.change(to, Change::SaltShown, detail, now)?;
        Ok(Salt { request_id, salt })
    }

    /// `None`: it was erased, or there never was one.
    pub(super) fn salt(&self, index: u64) -> Result<Option<[u8; 16]>, AuditError> {
        let salt = self.0.salts.get(&index.to_be_bytes())?;
        Ok(salt.and_then(|salt| salt.try_into().ok()))
    }
}
