//! Erasing the salt of a prompt's hash: from then on nobody can tell, not even by trying, which
//! prompt it was. The record stays as it is, and so does every proof of it.

use std::ops::ControlFlow;

use serde_json::json;

use super::change::Change;
use super::record::{Access, Event};
use super::{AuditError, Log};
use crate::prompt::Origin;
use crate::time::Timestamp;

/// Of our own ids, what is enough to name one: the prefix and 32 bits.
const LEAST: usize = 12;
const OWN_ID: &str = "req_";

/// What became of a salt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forgotten {
    /// Where the access stands.
    pub index: u64,
    pub request_id: String,
    /// `false`: it was gone already.
    pub erased: bool,
}

/// Why nothing was erased.
#[derive(Debug, thiserror::Error)]
pub enum Unforgotten {
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error(
        "write a request's own id (req_… and {more} characters at least) or the index of its access",
        more = LEAST - OWN_ID.len()
    )]
    NoRequest,
    #[error("the log has no access of the request {0:?}")]
    Unknown(String),
    #[error("{0:?} begins several requests, such as {1} and {2}; write more of it")]
    Several(String, String, String),
    #[error("record {0} has no prompt's hash: nothing was asked of the model there")]
    NoPrompt(u64),
}

impl Log {
    /// Erases the salt of `request`'s prompt hash, and records that; durable when this returns. One
    /// that is gone already isn't recorded again. Blocks, as long as reading the log takes.
    pub fn forget(
        &self,
        request: &str,
        by: Origin,
        now: Timestamp,
    ) -> Result<Forgotten, Unforgotten> {
        let (index, access) = self.named(request)?;
        let request_id = access.request_id.as_str().to_owned();
        let key = index.to_be_bytes();
        if access.prompt_hash.is_none() {
            return Err(Unforgotten::NoPrompt(index));
        }
        let erased = self.0.salts.get(&key).map_err(AuditError::from)?.is_some();
        if erased {
            let event = Event::Change {
                origin: by,
                what: Change::SaltErased.into(),
                detail: json!({"realm": access.realm, "request_id": request_id, "index": index}),
            };
            // The record first: who is interrupted finds the salt, and erases and records it again.
            self.0.store.commit(|| {
                let mut state = self.state();
                self.0.append(&mut state, event, None, now)?;
                state.forget_salt(index);
                self.0.salts.remove(&key).map_err(AuditError::from)
            })?;
        }
        Ok(Forgotten {
            index,
            request_id,
            erased,
        })
    }

    fn named(&self, request: &str) -> Result<(u64, Access), Unforgotten> {
        if let Ok(index) = request.parse() {
            let record = self.line(index)?.and_then(|line| line.record());
            return match record.map(|record| record.event) {
                Some(Event::Access(access)) => Ok((index, *access)),
                Some(_) => Err(Unforgotten::NoPrompt(index)),
                None => Err(Unforgotten::Unknown(request.to_owned())),
            };
        }
        let begin = request.trim_end_matches('…');
        if !begin.starts_with(OWN_ID) || begin.len() < LEAST {
            return Err(Unforgotten::NoRequest);
        }
        let mut found: Option<(u64, Access)> = None;
        let several = self.naming(begin, |index, event| {
            let Event::Access(access) = event else {
                return ControlFlow::Continue(());
            };
            let id = access.request_id.as_str();
            match &found {
                _ if !id.starts_with(begin) => {}
                Some((_, other)) if other.request_id.as_str() != id => {
                    let (one, other) = (other.request_id.as_str().to_owned(), id.to_owned());
                    return ControlFlow::Break(Unforgotten::Several(begin.to_owned(), one, other));
                }
                _ => found = Some((index, *access)),
            }
            ControlFlow::Continue(())
        })?;
        if let Some(several) = several {
            return Err(several);
        }
        found.ok_or_else(|| Unforgotten::Unknown(request.to_owned()))
    }
}
