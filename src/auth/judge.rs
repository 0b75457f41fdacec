//! Does a verified token allow the request now? One function for each check, in one list, which
//! `decide` walks to the first refusal and `explain` to the end.

use std::sync::Arc;

use super::access::{Asked, opened, stale};
use super::clock::{Clock, Moved};
use super::credential::{Credential, ProofUse};
use super::deny::DenyList;
use super::dpop::{self, BoundTo, When};
use super::finding::Finding;
use super::policy::{Endpoint, Policy};
use super::realm::Realm;
use super::verdict::Verified;
use crate::reason::DenyReason;
use crate::time::{Moment, Timestamp, Uptime};

/// What the checks look at, and what they find.
pub(super) struct Case<'c> {
    pub(super) token: &'c Verified,
    pub(super) credential: &'c Credential,
    pub(super) asked: Asked<'c>,
    pub(super) realm: &'c Realm,
    pub(super) deny: &'c DenyList,
    pub(super) synchronised: bool,
    /// The time that counts for this token.
    pub(super) now: Timestamp,
    /// Without what earlier tokens have told, and what that was.
    alone: Timestamp,
    moved: Option<Moved>,
    pub(super) uptime: Uptime,
    /// Found by the check `access`; never empty where that passed.
    pub(super) endpoints: Vec<Arc<Endpoint>>,
    /// Found by the check `proof`.
    pub(super) proof: Option<ProofUse>,
}

type Checked = Result<(), Finding>;
type Check = fn(&mut Case<'_>) -> Checked;

/// Cheap ones first; the proof's signature costs as much as all else together.
pub(super) const CHECKS: [(&str, Check); 11] = [
    ("binding", binding),
    ("expiry", expiry),
    ("not-before", not_before),
    ("issued-at", issued_at),
    ("age", age),
    ("lifetime", |case| lifetime(case.token, &case.realm.policy)),
    ("revocation", |case| {
        revoked(case.token, case.deny, case.now)
    }),
    ("access", access),
    ("clock", clock),
    ("keys' age", keys_age),
    ("proof", proof),
];

impl<'c> Case<'c> {
    pub(super) fn new(
        token: &'c Verified,
        credential: &'c Credential,
        asked: Asked<'c>,
        realm: &'c Realm,
        deny: &'c DenyList,
        clock: &Clock,
    ) -> Case<'c> {
        let (who, issued) = (&token.claims.principal, token.claims.issued.latest);
        Case {
            token,
            credential,
            asked,
            realm,
            deny,
            synchronised: clock.synchronised,
            now: clock.of_token(who, issued),
            alone: clock.of_token_alone(who, issued),
            moved: clock.moved(who),
            uptime: clock.uptime,
            endpoints: Vec::new(),
            proof: None,
        }
    }

    /// All checks, up to the first that fails.
    pub(super) fn judge(&mut self) -> Checked {
        CHECKS.iter().try_for_each(|(_, check)| self.check(*check))
    }

    /// One of them; says so where only what earlier tokens have told of the time makes it fail.
    pub(super) fn check(&mut self, check: Check) -> Checked {
        let Err(finding) = check(self) else {
            return Ok(());
        };
        let Some(moved) = self.moved.clone() else {
            return Err(finding);
        };
        let now = std::mem::replace(&mut self.now, self.alone);
        let passes = check(self).is_ok();
        self.now = now;
        Err(if passes {
            finding.because(moved)
        } else {
            finding
        })
    }

    fn policy(&self) -> &'c Policy {
        &self.realm.policy
    }

    fn soon(&self) -> Timestamp {
        self.now.saturating_add(self.policy().leeway)
    }
}

/// Whether the credential is of the kind that the token asks for, and the realm on this transport.
fn binding(case: &mut Case<'_>) -> Checked {
    let bound = case.token.claims.proof_key.is_some();
    match case.credential {
        // RFC 9449 section 7.1: the scheme is for bound tokens.
        Credential::Dpop { .. } if !bound => Err(Finding::new(
            DenyReason::ProofInvalid,
            "cnf: the token isn't bound to a key; send it as `Bearer`".to_owned(),
        )),
        Credential::Dpop { .. } => Ok(()),
        _ if bound => Err(DenyReason::ProofMissing.into()),
        _ => match case.asked.transport {
            Some(transport) if case.policy().require_dpop.contains(&transport) => {
                let detail = format!("on {}", transport.as_str());
                Err(Finding::new(DenyReason::DpopRequired, detail))
            }
            _ => Ok(()),
        },
    }
}

fn expiry(case: &mut Case<'_>) -> Checked {
    let expires = case.token.claims.expires_at;
    if case.now >= expires.saturating_add(case.policy().leeway) {
        return Err(at(DenyReason::Expired, expires, case.now));
    }
    Ok(())
}

fn not_before(case: &mut Case<'_>) -> Checked {
    match case.token.claims.not_before {
        Some(from) if from > case.soon() => Err(at(DenyReason::NotYetValid, from, case.now)),
        _ => Ok(()),
    }
}

fn issued_at(case: &mut Case<'_>) -> Checked {
    let issued = case.token.claims.issued.latest;
    if issued > case.soon() {
        return Err(at(DenyReason::IssuedInFuture, issued, case.now));
    }
    Ok(())
}

fn age(case: &mut Case<'_>) -> Checked {
    let (policy, issued) = (case.policy(), case.token.claims.issued.earliest);
    let oldest = policy.max_age.map(|age| age.saturating_add(policy.leeway));
    if oldest.is_some_and(|oldest| case.now.since(issued) > oldest) {
        return Err(at(DenyReason::TooOld, issued, case.now));
    }
    Ok(())
}

pub(super) fn lifetime(token: &Verified, policy: &Policy) -> Checked {
    let claims = &token.claims;
    let (lives, may) = (
        claims.expires_at.since(claims.issued.earliest),
        policy.max_lifetime(&claims.principal.client),
    );
    if lives > may {
        let detail = format!("{} s, allowed are {} s", lives.as_secs(), may.as_secs());
        return Err(Finding::new(DenyReason::LifetimeTooLong, detail));
    }
    Ok(())
}

pub(super) fn revoked(token: &Verified, deny: &DenyList, now: Timestamp) -> Checked {
    deny.spares(&token.claims, &token.thumbprint, now)
}

fn access(case: &mut Case<'_>) -> Checked {
    match opened(&case.token.claims, &case.asked, case.realm) {
        Ok(endpoints) => {
            case.endpoints = endpoints;
            Ok(())
        }
        Err(reason) => Err(case.asked.refused(reason)),
    }
}

fn clock(case: &mut Case<'_>) -> Checked {
    let anyhow = &case.policy().unsynchronised_scopes;
    if !case.synchronised && !anyhow.contains(&case.asked.scope) {
        return Err(DenyReason::ClockUnsynchronised.into());
    }
    Ok(())
}

fn keys_age(case: &mut Case<'_>) -> Checked {
    let now = Moment {
        known: case.now,
        uptime: case.uptime,
    };
    if stale(case.realm, case.asked.scope, now) {
        return Err(DenyReason::KeysStale.into());
    }
    Ok(())
}

/// Whether the client has shown that it holds the key that the token is bound to.
fn proof(case: &mut Case<'_>) -> Checked {
    let Credential::Dpop {
        token,
        proof,
        binding,
    } = case.credential
    else {
        return Ok(());
    };
    let Some(thumbprint) = &case.token.claims.proof_key else {
        return Err(DenyReason::ProofInvalid.into());
    };
    let when = When {
        now: case.now,
        synchronised: case.synchronised,
        leeway: case.policy().leeway,
    };
    let bound_to = BoundTo {
        thumbprint,
        strong: &case.token.proof_key_strong,
    };
    match dpop::verify(proof.expose(), token.expose(), &bound_to, binding, &when) {
        Ok(used) => {
            case.proof = Some(used);
            Ok(())
        }
        Err((reason, which)) => Err(Finding::new(reason, which.to_owned())),
    }
}

fn at(reason: DenyReason, claim: Timestamp, now: Timestamp) -> Finding {
    Finding::new(reason, format!("{claim}, and here it is {now}"))
}
