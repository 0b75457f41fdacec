//! One answer on its way to its topic: framed, coalesced, split where the broker's limit asks.

use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use super::outbox::{Outbox, Unsent};
use super::request::{Form, Reply};
use super::signature::Telling;
use crate::admission::{Recorded, Ticket};
use crate::link::{Properties, Publication};
use crate::prompt::{AnswerReceiver, Finish, Fragment, Outcome, RequestId};
use crate::reason::{Refusal, RefuseReason};
use crate::wire::{self, Framer};

/// The messages of one answer, in order.
pub(super) struct Messages<'a> {
    outbox: &'a Outbox,
    /// Where they are signed.
    telling: Option<Telling<'a>>,
    reply: &'a Reply,
    id: &'a RequestId,
    seq: u32,
    /// For a client whose proof lacked it.
    nonce: Option<String>,
    /// Seconds after which a refused request may come again.
    retry_after: Option<u64>,
    /// Whether whoever asked has shown a token that may be answered here.
    verified: bool,
    /// Told before the last message is sent.
    ticket: Option<&'a Ticket>,
}

/// The body of the 3.1.1 form.
#[derive(Serialize)]
struct Plain<'a> {
    status: u16,
    request_id: &'a str,
    seq: u32,
    #[serde(rename = "final")]
    last: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verified: Option<bool>,
    body: &'a RawValue,
}

impl<'a> Messages<'a> {
    pub(super) fn new(
        outbox: &'a Outbox,
        telling: Option<Telling<'a>>,
        reply: &'a Reply,
        id: &'a RequestId,
    ) -> Messages<'a> {
        Messages {
            outbox,
            telling,
            reply,
            id,
            seq: 0,
            nonce: None,
            retry_after: None,
            verified: true,
            ticket: None,
        }
    }

    /// The messages of a run.
    pub(super) fn of_run(self, ticket: &'a Ticket) -> Messages<'a> {
        let ticket = Some(ticket);
        Messages { ticket, ..self }
    }

    /// Says that they go to whoever asked, not to a client that is known.
    pub(super) fn mark_unverified(&mut self) {
        self.verified = false;
    }

    /// Tells the nonce that a new DPoP proof must say.
    pub(super) fn tell_nonce(&mut self, nonce: String) {
        self.nonce = Some(nonce);
    }

    /// Returns when the broker has it.
    pub(super) async fn send(
        &mut self,
        status: u16,
        last: bool,
        body: &[u8],
    ) -> Result<(), Unsent> {
        if let Some(ticket) = self.ticket.filter(|_| last) {
            ticket.ends();
        }
        let publication = self.frame(status, last, body);
        self.outbox.publish(publication).await?;
        self.seq += 1;
        Ok(())
    }

    /// The last messages.
    async fn send_last(&mut self, bodies: &[Vec<u8>]) -> Result<(), Unsent> {
        let Some((last, before)) = bodies.split_last() else {
            return Ok(());
        };
        for body in before {
            self.send(200, false, body).await?;
        }
        self.send(200, true, last).await
    }

    /// The last message, when it is a refusal. One that the broker won't take is lost.
    pub(super) async fn refuse(&mut self, refusal: &Recorded<Refusal>) -> Result<(), Unsent> {
        let body = wire::error(refusal);
        self.retry_after = refusal.retry_after_secs();
        self.send(refusal.status(), true, &body).await
    }

    fn frame(&self, status: u16, last: bool, body: &[u8]) -> Publication {
        match &self.reply.form {
            Form::Properties => self.with_properties(status, last, body),
            Form::Plain { .. } => self.plain(status, last, body),
        }
    }

    fn with_properties(&self, status: u16, last: bool, body: &[u8]) -> Publication {
        let pair = |name: &str, value: String| (name.to_owned(), value);
        let mut user = vec![
            pair("status", status.to_string()),
            pair("request-id", self.id.echoed().to_owned()),
            pair("seq", self.seq.to_string()),
            pair("final", last.to_string()),
        ];
        user.extend(self.nonce.clone().map(|nonce| pair("dpop-nonce", nonce)));
        let retry_after = self.retry_after.map(|secs| secs.to_string());
        user.extend(retry_after.map(|secs| pair("retry-after", secs)));
        if !self.verified {
            user.push(pair("verified", false.to_string()));
        }
        if let Some(telling) = &self.telling {
            let signature = telling.sign(&self.reply.request, &user, body);
            user.push(pair("signature", signature));
        }
        Publication {
            topic: self.reply.topic.clone(),
            payload: Bytes::copy_from_slice(body),
            retain: false,
            properties: Properties {
                correlation: self.reply.correlation.clone(),
                content_type: Some("application/json".to_owned()),
                user,
                ..Properties::default()
            },
        }
    }

    fn plain(&self, status: u16, last: bool, body: &[u8]) -> Publication {
        let branch = if status < 300 { "accepted" } else { "rejected" };
        let plain = Plain {
            status,
            request_id: self.id.echoed(),
            seq: self.seq,
            last,
            retry_after: self.retry_after,
            verified: (!self.verified).then_some(false),
            body: serde_json::from_slice(body).unwrap_or(RawValue::NULL),
        };
        Publication {
            topic: format!("{}/{branch}", self.reply.topic),
            payload: serde_json::to_vec(&plain).unwrap_or_default().into(),
            retain: false,
            properties: Properties::default(),
        }
    }
}

/// An answer to send, live or the stored one of a first run.
pub(super) struct Answer {
    pub(super) framer: Framer,
    pub(super) fragments: AnswerReceiver,
    /// What a refusal is told with, should it not become whole.
    pub(super) permit: Recorded<()>,
}

/// How sending went.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The broker has all of it. `status` is the last message's.
    Sent {
        text: String,
        outcome: Outcome,
        status: u16,
    },
    /// The broker takes no answer on this topic.
    Unsendable { text: String, why: String },
    /// The daemon is going down and the answer isn't whole: it is to be tried again.
    Interrupted,
}

impl Answer {
    /// Sends the answer as one message or as a stream, at most one message each `interval`.
    pub(super) async fn send(mut self, messages: &mut Messages<'_>, interval: Duration) -> Ended {
        let mut text = String::new();
        let sent = self.send_all(messages, interval, &mut text).await;
        match sent {
            Ok(Some((outcome, status))) => Ended::Sent {
                text,
                outcome,
                status,
            },
            Ok(None) | Err(Unsent::Closed) => Ended::Interrupted,
            Err(unsent) => Ended::Unsendable {
                text,
                why: unsent.to_string(),
            },
        }
    }

    /// `None`: interrupted by the daemon's end.
    async fn send_all(
        &mut self,
        messages: &mut Messages<'_>,
        interval: Duration,
        text: &mut String,
    ) -> Result<Option<(Outcome, u16)>, Unsent> {
        if let Some(start) = self.framer.start() {
            messages.send(200, false, &start).await?;
        }
        let outcome = loop {
            let (piece, end) = gather(&mut self.fragments).await;
            text.push_str(&piece);
            // The pause comes after the piece, so that the first one waits for nothing.
            let pause = tokio::time::sleep(interval);
            self.send_text(messages, piece).await?;
            match end {
                Some(outcome) => break outcome,
                None if self.framer.is_stream() => pause.await,
                None => {}
            }
        };
        if outcome.finish == Finish::Shutdown {
            return Ok(None);
        }
        let refusal = match self.framer.end(text, &outcome) {
            Ok(bodies) => match messages.send_last(&bodies).await {
                Err(Unsent::TooLarge) => RefuseReason::AnswerTooLarge.into(),
                sent => return sent.map(|()| Some((outcome, 200))),
            },
            Err(refusal) => refusal,
        };
        let refusal = self.permit.with(refusal);
        messages.refuse(&refusal).await?;
        Ok(Some((outcome, refusal.status())))
    }

    /// Sends `text` as one chunk, or as several where the broker's limit is lower.
    async fn send_text(&self, messages: &mut Messages<'_>, text: String) -> Result<(), Unsent> {
        // Halves still to send, the next one last. At most one more than the halvings: 64.
        let mut pieces = vec![text];
        while let Some(piece) = pieces.pop() {
            if piece.is_empty() {
                continue;
            }
            let Some(chunk) = self.framer.piece(&piece) else {
                return Ok(());
            };
            match messages.send(200, false, &chunk).await {
                Err(Unsent::TooLarge) => {
                    let (first, second) = halves(&piece).ok_or(Unsent::TooLarge)?;
                    pieces.push(second.to_owned());
                    pieces.push(first.to_owned());
                }
                sent => sent?,
            }
        }
        Ok(())
    }
}

/// Everything that is there, but at least one fragment.
async fn gather(fragments: &mut AnswerReceiver) -> (String, Option<Outcome>) {
    use futures_util::FutureExt;
    let mut text = String::new();
    let mut next = fragments.next().await;
    loop {
        match next {
            Some(Fragment::Text(piece)) => text.push_str(&piece),
            Some(Fragment::End(outcome)) => return (text, Some(outcome)),
            // The channel ends in an `End`; without one, nobody knows how it went.
            None => return (text, Some(Outcome::LOST)),
        }
        match fragments.next().now_or_never() {
            Some(more) => next = more,
            None => return (text, None),
        }
    }
}

/// Two parts of about the same size, cut between characters; `None` for a single one.
fn halves(text: &str) -> Option<(&str, &str)> {
    let middle = text.ceil_char_boundary(text.len() / 2);
    let middle = match middle == text.len() {
        true => text.floor_char_boundary(text.len() / 2),
        false => middle,
    };
    let (first, second) = text.split_at(middle);
    (!first.is_empty() && !second.is_empty()).then_some((first, second))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn halves_are_the_whole(text in "\\PC{0,12}") {
            match halves(&text) {
                Some((first, second)) => {
                    prop_assert_eq!(format!("{first}{second}"), text.clone());
                    prop_assert!(!first.is_empty() && !second.is_empty());
                }
                None => prop_assert!(text.chars().count() < 2),
            }
        }
    }

    #[tokio::test]
    async fn plain_form_says_all_in_its_body() {
        let (outbox, _submissions) = Outbox::new(1);
        let reply = Reply {
            topic: "slm/edge-1/reply/dev/7".to_owned(),
            correlation: Some(Bytes::from_static(b"7")),
            request: String::new(),
            form: Form::Plain {
                client: "dev".to_owned(),
            },
        };
        let id = RequestId::beside(Some("req\"1"));
        let mut messages = Messages::new(&outbox, None, &reply, &id);
        let accepted = messages.frame(200, false, br#"{"a":1}"#);
        assert_eq!(accepted.topic, "slm/edge-1/reply/dev/7/accepted");
        let body = r#"{"status":200,"request_id":"req\"1","seq":0,"final":false,"body":{"a":1}}"#;
        assert_eq!(accepted.payload, body);
        messages.mark_unverified();
        messages.retry_after = Some(2);
        let rejected = messages.frame(503, true, b"{}");
        assert_eq!(rejected.topic, "slm/edge-1/reply/dev/7/rejected");
        let body = r#"{"status":503,"request_id":"req\"1","seq":0,"final":true,"retry_after":2,"verified":false,"body":{}}"#;
        assert_eq!(rejected.payload, body);
    }
}
