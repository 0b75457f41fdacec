//! Erasing the salt of a prompt's hash, and the texts of the request where they are kept: from then on
//! nobody can tell, not even by trying, which prompt it was. The records stay as they are, and so does
//! every proof of them.

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::change::Change;
use super::record::{Access, Event};
use super::{AuditError, Log, sealed};
use crate::prompt::Origin;
use crate::time::Timestamp;

/// Of our own ids, what is enough to name one: the prefix and 32 bits.
const LEAST: usize = 12;
const OWN_ID: &str = "req_";

/// What became of what a request has left beside its records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    /// Where the access stands.
    pub index: u64,
    pub request_id: String,
    /// `false`: the salt was gone already.
    pub erased: bool,
    /// The records whose texts were erased.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub texts: Vec<u64>,
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
    /// Erases the salt of `request`'s prompt hash and its texts, and records that; durable when this
    /// returns. What is gone already isn't recorded again. The answer of a request that still runs comes
    /// after this, with its text. Blocks, as long as reading the log takes.
    pub fn forget(
        &self,
        request: &str,
        by: Origin,
        now: Timestamp,
    ) -> Result<Forgotten, Unforgotten> {
        let (index, access) = self.named(request)?;
        let request_id = access.request_id.as_str().to_owned();
        if access.prompt_hash.is_none() {
            return Err(Unforgotten::NoPrompt(index));
        }
        let erased = self.salt(index)?.is_some();
        let mut texts = Vec::new();
        for index in self.texts_of(&request_id)? {
            if sealed::is_kept(&self.0.texts, index).map_err(AuditError::from)? {
                texts.push(index);
            }
        }
        let forgotten = Forgotten {
            index,
            request_id,
            erased,
            texts,
        };
        if erased || !forgotten.texts.is_empty() {
            self.erase(&forgotten, access.realm.as_deref(), by, now)?;
        }
        Ok(forgotten)
    }

    fn erase(
        &self,
        forgotten: &Forgotten,
        realm: Option<&str>,
        by: Origin,
        now: Timestamp,
    ) -> Result<(), AuditError> {
        let Forgotten {
            index,
            request_id,
            erased,
            texts,
        } = forgotten;
        let mut detail = json!({"realm": realm, "request_id": request_id, "index": index});
        if !texts.is_empty() {
            detail["texts"] = json!(texts);
        }
        let what = match erased {
            true => Change::SaltErased,
            false => Change::TextsErased,
        };
        let event = Event::Change {
            origin: by,
            what: what.into(),
            detail,
        };
        // The record first: who is interrupted finds what is left, and erases and records it again.
        self.0.store.commit(|| {
            let mut state = self.state();
            self.0.append(&mut state, event, None, now)?;
            self.0.store.write(|writer| {
                writer.remove(&self.0.salts, &index.to_be_bytes())?;
                state.forget_beside(*index);
                for index in texts {
                    sealed::remove(&self.0.texts, writer, *index, None)?;
                    state.forget_beside(*index);
                }
                Ok(())
            })
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
