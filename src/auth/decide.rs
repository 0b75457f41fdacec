//! The decision itself: [`decide`] is [`verify`] (is the token genuine?) and then `judge` (does it
//! allow this request now?). A local peer without a token goes to `peer` instead.
//!
//! Cheap checks come before the signature, claims after it, and what depends on time, policy or
//! the request last, so that a [`Verified`] token can be remembered for an epoch.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::access::{Asked, opens};
use super::claims::{ClaimError, Claims, principal};
use super::judge::{Case, Finding, lifetime, revoked};
use super::peer::{self, Peer};
use super::token::{Decoded, Jws, Proven};
use super::{
    Clock, Credential, DEFAULT_PRIORITY, Endpoint, Grant, KeySet, Principal, ProofUse, Realm,
    Snapshot,
};
use crate::prompt::Request;
use crate::reason::DenyReason;
use crate::time::{MAX_SECS, Timestamp};

#[must_use]
#[derive(Debug)]
pub enum Decision {
    Permit(Permitted),
    Deny(Denied),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    pub reason: DenyReason,
    /// Nothing that the token says of itself, but times; what is said of its key is of the realm's.
    pub detail: Option<String>,
    /// Its name, known once the signature is verified.
    pub realm: Option<String>,
    pub principal: Option<Principal>,
    pub token_id: Option<String>,
    /// When asking again may help.
    pub retry_after: Option<Duration>,
}

/// Proof that a request was allowed: only [`decide`] makes one.
#[derive(Debug, Clone)]
pub struct Permitted {
    request: Arc<Request>,
    grant: Arc<Grant>,
    /// Never empty.
    endpoints: Vec<Arc<Endpoint>>,
    ground: Ground,
    proof: Option<ProofUse>,
}

/// What a permission stands on.
#[derive(Debug, Clone)]
enum Ground {
    Token(Arc<Verified>),
    Peer(Peer),
}

/// A well-formed access token, signed by a pinned key of its realm. It may have expired, be
/// revoked, or open nothing.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) claims: Claims,
    /// Of the key that signed it.
    pub(super) thumbprint: String,
    /// Of the key that it is bound to, once a proof has shown that.
    pub(super) proof_key_strong: OnceLock<bool>,
}

/// The steps of [`verify`], in their order.
pub(super) const STEPS: [&str; 6] = ["form", "issuer", "key", "signature", "principal", "claims"];

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

    /// When the token was issued: a time that has passed, as far as the realm's word goes. `None`
    /// for a local peer.
    pub fn issued_at(&self) -> Option<Timestamp> {
        self.token().map(|token| token.claims.issued.latest)
    }

    /// `None` for a local peer.
    pub(super) fn token(&self) -> Option<&Arc<Verified>> {
        match &self.ground {
            Ground::Token(token) => Some(token),
            Ground::Peer(_) => None,
        }
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
    let decided = match (known, credential) {
        (Some(token), _) => permit(&token, credential, request, snapshot, clock),
        (None, Credential::None) => Err(DenyReason::TokenMissing.into()),
        (None, Credential::LocalPeer { uid, gid, groups }) => {
            let groups = groups.iter().chain([gid]).copied().collect();
            let peer = Peer { uid: *uid, groups };
            admit(peer, request, snapshot, clock)
        }
        (None, Credential::Bearer(token) | Credential::Dpop { token, .. }) => {
            let verified = verify(token.expose(), snapshot, &mut 0).map(Arc::new);
            verified.and_then(|token| permit(&token, credential, request, snapshot, clock))
        }
    };
    match decided {
        Ok(permitted) => Decision::Permit(permitted),
        Err(denied) => Decision::Deny(*denied),
    }
}

/// What an epoch can change for a running request: realm, key, revocations, lifetimes, endpoint
/// and roles. `exp` and DPoP proofs bind at admission.
pub fn recheck(
    permitted: &Permitted,
    snapshot: &Snapshot,
    clock: &Clock,
) -> Result<(), DenyReason> {
    let issuer = &permitted.grant.principal.issuer;
    let realm = snapshot.realms.get(issuer);
    let realm = realm.ok_or(DenyReason::IssuerUnknown)?;
    let scope = permitted.grant.scope;
    let token = match &permitted.ground {
        Ground::Token(token) => {
            if !realm.keys.has_thumbprint(&token.thumbprint) {
                return Err(DenyReason::KeyUnknown);
            }
            let now = clock.of_token(&token.claims.principal, token.claims.issued.latest);
            revoked(token, &snapshot.deny, now).map_err(|finding| finding.reason)?;
            lifetime(token, &realm.policy).map_err(|finding| finding.reason)?;
            Some(token)
        }
        Ground::Peer(peer) => {
            let may = peer.may(scope, realm, snapshot, clock);
            may.map_err(|finding| finding.reason)?;
            None
        }
    };
    let mut refusal = DenyReason::EndpointUnknown;
    for was in &permitted.endpoints {
        let same = realm.endpoint(&was.client_id);
        let Some(is) = same.filter(|is| is.model == was.model) else {
            continue;
        };
        match token.map(|token| opens(&token.claims, &realm.policy, is, scope)) {
            None | Some(Ok(())) => return Ok(()),
            Some(Err(reason)) => refusal = reason,
        }
    }
    Err(refusal)
}

/// Whether `token` is a genuine access token of one of the realms. `passed` counts the [`STEPS`]
/// that it took.
pub(super) fn verify(
    token: &str,
    snapshot: &Snapshot,
    passed: &mut usize,
) -> Result<Verified, Box<Denied>> {
    let mut room = Decoded::default();
    let jws = Jws::parse(token, &mut room)?;
    *passed += 1;
    let Some(realm) = snapshot.realms.get(jws.alleged.issuer()?) else {
        return Err(DenyReason::IssuerUnknown.into());
    };
    *passed += 1;
    if realm.keys.is_empty() && realm.keys.skipped().is_empty() {
        return Err(DenyReason::KeysMissing.into());
    }
    let Some(key) = realm.keys.by_kid(&jws.header.kid) else {
        return Err(Denied::without_key(&realm.keys, &jws.header.kid).into());
    };
    *passed += 1;
    let kind = jws.header.kind;
    let proven = jws.prove(key)?;
    *passed += 1;

    let principal = match principal(&proven, &realm.issuer) {
        Ok(principal) => principal,
        Err(error) => return Err(Denied::claim(error, realm, None, &proven).into()),
    };
    *passed += 1;
    match Claims::parse(&proven, kind, principal.clone(), realm) {
        Ok(claims) => {
            *passed += 1;
            Ok(Verified {
                claims,
                thumbprint: key.thumbprint().to_owned(),
                proof_key_strong: OnceLock::new(),
            })
        }
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
    let asked = Asked::of(request);
    let mut case = Case::new(token, credential, asked, realm, &snapshot.deny, clock);
    if let Err(finding) = case.judge() {
        return Err(Denied::token(finding, realm, claims).into());
    }
    let (limits, own) = (claims.limits, realm.policy.tokens_per_minute);
    let grant = Grant {
        realm: realm.name.clone(),
        principal: claims.principal.clone(),
        token_id: claims.token_id.clone(),
        scope: asked.scope,
        expires_at: claims.expires_at,
        tokens_per_minute: limits.tokens_per_minute.into_iter().chain(own).min(),
        max_context: limits.max_context,
        priority: limits.priority.unwrap_or(DEFAULT_PRIORITY),
        local_peer: false,
    };
    Ok(Permitted {
        request: Arc::clone(request),
        grant: Arc::new(grant),
        endpoints: case.endpoints,
        ground: Ground::Token(Arc::clone(token)),
        proof: case.proof,
    })
}

/// Grants a local peer what its groups may do.
fn admit(
    peer: Peer,
    request: &Arc<Request>,
    snapshot: &Snapshot,
    clock: &Clock,
) -> Result<Permitted, Box<Denied>> {
    let realm = peer::realm(snapshot).ok_or(DenyReason::TokenMissing)?;
    let (asked, who) = (Asked::of(request), peer.principal(realm));
    let may = peer.may(asked.scope, realm, snapshot, clock);
    let endpoints = may.and_then(|()| Ok(Peer::opened(&asked, realm)?));
    let endpoints = match endpoints {
        Ok(endpoints) => endpoints,
        Err(finding) => {
            return Err(Box::new(Denied {
                detail: finding.detail,
                realm: Some(realm.name.clone()),
                principal: Some(who),
                ..finding.reason.into()
            }));
        }
    };
    let grant = Grant {
        realm: realm.name.clone(),
        principal: who,
        token_id: None,
        scope: asked.scope,
        expires_at: Timestamp::from_secs(MAX_SECS),
        tokens_per_minute: realm.policy.tokens_per_minute,
        max_context: None,
        priority: DEFAULT_PRIORITY,
        local_peer: true,
    };
    Ok(Permitted {
        request: Arc::clone(request),
        grant: Arc::new(grant),
        endpoints,
        ground: Ground::Peer(peer),
        proof: None,
    })
}

impl Denied {
    /// No key of the realm has this `kid`, or it has one that isn't used.
    fn without_key(keys: &KeySet, kid: &str) -> Denied {
        match keys.left_out(kid) {
            None => DenyReason::KeyUnknown.into(),
            Some(why) => Denied {
                detail: Some(why.to_owned()),
                ..DenyReason::KeyUnusable.into()
            },
        }
    }

    fn token(finding: Finding, realm: &Realm, claims: &Claims) -> Denied {
        Denied {
            reason: finding.reason,
            detail: finding.detail,
            realm: Some(realm.name.clone()),
            principal: Some(claims.principal.clone()),
            token_id: claims.token_id.clone(),
            retry_after: None,
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
            retry_after: None,
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
            retry_after: None,
        }
    }
}

impl From<DenyReason> for Box<Denied> {
    fn from(reason: DenyReason) -> Box<Denied> {
        Box::new(reason.into())
    }
}
