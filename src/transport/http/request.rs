//! What is read from a request: id, credential, media type, and a body within its bounds.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::{Body as _, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};

use super::seats::Turn;
use crate::auth::{Binding, Credential, NonceRule};
use crate::prompt::RequestId;
use crate::reason::{DenyReason, Refusal, RefuseReason};
use crate::secret::Wiped;
use crate::trace::Parent;

/// A new id, with the client's own beside it.
pub(super) fn id(headers: &HeaderMap) -> RequestId {
    RequestId::beside(headers.get("x-request-id").and_then(|id| id.to_str().ok()))
}

/// The caller's span.
pub(super) fn parent(headers: &HeaderMap) -> Option<Parent> {
    let named = |name| headers.get_all(name).iter().map(HeaderValue::as_bytes);
    Parent::of(named("traceparent"), named("tracestate"))
}

/// What the `Authorization` and `DPoP` headers show. A proof's `htu` is one of `origins` with the
/// request's path.
pub(super) fn credential<B>(
    request: &Request<B>,
    origins: &[String],
) -> Result<Credential, Refusal> {
    let headers = request.headers();
    let value = single(headers, AUTHORIZATION.as_str())
        .map_err(|what| Refusal::new(RefuseReason::BadRequest).detail(what))?;
    Credential::from_authorization(value, || {
        let proof = single(headers, "dpop")
            .map_err(|what| Refusal::new(DenyReason::ProofInvalid).detail(what))?
            .ok_or(DenyReason::ProofMissing)?;
        let binding = Binding {
            method: request.method().to_string(),
            targets: targets(request.uri().path(), origins),
            message: None,
            nonce: NonceRule::None,
        };
        Ok((proof, binding))
    })
}

/// Without query and fragment (RFC 9449 section 4.2).
fn targets(path: &str, origins: &[String]) -> Vec<String> {
    let whole = origins.iter().map(|origin| format!("{origin}{path}"));
    whole.collect()
}

/// Who sends a body whose type isn't JSON's: a browser may send the types of forms to any host
/// without asking it first, so JSON is demanded where its user is all that a request shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    Unknown,
    /// On the Unix socket, where no browser comes, and with a token: plain `curl -d`.
    LocalWithToken,
}

/// Refuses a body that doesn't say that it is JSON, or says that it is encoded.
pub(super) fn require_json(headers: &HeaderMap, sender: Sender) -> Result<(), Refusal> {
    let mut codings = headers.get_all(CONTENT_ENCODING).iter();
    if !codings.all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(Refusal::new(RefuseReason::UnsupportedMediaType)
            .detail("no `Content-Encoding` is supported; send the body as it is"));
    }
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let essence = kind.and_then(|kind| kind.split(';').next()).unwrap_or("");
    let essence = essence.trim().to_ascii_lowercase();
    // A key set's own type (RFC 7517 section 8.5.2) is JSON too.
    match essence.as_str() {
        "application/json" | "application/jwk-set+json" => Ok(()),
        "application/x-www-form-urlencoded" if sender == Sender::LocalWithToken => Ok(()),
        _ => Err(Refusal::new(RefuseReason::UnsupportedMediaType)),
    }
}

/// The whole body. What is announced too large isn't read at all, what turns out so no further.
pub(super) async fn body(
    request: Request<Incoming>,
    max: usize,
    timeout: Duration,
) -> Result<Wiped, Refusal> {
    let (head, body) = request.into_parts();
    if body.size_hint().lower() > max as u64 {
        return Err(too_large(max));
    }
    let late = || {
        let limit = timeout.as_millis();
        Refusal::new(RefuseReason::RequestTimeout)
            .detail(format!("the body was not whole after {limit} ms"))
    };
    let whole = tokio::time::timeout(timeout, collect(body, max)).await;
    let whole = whole.unwrap_or_else(|_| Err(late()));
    if let Some(turn) = head.extensions.get::<Turn>() {
        turn.is_whole();
    }
    whole
}

/// The value of a parameter in a query string; an empty one where it has no value.
pub(super) fn query<'a>(request: &'a Request<Incoming>, name: &str) -> Option<&'a str> {
    let pairs = request.uri().query().unwrap_or("").split('&');
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find_map(|(key, value)| (key == name).then_some(value))
}

async fn collect(mut body: Incoming, max: usize) -> Result<Wiped, Refusal> {
    let mut bytes = Wiped::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| {
            Refusal::new(RefuseReason::BadRequest).detail("the body broke off or isn't framed well")
        })?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if bytes.len() + data.len() > max {
            return Err(too_large(max));
        }
        bytes.push(&data);
    }
    Ok(bytes)
}

fn too_large(max: usize) -> Refusal {
    Refusal::new(RefuseReason::BodyTooLarge).detail(format!("the limit is {max} bytes"))
}

/// The value of a header that may come once only; two could mean different things to two readers.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, String> {
    let mut values = headers.get_all(name).iter();
    let (first, second) = (values.next(), values.next());
    if second.is_some() {
        return Err(format!("more than one `{name}` header"));
    }
    first
        .map(|value| {
            value
                .to_str()
                .map_err(|_| format!("the `{name}` header isn't ASCII"))
        })
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn credential(headers: &HeaderMap) -> Result<Credential, Refusal> {
        let mut request = Request::get("/v1/models?x=1").body(()).unwrap();
        *request.headers_mut() = headers.clone();
        super::credential(&request, &["https://edge-1".to_owned()])
    }

    #[test]
    fn a_proof_is_for_this_method_and_path() {
        let shown = [("authorization", "DPoP t"), ("dpop", "p")];
        let Ok(Credential::Dpop { binding, .. }) = credential(&headers(&shown)) else {
            panic!("no proof");
        };
        assert_eq!(binding.method, "GET");
        assert_eq!(binding.targets, ["https://edge-1/v1/models"]);
        assert_eq!(binding.message, None);
    }

    #[test]
    fn ambiguous_credentials_are_refused() {
        let twice = headers(&[("authorization", "Bearer a"), ("authorization", "Bearer b")]);
        assert_eq!(credential(&twice).unwrap_err().status(), 400);
        assert!(credential(&headers(&[("authorization", "Bearer \u{e9}")])).is_err());

        let proof = [("authorization", "DPoP t"), ("dpop", "p"), ("dpop", "q")];
        assert!(matches!(
            credential(&headers(&proof[..2])),
            Ok(Credential::Dpop { .. })
        ));
        let missing = credential(&headers(&proof[..1])).unwrap_err();
        assert_eq!(missing.reason, DenyReason::ProofMissing.into());
        let doubled = credential(&headers(&proof)).unwrap_err();
        assert_eq!(doubled.reason, DenyReason::ProofInvalid.into());
    }

    #[test]
    fn a_clients_id_is_echoed_and_names_no_request() {
        let named = id(&headers(&[("x-request-id", "abc-1")]));
        assert_eq!(named.echoed(), "abc-1");
        assert!(named.as_str().starts_with("req_"), "{named}");
        let other = id(&headers(&[("x-request-id", "\u{e9}")]));
        assert_eq!(other.echoed(), other.as_str());
    }

    #[test]
    fn media_types() {
        for good in ["application/json", "Application/JSON; charset=utf-8"] {
            assert!(
                require_json(&headers(&[("content-type", good)]), Sender::Unknown).is_ok(),
                "{good}"
            );
        }
        for bad in [
            "",
            "text/plain",
            "application/x-www-form-urlencoded",
            "application/jsonx",
        ] {
            assert!(
                require_json(&headers(&[("content-type", bad)]), Sender::Unknown).is_err(),
                "{bad}"
            );
        }
        let form = headers(&[("content-type", "application/x-www-form-urlencoded")]);
        assert!(require_json(&form, Sender::LocalWithToken).is_ok());
        let text = headers(&[("content-type", "text/plain")]);
        assert!(require_json(&text, Sender::LocalWithToken).is_err());
        assert!(require_json(&HeaderMap::new(), Sender::LocalWithToken).is_err());
    }

    #[test]
    fn encoded_bodies_are_refused() {
        let json = ("content-type", "application/json");
        for coding in ["gzip", "identity, gzip", "br", ""] {
            let refusal = require_json(
                &headers(&[json, ("content-encoding", coding)]),
                Sender::LocalWithToken,
            )
            .unwrap_err();
            assert_eq!(refusal.status(), 415, "{coding}");
            assert!(refusal.message().contains("Content-Encoding"), "{refusal}");
        }
        assert!(
            require_json(
                &headers(&[json, ("content-encoding", "Identity")]),
                Sender::Unknown
            )
            .is_ok()
        );
    }
}
