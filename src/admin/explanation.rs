//! What becomes of a token, check by check.

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::auth::{self, ExplainContext};
use crate::prompt::{Scope, Transport};
use crate::secret::Secret;

/// A token, and the request that it is tried for: by the socket, to read, unless told otherwise.
#[derive(Debug, Serialize, Deserialize)]
pub struct ToExplain {
    #[serde(serialize_with = "exposed")]
    pub token: Secret<String>,
    pub transport: Option<Transport>,
    pub model: Option<String>,
    pub scope: Option<Scope>,
}

impl ToExplain {
    pub fn context(&self) -> ExplainContext {
        ExplainContext {
            transport: Some(self.transport.unwrap_or(Transport::Socket)),
            model: self.model.clone(),
            scope: self.scope.unwrap_or(Scope::Read),
        }
    }
}

fn exposed<S: Serializer>(token: &Secret<String>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(token.expose())
}

/// [`auth::Explanation`] as it travels: a reader may not know every reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The reason of the refusal; `None`: permitted.
    pub verdict: Option<String>,
    pub realm: Option<String>,
    pub genuine: bool,
    pub header: Option<Map<String, Value>>,
    pub claims: Option<Map<String, Value>>,
    pub checks: Vec<Check>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub name: String,
    /// `passed`, `skipped`, or the reason of the failure.
    pub outcome: String,
    pub detail: Option<String>,
    /// What to change, and where in Keycloak.
    pub mend: Option<String>,
}

impl From<auth::Explanation> for Explanation {
    fn from(found: auth::Explanation) -> Explanation {
        let checks = found.checks.into_iter().map(|check| Check {
            name: check.name.to_owned(),
            outcome: check.outcome.as_str().to_owned(),
            detail: check.detail,
            mend: check.mend,
        });
        Explanation {
            verdict: found.verdict.map(|reason| reason.to_string()),
            realm: found.realm,
            genuine: found.genuine,
            header: found.header,
            claims: found.claims,
            checks: checks.collect(),
        }
    }
}
