//! Why a token is or isn't good for a request, check by check, for the person who has to mend it.
//!
//! The checks are those of `decide`, called in its order: the first that fails here is the refusal
//! there.

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use super::access::Asked;
use super::clock::{Clock, Moved};
use super::credential::Credential;
use super::decide::{Step, Unverified, verify};
use super::judge::{CHECKS, Case};
use super::jws::Compact;
use super::mend::{Facts, mend};
use super::snapshot::Snapshot;
use super::token::MAX_LEN;
use super::verdict::Verified;
use crate::prompt::{Scope, Transport};
use crate::reason::DenyReason;
use crate::secret::Secret;

/// A token, and the request that it is tried for: by the socket, to read, unless told otherwise.
#[derive(Debug, Serialize, Deserialize)]
pub struct ToExplain {
    #[serde(serialize_with = "exposed")]
    pub token: Secret<String>,
    pub transport: Option<Transport>,
    /// The endpoint; absent: the realm's default.
    pub model: Option<String>,
    pub scope: Option<Scope>,
}

fn exposed<S: Serializer>(token: &Secret<String>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(token.expose())
}

/// What was found. It holds no signature, so it can be shown without giving the token away. Reasons
/// are names: who reads it may not know each of a newer daemon's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The reason of the refusal; `None`: permitted.
    pub verdict: Option<String>,
    /// The realm that the token names, where it is one of this appliance's.
    pub realm: Option<String>,
    /// Whether header and claims are proven, not only alleged.
    pub genuine: bool,
    pub header: Option<Map<String, Value>>,
    pub claims: Option<Map<String, Value>>,
    pub checks: Vec<Check>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub name: String,
    pub outcome: Outcome,
    pub detail: Option<String>,
    /// What to change, and where in Keycloak.
    pub mend: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Passed,
    /// An earlier check must pass first.
    Skipped,
    /// For this reason.
    #[serde(untagged)]
    Failed(String),
}

impl ToExplain {
    fn asked(&self) -> Asked<'_> {
        let scope = self.scope.unwrap_or(Scope::Read);
        Asked {
            scope,
            model: self.model.as_deref(),
            of_one_model: scope != Scope::Audit,
            transport: Some(self.transport.unwrap_or(Transport::Socket)),
        }
    }
}

impl Check {
    fn passed(name: &str) -> Check {
        Check::plain(name, Outcome::Passed)
    }

    fn failed(name: &str, reason: DenyReason, detail: Option<String>, facts: &Facts<'_>) -> Check {
        Check {
            detail,
            mend: mend(reason, facts),
            ..Check::plain(name, Outcome::Failed(reason.to_string()))
        }
    }

    fn plain(name: &str, outcome: Outcome) -> Check {
        Check {
            name: name.to_owned(),
            outcome,
            detail: None,
            mend: None,
        }
    }
}

/// Tries the token as a bearer token.
pub fn explain(to_explain: &ToExplain, snapshot: &Snapshot, clock: &Clock) -> Explanation {
    let token = to_explain.token.expose().as_str();
    let shown = (token.len() <= MAX_LEN).then(|| Compact::parse(token));
    let shown = shown.flatten();
    let claims = shown.as_ref().and_then(Compact::payload_object);
    let issuer = claims.as_ref().and_then(|claims| claims.get("iss"));
    let realm = issuer.and_then(|issuer| snapshot.realms.get(issuer.as_str()?));
    let facts = Facts {
        snapshot,
        realm,
        claims: claims.as_ref(),
        asked: to_explain.asked(),
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
            let detail = denied.detail.clone();
            checks.push(Check::failed(at.name(), denied.reason, detail, &facts));
            let rest = after.map(Step::name);
            let rest = rest.chain(CHECKS.iter().map(|(name, _)| *name));
            checks.extend(rest.map(|name| Check::plain(name, Outcome::Skipped)));
            at.around().0.any(|step| step == Step::Signature)
        }
    };
    let failed = |check: &Check| match &check.outcome {
        Outcome::Failed(reason) => Some(reason.clone()),
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
    let mut case = Case::new(token, &bearer, facts.asked, realm, deny, clock);
    for (name, check) in CHECKS {
        checks.push(match case.check(check) {
            Ok(()) => Check::passed(name),
            Err(finding) => {
                let failed = Check::failed(name, finding.reason, finding.detail, facts);
                Check {
                    mend: with_moved(finding.moved, failed.mend),
                    ..failed
                }
            }
        });
    }
}

/// What to do, where it may be that the time is wrong and not the token.
fn with_moved(moved: Option<Moved>, mend: Option<String>) -> Option<String> {
    match (moved, mend) {
        (None, mend) => mend,
        (Some(moved), None) => Some(moved.to_string()),
        (Some(moved), Some(mend)) => Some(format!("{moved}; else {mend}")),
    }
}
