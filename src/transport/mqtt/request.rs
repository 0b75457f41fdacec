//! A message as a request: what it asks, who says so, and where its answer goes. Pure.

use std::time::Instant;

use bytes::Bytes;

use super::ledger::{Bytes32, Key};
use super::topics::{Route, Topics};
use crate::auth::{Binding, Credential, NonceRule};
use crate::identity::digest;
use crate::link::{Message, Properties};
use crate::prompt::{Action, Origin, Request, RequestId};
use crate::reason::{DenyReason, Refusal, RefuseReason};
use crate::secret::Secret;
use crate::wire;

/// A request that can be read. Whether its answer may go where it asks is for the grant to say.
pub(super) struct Asked {
    pub(super) request: Request,
    pub(super) credential: Credential,
    pub(super) reply: Reply,
    pub(super) body_hash: Bytes32,
    /// The broker's word that it sent this before.
    pub(super) redelivered: bool,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
}

/// A wish to stop the own request with this correlation data.
pub(super) struct Cancel {
    pub(super) credential: Credential,
    pub(super) correlation: Vec<u8>,
    pub(super) request: Request,
}

/// A message that is no request, and where that may be told.
pub(super) struct Unread {
    pub(super) id: RequestId,
    pub(super) origin: Origin,
    pub(super) refusal: Refusal,
    pub(super) reply: Option<Reply>,
}

/// Where an answer goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    /// The Response Topic, or the 3.1.1 form's answer prefix.
    pub(super) topic: String,
    /// Correlation Data, or the 3.1.1 form's id.
    pub(super) correlation: Option<Bytes>,
    pub(super) form: Form,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Form {
    /// Properties say what the body doesn't.
    Properties,
    /// MQTT 3.1.1: topic and body say it all. The client as the topic names it.
    Plain { client: String },
}

impl Asked {
    /// `None` without correlation data: then nothing counts as a repeat.
    pub(super) fn key(&self) -> Option<Key> {
        let correlation = self.reply.correlation.as_ref()?;
        let topic = self.reply.topic.as_bytes();
        Some(Key(digest(&[topic, correlation, &self.body_hash])))
    }
}

/// Reads a message that came on `route`.
pub(super) fn parse(
    topics: &Topics,
    message: &Message,
    route: &Route<'_>,
    max_body: usize,
    now: Instant,
) -> Result<Box<Asked>, Box<Unread>> {
    let id = request_id(&message.properties);
    let reply = reply(topics, message, route);
    match read(message, &reply, &id, max_body, now) {
        Ok(asked) => Ok(Box::new(asked)),
        Err(refusal) => Err(Box::new(Unread {
            id,
            origin: origin(message),
            refusal,
            reply,
        })),
    }
}

fn read(
    message: &Message,
    reply: &Option<Reply>,
    id: &RequestId,
    max_body: usize,
    now: Instant,
) -> Result<Asked, Refusal> {
    let Some(reply) = reply else {
        return Err(Refusal::new(RefuseReason::ReplyTopicRejected)
            .detail("the request has no Response Topic"));
    };
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
    let mut body = wire::parse_chat(&message.payload)?;
    let credential = match (&reply.form, body.authorization.take()) {
        (Form::Plain { .. }, Some(authorization)) => scheme(authorization.expose(), None)?,
        (Form::Plain { .. }, None) => Credential::None,
        (Form::Properties, None) => credential(&message.properties)?,
        // Two places for one token are two truths (RFC 6750 section 2).
        (Form::Properties, Some(_)) => {
            return Err(Refusal::new(RefuseReason::UnsupportedParameter)
                .param("authorization")
                .detail("send it as a user property"));
        }
    };
    let expiry = message.properties.expiry;
    Ok(Asked {
        request: Request {
            id: id.clone(),
            origin: origin(message),
            model: body.model,
            action: Action::Chat(body.chat),
            deadline: expiry.and_then(|expiry| now.checked_add(expiry)),
        },
        credential,
        reply: reply.clone(),
        body_hash: body.body_hash,
        redelivered: message.dup,
        stream: body.stream,
        include_usage: body.include_usage,
    })
}

/// Reads a message on the cancel topic.
pub(super) fn parse_cancel(message: &Message) -> Result<Cancel, Refusal> {
    if message.retain {
        return Err(RefuseReason::RetainedRejected.into());
    }
    let Some(correlation) = &message.properties.correlation else {
        return Err(Refusal::new(RefuseReason::BadRequest)
            .detail("a cancel needs the request's Correlation Data"));
    };
    let request = Request {
        id: request_id(&message.properties),
        origin: origin(message),
        model: None,
        action: Action::Cancel {
            correlation: correlation.to_vec(),
        },
        deadline: None,
    };
    Ok(Cancel {
        credential: credential(&message.properties)?,
        correlation: correlation.to_vec(),
        request,
    })
}

pub(super) fn origin(message: &Message) -> Origin {
    Origin::Mqtt {
        topic: message.topic.clone(),
    }
}

/// What a redelivery of the message has in common with it. The expiry is left out: the broker
/// counts it down.
pub(super) fn fingerprint(message: &Message) -> Bytes32 {
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
    digest(&parts)
}

fn reply(topics: &Topics, message: &Message, route: &Route<'_>) -> Option<Reply> {
    let Route::Plain { client, id } = route else {
        return Some(Reply {
            topic: message.properties.response_topic.clone()?,
            correlation: message.properties.correlation.clone(),
            form: Form::Properties,
        });
    };
    Some(Reply {
        topic: topics.plain_reply(client, id),
        correlation: Some(Bytes::copy_from_slice(id.as_bytes())),
        form: Form::Plain {
            client: (*client).to_owned(),
        },
    })
}

fn request_id(properties: &Properties) -> RequestId {
    let own = user(properties, "request-id").next();
    own.and_then(RequestId::parse)
        .unwrap_or_else(RequestId::random)
}

fn credential(properties: &Properties) -> Result<Credential, Refusal> {
    let proof = single(properties, "dpop")?;
    match single(properties, "authorization")? {
        Some(value) => scheme(value, proof),
        None => Ok(Credential::None),
    }
}

/// The scheme's name is case-insensitive (RFC 9110 section 11.1). That no proof is taken here is
/// for the decision to say, which a proof that is missing altogether doesn't change.
fn scheme(value: &str, proof: Option<&str>) -> Result<Credential, Refusal> {
    let (scheme, token) = value.split_once(' ').ok_or(DenyReason::TokenMissing)?;
    let token = Secret::new(token.trim().to_owned());
    match scheme.to_ascii_lowercase().as_str() {
        "bearer" => Ok(Credential::Bearer(token)),
        "dpop" => Ok(Credential::Dpop {
            token,
            proof: Secret::new(proof.unwrap_or_default().to_owned()),
            binding: Binding {
                method: "PUBLISH",
                targets: Vec::new(),
                message: None,
                nonce: NonceRule::None,
            },
        }),
        _ => Err(DenyReason::TokenMissing.into()),
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

    fn refused(message: &Message) -> &'static str {
        let topics = Topics::new("edge-1", "#");
        let now = crate::time::instant();
        match parse(&topics, message, &Route::Request, 64, now) {
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
            let mut properties = Properties::default();
            let pair = |v: &&str| ("authorization".to_owned(), (*v).to_owned());
            properties.user = values.iter().map(pair).collect();
            credential(&properties)
        };
        assert!(matches!(with(&[]), Ok(Credential::None)));
        let Ok(Credential::Bearer(token)) = with(&["bEARER a.b.c"]) else {
            panic!("no token");
        };
        assert_eq!(token.expose(), "a.b.c");
        assert!(matches!(with(&["dPoP a.b.c"]), Ok(Credential::Dpop { .. })));
        for bad in [&["Basic x"][..], &["a.b.c"], &["Bearer a", "Bearer b"]] {
            assert!(with(bad).is_err());
        }
    }

    #[test]
    fn cancel_needs_correlation() {
        let mut cancel = message("");
        assert!(parse_cancel(&cancel).is_ok());
        cancel.properties.correlation = None;
        assert!(parse_cancel(&cancel).is_err());
    }

    #[test]
    fn fingerprint_ignores_what_the_broker_changes_and_nothing_else() {
        let first = message("{}");
        let mut again = first.clone();
        again.dup = true;
        again.properties.expiry = Some(std::time::Duration::from_secs(3));
        assert_eq!(fingerprint(&first), fingerprint(&again));
        let mut other = first.clone();
        other.properties.correlation = None;
        other.properties.content_type = Some("c".to_owned());
        assert_ne!(fingerprint(&first), fingerprint(&other));
        let mut other = first.clone();
        other.properties.user = vec![("authorization".to_owned(), "Bearer x".to_owned())];
        assert_ne!(fingerprint(&first), fingerprint(&other));
    }
}
