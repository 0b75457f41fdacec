//! What a realm allows: lifetimes, grace, roles, endpoints.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::age::Recipient;
use crate::prompt::{SamplingOptions, Scope, Transport};
use crate::trust::targets::RealmPolicy;

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
    /// Whatever else says: the fleet's.
    pub tokens_per_minute_at_most: Option<u32>,
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
    /// Who alone can read the texts that the audit keeps; nobody: it keeps none.
    pub text_recipients: Vec<Recipient>,
    /// Where a request is silent; where this is, too, the bundle's.
    pub sampling: SamplingOptions,
}

impl Policy {
    /// How long a token of the client `azp` may live.
    pub fn max_lifetime(&self, azp: &str) -> Duration {
        let own = self.max_lifetime_by_client.get(azp);
        own.copied().unwrap_or(self.max_lifetime)
    }

    /// What is in force where the fleet's policy is `fleet`: of each the narrower, so that neither
    /// grants what the other doesn't. Local groups bring no token, and are this machine's to say.
    #[must_use]
    pub fn narrowed_by(&self, fleet: &RealmPolicy) -> Policy {
        let mut policy = self.clone();
        if let Some(roles) = &fleet.roles {
            policy.roles = self.roles_within(roles);
        }
        if let Some(most) = fleet.max_lifetime {
            policy.max_lifetime = self.max_lifetime.min(most);
            let by_client = policy.max_lifetime_by_client.values_mut();
            by_client.for_each(|lifetime| *lifetime = most.min(*lifetime));
        }
        let most = [self.tokens_per_minute_at_most, fleet.tokens_per_minute];
        policy.tokens_per_minute_at_most = most.into_iter().flatten().min();
        for transport in &fleet.require_dpop {
            if !policy.require_dpop.contains(transport) {
                policy.require_dpop.push(*transport);
            }
        }
        for (scope, most) in &fleet.offline_grace {
            let grace = policy.offline_grace.entry(*scope).or_insert(*most);
            *grace = (*grace).min(*most);
        }
        policy
    }

    /// The configured roles, each with what `most` gives it too. A role that is left with nothing
    /// stays: without any, roles would mean themselves again.
    fn roles_within(&self, most: &BTreeMap<String, Vec<Scope>>) -> BTreeMap<String, Vec<Scope>> {
        let own = Scope::ALL.map(|scope| (scope.as_str().to_owned(), vec![scope]));
        let configured = match self.roles.is_empty() {
            true => BTreeMap::from(own),
            false => self.roles.clone(),
        };
        let narrowed = configured.into_iter().map(|(role, mut scopes)| {
            let most = most.get(&role);
            scopes.retain(|scope| most.is_some_and(|most| most.contains(scope)));
            (role, scopes)
        });
        narrowed.collect()
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROLES: [&str; 4] = ["read", "write", "asker", "boss"];
    const CLIENTS: [&str; 2] = ["a", "b"];

    fn scopes() -> impl Strategy<Value = Vec<Scope>> {
        prop::sample::subsequence(Scope::ALL.to_vec(), 0..=4)
    }

    fn roles() -> impl Strategy<Value = BTreeMap<String, Vec<Scope>>> {
        let role = prop::sample::select(ROLES.to_vec()).prop_map(str::to_owned);
        prop::collection::btree_map(role, scopes(), 0..4)
    }

    fn span() -> impl Strategy<Value = Duration> {
        (1..9_u64).prop_map(Duration::from_secs)
    }

    fn grace() -> impl Strategy<Value = BTreeMap<Scope, Duration>> {
        let scope = prop::sample::select(Scope::ALL.to_vec());
        prop::collection::btree_map(scope, span(), 0..4)
    }

    fn transports() -> impl Strategy<Value = Vec<Transport>> {
        prop::sample::subsequence(Transport::ALL.to_vec(), 0..=3)
    }

    prop_compose! {
        fn configured()(
            roles in roles(), max_lifetime in span(), own in prop::option::of(span()),
            tokens_per_minute in prop::option::of(1..9_u32), offline_grace in grace(),
            require_dpop in transports(),
        ) -> Policy {
            let by_client = own.map(|own| ("a".to_owned(), own));
            Policy {
                roles, max_lifetime, tokens_per_minute, offline_grace, require_dpop,
                max_lifetime_by_client: by_client.into_iter().collect(),
                ..Policy::default()
            }
        }
    }

    prop_compose! {
        fn fleet()(
            roles in prop::option::of(roles()), max_lifetime in prop::option::of(span()),
            tokens_per_minute in prop::option::of(1..9_u32), offline_grace in grace(),
            require_dpop in transports(),
        ) -> RealmPolicy {
            RealmPolicy { roles, max_lifetime, tokens_per_minute, require_dpop, offline_grace }
        }
    }

    /// `None` is no limit.
    fn within<T: Ord>(limit: Option<T>, most: Option<T>) -> bool {
        most.is_none_or(|most| limit.is_some_and(|limit| limit <= most))
    }

    proptest! {
        #[test]
        fn what_is_in_force_is_within_both(own in configured(), fleet in fleet()) {
            let narrow = own.narrowed_by(&fleet);
            for role in ROLES {
                let role = [role.to_owned()];
                for scope in Scope::ALL {
                    let signed = fleet.roles.as_ref().is_none_or(|roles| {
                        roles.get(&role[0]).is_some_and(|to| to.contains(&scope))
                    });
                    let both = own.grants(&role, scope) && signed;
                    prop_assert_eq!(narrow.grants(&role, scope), both);
                }
            }
            for client in CLIENTS {
                let lifetime = narrow.max_lifetime(client);
                prop_assert!(lifetime <= own.max_lifetime(client));
                prop_assert!(within(Some(lifetime), fleet.max_lifetime));
            }
            prop_assert_eq!(narrow.tokens_per_minute, own.tokens_per_minute);
            prop_assert!(within(narrow.tokens_per_minute_at_most, fleet.tokens_per_minute));
            for transport in own.require_dpop.iter().chain(&fleet.require_dpop) {
                prop_assert!(narrow.require_dpop.contains(transport));
            }
            for scope in Scope::ALL {
                let grace = narrow.offline_grace.get(&scope);
                prop_assert!(within(grace, own.offline_grace.get(&scope)));
                prop_assert!(within(grace, fleet.offline_grace.get(&scope)));
            }
        }

        #[test]
        fn twice_is_once_and_nothing_is_nothing(own in configured(), fleet in fleet()) {
            let narrow = own.narrowed_by(&fleet);
            prop_assert_eq!(&narrow.narrowed_by(&fleet), &narrow);
            prop_assert_eq!(own.narrowed_by(&RealmPolicy::default()), own);
        }
    }
}
