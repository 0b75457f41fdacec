//! The decision itself: [`decide`] is [`verify`] (is the token genuine?) and then [`judge`] (does
//! it allow this request now?). Each refusal stands where its check is.
//!
//! Cheap checks come before the signature, claims after it, and what depends on time, policy or
//! the request last, so that a [`Verified`] token can be remembered for an epoch.

use std::sync::Arc;

use super::access::{opened, opens, stale};
use super::claims::{ClaimError, Claims, principal};
use super::token::{Jws, Proven};
use super::{
    Clock, Credential, DEFAULT_PRIORITY, DenyList, Endpoint, Grant, Policy, Principal, ProofUse,
    Realm, Snapshot,
};
use crate::prompt::Request;
use crate::reason::DenyReason;
use crate::time::Timestamp;

#[must_use]
#[derive(Debug)]
pub enum Decision {
    Permit(Permitted),
    Deny(Denied),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    pub reason: DenyReason,
    /// Nothing that the token says of itself, but times.
    pub detail: Option<String>,
    /// Known once the signature is verified.
    pub realm: Option<String>,
    pub principal: Option<Principal>,
    pub token_id: Option<String>,
    /// Of a token whose signature is verified, whatever else is wrong with it.
    pub issued_at: Option<Timestamp>,
}

/// Proof that a request was allowed: only [`decide`] makes one.
#[derive(Debug, Clone)]
pub struct Permitted {
    request: Arc<Request>,
    grant: Arc<Grant>,
    /// Never empty.
    endpoints: Vec<Arc<Endpoint>>,
    token: Arc<Verified>,
    proof: Option<ProofUse>,
}

/// A well-formed access token, signed by a pinned key of its realm. It may have expired, be
/// revoked, or open nothing.
#[derive(Debug)]
pub(super) struct Verified {
    claims: Claims,
    /// Of the key that signed it.
    thumbprint: String,
}

/// A check that failed, before it is known whom to tell.
struct Finding {
    reason: DenyReason,
    detail: Option<String>,
}

impl Permitted {
    pub fn request(&self) -> &Arc<Request> {
        &self.request
    }

    pub fn grant(&self) -> &Arc<Grant> {
        &self.grant
    }

    /// The endpoint that a chat is for; the first visible one otherwise.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoints[0]
    }

    /// All endpoints of the realm that the token opens for this scope (model listing).
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// The proof that came with the request, to be recorded as used.
    pub fn proof(&self) -> Option<&ProofUse> {
        self.proof.as_ref()
    }

    /// When the token was issued: a time that has passed, as far as the realm's word goes.
    pub fn issued_at(&self) -> Option<Timestamp> {
        Some(self.token.claims.issued_at)
    }

    pub(super) fn token(&self) -> &Arc<Verified> {
        &self.token
    }
}

/// Whether `credential` allows `request`.
pub fn decide(
    credential: &Credential,
    request: &Arc<Request>,
    snapshot: &Snapshot,
    clock: &Clock,
) -> Decision {
    decide_known(None, credential, request, snapshot, clock)
}

/// [`decide`], with the credential's token where this epoch has verified it before.
pub(super) fn decide_known(
    known: Option<Arc<Verified>>,
    credential: &Credential,
    request: &Arc<Request>,
    snapshot: &Snapshot,
    clock: &Clock,
) -> Decision {
    let token = match known {
        Some(token) => Ok(token),
        None => verify(credential, snapshot).map(Arc::new),
    };
    match token.and_then(|token| permit(&token, credential, request, snapshot, clock)) {
        Ok(permitted) => Decision::Permit(permitted),
        Err(denied) => Decision::Deny(*denied),
    }
}

/// What an epoch can change for a running request: realm, key, revocations, lifetimes, endpoint
/// and roles. `exp` and DPoP proofs bind at admission.
pub fn recheck(permitted: &Permitted, snapshot: &Snapshot) -> Result<(), DenyReason> {
    let token = &permitted.token;
    let Some(realm) = snapshot.realms.get(&token.claims.principal.issuer) else {
        return Err(DenyReason::IssuerUnknown);
    };
    if !realm.keys.has_thumbprint(&token.thumbprint) {
        return Err(DenyReason::KeyUnknown);
    }
    revoked(token, &snapshot.deny).map_err(|finding| finding.reason)?;
    lifetime(token, &realm.policy).map_err(|finding| finding.reason)?;

    let mut refusal = DenyReason::EndpointUnknown;
    for was in &permitted.endpoints {
        let same = realm.endpoint(&was.client_id);
        let Some(is) = same.filter(|is| is.model == was.model) else {
            continue;
        };
        match opens(&token.claims, &realm.policy, is, permitted.grant.scope) {
            Ok(()) => return Ok(()),
            Err(reason) => refusal = reason,
        }
    }
    Err(refusal)
}

/// Whether the credential holds a genuine access token of one of the realms.
fn verify(credential: &Credential, snapshot: &Snapshot) -> Result<Verified, Box<Denied>> {
    let token = match credential {
        Credential::None => return Err(DenyReason::TokenMissing.into()),
        // Break-glass: a realm that grants scopes to local groups will be asked here.
        Credential::LocalPeer { .. } => return Err(DenyReason::PeerNotAllowed.into()),
        Credential::Bearer(token) | Credential::Dpop { token, .. } => token.expose(),
    };
    let jws = Jws::parse(token)?;
    let Some(realm) = snapshot.realms.get(jws.alleged.issuer()?) else {
        return Err(DenyReason::IssuerUnknown.into());
    };
    if realm.keys.is_empty() {
        return Err(DenyReason::KeysMissing.into());
    }
    let Some(key) = realm.keys.by_kid(&jws.header.kid) else {
        return Err(DenyReason::KeyUnknown.into());
    };
    let kind = jws.header.kind;
    let proven = jws.prove(key)?;

    let principal = match principal(&proven, &realm.issuer) {
        Ok(principal) => principal,
        Err(error) => return Err(Denied::claim(error, realm, None, &proven).into()),
    };
    match Claims::parse(&proven, kind, principal.clone()) {
        Ok(claims) => Ok(Verified {
            claims,
            thumbprint: key.thumbprint().to_owned(),
        }),
        Err(error) => Err(Denied::claim(error, realm, Some(principal), &proven).into()),
    }
}

/// Binds a verified token to the request that it allows.
fn permit(
    token: &Arc<Verified>,
    credential: &Credential,
    request: &Arc<Request>,
    snapshot: &Snapshot,
    clock: &Clock,
) -> Result<Permitted, Box<Denied>> {
    let claims = &token.claims;
    let Some(realm) = snapshot.realms.get(&claims.principal.issuer) else {
        return Err(DenyReason::IssuerUnknown.into());
    };
    let endpoints = match judge(token, credential, request, realm, &snapshot.deny, clock) {
        Ok(endpoints) => endpoints,
        Err(finding) => return Err(Denied::token(finding, realm, claims).into()),
    };
    let grant = Grant {
        realm: realm.name.clone(),
        principal: claims.principal.clone(),
        token_id: claims.token_id.clone(),
        scope: request.action.scope(),
        expires_at: claims.expires_at,
        // A limit that the token carries will be read in `claims` and bind here: the lower counts.
        tokens_per_minute: realm.policy.tokens_per_minute,
        max_context: None,
        priority: DEFAULT_PRIORITY,
        local_peer: false,
    };
    Ok(Permitted {
        request: Arc::clone(request),
        grant: Arc::new(grant),
        endpoints,
        token: Arc::clone(token),
        proof: None,
    })
}

/// Whether a verified token allows the request now; the endpoints that it opens.
fn judge(
    token: &Verified,
    credential: &Credential,
    request: &Request,
    realm: &Realm,
    deny: &DenyList,
    clock: &Clock,
) -> Result<Vec<Arc<Endpoint>>, Finding> {
    let (claims, policy, now) = (&token.claims, &realm.policy, clock.effective());
    let leeway = policy.leeway;
    let soon = now.saturating_add(leeway);

    possession(credential, claims)?;
    if now >= claims.expires_at.saturating_add(leeway) {
        return Err(at(DenyReason::Expired, claims.expires_at, now));
    }
    if let Some(from) = claims.not_before.filter(|from| *from > soon) {
        return Err(at(DenyReason::NotYetValid, from, now));
    }
    if claims.issued_at > soon {
        return Err(at(DenyReason::IssuedInFuture, claims.issued_at, now));
    }
    let oldest = policy.max_age.map(|age| age.saturating_add(leeway));
    if oldest.is_some_and(|oldest| now.since(claims.issued_at) > oldest) {
        return Err(at(DenyReason::TooOld, claims.issued_at, now));
    }
    lifetime(token, policy)?;
    revoked(token, deny)?;

    let scope = request.action.scope();
    let endpoints = match opened(claims, request, realm) {
        Ok(endpoints) => endpoints,
        Err(reason) => return Err(Finding::new(reason, format!("for `{}`", scope.as_str()))),
    };
    if !clock.synchronised && !policy.unsynchronised_scopes.contains(&scope) {
        return Err(DenyReason::ClockUnsynchronised.into());
    }
    if stale(realm, scope, now) {
        return Err(DenyReason::KeysStale.into());
    }
    Ok(endpoints)
}

/// Whether the client has shown that it holds the key that the token is bound to.
fn possession(credential: &Credential, claims: &Claims) -> Result<(), Finding> {
    match (credential, &claims.proof_key) {
        // DPoP proofs (RFC 9449 section 4.3) will be verified here. Until then a client that
        // sends one expects more than this appliance checks, bound token or not.
        (Credential::Dpop { .. }, _) => Err(DenyReason::ProofUnsupported.into()),
        (_, Some(_)) => Err(DenyReason::ProofMissing.into()),
        (_, None) => Ok(()),
    }
}

fn lifetime(token: &Verified, policy: &Policy) -> Result<(), Finding> {
    let claims = &token.claims;
    let (lives, may) = (
        claims.expires_at.since(claims.issued_at),
        policy.max_lifetime(&claims.principal.client),
    );
    if lives > may {
        let detail = format!("{} s, allowed are {} s", lives.as_secs(), may.as_secs());
        return Err(Finding::new(DenyReason::LifetimeTooLong, detail));
    }
    Ok(())
}

fn revoked(token: &Verified, deny: &DenyList) -> Result<(), Finding> {
    match deny.hit(&token.claims, &token.thumbprint) {
        Some(what) => Err(Finding::new(DenyReason::Revoked, what.to_owned())),
        None => Ok(()),
    }
}

fn at(reason: DenyReason, claim: Timestamp, now: Timestamp) -> Finding {
    Finding::new(reason, format!("{claim}, and here it is {now}"))
}

impl Finding {
    fn new(reason: DenyReason, detail: String) -> Finding {
        Finding {
            reason,
            detail: Some(detail),
        }
    }
}

impl From<DenyReason> for Finding {
    fn from(reason: DenyReason) -> Finding {
        Finding {
            reason,
            detail: None,
        }
    }
}

impl Denied {
    fn token(finding: Finding, realm: &Realm, claims: &Claims) -> Denied {
        Denied {
            reason: finding.reason,
            detail: finding.detail,
            realm: Some(realm.name.clone()),
            principal: Some(claims.principal.clone()),
            token_id: claims.token_id.clone(),
            issued_at: Some(claims.issued_at),
        }
    }

    fn claim(error: ClaimError, realm: &Realm, who: Option<Principal>, token: &Proven) -> Denied {
        let (reason, claim) = error;
        Denied {
            reason,
            detail: Some(format!("claim `{claim}`")),
            realm: Some(realm.name.clone()),
            principal: who,
            token_id: token
                .get("jti")
                .and_then(|id| id.as_str())
                .map(str::to_owned),
            issued_at: None,
        }
    }
}

/// A refusal before anything of the token is proven.
impl From<DenyReason> for Denied {
    fn from(reason: DenyReason) -> Denied {
        Denied {
            reason,
            detail: None,
            realm: None,
            principal: None,
            token_id: None,
            issued_at: None,
        }
    }
}

impl From<DenyReason> for Box<Denied> {
    fn from(reason: DenyReason) -> Box<Denied> {
        Box::new(reason.into())
    }
}
