//! What must hold for every token and every policy.

use std::sync::LazyLock;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;
use slmd::auth::{Cache, Decision, DenyList, Policy, Realm, Snapshot, decide};
use slmd::prompt::{Action, Scope};
use slmd::time::Timestamp;

use crate::mint::{self, Issuer, NOW, chat};

/// One issuer of each kind of key.
pub(crate) static ISSUERS: LazyLock<Vec<Issuer>> = LazyLock::new(|| {
    let kinds = ["RS256", "ES256", "ES384", "EdDSA"];
    kinds.map(|alg| Issuer::new(alg, alg)).into()
});

pub(crate) fn world() -> Snapshot {
    mint::snapshot(&ISSUERS.iter().collect::<Vec<_>>())
}

fn permits(token: &str, action: Action, realm: Realm) -> bool {
    let (request, credential) = (mint::request(None, action), mint::bearer(token));
    let snapshot = Snapshot::new(1, vec![realm], DenyList::default());
    let decision = decide(&credential, &request, &snapshot, &mint::clock());
    matches!(decision, Decision::Permit(_))
}

fn action() -> impl Strategy<Value = Action> {
    let cancel = Action::Cancel {
        correlation: vec![1],
    };
    prop::sample::select(vec![chat(), Action::ListModels, cancel, Action::ReadAudit])
}

fn role() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["read", "write", "fine-tune", "audit", "asker", "Read"])
        .prop_map(str::to_owned)
}

fn scope() -> impl Strategy<Value = Scope> {
    prop::sample::select(Scope::ALL.to_vec())
}

fn policy() -> impl Strategy<Value = Policy> {
    let roles = prop::collection::btree_map(role(), prop::collection::vec(scope(), 0..3), 0..4);
    let secs = prop::option::of(0..8000u64).prop_map(|secs| secs.map(Duration::from_secs));
    (roles, 3000..8000u64, secs).prop_map(|(roles, lifetime, max_age)| Policy {
        default_endpoint: Some("slm".to_owned()),
        roles,
        max_lifetime: Duration::from_secs(lifetime),
        max_age,
        ..Policy::default()
    })
}

/// One way of allowing less.
fn shrink(policy: &Policy, way: u8, at: usize) -> Policy {
    let mut less = policy.clone();
    match way {
        0 => {
            less.max_lifetime = less
                .max_lifetime
                .saturating_sub(Duration::from_secs(at as u64))
        }
        1 => {
            less.max_age = Some(
                less.max_age
                    .unwrap_or(Duration::MAX)
                    .min(Duration::from_secs(300)),
            )
        }
        2 => less.leeway = Duration::ZERO,
        3 => less.default_endpoint = None,
        4 => less.offline_grace = Scope::ALL.map(|scope| (scope, Duration::ZERO)).into(),
        // Not the last one: without any mapping the roles mean themselves again.
        _ if less.roles.len() > 1 => {
            let role = less.roles.keys().nth(at % less.roles.len()).cloned();
            less.roles.remove(&role.unwrap());
        }
        _ => less.roles.values_mut().for_each(|scopes| {
            scopes.pop();
        }),
    }
    less
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_flipped_bit_never_permits(issuer in 0..4usize, at in any::<prop::sample::Index>()) {
        let token = ISSUERS[issuer].token(&mint::claims());
        prop_assert!(permits(&token, chat(), world().realms.into_values().next().unwrap()));
        let bit = at.index(token.len() * 7);
        let mut bytes = token.into_bytes();
        bytes[bit / 7] ^= 1 << (bit % 7);
        let token = String::from_utf8(bytes).unwrap();
        prop_assert!(!permits(&token, chat(), world().realms.into_values().next().unwrap()));
    }

    #[test]
    fn less_never_grants_more(
        roles in prop::collection::vec(role(), 0..4),
        policy in policy(),
        action in action(),
        way in 0..7u8,
        at in 0..4000usize,
    ) {
        let issuer = &ISSUERS[3];
        let mut claims = mint::claims();
        claims["resource_access"]["slm"]["roles"] = json!(roles);
        let token = issuer.token(&claims);
        let mut realm = mint::realm(&[issuer]);
        realm.policy = policy;
        let before = permits(&token, action.clone(), realm.clone());

        let mut less = realm.clone();
        less.policy = shrink(&realm.policy, way, at);
        prop_assert!(before || !permits(&token, action.clone(), less));
        if !roles.is_empty() {
            let mut fewer = roles.clone();
            fewer.remove(at % roles.len());
            claims["resource_access"]["slm"]["roles"] = json!(fewer);
            let token = issuer.token(&claims);
            prop_assert!(before || !permits(&token, action, realm));
        }
    }

    /// Whatever was asked before, at whatever time and epoch, a cache that is too small for all
    /// answers as `decide` does, twice.
    #[test]
    fn the_cache_answers_as_decide(
        steps in prop::collection::vec((0..6usize, action(), 0..7200u64, 1..3u64), 1..40),
        capacity in 0..4usize,
    ) {
        let cache = Cache::new(capacity);
        let tokens: Vec<String> = (0..6u64).map(|i| {
            let mut claims = mint::claims();
            claims["exp"] = json!(NOW + 600 * i);
            claims["resource_access"]["slm"]["roles"] = json!(["read", "audit"][..1 + i as usize % 2]);
            let mut token = ISSUERS[3].token(&claims);
            if i == 5 { token.pop(); }
            token
        }).collect();
        let mut worlds = [world(), world()];
        worlds[1].epoch = 2;
        for realm in worlds[1].realms.values_mut() {
            realm.policy.roles = [("read".to_owned(), vec![Scope::Audit])].into();
        }
        for (token, action, later, epoch) in steps {
            let mut clock = mint::clock();
            clock.now = Timestamp::from_secs(NOW + later);
            let (request, credential) = (mint::request(None, action), mint::bearer(tokens[token].as_str()));
            let world = &worlds[epoch as usize - 1];
            let plain = format!("{:?}", decide(&credential, &request, world, &clock));
            for _ in 0..2 {
                let cached = cache.decide(&credential, &request, world, &clock);
                prop_assert_eq!(format!("{cached:?}"), plain.as_str());
            }
        }
    }
}
