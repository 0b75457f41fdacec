//! A request as parsed from bytes: bounded, well-formed, and not yet allowed.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{Dialect, Look, Operation, Origin, SamplingOptions};
use crate::secret::{Secret, Wiped};
use crate::trace::{Trace, TraceId};

/// Of the span that a request's log lines are in.
pub const LOG_TARGET: &str = "slmd::request";

/// Names one request. Our own id is what audit, log and answer go by: nobody else can choose it,
/// so no two requests share one. A client's id lies beside it and is only told back, and so does the
/// trace that the request is a part of, which leads to its spans.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RequestId {
    #[serde(rename = "request_id")]
    own: String,
    #[serde(
        rename = "client_request_id",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    client: Option<String>,
    #[serde(rename = "trace_id", default, skip_serializing_if = "Option::is_none")]
    trace: Option<TraceId>,
}

impl RequestId {
    /// The longest id that is taken from a client, in bytes.
    pub const MAX_CLIENT: usize = 128;

    const PREFIX: &str = "req_";

    /// A new random id, `req_` and 128 bits of hexadecimal.
    pub fn random() -> RequestId {
        RequestId {
            own: format!("{}{}", Self::PREFIX, crate::identity::random_hex::<16>()),
            client: None,
            trace: None,
        }
    }

    /// The same 128 bits behind another prefix: what OpenAI's API calls the answer by.
    pub fn with_prefix(&self, prefix: &str) -> String {
        let bits = self.own.strip_prefix(Self::PREFIX).unwrap_or(&self.own);
        format!("{prefix}{bits}")
    }

    /// A new one with the id that the client sent: visible ASCII of at most [`Self::MAX_CLIENT`]
    /// bytes. Any other counts as none.
    pub fn beside(client: Option<&str>) -> RequestId {
        let sound = |id: &&str| {
            !id.is_empty()
                && id.len() <= Self::MAX_CLIENT
                && id.bytes().all(|b| b.is_ascii_graphic())
        };
        RequestId {
            client: client.filter(sound).map(str::to_owned),
            ..RequestId::random()
        }
    }

    /// Of that trace.
    #[must_use]
    pub fn of_trace(self, trace: Option<TraceId>) -> RequestId {
        RequestId { trace, ..self }
    }

    /// Without the client's and the trace's.
    #[must_use]
    pub fn own(&self) -> RequestId {
        RequestId {
            own: self.own.clone(),
            client: None,
            trace: None,
        }
    }

    pub fn trace(&self) -> Option<TraceId> {
        self.trace
    }

    /// What each log line of the request says.
    pub fn log_span(&self) -> tracing::Span {
        let trace_id = self.trace.map(tracing::field::display);
        // An error's level, so that no filter leaves it out that leaves lines.
        tracing::error_span!(target: LOG_TARGET, "request", request_id = %self.own, trace_id)
    }

    /// Ours.
    pub fn as_str(&self) -> &str {
        &self.own
    }

    /// What the client is told: its own where it sent one, else ours.
    pub fn echoed(&self) -> &str {
        self.client.as_deref().unwrap_or(&self.own)
    }
}

/// Ours.
impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.own)
    }
}

/// A client's request for a `T`. Holding one proves that it is well-formed, not that it is allowed.
///
/// Without its particulars ([`Request::split`]) it is what a decision looks at.
#[derive(Debug, Clone)]
pub struct Request<T = Operation> {
    pub id: RequestId,
    pub origin: Origin,
    /// The endpoint, as the request's `model` names it; absent: the realm's default.
    pub model: Option<String>,
    /// When the answer is of no more use.
    pub deadline: Option<Instant>,
    /// Where its spans go.
    pub trace: Trace,
    pub asks: T,
}

impl<T> Request<T>
where
    for<'a> Operation: From<&'a T>,
{
    /// What is to be decided, and what is done once it is allowed.
    pub fn split(self) -> (Request, T) {
        let request = Request {
            id: self.id,
            origin: self.origin,
            model: self.model,
            deadline: self.deadline,
            trace: self.trace,
            asks: Operation::from(&self.asks),
        };
        (request, self.asks)
    }
}

impl From<&Look> for Operation {
    fn from(look: &Look) -> Operation {
        Operation::Look(*look)
    }
}

/// The wish to stop the principal's own request with this correlation data.
#[derive(Debug, Clone)]
pub struct Cancel {
    pub correlation: Vec<u8>,
}

impl From<&Cancel> for Operation {
    fn from(_: &Cancel) -> Operation {
        Operation::Cancel
    }
}

/// A prompt for the model to complete.
#[derive(Debug, Clone)]
pub struct Completion {
    pub dialect: Dialect,
    pub input: Input,
    pub sampling: SamplingOptions,
    pub seed: Option<u64>,
    /// Absent: the endpoint's default, or what context and limits leave.
    pub max_completion_tokens: Option<u32>,
    /// At most four, none empty.
    pub stop: Vec<String>,
}

impl From<&Completion> for Operation {
    fn from(completion: &Completion) -> Operation {
        Operation::Complete(completion.dialect)
    }
}

/// What is to be continued.
#[derive(Debug, Clone)]
pub enum Input {
    /// A conversation, by the model's chat template.
    Messages(Vec<Message>),
    /// A text as it is.
    Text(Secret<String>),
}

impl Input {
    /// The member of the body that it came as.
    pub fn param(&self) -> &'static str {
        match self {
            Input::Messages(_) => "messages",
            Input::Text(_) => "prompt",
        }
    }

    /// As the members of a body have it: `{"messages":[…]}` or `{"prompt":"…"}`.
    pub fn json(&self) -> Secret<String> {
        let mut json = Wiped::default();
        let written = match self {
            Input::Messages(messages) => {
                let told = messages.iter().map(|message| Told {
                    role: message.role,
                    content: message.content.expose(),
                });
                let messages = told.collect();
                serde_json::to_writer(&mut json, &Body::Messages { messages })
            }
            Input::Text(text) => {
                let prompt = text.expose();
                serde_json::to_writer(&mut json, &Body::Prompt { prompt })
            }
        };
        // INVARIANT: roles and texts are JSON, and memory takes what is written.
        written.expect("text is JSON");
        // INVARIANT: JSON is UTF-8.
        json.into_text().expect("JSON is text")
    }

    /// The text's length in bytes.
    pub fn bytes(&self) -> usize {
        match self {
            Input::Messages(messages) => messages.iter().map(|m| m.content.expose().len()).sum(),
            Input::Text(text) => text.expose().len(),
        }
    }
}

/// What was asked, without a copy of it.
#[derive(Serialize)]
#[serde(untagged)]
enum Body<'a> {
    Messages { messages: Vec<Told<'a>> },
    Prompt { prompt: &'a str },
}

#[derive(Serialize)]
struct Told<'a> {
    role: Role,
    content: &'a str,
}

#[derive(Debug, Clone)]
pub struct Message {
    pub role: Role,
    pub content: Secret<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    System,
    User,
    Assistant,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_id_is_told_back_and_names_nothing() {
        let [one, other] = [(); 2].map(|()| RequestId::beside(Some("SAME")));
        assert_eq!((one.echoed(), other.echoed()), ("SAME", "SAME"));
        assert_ne!(one.as_str(), other.as_str());
        assert_ne!(one.own(), other.own());
        assert_eq!(one.own().echoed(), one.as_str());
        let long = "x".repeat(RequestId::MAX_CLIENT + 1);
        for unsound in ["", "a b", "\u{e9}", "a\n", &long] {
            let id = RequestId::beside(Some(unsound));
            assert_eq!(id.echoed(), id.as_str(), "{unsound:?}");
        }
        assert_eq!(RequestId::beside(Some(&long[1..])).echoed(), &long[1..]);
    }

    #[test]
    fn records_hold_what_else_a_request_is_called() {
        let plain = RequestId::random();
        let written = serde_json::to_string(&plain).unwrap();
        assert_eq!(written, format!(r#"{{"request_id":"{plain}"}}"#));
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let id = RequestId::beside(Some("a")).of_trace(trace.parse().ok());
        let written = serde_json::to_string(&id).unwrap();
        let more = format!(r#""client_request_id":"a","trace_id":"{trace}""#);
        assert_eq!(written, format!(r#"{{"request_id":"{id}",{more}}}"#));
        assert_eq!(serde_json::from_str::<RequestId>(&written).unwrap(), id);
        assert_eq!(id.own().trace(), None);
    }
}
