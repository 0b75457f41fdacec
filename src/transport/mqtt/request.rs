//! A message as a request: what it asks, who says so, and where its answer goes. Pure.

use std::time::Instant;

use bytes::Bytes;

use super::topics::{self, Topics};
use crate::auth::{Credential, Published};
use crate::delivery::{Exact, Question};
use crate::digest::digest;
use crate::link::{Message, Properties};
use crate::prompt::{Cancel, Completion, Dialect, Origin, Request, RequestId};
use crate::reason::{DenyReason, Refusal, RefuseReason};
use crate::trace::{Parent, Trace};
use crate::wire::{self, Body, Framing};

/// Correlation Data is echoed with each piece of an answer, so a short request must not be able to
/// make a long one; a UUID has 36 bytes.
const MAX_CORRELATION: usize = 256;
/// User properties of a message; we read five.
const MAX_USER_PROPERTIES: usize = 32;

/// A request that can be read. Whether its answer may go where it asks is for the grant to say.
pub(super) struct Asked {
    pub(super) request: Request<Completion>,
    pub(super) credential: Credential,
    pub(super) reply: Reply,
    pub(super) question: Option<Question>,
    /// The broker's word that it sent this before.
    pub(super) redelivered: bool,
    /// Of the body.
    pub(super) size: usize,
    pub(super) framing: Framing,
}

/// A message that is no request, and where that may be told.
pub(super) struct Unread {
    pub(super) id: RequestId,
    pub(super) origin: Origin,
    pub(super) refusal: Refusal,
    pub(super) reply: Option<Reply>,
    /// As far as that can be read.
    pub(super) credential: Credential,
}

/// Where an answer goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    /// The Response Topic, or the 3.1.1 form's answer prefix.
    pub(super) topic: String,
    /// Correlation Data, or the 3.1.1 form's id.
    pub(super) correlation: Option<Bytes>,
    /// What the answer's signature names the request by; MQTT 3.1.1 has none.
    pub(super) request: String,
    pub(super) form: Form,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Form {
    /// Properties say what the body doesn't.
    Properties,
    /// MQTT 3.1.1: topic and body say it all. The client as the topic names it.
    Plain { client: String },
}

impl Reply {
    /// Topic and Correlation Data of a refusal, as its reader sees them.
    pub(super) fn refused_on(&self) -> (String, Option<&[u8]>) {
        match self.form {
            Form::Properties => (self.topic.clone(), self.correlation.as_deref()),
            Form::Plain { .. } => (format!("{}/rejected", self.topic), None),
        }
    }
}

/// The nonces that a DPoP proof may say. Asked only where there is a proof: each is a signature.
pub(super) type Accepted<'a> = &'a dyn Fn() -> Vec<String>;

/// Reads a request that came in this form.
pub(super) fn parse(
    topics: &Topics,
    message: &Message,
    (dialect, form): (Dialect, topics::Form<'_>),
    max_body: usize,
    nonces: Accepted<'_>,
    now: Instant,
) -> Result<Box<Asked>, Box<Unread>> {
    let id = id(&message.properties);
    let reply = reply(topics, message, form);
    let readable = readable(message, reply.as_ref(), max_body);
    let asked = readable.and_then(|reply| {
        let body = wire::parse(dialect, &message.payload)?;
        let credential = credential_of(topics, message, reply, &body, nonces)?;
        Ok(asked(
            message,
            id.clone(),
            credential,
            reply.clone(),
            body,
            now,
        ))
    });
    match asked {
        Ok(asked) => Ok(Box::new(asked)),
        Err(refusal) => Err(Box::new(Unread {
            id,
            origin: origin(message),
            refusal,
            reply,
            credential: credential(topics, message, nonces).unwrap_or(Credential::None),
        })),
    }
}

/// What is looked at before anything else: nothing of an excess is worth reading.
fn bounded(properties: &Properties) -> Result<(), Refusal> {
    let refused = |detail| Err(Refusal::new(RefuseReason::BadRequest).detail(detail));
    let correlation = properties.correlation.as_ref().map_or(0, Bytes::len);
    if correlation > MAX_CORRELATION {
        return refused(format!(
            "the Correlation Data has {correlation} bytes, of {MAX_CORRELATION} allowed"
        ));
    }
    let user = properties.user.len();
    if user > MAX_USER_PROPERTIES {
        return refused(format!(
            "the message has {user} user properties, of {MAX_USER_PROPERTIES} allowed"
        ));
    }
    Ok(())
}

/// What is looked at before the body; where the answer goes.
fn readable<'a>(
    message: &Message,
    reply: Option<&'a Reply>,
    max_body: usize,
) -> Result<&'a Reply, Refusal> {
    let reply = reply.ok_or_else(|| {
        Refusal::new(RefuseReason::ReplyTopicRejected).detail(
            "the request has no Response Topic; a client of MQTT 3.1.1 publishes on \
             `…/{client}/{id}` beneath this topic",
        )
    })?;
    bounded(&message.properties)?;
    if message.retain {
        return Err(RefuseReason::RetainedRejected.into());
    }
    let content_type = message.properties.content_type.as_deref();
    if content_type.is_some_and(|t| !is_json(t)) {
        return Err(RefuseReason::UnsupportedMediaType.into());
    }
    let size = message.payload.len();
    if size > max_body {
        let detail = format!("{size} bytes, of {max_body} allowed");
        return Err(Refusal::new(RefuseReason::BodyTooLarge).detail(detail));
    }
    Ok(reply)
}

fn credential_of(
    topics: &Topics,
    message: &Message,
    reply: &Reply,
    body: &Body,
    nonces: Accepted<'_>,
) -> Result<Credential, Refusal> {
    match (&reply.form, &body.authorization) {
        (Form::Plain { .. }, shown) => {
            plain_credential(shown.as_ref().map(|shown| shown.expose().as_str()))
        }
        (Form::Properties, None) => credential(topics, message, nonces),
        // Two places for one token are two truths (RFC 6750 section 2).
        (Form::Properties, Some(_)) => Err(Refusal::new(RefuseReason::UnsupportedParameter)
            .param("authorization")
            .detail("send it as a user property")),
    }
}

fn asked(
    message: &Message,
    id: RequestId,
    credential: Credential,
    reply: Reply,
    body: Body,
    now: Instant,
) -> Asked {
    let expiry = message.properties.expiry;
    let correlation = reply.correlation.as_deref();
    let question = |c: &[u8]| Question::new(&reply.topic, c, &body.body_hash);
    Asked {
        question: correlation.map(question),
        request: Request {
            id,
            origin: origin(message),
            model: body.model,
            deadline: expiry.and_then(|expiry| now.checked_add(expiry)),
            trace: Trace::default(),
            asks: body.completion,
        },
        credential,
        reply,
        redelivered: message.dup,
        size: message.payload.len(),
        framing: body.framing,
    }
}

/// Reads a message on the cancel topic.
pub(super) fn parse_cancel(
    topics: &Topics,
    message: &Message,
    id: RequestId,
    nonces: Accepted<'_>,
) -> Result<(Credential, Request<Cancel>), Refusal> {
    bounded(&message.properties)?;
    if message.retain {
        return Err(RefuseReason::RetainedRejected.into());
    }
    let Some(correlation) = &message.properties.correlation else {
        return Err(Refusal::new(RefuseReason::BadRequest)
            .detail("a cancel needs the request's Correlation Data"));
    };
    let request = Request {
        id,
        origin: origin(message),
        model: None,
        deadline: None,
        trace: Trace::default(),
        asks: Cancel {
            correlation: correlation.to_vec(),
        },
    };
    Ok((credential(topics, message, nonces)?, request))
}

pub(super) fn origin(message: &Message) -> Origin {
    Origin::Mqtt {
        topic: message.topic.clone(),
    }
}

/// What a redelivery of the message has in common with it. The expiry is left out: the broker
/// counts it down.
pub(super) fn exact(message: &Message) -> Exact {
    let properties = &message.properties;
    let present = |bytes: Option<&[u8]>| [u8::from(bytes.is_some())];
    let response = properties.response_topic.as_ref().map(String::as_bytes);
    let correlation = properties.correlation.as_deref();
    let content_type = properties.content_type.as_ref().map(String::as_bytes);
    let presence = [response, correlation, content_type].map(present).concat();
    let mut parts = vec![
        presence.as_slice(),
        message.topic.as_bytes(),
        response.unwrap_or_default(),
        correlation.unwrap_or_default(),
        content_type.unwrap_or_default(),
        &message.payload,
    ];
    for (name, value) in &properties.user {
        parts.extend([name.as_bytes(), value.as_bytes()]);
    }
    Exact(digest(&parts))
}

fn reply(topics: &Topics, message: &Message, form: topics::Form<'_>) -> Option<Reply> {
    let topics::Form::Plain { client, id } = form else {
        return Some(Reply {
            topic: message.properties.response_topic.clone()?,
            // One that is too long isn't echoed even once.
            correlation: message
                .properties
                .correlation
                .clone()
                .filter(|c| c.len() <= MAX_CORRELATION),
            request: published(message).hash(),
            form: Form::Properties,
        });
    };
    Some(Reply {
        topic: topics.plain_reply(client, id),
        correlation: Some(Bytes::copy_from_slice(id.as_bytes())),
        request: String::new(),
        form: Form::Plain {
            client: client.to_owned(),
        },
    })
}

/// A new id, with the client's own beside it.
pub(super) fn id(properties: &Properties) -> RequestId {
    RequestId::beside(user(properties, "request-id").next())
}

/// The caller's span (W3C Trace Context: MQTT protocol).
pub(super) fn parent(properties: &Properties) -> Option<Parent> {
    let named = |name| user(properties, name).map(str::as_bytes);
    Parent::of(named("traceparent"), named("tracestate"))
}

fn credential(
    topics: &Topics,
    message: &Message,
    nonces: Accepted<'_>,
) -> Result<Credential, Refusal> {
    bounded(&message.properties)?;
    let proof = single(&message.properties, "dpop")?;
    let Some(value) = single(&message.properties, "authorization")? else {
        return misnamed(&message.properties).map_or(Ok(Credential::None), Err);
    };
    Credential::from_authorization(Some(value), || {
        let proof = proof.ok_or(DenyReason::ProofMissing)?;
        let binding = published(message).binding(topics.device(), nonces());
        Ok((proof, binding))
    })
}

/// A token under HTTP's name: MQTT compares the names of properties letter by letter.
fn misnamed(properties: &Properties) -> Option<Refusal> {
    let mut names = properties.user.iter().map(|(name, _)| name);
    names.find(|name| name.eq_ignore_ascii_case("authorization"))?;
    let refusal = Refusal::new(DenyReason::TokenMissing);
    Some(refusal.detail("the user property `authorization` isn't written in lower case"))
}

/// A 3.1.1 message has no place for a proof.
fn plain_credential(value: Option<&str>) -> Result<Credential, Refusal> {
    Credential::from_authorization(value, || Err(DenyReason::ProofUnsupported.into()))
}

/// What a DPoP proof covers, and the signature of an answer.
fn published(message: &Message) -> Published<'_> {
    Published {
        topic: &message.topic,
        response_topic: message.properties.response_topic.as_deref(),
        correlation: message.properties.correlation.as_deref(),
        payload: &message.payload,
    }
}

fn single<'a>(properties: &'a Properties, name: &'a str) -> Result<Option<&'a str>, Refusal> {
    let mut values = user(properties, name);
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        (_, Some(_)) => {
            let detail = format!("more than one user property `{name}`");
            Err(Refusal::new(RefuseReason::BadRequest).detail(detail))
        }
    }
}

fn user<'a>(properties: &'a Properties, name: &'a str) -> impl Iterator<Item = &'a str> {
    let named = properties.user.iter().filter(move |(key, _)| key == name);
    named.map(|(_, value)| value.as_str())
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(payload: &str) -> Message {
        Message {
            topic: "slm/edge-1/v1/chat/completions".to_owned(),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            retain: false,
            dup: false,
            properties: Properties {
                response_topic: Some("slm/edge-1/reply/dev/1".to_owned()),
                correlation: Some(Bytes::from_static(b"c")),
                ..Properties::default()
            },
            ack: None,
        }
    }

    fn nonces() -> Vec<String> {
        vec!["n".to_owned()]
    }

    fn edge() -> Topics {
        Topics::new("edge-1", "#")
    }

    fn cancel(message: &Message) -> Result<(Credential, Request<Cancel>), Refusal> {
        parse_cancel(&edge(), message, RequestId::random(), &nonces)
    }

    fn refused(message: &Message) -> &'static str {
        let topics = Topics::new("edge-1", "#");
        let now = crate::time::instant();
        let form = (Dialect::Chat, topics::Form::Properties);
        match parse(&topics, message, form, 64, &nonces, now) {
            Ok(_) => "",
            Err(unread) => unread.refusal.reason.as_str(),
        }
    }

    #[test]
    fn refuses_before_it_reads_the_body() {
        let mut retained = message("{}");
        retained.retain = true;
        assert_eq!(refused(&retained), "retained_rejected");
        assert_eq!(refused(&message(&"x".repeat(65))), "body_too_large");
        let mut xml = message("{}");
        xml.properties.content_type = Some("text/xml".to_owned());
        assert_eq!(refused(&xml), "unsupported_media_type");
        let mut nowhere = message("{}");
        nowhere.properties.response_topic = None;
        assert_eq!(refused(&nowhere), "reply_topic_rejected");
    }

    #[test]
    fn one_token_or_none() {
        let with = |values: &[&str]| {
            let mut message = message("");
            let pair = |v: &&str| ("authorization".to_owned(), (*v).to_owned());
            message.properties.user = values.iter().map(pair).collect();
            credential(&edge(), &message, &nonces)
        };
        assert!(matches!(with(&[]), Ok(Credential::None)));
        assert!(matches!(with(&["Bearer a"]), Ok(Credential::Bearer(_))));
        let proofless = with(&["dPoP a.b.c"]).unwrap_err();
        assert_eq!(proofless.reason, DenyReason::ProofMissing.into());
        for bad in [&["Basic x"][..], &["Bearer a", "Bearer b"]] {
            assert!(with(bad).is_err());
        }
    }

    /// What the binding is of these parts is told by `deploy/mqtt/dpop-vectors.json`.
    #[test]
    fn a_proof_is_for_this_message_at_this_device() {
        let mut proven = message("{}");
        for (name, value) in [("authorization", "DPoP a.b.c"), ("dpop", "p")] {
            let pair = (name.to_owned(), value.to_owned());
            proven.properties.user.push(pair);
        }
        let Ok(Credential::Dpop { binding, .. }) = credential(&edge(), &proven, &nonces) else {
            panic!("no proof");
        };
        let published = Published {
            topic: "slm/edge-1/v1/chat/completions",
            response_topic: Some("slm/edge-1/reply/dev/1"),
            correlation: Some(b"c"),
            payload: b"{}",
        };
        assert_eq!(binding, published.binding("edge-1", nonces()));
    }

    #[test]
    fn the_plain_form_has_no_place_for_a_proof() {
        let refusal = plain_credential(Some("DPoP a.b.c")).unwrap_err();
        assert_eq!(refusal.reason, DenyReason::ProofUnsupported.into());
    }

    #[test]
    fn correlation_and_properties_are_bounded() {
        let mut long = message("{}");
        let with = |length: usize| Some(Bytes::from(vec![b'c'; length]));
        long.properties.correlation = with(MAX_CORRELATION);
        assert_ne!(refused(&long), "bad_request");
        long.properties.correlation = with(MAX_CORRELATION + 1);
        assert_eq!(refused(&long), "bad_request");
        assert!(cancel(&long).is_err());
        let reply = reply(&edge(), &long, topics::Form::Properties).unwrap();
        assert_eq!(reply.correlation, None, "not echoed");

        let mut many = message("{}");
        let pair = |n: usize| (format!("n{n}"), String::new());
        many.properties.user = (0..MAX_USER_PROPERTIES).map(pair).collect();
        assert_ne!(refused(&many), "bad_request");
        many.properties.user.push(pair(MAX_USER_PROPERTIES));
        assert_eq!(refused(&many), "bad_request");
        assert!(cancel(&many).is_err());
    }

    #[test]
    fn a_token_in_the_wrong_place_is_told_the_right_one() {
        let mut capital = message("");
        capital.properties.user = vec![("Authorization".to_owned(), "Bearer a.b.c".to_owned())];
        let refusal = credential(&edge(), &capital, &nonces).unwrap_err();
        assert_eq!(refusal.reason, DenyReason::TokenMissing.into());
        assert!(refusal.message().contains("lower case"), "{refusal}");
    }

    #[test]
    fn cancel_needs_correlation() {
        let mut named = message("");
        assert!(cancel(&named).is_ok());
        named.properties.correlation = None;
        assert!(cancel(&named).is_err());
    }

    #[test]
    fn a_message_is_known_by_all_but_what_a_broker_changes() {
        let first = message("{}");
        let mut again = first.clone();
        again.dup = true;
        again.properties.expiry = Some(std::time::Duration::from_secs(3));
        assert_eq!(exact(&first), exact(&again));
        let mut other = first.clone();
        other.properties.correlation = None;
        other.properties.content_type = Some("c".to_owned());
        assert_ne!(exact(&first), exact(&other));
        let mut other = first.clone();
        other.properties.user = vec![("authorization".to_owned(), "Bearer x".to_owned())];
        assert_ne!(exact(&first), exact(&other));
    }
}
