//! Responses: bodies, error objects, RFC 6750 challenges and the headers around them.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
    RETRY_AFTER, WWW_AUTHENTICATE,
};
use hyper::{Response, StatusCode};
use serde::Serialize;

use crate::admission::Recorded;
use crate::algorithm::Algorithm;
use crate::prompt::Scope;
use crate::reason::{DenyReason, Reason, Refusal, RefuseReason};
use crate::wire;

pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

pub(super) const JSON: &str = "application/json";
/// Of audit records, each the bytes that the log's tree has as a leaf.
pub(super) const JSON_LINES: &str = "application/jsonl";
pub(super) const TEXT: &str = "text/plain; charset=utf-8";

/// A refusal on its way out, with what HTTP adds to it.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) cause: Cause,
    /// What the route needs, for the challenge of a 403.
    pub(super) scope: Option<Scope>,
    /// The methods of a resource that was asked with another.
    pub(super) allow: Option<Box<str>>,
}

#[derive(Debug)]
pub(super) enum Cause {
    /// Admission hasn't seen it.
    Unread(Refusal),
    Recorded(Recorded<Refusal>),
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Refused {
        Refused {
            cause: Cause::Unread(refusal),
            scope: None,
            allow: None,
        }
    }
}

impl Refused {
    /// Refused by admission.
    pub(super) fn recorded(refusal: Recorded<Refusal>, scope: Scope) -> Refused {
        Refused {
            cause: Cause::Recorded(refusal),
            scope: Some(scope),
            allow: None,
        }
    }

    /// `record`: for what admission hasn't seen.
    pub(super) fn respond(
        mut self,
        record: impl FnOnce(Refusal) -> Recorded<Refusal>,
    ) -> Response<Body> {
        if let Cause::Unread(refusal) = self.cause {
            self.cause = Cause::Recorded(record(refusal));
        }
        self.into_response()
    }

    /// For an administrator, whose every use of the socket is on record before it is looked at.
    pub(super) fn into_response(self) -> Response<Body> {
        let refused = match &self.cause {
            Cause::Unread(refusal) => refusal,
            Cause::Recorded(refusal) => refusal,
        };
        let mut response = refusal(refused);
        let headers = response.headers_mut();
        if let Some(challenge) = challenge(refused, self.scope) {
            set(headers, WWW_AUTHENTICATE, &challenge);
        }
        if let Some(methods) = self.allow {
            set(headers, ALLOW, &methods);
        }
        response
    }
}

pub(super) fn full(
    status: StatusCode,
    kind: &'static str,
    body: impl Into<Bytes>,
) -> Response<Body> {
    new(status, kind, Full::new(body.into()).boxed_unsync())
}

/// Its pieces go out as they come. Who leaves drops `pieces`.
pub(super) fn streamed(
    kind: &'static str,
    pieces: impl Stream<Item = Bytes> + Send + 'static,
) -> Response<Body> {
    let frames = pieces.map(|bytes| Ok(Frame::data(bytes)));
    let body = StreamBody::new(Box::pin(frames)).boxed_unsync();
    new(StatusCode::OK, kind, body)
}

pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(body) => full(status, JSON, body),
        Err(error) => {
            tracing::error!(%error, "an answer is no JSON");
            refusal(&RefuseReason::Internal.into())
        }
    }
}

pub(super) fn new(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The error object, without a challenge.
fn refusal(refusal: &Refusal) -> Response<Body> {
    let status =
        StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = full(status, JSON, wire::error(refusal));
    let headers = response.headers_mut();
    if let Some(seconds) = refusal.retry_after_secs() {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    // The rest of the body is not read, so no other request can follow on this connection.
    let unread = [RefuseReason::BodyTooLarge, RefuseReason::RequestTimeout].map(Reason::Refused);
    if unread.contains(&refusal.reason) {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// A whole response for a connection that isn't served.
pub(super) fn raw(refusal: &Refusal) -> Vec<u8> {
    let body = wire::error(refusal);
    let head = format!(
        "HTTP/1.1 {} Refused\r\ncontent-type: {JSON}\r\ncontent-length: {}\r\nretry-after: {}\r\n\
         connection: close\r\n\r\n",
        refusal.status(),
        body.len(),
        refusal.retry_after_secs().unwrap_or(1),
    );
    [head.into_bytes(), body].concat()
}

/// Sets a header from text that may not fit into one; then it is left out.
pub(super) fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// RFC 6750 section 3, and RFC 9449 section 7.1 where a proof is what fails.
fn challenge(refusal: &Refusal, scope: Option<Scope>) -> Option<String> {
    let Reason::Denied(reason) = refusal.reason else {
        return None;
    };
    let (scheme, error) = match (reason, refusal.status()) {
        // Nothing was sent, so nothing is wrong with it.
        (DenyReason::TokenMissing, _) => return Some(r#"Bearer realm="slmd""#.to_owned()),
        (DenyReason::ProofMissing | DenyReason::ProofInvalid | DenyReason::ProofReplayed, _) => {
            ("DPoP", "invalid_dpop_proof")
        }
        // A nonce and a bound token are DPoP's own matters (RFC 9449 section 7.1).
        (DenyReason::UseDpopNonce, _) => ("DPoP", "use_dpop_nonce"),
        (DenyReason::DpopRequired, _) => ("DPoP", "invalid_token"),
        (_, 401) => ("Bearer", "invalid_token"),
        (_, 403) => ("Bearer", "insufficient_scope"),
        _ => return None,
    };
    let scope = scope
        .filter(|_| error == "insufficient_scope")
        .map_or_else(String::new, |scope| {
            format!(r#", scope="{}""#, scope.as_str())
        });
    let description = quotable(&refusal.message());
    let algs = match scheme {
        "DPoP" => format!(r#", algs="{}""#, Algorithm::NAMES),
        _ => String::new(),
    };
    Some(format!(
        r#"{scheme} realm="slmd"{algs}, error="{error}"{scope}, error_description="{description}""#
    ))
}

/// Text that `error_description` may hold (RFC 6750 section 3: no quotes, no backslash, ASCII).
fn quotable(text: &str) -> String {
    let safe = |c: char| match c {
        '"' => '\'',
        ' '..='~' if c != '\\' => c,
        _ => '?',
    };
    text.chars().take(512).map(safe).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn header(response: &Response<Body>, name: HeaderName) -> Option<&str> {
        response
            .headers()
            .get(name)
            .map(|value| value.to_str().unwrap())
    }

    fn refused(refusal: Refusal) -> Refused {
        Refused {
            scope: Some(Scope::Read),
            ..Refused::from(refusal)
        }
    }

    fn challenge_of(reason: DenyReason) -> Option<String> {
        let response = refused(reason.into()).into_response();
        header(&response, WWW_AUTHENTICATE).map(str::to_owned)
    }

    #[test]
    fn challenges() {
        let missing = challenge_of(DenyReason::TokenMissing);
        assert_eq!(missing.as_deref(), Some(r#"Bearer realm="slmd""#));
        let expired = challenge_of(DenyReason::Expired).unwrap();
        assert!(expired.starts_with(
            r#"Bearer realm="slmd", error="invalid_token", error_description="expired: "#
        ));
        let scope = challenge_of(DenyReason::ScopeMissing).unwrap();
        assert!(scope.contains(r#"error="insufficient_scope", scope="read", error_description=""#));
        let proof = challenge_of(DenyReason::ProofMissing).unwrap();
        assert!(proof.starts_with("DPoP ") && proof.contains("invalid_dpop_proof"));
        assert_eq!(challenge_of(DenyReason::KeysRefreshing), None);
        assert_eq!(challenge_of(DenyReason::EndpointUnknown), None);
    }

    #[test]
    fn every_challenge_is_a_legal_header() {
        let hostile = "a\"b\\c\r\nx: y\u{e9}\u{1f600}";
        for reason in DenyReason::ALL {
            let refusal = Refusal::new(*reason).detail(hostile);
            let response = refused(refusal).into_response();
            let is_challenged = matches!(reason.status(), 401 | 403);
            let challenge = header(&response, WWW_AUTHENTICATE);
            assert_eq!(challenge.is_some(), is_challenged, "{reason}");
            let quotes = challenge.unwrap_or("").matches('"').count();
            assert!(quotes.is_multiple_of(2), "{challenge:?}");
        }
    }

    #[test]
    fn busy_answers_say_when_to_return() {
        for refusal in [
            Refusal::new(RefuseReason::Overloaded),
            Refusal::new(RefuseReason::QuotaExceeded).retry_after(Duration::from_millis(1500)),
            Refusal::new(DenyReason::KeysRefreshing).retry_after(Duration::ZERO),
        ] {
            let seconds: u64 = header(&super::refusal(&refusal), RETRY_AFTER)
                .unwrap()
                .parse()
                .unwrap();
            let expected = if refusal.status() == 429 { 2 } else { 1 };
            assert_eq!(seconds, expected);
        }
    }
}
