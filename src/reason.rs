//! The closed enums of refusals: one name for reply, audit and metrics.
//!
//! [`DenyReason`] is what a token decision may answer; [`Reason`] adds everything else that can
//! stand between a request and its answer. Each knows its name, its HTTP status and what the
//! reader should do.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::algorithm::Algorithm;

macro_rules! names {
    ($(#[$meta:meta])* $type:ident { $($variant:ident = $name:literal, $status:literal, $hint:expr;)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $type { $($variant,)+ }

        impl $type {
            pub const ALL: &'static [$type] = &[$($type::$variant,)+];

            /// The name in replies, audit records and metrics.
            pub fn as_str(self) -> &'static str {
                match self { $($type::$variant => $name,)+ }
            }

            /// What was wrong and what to do, for the person who reads the reply.
            pub fn hint(self) -> &'static str {
                match self { $($type::$variant => $hint,)+ }
            }

            /// The HTTP status, also the `status` of an MQTT answer.
            pub fn status(self) -> u16 {
                match self { $($type::$variant => $status,)+ }
            }

            pub fn parse(name: &str) -> Option<$type> {
                $type::ALL.iter().copied().find(|reason| reason.as_str() == name)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let name = String::deserialize(d)?;
                $type::parse(&name).ok_or_else(|| {
                    serde::de::Error::custom(format_args!("unknown {}: {name:?}", stringify!($type)))
                })
            }
        }
    };
}

names! {
    /// Why a credential doesn't allow a request. Each check has its own; none is shared.
    ///
    /// 401: another token may help (RFC 6750 `invalid_token`). 403: this principal may not
    /// (`insufficient_scope`). 404: the realm has no such endpoint. 503: try again.
    DenyReason {
        TokenMissing = "token_missing", 401, "no token was sent; send `Authorization: Bearer` with a Keycloak access token";
        TokenTooLarge = "token_too_large", 401, "the token is larger than 16 KiB; map fewer claims into it";
        TokenMalformed = "token_malformed", 401, "the token isn't a compact JWS of three base64url parts with strict JSON inside";
        TypeRejected = "type_rejected", 401, "this isn't an access token; send the access token, not an ID or refresh token";
        CriticalHeader = "critical_header", 401, "the token's header names a `crit` extension; none is supported";
        AlgorithmRejected = "algorithm_rejected", 401, Algorithm::HINT;
        IssuerMissing = "issuer_missing", 401, "the token has no `iss`";
        IssuerUnknown = "issuer_unknown", 401, "the token's `iss` is no realm of this appliance; compare it with the configuration's `issuer`";
        KeyIdMissing = "key_id_missing", 401, "the token's header has no `kid`";
        KeyUnknown = "key_unknown", 401, "no pinned key of the realm has the token's `kid`; pin the realm's current keys";
        KeyUnusable = "key_unusable", 401, "the token's key is in the realm's set, but can't be used here; `slmd keys list` says why";
        KeysMissing = "keys_missing", 503, "the realm has no pinned keys yet; run `slmd keys pin`";
        KeysRefreshing = "keys_refreshing", 503, "the token's key isn't known yet and the realm's keys are being refreshed; try again shortly";
        SignatureInvalid = "signature_invalid", 401, "the token's signature doesn't match its key; get a new token";
        SubjectMissing = "subject_missing", 401, "the token has no `sub`; add Keycloak's `basic` client scope";
        ClientMissing = "client_missing", 401, "the token has no `azp`; it names the client that the token was issued to";
        IssuedAtMissing = "issued_at_missing", 401, "the token has no `iat`";
        ExpiryMissing = "expiry_missing", 401, "the token has no `exp`";
        Expired = "expired", 401, "the token has expired; get a new one";
        NotYetValid = "not_yet_valid", 401, "the token's `nbf` is in the future; compare the clocks";
        IssuedInFuture = "issued_in_future", 401, "the token's `iat` is in the future; compare the clocks";
        LifetimeTooLong = "lifetime_too_long", 401, "the token lives longer than the realm's `max_lifetime` allows; shorten the client's access token lifespan";
        TooOld = "too_old", 401, "the token was issued longer ago than the realm's `max_age` allows; get a new one";
        ClaimInvalid = "claim_invalid", 401, "a claim of the token has the wrong type or a value that isn't allowed here";
        EndpointMissing = "endpoint_missing", 400, "the request names no `model` and the realm has no default endpoint";
        EndpointUnknown = "endpoint_unknown", 404, "the request's `model` is no endpoint of the token's realm; see `GET /v1/models`";
        AudienceMismatch = "audience_mismatch", 401, "the token's `aud` lacks the endpoint's client id; give the caller one of its client roles, or add an audience mapper";
        RolesMissing = "roles_missing", 403, "the token carries no roles of the endpoint client; a lightweight access token drops them";
        ScopeMissing = "scope_missing", 403, "the token's roles don't grant the scope that this request needs";
        ConfirmationUnsupported = "confirmation_unsupported", 401, "the token is bound by a `cnf` method that isn't supported here";
        ProofMissing = "proof_missing", 401, "the token is DPoP-bound (`cnf.jkt`) and no proof was sent";
        ProofUnsupported = "proof_unsupported", 401, "an MQTT 3.1.1 message can't carry a DPoP proof; use MQTT 5 or HTTP";
        ProofInvalid = "proof_invalid", 401, "the DPoP proof doesn't fit the token or the request";
        ProofReplayed = "proof_replayed", 401, "the DPoP proof was used before; make a new one for each request";
        UseDpopNonce = "use_dpop_nonce", 401, "the DPoP proof has no nonce of this device, or an old one; make a new proof with the current one";
        DpopRequired = "dpop_required", 401, "the realm takes only DPoP-bound tokens on this transport; switch on the client's DPoP binding in Keycloak";
        Revoked = "revoked", 401, "the deny-list names this token, its subject, client, session or key";
        TrustUnread = "trust_unread", 503, "what the appliance keeps of its fleet's trust can't be read, so it doesn't know what is revoked; its administrator sees more in `slmd status`";
        KeysStale = "keys_stale", 403, "the realm's keys were last confirmed longer ago than `offline_grace` allows for this scope; connect, or pin them again";
        ClockUnsynchronised = "clock_unsynchronised", 403, "the appliance's clock isn't synchronised, and this scope needs it to be";
        PeerNotAllowed = "peer_not_allowed", 403, "no realm grants this scope to a group of the local peer";
    }
}

names! {
    /// Why a request isn't answered, other than by the token decision.
    ///
    /// 499 is nginx's "client closed request": nobody is left to read it, or who asked for it.
    RefuseReason {
        BadRequest = "bad_request", 400, "the request can't be read";
        UnsupportedParameter = "unsupported_parameter", 400, "a parameter of the request can't be honoured here; leave it out";
        InvalidParameter = "invalid_parameter", 400, "a parameter of the request has a value that isn't allowed";
        ContextLengthExceeded = "context_length_exceeded", 400, "prompt and answer don't fit the context; shorten the messages or `max_completion_tokens`";
        HostRejected = "host_rejected", 421, "the `Host` header names none of this appliance's names; add it to `hosts` in [http]";
        OriginRejected = "origin_rejected", 403, "the request comes from a web page of another site; add its host to `hosts` in [http]";
        NotFound = "not_found", 404, "no such resource";
        MethodNotAllowed = "method_not_allowed", 405, "the resource doesn't take this method";
        BodyTooLarge = "body_too_large", 413, "the request's body is larger than the configured `max_body`";
        HeadTooLarge = "head_too_large", 431, "the request's line and headers are larger than 48 KiB, or more than 64; send fewer of them";
        UnsupportedMediaType = "unsupported_media_type", 415, "send `Content-Type: application/json`, not encoded";
        RequestTimeout = "request_timeout", 408, "the request didn't arrive in time";
        QuotaExceeded = "quota_exceeded", 429, "the principal's token quota is used up; try again later";
        RateLimitExceeded = "rate_limit_exceeded", 429, "the principal asks more often than it may; try again later";
        TooManyConnections = "too_many_connections", 503, "too many connections; close some, or try again";
        Overloaded = "overloaded", 503, "the queue is full; try again later";
        Draining = "draining", 503, "the daemon is going down; try again later";
        AuditUnavailable = "audit_unavailable", 503, "the access couldn't be recorded, so nothing was done; free space in the state folder or check its permissions";
        ReplayStoreFull = "replay_store_full", 503, "too many DPoP proofs were used lately to remember one more; try again later";
        ModelUnavailable = "model_unavailable", 503, "the endpoint's model isn't loaded; see `slmd status`";
        ModelNotListed = "model_not_listed", 503, "the fleet's signed list doesn't name the endpoint's bundle; ask its managers to add the digest that `slmd model show` prints";
        TemplateFailed = "template_failed", 500, "a fault of the model, not of the request; ask the operator to import one whose chat template can be run";
        DeadlineExceeded = "deadline_exceeded", 504, "the request's deadline passed before it could be answered";
        Cancelled = "cancelled", 499, "the request was cancelled before its answer was whole";
        AttemptsExhausted = "attempts_exhausted", 422, "the request was begun twice and not finished; it won't be tried again";
        ReplyTopicRejected = "reply_topic_rejected", 403, "the Response Topic isn't one that this token may be answered on";
        RetainedRejected = "retained_rejected", 400, "retained messages are no requests; publish with retain off";
        TopicMismatch = "topic_mismatch", 403, "the topic's client isn't the token's `azp`";
        AnswerTooLarge = "answer_too_large", 422, "the answer is larger than the broker's packet limit";
        Internal = "internal", 500, "the daemon failed; its log has more";
    }
}

/// Why a request isn't answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    Denied(DenyReason),
    Refused(RefuseReason),
}

impl Reason {
    pub fn all() -> impl Iterator<Item = Reason> {
        let denied = DenyReason::ALL.iter().map(|r| Reason::Denied(*r));
        denied.chain(RefuseReason::ALL.iter().map(|r| Reason::Refused(*r)))
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Denied(reason) => reason.as_str(),
            Reason::Refused(reason) => reason.as_str(),
        }
    }

    pub fn hint(self) -> &'static str {
        match self {
            Reason::Denied(reason) => reason.hint(),
            Reason::Refused(reason) => reason.hint(),
        }
    }

    pub fn parse(name: &str) -> Option<Reason> {
        Reason::all().find(|reason| reason.as_str() == name)
    }

    /// The HTTP status, also the `status` of an MQTT answer.
    pub fn status(self) -> u16 {
        match self {
            Reason::Denied(reason) => reason.status(),
            Reason::Refused(reason) => reason.status(),
        }
    }

    /// The `type` of OpenAI's error object.
    pub fn error_type(self) -> &'static str {
        match self.status() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<DenyReason> for Reason {
    fn from(reason: DenyReason) -> Reason {
        Reason::Denied(reason)
    }
}

impl From<RefuseReason> for Reason {
    fn from(reason: RefuseReason) -> Reason {
        Reason::Refused(reason)
    }
}

impl Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Reason {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let name = String::deserialize(d)?;
        Reason::parse(&name)
            .ok_or_else(|| serde::de::Error::custom(format_args!("unknown reason {name:?}")))
    }
}

/// A refusal on its way to the client: the reason, and what is particular to this request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub reason: Reason,
    /// What was particular: numbers, names. Never a token, a prompt or a signature.
    pub detail: Option<String>,
    /// The parameter that the refusal is about.
    pub param: Option<String>,
    pub retry_after: Option<Duration>,
    /// What to do, where that isn't what the reason's own hint says: other transports have other
    /// places for things.
    pub hint: Option<&'static str>,
}

impl Refusal {
    pub fn new(reason: impl Into<Reason>) -> Refusal {
        Refusal {
            reason: reason.into(),
            detail: None,
            param: None,
            retry_after: None,
            hint: None,
        }
    }

    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Refusal {
        self.detail = Some(detail.into());
        self
    }

    #[must_use]
    pub fn param(mut self, param: impl Into<String>) -> Refusal {
        self.param = Some(param.into());
        self
    }

    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Refusal {
        self.retry_after = Some(wait);
        self
    }

    #[must_use]
    pub fn hint(mut self, hint: &'static str) -> Refusal {
        self.hint = Some(hint);
        self
    }

    pub fn status(&self) -> u16 {
        self.reason.status()
    }

    /// Whole seconds, rounded up; every 429 and 503 has some.
    pub fn retry_after_secs(&self) -> Option<u64> {
        match self.retry_after {
            Some(wait) => u64::try_from(wait.as_millis().div_ceil(1000).clamp(1, 86_400)).ok(),
            None => matches!(self.status(), 429 | 503).then_some(1),
        }
    }

    /// `name: detail (hint)`, without a full stop.
    pub fn message(&self) -> String {
        let hint = self.hint.unwrap_or(self.reason.hint());
        match &self.detail {
            Some(detail) => format!("{}: {detail} ({hint})", self.reason),
            None => format!("{}: {hint}", self.reason),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message())
    }
}

impl std::error::Error for Refusal {}

impl<R: Into<Reason>> From<R> for Refusal {
    fn from(reason: R) -> Refusal {
        Refusal::new(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_read_back() {
        let names: BTreeSet<_> = Reason::all().map(Reason::as_str).collect();
        assert_eq!(names.len(), Reason::all().count());
        for reason in Reason::all() {
            assert_eq!(Reason::parse(reason.as_str()), Some(reason));
            assert!((400..600).contains(&reason.status()), "{reason}");
            let name_is_plain = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(reason.as_str().chars().all(name_is_plain), "{reason}");
        }
    }
}
