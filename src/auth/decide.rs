//! The decision itself: [`decide`] is [`verify`] (is the token genuine?) and then `judge` (does it
//! allow this request now?). A local peer without a token goes to `peer` instead.
//!
//! Cheap checks come before the signature, claims after it, and what depends on time, policy or
//! the request last, so that a [`Verified`] token can be remembered for an epoch.

use std::sync::{Arc, OnceLock};

use super::access::{Asked, opens};
use super::claims::{ClaimError, Claims, principal, username};
use super::clock::Clock;
use super::credential::Credential;
use super::finding::Finding;
use super::judge::{Case, lifetime, revoked};
use super::key::Key;
use super::keyset::KeySet;
use super::peer::{self, Peer};
use super::principal::{DEFAULT_PRIORITY, Grant, Principal};
use super::realm::Realm;
use super::snapshot::Snapshot;
use super::token::{Decoded, Jws, Proven};
use super::verdict::{Decision, Denied, Ground, Permitted, Verified};
use crate::prompt::Request;
use crate::reason::DenyReason;

/// The steps of [`verify`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Form,
    Issuer,
    Key,
    Signature,
    Principal,
    Claims,
}

/// A token that isn't genuine: where that was found, and what to say.
pub(super) struct Unverified {
    pub(super) at: Step,
    pub(super) denied: Box<Denied>,
}

impl Step {
    /// In their order.
    pub(super) const ALL: [Step; 6] = [
        Step::Form,
        Step::Issuer,
        Step::Key,
        Step::Signature,
        Step::Principal,
        Step::Claims,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Step::Form => "form",
            Step::Issuer => "issuer",
            Step::Key => "key",
            Step::Signature => "signature",
            Step::Principal => "principal",
            Step::Claims => "claims",
        }
    }

    /// What comes before a step and what comes after it.
    pub(super) fn around(self) -> (impl Iterator<Item = Step>, impl Iterator<Item = Step>) {
        let is_before = move |step: &Step| *step != self;
        let before = Step::ALL.into_iter().take_while(is_before);
        (before, Step::ALL.into_iter().skip_while(is_before).skip(1))
    }

    fn failed<D: Into<Box<Denied>>>(self) -> impl FnOnce(D) -> Unverified {
        move |denied| Unverified {
            at: self,
            denied: denied.into(),
        }
    }
}

/// Whether `credential` allows `request`. `known` is its token where this epoch has verified it
/// before.
pub fn decide(
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
            let verified = verify(token.expose(), snapshot).map_err(|failed| failed.denied);
            verified
                .map(Arc::new)
                .and_then(|token| permit(&token, credential, request, snapshot, clock))
        }
    };
    match decided {
        Ok(permitted) => Decision::Permit(permitted),
        Err(denied) => Decision::Deny(*denied),
    }
}

/// The issuer that a credential's token names, before anything of it is proven: good for nothing
/// but asking that issuer for its keys.
pub fn alleged_issuer(credential: &Credential) -> Option<String> {
    let (Credential::Bearer(token) | Credential::Dpop { token, .. }) = credential else {
        return None;
    };
    let mut room = Decoded::default();
    let jws = Jws::parse(token.expose(), &mut room).ok()?;
    jws.alleged.issuer().ok().map(str::to_owned)
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
            Some(Err(shut)) => refusal = shut.into(),
        }
    }
    Err(refusal)
}

/// Whether `token` is a genuine access token of one of the realms.
pub(super) fn verify(token: &str, snapshot: &Snapshot) -> Result<Verified, Unverified> {
    let mut room = Decoded::default();
    let jws = Jws::parse(token, &mut room).map_err(Step::Form.failed())?;
    let issuer = jws.alleged.issuer().map_err(Step::Issuer.failed())?;
    let realm = snapshot.realms.get(issuer);
    let realm = realm.ok_or_else(|| Step::Issuer.failed()(DenyReason::IssuerUnknown))?;
    let key = key_of(&jws, realm).map_err(Step::Key.failed())?;
    let kind = jws.header.kind;
    let proven = jws.prove(key).map_err(Step::Signature.failed())?;

    let principal = principal(&proven, &realm.issuer)
        .map_err(|error| Step::Principal.failed()(Denied::claim(error, realm, None, &proven)))?;
    let who = Some(&principal);
    let claims = Claims::parse(&proven, kind, principal.clone(), realm)
        .map_err(|error| Step::Claims.failed()(Denied::claim(error, realm, who, &proven)))?;
    Ok(Verified {
        claims,
        thumbprint: key.thumbprint().to_owned(),
        proof_key_strong: OnceLock::new(),
    })
}

/// The key that the token names, before anything of it is proven.
fn key_of<'r>(jws: &Jws<'_>, realm: &'r Realm) -> Result<&'r Key, Box<Denied>> {
    if realm.keys.is_empty() && realm.keys.skipped().is_empty() {
        return Err(DenyReason::KeysMissing.into());
    }
    let kid = &jws.header.kid;
    let key = realm.keys.by_kid(kid);
    key.ok_or_else(|| Denied::without_key(&realm.keys, kid).into())
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
        username: claims.username.clone(),
        token_id: claims.token_id.clone(),
        scope: asked.scope,
        tokens_per_minute: limits.tokens_per_minute.into_iter().chain(own).min(),
        tokens_per_minute_at_most: realm.policy.tokens_per_minute_at_most,
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
    let opened = || Peer::opened(&asked, realm).map_err(|reason| asked.refused(reason));
    let endpoints = may.and_then(|()| opened());
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
        username: None,
        token_id: None,
        scope: asked.scope,
        tokens_per_minute: realm.policy.tokens_per_minute,
        tokens_per_minute_at_most: realm.policy.tokens_per_minute_at_most,
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
            moved: finding.moved,
            realm: Some(realm.name.clone()),
            principal: Some(claims.principal.clone()),
            username: claims.username.clone(),
            token_id: claims.token_id.clone(),
            retry_after: None,
        }
    }

    fn claim(error: ClaimError, realm: &Realm, who: Option<&Principal>, token: &Proven) -> Denied {
        let (reason, claim) = error;
        Denied {
            reason,
            detail: Some(format!("claim `{claim}`")),
            moved: None,
            realm: Some(realm.name.clone()),
            principal: who.cloned(),
            username: who.and_then(|_| username(token, realm)),
            token_id: token
                .get("jti")
                .and_then(|id| id.as_str())
                .map(str::to_owned),
            retry_after: None,
        }
    }
}
