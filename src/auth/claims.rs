//! The payload of a proven token, as types: what is missing, misshapen or no access token is
//! refused here; what depends on time, policy or the request is judged in `decide`.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::policy::LimitClaims;
use super::principal::Principal;
use super::realm::Realm;
use super::token::{HeaderType, Proven};
use crate::json::{Round, Value};
use crate::reason::DenyReason;
use crate::time::{MAX_SECS, Timestamp};

/// The highest priority that a token may carry.
const MAX_PRIORITY: u8 = 9;

/// The claims that count here.
#[derive(Debug)]
pub(super) struct Claims {
    pub(super) principal: Principal,
    pub(super) token_id: Option<String>,
    /// Where the realm has it recorded.
    pub(super) username: Option<String>,
    pub(super) session: Option<String>,
    pub(super) issued: Issued,
    /// After it was issued.
    pub(super) expires_at: Timestamp,
    pub(super) not_before: Option<Timestamp>,
    pub(super) audience: Vec<String>,
    /// Endpoint → its roles (Keycloak's `resource_access`).
    pub(super) roles: BTreeMap<String, Vec<String>>,
    /// `cnf.jkt`: the key that must sign a DPoP proof (RFC 9449 section 6).
    pub(super) proof_key: Option<String>,
    pub(super) limits: Limits,
}

/// `iat`: the whole seconds at, before and after it, so that each use can take the one that makes
/// the token good for less.
#[derive(Debug, Clone, Copy)]
pub(super) struct Issued {
    pub(super) earliest: Timestamp,
    pub(super) latest: Timestamp,
}

/// Limits that the token carries, in claims that the realm names.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Limits {
    pub(super) tokens_per_minute: Option<u32>,
    pub(super) max_context: Option<u32>,
    pub(super) priority: Option<u8>,
}

/// A claim that can't be used: why, and which.
pub(super) type ClaimError = (DenyReason, &'static str);

impl Claims {
    pub(super) fn parse(
        token: &Proven,
        kind: HeaderType,
        principal: Principal,
        realm: &Realm,
    ) -> Result<Claims, ClaimError> {
        let proof_key = confirmation(token.get("cnf"))?;
        check_type(text(token, "typ")?, kind, proof_key.is_some())?;
        let issued = |round| time(token, "iat", round);
        let issued = issued(Round::Down)?.zip(issued(Round::Up)?);
        let (earliest, latest) = issued.ok_or((DenyReason::IssuedAtMissing, "iat"))?;
        let expires_at = time(token, "exp", Round::Down)?;
        let expires_at = expires_at.ok_or((DenyReason::ExpiryMissing, "exp"))?;
        if expires_at <= latest {
            return Err((DenyReason::ClaimInvalid, "exp"));
        }
        Ok(Claims {
            principal,
            token_id: text(token, "jti")?.map(str::to_owned),
            username: username(token, realm),
            session: text(token, "sid")?.map(str::to_owned),
            issued: Issued { earliest, latest },
            expires_at,
            not_before: time(token, "nbf", Round::Up)?,
            audience: audience(token.get("aud"))?,
            roles: roles(token.get("resource_access"), realm)?,
            proof_key,
            limits: Limits::parse(token, &realm.policy.limit_claims)?,
        })
    }

    pub(super) fn is_for(&self, client_id: &str) -> bool {
        self.audience.iter().any(|name| name == client_id)
    }

    /// The roles of the client `client_id`, and of no other.
    pub(super) fn roles_of(&self, client_id: &str) -> &[String] {
        self.roles.get(client_id).map_or(&[], Vec::as_slice)
    }
}

impl Limits {
    /// A limit that can't be read is no limit that may be left out: it refuses the token.
    fn parse(token: &Proven, names: &LimitClaims) -> Result<Limits, ClaimError> {
        let limit = |name: &Option<String>, what, range: RangeInclusive<u32>| {
            let Some(value) = name.as_ref().and_then(|name| token.get(name)) else {
                return Ok(None);
            };
            let number = value.as_u64().and_then(|n| u32::try_from(n).ok());
            match number.filter(|number| range.contains(number)) {
                Some(number) => Ok(Some(number)),
                None => Err((DenyReason::ClaimInvalid, what)),
            }
        };
        let per_minute = &names.tokens_per_minute;
        let priority = limit(&names.priority, "priority", 0..=u32::from(MAX_PRIORITY))?;
        Ok(Limits {
            tokens_per_minute: limit(per_minute, "tokens_per_minute", 1..=u32::MAX)?,
            max_context: limit(&names.max_context, "max_context", 1..=u32::MAX)?,
            priority: priority.and_then(|priority| u8::try_from(priority).ok()),
        })
    }
}

/// Who the token speaks of: read first, so that every later refusal can name it.
pub(super) fn principal(token: &Proven, issuer: &str) -> Result<Principal, ClaimError> {
    let named = |name, missing: DenyReason| match text(token, name)? {
        None => Err((missing, name)),
        Some("") => Err((DenyReason::ClaimInvalid, name)),
        Some(value) => Ok(value.to_owned()),
    };
    Ok(Principal {
        issuer: issuer.to_owned(),
        subject: named("sub", DenyReason::SubjectMissing)?,
        client: named("azp", DenyReason::ClientMissing)?,
    })
}

/// What Keycloak calls the subject, where the realm has that recorded. It decides nothing: one that
/// can't be read is none.
pub(super) fn username(token: &Proven, realm: &Realm) -> Option<String> {
    let recorded = realm.policy.record_username;
    let name = recorded.then(|| token.get("preferred_username"))??;
    let name = name.as_str().filter(|name| !name.is_empty());
    name.map(str::to_owned)
}

/// ID, refresh and logout tokens carry other types and never pass. Keycloak's type is `DPoP`
/// exactly where the token is bound to a key.
fn check_type(typ: Option<&str>, kind: HeaderType, bound: bool) -> Result<(), ClaimError> {
    match (typ, kind) {
        (Some("DPoP"), _) if bound => Ok(()),
        (Some("Bearer"), _) if !bound => Ok(()),
        (None, HeaderType::AccessToken) => Ok(()),
        _ => Err((DenyReason::TypeRejected, "typ")),
    }
}

/// `cnf` (RFC 7800): absent, or the thumbprint of a DPoP key with Keycloak's own mark. Any other
/// member binds the token to something that can't be checked here.
fn confirmation(cnf: Option<&Value>) -> Result<Option<String>, ClaimError> {
    let Some(cnf) = cnf else { return Ok(None) };
    let unsupported = (DenyReason::ConfirmationUnsupported, "cnf");
    let Value::Object(members) = cnf else {
        return Err(unsupported);
    };
    let known = |(name, value): (&str, &Value)| match name {
        "jkt" => value.as_str().is_some(),
        "kc-jkt-type" => value.as_str() == Some("DPoP"),
        _ => false,
    };
    match members.get("jkt").and_then(Value::as_str) {
        Some(jkt) if members.iter().all(known) => Ok(Some(jkt.to_owned())),
        _ => Err(unsupported),
    }
}

/// One string or an array of them (RFC 7519 section 4.1.3); absent is for nobody.
fn audience(aud: Option<&Value>) -> Result<Vec<String>, ClaimError> {
    match aud {
        None => Ok(Vec::new()),
        Some(Value::String(one)) => Ok(vec![one.clone().into_owned()]),
        Some(Value::Array(list)) => strings(list, "aud"),
        Some(_) => Err((DenyReason::ClaimInvalid, "aud")),
    }
}

/// Those of the realm's endpoints. What a token says of other clients is theirs to read.
fn roles(
    access: Option<&Value>,
    realm: &Realm,
) -> Result<BTreeMap<String, Vec<String>>, ClaimError> {
    const NAME: &str = "resource_access";
    let invalid = (DenyReason::ClaimInvalid, NAME);
    let clients = match access {
        None => return Ok(BTreeMap::new()),
        Some(Value::Object(clients)) => clients,
        Some(_) => return Err(invalid),
    };
    let of_client = |(client, entry): (&str, &Value)| {
        let roles = match entry.as_object().ok_or(invalid)?.get("roles") {
            None => Vec::new(),
            Some(Value::Array(list)) => strings(list, NAME)?,
            Some(_) => return Err(invalid),
        };
        Ok((client.to_owned(), roles))
    };
    let ours = |(client, _): &(&str, &Value)| realm.endpoint(client).is_some();
    clients.iter().filter(ours).map(of_client).collect()
}

fn strings(list: &[Value], claim: &'static str) -> Result<Vec<String>, ClaimError> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let list: Option<Vec<String>> = list.iter().map(text).collect();
    list.ok_or((DenyReason::ClaimInvalid, claim))
}

fn text<'t>(token: &'t Proven, name: &'static str) -> Result<Option<&'t str>, ClaimError> {
    match token.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err((DenyReason::ClaimInvalid, name)),
    }
}

/// A NumericDate (RFC 7519 section 2) as whole seconds; a fraction goes the way that makes the token
/// good for less.
fn time(token: &Proven, name: &'static str, round: Round) -> Result<Option<Timestamp>, ClaimError> {
    if token.get(name).is_none() {
        return Ok(None);
    }
    let secs = token.whole(name, round);
    match secs.filter(|secs| *secs <= MAX_SECS) {
        Some(secs) => Ok(Some(Timestamp::from_secs(secs))),
        None => Err((DenyReason::ClaimInvalid, name)),
    }
}
