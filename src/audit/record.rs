//! What a record says. Members are written in the order given here, so that equal records are
//! equal bytes.

use serde::{Deserialize, Serialize};

use crate::prompt::{Finish, Origin, RequestId, Sampling, Usage};
use crate::reason::Reason;
use crate::time::Timestamp;

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub index: u64,
    pub time: Timestamp,
    pub synchronised: bool,
    pub boot_id: String,
    #[serde(flatten)]
    pub event: Event,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    Access(Box<Access>),
    Finish(Box<Finished>),
    /// Refusals that were counted rather than recorded one by one.
    RefusalsSummary {
        transport: String,
        reason: Reason,
        count: u64,
        since: Timestamp,
    },
    /// Old records removed by cap or retention: the first index that is left.
    Truncated {
        first_index: u64,
        removed: u64,
    },
    /// Start, stop, reload, keys pinned, refused start, …: what happened, and particulars.
    Change {
        origin: Origin,
        what: String,
        detail: serde_json::Value,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Access {
    pub request_id: RequestId,
    pub origin: Origin,
    pub action: String,
    pub decision: Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub realm: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_id: Option<String>,
    /// The token came with a proof of possession, which is used by that.
    #[serde(default, skip_serializing_if = "is_false")]
    pub dpop: bool,
    /// Granted to a local group, without a token.
    #[serde(default, skip_serializing_if = "is_false")]
    pub local_peer: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// A commitment to the prompt: SHA-256 over a random salt and the token ids' bytes. The salt
    /// is kept apart (`audit_salts`), so that it can be erased.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampling: Option<Sampling>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_tokens: Option<u32>,
    /// The time that the chat template was told, if it asked: with it the same tokens come again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_time: Option<Timestamp>,
    /// 2 for a second attempt after a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the form of `skip_serializing_if`"
)]
fn is_false(value: &bool) -> bool {
    !value
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Permit,
    Deny,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    pub request_id: RequestId,
    pub finish: Finish,
    #[serde(flatten)]
    pub usage: Usage,
    /// SHA-256 of the answer's text.
    pub answer_hash: String,
    pub queue_ms: u64,
    pub first_token_ms: Option<u64>,
    pub total_ms: u64,
}
