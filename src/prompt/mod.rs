//! What clients ask and what they get back: the vocabulary that every layer shares.
//!
//! A [`Request`] is parsed and bounded but not yet allowed: only `auth` can turn it into a
//! `Permitted`. An answer comes back as [`Fragment`]s through an [`answer`] channel and always
//! ends in one [`Outcome`].

mod answer;
mod interrupt;
mod origin;
mod request;

pub use answer::{AnswerReceiver, AnswerSender, Fragment, Outcome, Usage, channel};
pub use interrupt::Interrupt;
pub use origin::{Origin, Transport, network};
pub use request::{Action, Chat, Message, Request, RequestId, Role, Sampling, Scope};

use serde::{Deserialize, Serialize};

/// Why an answer ended. The audit log, the metrics and the reply all use these names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model ended its turn, or a stop sequence was met.
    Stop,
    /// `max_completion_tokens` or the context was used up.
    Length,
    /// The client left or asked to stop.
    Cancelled,
    /// The request's deadline passed.
    Deadline,
    /// A change of keys, policy or deny-list took the permission away.
    Revoked,
    /// The engine could not go on.
    Failed,
    /// The daemon is going down and the drain deadline has passed.
    Shutdown,
}

impl Finish {
    pub const ALL: [Finish; 7] = [
        Finish::Stop,
        Finish::Length,
        Finish::Cancelled,
        Finish::Deadline,
        Finish::Revoked,
        Finish::Failed,
        Finish::Shutdown,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::Length => "length",
            Finish::Cancelled => "cancelled",
            Finish::Deadline => "deadline",
            Finish::Revoked => "revoked",
            Finish::Failed => "failed",
            Finish::Shutdown => "shutdown",
        }
    }

    /// Whether the answer is whole in the sense of the OpenAI API (`finish_reason` is set).
    pub fn is_complete(self) -> bool {
        matches!(self, Finish::Stop | Finish::Length)
    }
}
