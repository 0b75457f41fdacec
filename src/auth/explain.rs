//! Why a token is or isn't good for a request, check by check, for the person who has to mend it.
//!
//! The checks are those of `decide`, called in its order: the first that fails here is the refusal
//! there.

use serde_json::{Map, Value};

use super::access::ExplainContext;
use super::clock::Clock;
use super::credential::Credential;
use super::decide::{Step, Unverified, verify};
use super::judge::{CHECKS, Case};
use super::jws::Compact;
use super::mend::{Facts, mend};
use super::snapshot::Snapshot;
use super::token::MAX_LEN;
use super::verdict::Verified;
use crate::reason::DenyReason;
use crate::secret::Secret;

/// What was found. It holds no signature, so it can be shown without giving the token away.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// `None`: permitted.
    pub verdict: Option<DenyReason>,
    /// The realm that the token names, where it is one of this appliance's.
    pub realm: Option<String>,
    /// Whether header and claims are proven, not only alleged.
    pub genuine: bool,
    pub header: Option<Map<String, Value>>,
    pub claims: Option<Map<String, Value>>,
    pub checks: Vec<Check>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    pub name: &'static str,
    pub outcome: Outcome,
    pub detail: Option<String>,
    /// What to change, and where in Keycloak.
    pub mend: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    Failed(DenyReason),
    /// An earlier check must pass first.
    Skipped,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Passed => "passed",
            Outcome::Skipped => "skipped",
            Outcome::Failed(reason) => reason.as_str(),
        }
    }
}

impl Check {
    fn passed(name: &'static str) -> Check {
        Check::plain(name, Outcome::Passed)
    }

    fn plain(name: &'static str, outcome: Outcome) -> Check {
        Check {
            name,
            outcome,
            detail: None,
            mend: None,
        }
    }
}

/// Tries `token` as a bearer token for the request of `context`.
pub fn explain(
    token: &str,
    snapshot: &Snapshot,
    clock: &Clock,
    context: &ExplainContext,
) -> Explanation {
    let shown = (token.len() <= MAX_LEN).then(|| Compact::parse(token));
    let shown = shown.flatten();
    let claims = shown.as_ref().and_then(Compact::payload_object);
    let issuer = claims.as_ref().and_then(|claims| claims.get("iss"));
    let realm = issuer.and_then(|issuer| snapshot.realms.get(issuer.as_str()?));
    let facts = Facts {
        snapshot,
        realm,
        claims: claims.as_ref(),
        context,
    };
    let mut checks = Vec::new();
    let verified = verify(token, snapshot);
    let genuine = match &verified {
        Ok(token) => {
            checks.extend(Step::ALL.map(|step| Check::passed(step.name())));
            judged(token, &facts, clock, &mut checks);
            true
        }
        Err(Unverified { at, denied }) => {
            let (before, after) = at.around();
            checks.extend(before.map(|step| Check::passed(step.name())));
            checks.push(Check {
                detail: denied.detail.clone(),
                mend: mend(denied.reason, &facts),
                ..Check::plain(at.name(), Outcome::Failed(denied.reason))
            });
            let rest = after.map(Step::name);
            let rest = rest.chain(CHECKS.iter().map(|(name, _)| *name));
            checks.extend(rest.map(|name| Check::plain(name, Outcome::Skipped)));
            at.around().0.any(|step| step == Step::Signature)
        }
    };
    let failed = |check: &Check| match check.outcome {
        Outcome::Failed(reason) => Some(reason),
        _ => None,
    };
    Explanation {
        verdict: checks.iter().find_map(failed),
        realm: realm.map(|realm| realm.name.clone()),
        genuine,
        header: shown.map(|jws| jws.header),
        claims,
        checks,
    }
}

/// What depends on time, policy and request: each check by itself, also after one that failed.
fn judged(token: &Verified, facts: &Facts<'_>, clock: &Clock, checks: &mut Vec<Check>) {
    let Some(realm) = facts.realm else {
        return;
    };
    // No check but that of a proof, which is none of the token's, looks at its text.
    let bearer = Credential::Bearer(Secret::new(String::new()));
    let deny = &facts.snapshot.deny;
    let mut case = Case::new(token, &bearer, facts.context.asked(), realm, deny, clock);
    for (name, check) in CHECKS {
        checks.push(match check(&mut case) {
            Ok(()) => Check::passed(name),
            Err(finding) => Check {
                detail: finding.detail,
                mend: mend(finding.reason, facts),
                ..Check::plain(name, Outcome::Failed(finding.reason))
            },
        });
    }
}
