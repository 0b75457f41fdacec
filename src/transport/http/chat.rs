//! An answer on its way to the client: whole, or as server-sent events.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::{Response, StatusCode};

use super::reply::{self, Body, JSON, Refused};
use crate::admission::Admitted;
use crate::prompt::{Fragment, Outcome, Scope};
use crate::reason::{Refusal, RefuseReason};
use crate::wire::{self, Head};

/// Keeps proxies and clients from giving up during a long prefill (WHATWG HTML section 9.2.7).
const COMMENT: &[u8] = b": keep-alive\n\n";

fn head(admitted: &Admitted) -> Head {
    Head::new(&admitted.id, &admitted.model, admitted.created)
}

/// Waits for the end of the answer. A client that leaves meanwhile drops this future, and with it
/// `admitted`, which stops the engine.
pub(super) async fn whole(mut admitted: Admitted) -> Result<Response<Body>, Refused> {
    let head = head(&admitted);
    let mut text = String::new();
    while let Some(fragment) = admitted.answer.next().await {
        match fragment {
            Fragment::Text(more) => text.push_str(&more),
            Fragment::End(outcome) => {
                return match wire::unfinished(&outcome) {
                    None => {
                        let body = wire::completion(&head, &text, &outcome);
                        Ok(reply::full(StatusCode::OK, JSON, body))
                    }
                    Some(refusal) => Err(unfinished(&admitted, refusal)),
                };
            }
        }
    }
    // The channel ends with an `End`, so this is a fault of ours.
    Err(unfinished(&admitted, RefuseReason::Internal.into()))
}

fn unfinished(admitted: &Admitted, refusal: Refusal) -> Refused {
    Refused::recorded(admitted.permit.with(refusal), Scope::Read)
}

/// A stream of server-sent events. A client that leaves drops it, and with it `admitted`.
pub(super) fn streamed(
    admitted: Admitted,
    include_usage: bool,
    keep_alive: Duration,
) -> Response<Body> {
    let events = Events {
        head: head(&admitted),
        admitted,
        include_usage,
        keep_alive,
        state: State::Start,
    };
    let frames = stream::unfold(events, async |mut events| {
        let bytes = events.next().await?;
        Some((Ok(Frame::data(bytes)), events))
    });
    let body = StreamBody::new(Box::pin(frames)).boxed_unsync();
    reply::new(StatusCode::OK, "text/event-stream", body)
}

struct Events {
    admitted: Admitted,
    head: Head,
    include_usage: bool,
    keep_alive: Duration,
    state: State,
}

enum State {
    Start,
    Running,
    Ended,
}

impl Events {
    async fn next(&mut self) -> Option<Bytes> {
        match self.state {
            State::Start => {
                self.state = State::Running;
                Some(event(&wire::chunk_start(&self.head)))
            }
            State::Running => Some(self.running().await),
            State::Ended => None,
        }
    }

    async fn running(&mut self) -> Bytes {
        let fragment = self.admitted.answer.next();
        match tokio::time::timeout(self.keep_alive, fragment).await {
            Err(_) => Bytes::from_static(COMMENT),
            Ok(Some(Fragment::Text(text))) => event(&wire::chunk_text(&self.head, &text)),
            Ok(Some(Fragment::End(outcome))) => {
                self.state = State::Ended;
                last_events(&self.head, &outcome, self.include_usage)
            }
            Ok(None) => {
                self.state = State::Ended;
                event(&wire::error(&RefuseReason::Internal.into()))
            }
        }
    }
}

/// What follows the text. An answer that isn't whole ends in an error event and no `[DONE]`.
fn last_events(head: &Head, outcome: &Outcome, include_usage: bool) -> Bytes {
    if let Some(refusal) = wire::unfinished(outcome) {
        return event(&wire::error(&refusal));
    }
    let mut bytes = event(&wire::chunk_end(head, outcome)).to_vec();
    if include_usage {
        bytes.extend_from_slice(&event(&wire::chunk_usage(head, outcome)));
    }
    bytes.extend_from_slice(&event(b"[DONE]"));
    bytes.into()
}

/// One event. JSON text has no line breaks of its own, so one `data` line holds it.
fn event(data: &[u8]) -> Bytes {
    [b"data: ", data, b"\n\n"].concat().into()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::prompt::{Finish, Usage};
    use crate::reason::DenyReason;

    /// The data of each event, as a client reads them (WHATWG HTML section 9.2.6).
    fn parse(bytes: &[u8]) -> Vec<String> {
        let text = std::str::from_utf8(bytes).unwrap();
        assert!(text.ends_with("\n\n"));
        let events = text.split_terminator("\n\n");
        let data = |event: &str| event.strip_prefix("data: ").unwrap().to_owned();
        events.map(data).collect()
    }

    fn last(finish: Finish, include_usage: bool) -> Vec<String> {
        let head = Head {
            id: "chatcmpl-1".to_owned(),
            model: "slm".to_owned(),
            created_secs: 7,
        };
        let usage = Usage {
            prompt_tokens: 3,
            completion_tokens: 5,
        };
        parse(&last_events(
            &head,
            &Outcome { finish, usage },
            include_usage,
        ))
    }

    fn json(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn text_with_line_breaks_stays_one_event() {
        let head = Head {
            id: String::new(),
            model: String::new(),
            created_secs: 0,
        };
        let text = "a\n\ndata: b\r\u{2028}é";
        let events = parse(&event(&wire::chunk_text(&head, text)));
        assert_eq!(events.len(), 1);
        assert_eq!(json(&events[0])["choices"][0]["delta"]["content"], text);
    }

    #[test]
    fn whole_answers_end_in_done() {
        let events = last(Finish::Stop, true);
        assert_eq!(json(&events[0])["choices"][0]["finish_reason"], "stop");
        assert_eq!(json(&events[1])["usage"]["total_tokens"], 8);
        assert_eq!(events[2], "[DONE]");
        assert_eq!(last(Finish::Length, false).len(), 2);
    }

    #[test]
    fn broken_answers_end_in_an_error() {
        for (finish, code) in [
            (Finish::Deadline, "deadline_exceeded"),
            (Finish::Revoked(DenyReason::Revoked), "revoked"),
            (Finish::Revoked(DenyReason::KeyUnknown), "key_unknown"),
            (Finish::Shutdown, "draining"),
            (Finish::Failed, "internal"),
            (Finish::Cancelled, "cancelled"),
        ] {
            let events = last(finish, true);
            assert_eq!(events.len(), 1);
            assert_eq!(json(&events[0])["error"]["code"], code);
        }
    }
}
