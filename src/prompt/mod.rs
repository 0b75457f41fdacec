//! What clients ask and what they get back: the vocabulary that every layer shares.
//!
//! A [`Request`] is parsed and bounded but not yet allowed: only `auth` can turn it into a
//! `Permitted`. An answer comes back as [`Fragment`]s through an [`answer`] channel and always
//! ends in one [`Outcome`].

mod answer;
mod interrupt;
mod operation;
mod origin;
mod place;
mod request;
mod sampling;

pub use answer::{AnswerReceiver, AnswerSender, Fragment, Outcome, Usage, channel};
pub use interrupt::Interrupt;
pub use operation::{Dialect, Entry, Look, Operation, Scope};
pub use origin::{Origin, Transport, network};
pub use place::Place;
pub use request::{Cancel, Completion, Input, LOG_TARGET, Message, Request, RequestId, Role};
pub use sampling::{Sampling, SamplingOptions};

use serde::{Deserialize, Serialize};

use crate::reason::DenyReason;

/// Why an answer ended. The audit log, the metrics and the reply all use these names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub enum Finish {
    /// The model ended its turn, or a stop sequence was met.
    Stop,
    /// `max_completion_tokens` or the context was used up.
    Length,
    /// The client left or asked to stop.
    Cancelled,
    /// The request's deadline passed.
    Deadline,
    /// A change of keys, policy or deny-list took the permission away: why it would be refused now.
    Revoked(DenyReason),
    /// The engine could not go on.
    Failed,
    /// The daemon is going down and the drain deadline has passed.
    Shutdown,
}

impl Finish {
    pub fn as_str(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::Length => "length",
            Finish::Cancelled => "cancelled",
            Finish::Deadline => "deadline",
            Finish::Revoked(_) => "revoked",
            Finish::Failed => "failed",
            Finish::Shutdown => "shutdown",
        }
    }

    #[cfg(any(test, feature = "for-tests"))]
    pub fn all() -> impl Iterator<Item = Finish> {
        let plain = [
            Finish::Stop,
            Finish::Length,
            Finish::Cancelled,
            Finish::Deadline,
            Finish::Failed,
            Finish::Shutdown,
        ];
        let revoked = DenyReason::ALL.iter().copied().map(Finish::Revoked);
        plain.into_iter().chain(revoked)
    }

    /// Why the permission was taken away.
    pub fn reason(self) -> Option<DenyReason> {
        match self {
            Finish::Revoked(reason) => Some(reason),
            _ => None,
        }
    }
}

/// A [`Finish`] as records hold it, flattened into their members.
#[derive(Serialize, Deserialize)]
struct Written {
    finish: Name,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<DenyReason>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Name {
    Stop,
    Length,
    Cancelled,
    Deadline,
    Revoked,
    Failed,
    Shutdown,
}

impl From<Finish> for Written {
    fn from(finish: Finish) -> Written {
        let name = match finish {
            Finish::Stop => Name::Stop,
            Finish::Length => Name::Length,
            Finish::Cancelled => Name::Cancelled,
            Finish::Deadline => Name::Deadline,
            Finish::Revoked(_) => Name::Revoked,
            Finish::Failed => Name::Failed,
            Finish::Shutdown => Name::Shutdown,
        };
        Written {
            finish: name,
            reason: finish.reason(),
        }
    }
}

impl From<Written> for Finish {
    fn from(written: Written) -> Finish {
        match written.finish {
            Name::Stop => Finish::Stop,
            Name::Length => Finish::Length,
            Name::Cancelled => Finish::Cancelled,
            Name::Deadline => Finish::Deadline,
            // Records of earlier releases have no reason.
            Name::Revoked => Finish::Revoked(written.reason.unwrap_or(DenyReason::Revoked)),
            Name::Failed => Finish::Failed,
            Name::Shutdown => Finish::Shutdown,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_finish_is_written_with_its_reason_and_old_ones_are_read() {
        let all = [
            Finish::Stop,
            Finish::Length,
            Finish::Cancelled,
            Finish::Deadline,
            Finish::Revoked(DenyReason::KeyUnknown),
            Finish::Failed,
            Finish::Shutdown,
        ];
        for finish in all {
            let written = serde_json::to_value(finish).unwrap();
            assert_eq!(written["finish"], finish.as_str());
            assert_eq!(written.get("reason").is_some(), finish.reason().is_some());
            assert_eq!(serde_json::from_value::<Finish>(written).unwrap(), finish);
        }
        let old: Finish = serde_json::from_value(json!({"finish": "revoked"})).unwrap();
        assert_eq!(old, Finish::Revoked(DenyReason::Revoked));
    }
}
