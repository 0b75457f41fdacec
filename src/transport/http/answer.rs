//! An answer on its way to the client: whole, or as server-sent events.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use hyper::{Response, StatusCode};

use super::reply::{self, Body, JSON};
use crate::admission::{Admitted, Recorded};
use crate::prompt::{Fragment, Outcome};
use crate::reason::Refusal;
use crate::wire::{self, Framer};

/// Keeps proxies and clients from giving up during a long prefill (WHATWG HTML section 9.2.7).
const KEEP_ALIVE: &str = "keep-alive";
/// Between two looks at the queue, so nobody hears of their place more often.
const LOOK: Duration = Duration::from_secs(1);

/// Waits for the end of the answer. A client that leaves meanwhile drops this future, and with it
/// `admitted`, which stops the engine.
pub(super) async fn whole(
    mut admitted: Admitted,
    framer: Framer,
) -> Result<Response<Body>, Recorded<Refusal>> {
    let mut text = String::new();
    let outcome = loop {
        match admitted.answer.next().await {
            Some(Fragment::Text(more)) => text.push_str(&more),
            Some(Fragment::End(outcome)) => break outcome,
            // The channel ends with an `End`, so this is a fault of ours.
            None => break Outcome::LOST,
        }
    };
    let bodies = framer.end(&text, &outcome);
    let bodies = bodies.map_err(|refusal| admitted.permit.with(refusal))?;
    Ok(reply::full(StatusCode::OK, JSON, bodies.concat()))
}

/// A stream of server-sent events. A client that leaves drops it, and with it `admitted`.
pub(super) fn streamed(admitted: Admitted, framer: Framer, keep_alive: Duration) -> Response<Body> {
    let events = Events {
        start: framer.start(),
        framer,
        admitted,
        keep_alive,
        waits: true,
        place: 0,
        ended: false,
    };
    let events = stream::unfold(events, async |mut events| {
        let bytes = events.next().await?;
        Some((bytes, events))
    });
    reply::streamed("text/event-stream", events)
}

struct Events {
    admitted: Admitted,
    framer: Framer,
    /// Still to be sent.
    start: Option<Vec<u8>>,
    keep_alive: Duration,
    /// Until its turn has come.
    waits: bool,
    /// The place in the queue that was told last; 0 for none.
    place: usize,
    ended: bool,
}

impl Events {
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(start) = self.start.take() {
            return Some(event(&start));
        }
        if self.ended {
            return None;
        }
        let outcome = match self.fragment().await {
            Err(said) => return Some(comment(&said)),
            Ok(Some(Fragment::Text(text))) => {
                return self.framer.piece(&text).map(|piece| event(&piece));
            }
            Ok(Some(Fragment::End(outcome))) => outcome,
            Ok(None) => Outcome::LOST,
        };
        self.ended = true;
        Some(last_events(&self.framer, &outcome))
    }

    /// The next fragment, or what is said while there is none.
    async fn fragment(&mut self) -> Result<Option<Fragment>, String> {
        let mut silent = Duration::ZERO;
        loop {
            let left = self.keep_alive.saturating_sub(silent);
            let pause = if self.waits { left.min(LOOK) } else { left };
            match tokio::time::timeout(pause, self.admitted.answer.next()).await {
                Ok(fragment) => return Ok(fragment),
                Err(_) => silent += pause,
            }
            if let Some(place) = self.moved() {
                return Err(format!("queued {place}"));
            }
            if silent >= self.keep_alive {
                return Err(KEEP_ALIVE.to_owned());
            }
        }
    }

    /// The place in the queue where it isn't the one that was told last; 0 when its turn has come.
    fn moved(&mut self) -> Option<usize> {
        if !self.waits {
            return None;
        }
        let place = self.admitted.ticket.place();
        self.waits = place.is_some();
        let place = place.unwrap_or(0);
        (std::mem::replace(&mut self.place, place) != place).then_some(place)
    }
}

/// What follows the text. An answer that isn't whole ends in an error event and no `[DONE]`.
fn last_events(framer: &Framer, outcome: &Outcome) -> Bytes {
    match framer.end("", outcome) {
        Ok(bodies) => {
            let bodies = bodies.iter().map(|body| event(body));
            let events: Vec<Bytes> = bodies.chain([event(b"[DONE]")]).collect();
            events.concat().into()
        }
        Err(refusal) => event(&wire::error(&refusal)),
    }
}

/// One event. JSON text has no line breaks of its own, so one `data` line holds it.
fn event(data: &[u8]) -> Bytes {
    [b"data: ", data, b"\n\n"].concat().into()
}

/// A comment, which clients of OpenAI's API pass over.
fn comment(text: &str) -> Bytes {
    format!(": {text}\n\n").into()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::prompt::{Dialect, Finish, RequestId, Usage};
    use crate::time::Timestamp;
    use crate::wire::Framing;

    fn framer(include_usage: bool) -> Framer {
        let framing = Framing {
            dialect: Dialect::Chat,
            stream: true,
            include_usage,
        };
        framing.framer(&RequestId::random(), "slm", Timestamp(0))
    }

    /// The data of each event, as a client reads them (WHATWG HTML section 9.2.6).
    fn parse(bytes: &[u8]) -> Vec<String> {
        let text = std::str::from_utf8(bytes).unwrap();
        assert!(text.ends_with("\n\n"));
        let events = text.split_terminator("\n\n");
        let data = |event: &str| event.strip_prefix("data: ").unwrap().to_owned();
        events.map(data).collect()
    }

    fn last(finish: Finish, include_usage: bool) -> Vec<String> {
        let usage = Usage {
            prompt_tokens: 3,
            completion_tokens: 5,
        };
        let outcome = Outcome { finish, usage };
        parse(&last_events(&framer(include_usage), &outcome))
    }

    fn json(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn text_with_line_breaks_stays_one_event() {
        let text = "a\n\ndata: b\r\u{2028}é";
        let events = parse(&event(&framer(false).piece(text).unwrap()));
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
        let events = last(Finish::Deadline, true);
        assert_eq!(events.len(), 1);
        assert_eq!(json(&events[0])["error"]["code"], "deadline_exceeded");
    }
}
