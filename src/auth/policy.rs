//! What a realm allows: lifetimes, grace, roles, endpoints.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::prompt::{SamplingOptions, Scope, Transport};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub default_endpoint: Option<String>,
    pub max_lifetime: Duration,
    pub max_lifetime_by_client: BTreeMap<String, Duration>,
    pub max_age: Option<Duration>,
    pub leeway: Duration,
    /// Absent scope: no limit (`offline_grace = "none"` explicitly).
    pub offline_grace: BTreeMap<Scope, Duration>,
    /// Scopes that may be used while the clock isn't synchronised.
    pub unsynchronised_scopes: Vec<Scope>,
    /// Role name → scopes. Empty: roles `read`, `write`, `fine-tune`, `audit` mean themselves.
    pub roles: BTreeMap<String, Vec<Scope>>,
    pub tokens_per_minute: Option<u32>,
    /// Transports on which only DPoP-bound tokens count.
    pub require_dpop: Vec<Transport>,
    pub limit_claims: LimitClaims,
    /// Whether the audit names people as Keycloak does (`preferred_username`).
    pub record_username: bool,
    /// Break-glass: what local peers may do without a token, by group id. At most one realm has any.
    pub local_groups: BTreeMap<u32, Vec<Scope>>,
}

/// Names of the claims that carry limits of the token's own; `None`: not read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LimitClaims {
    pub tokens_per_minute: Option<String>,
    pub max_context: Option<String>,
    pub priority: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    pub client_id: String,
    /// The bundle's name in the catalog.
    pub model: String,
    /// No answer is longer.
    pub max_completion_tokens: Option<u32>,
    /// Of an answer whose request names no length.
    pub default_completion_tokens: u32,
    /// For chats that bring no system message.
    pub system_prompt: Option<String>,
    /// Where a request is silent; where this is, too, the bundle's.
    pub sampling: SamplingOptions,
}

impl Policy {
    /// How long a token of the client `azp` may live.
    pub fn max_lifetime(&self, azp: &str) -> Duration {
        let own = self.max_lifetime_by_client.get(azp);
        own.copied().unwrap_or(self.max_lifetime)
    }

    /// Whether one of `roles` opens `scope`.
    pub fn grants(&self, roles: &[String], scope: Scope) -> bool {
        roles.iter().any(|role| {
            if self.roles.is_empty() {
                role == scope.as_str()
            } else {
                self.roles.get(role).is_some_and(|to| to.contains(&scope))
            }
        })
    }
}
