//! What must hold for every token and every policy.

use std::sync::LazyLock;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;
use slmd::for_tests::auth::{
    Cache, Decision, DenyList, Policy, Realm, Revocations, Snapshot, decide,
};
use slmd::for_tests::prompt::{Look, Operation, Scope};
use slmd::for_tests::time::Timestamp;

use crate::mint::{self, ALGORITHMS, Issuer, NOW, chat};
use crate::mutations::Mutator;
use crate::samples;

/// One issuer of each kind of key.
pub(crate) static ISSUERS: LazyLock<Vec<Issuer>> = LazyLock::new(|| {
    let kinds = ["RS256", "ES256", "ES384", "EdDSA"];
    kinds.map(|alg| Issuer::new(alg, alg)).into()
});

pub(crate) fn world() -> Snapshot {
    mint::snapshot(&ISSUERS.iter().collect::<Vec<_>>())
}

/// Cases of each property below; `SLMD_TEST_MORE` has many more.
fn cases() -> ProptestConfig {
    let more = std::env::var_os("SLMD_TEST_MORE").is_some();
    ProptestConfig::with_cases(if more { 20_000 } else { 512 })
}

fn permits(token: &str, operation: Operation, realm: Realm) -> bool {
    permits_under(token, operation, realm, Revocations::default(), true)
}

fn permits_under(
    token: &str,
    operation: Operation,
    realm: Realm,
    revoked: Revocations,
    synchronised: bool,
) -> bool {
    let (request, credential) = (mint::request(None, operation), mint::bearer(token));
    let realms = [(realm.issuer.clone(), revoked)].into();
    let deny = DenyList {
        realms,
        ..DenyList::default()
    };
    let snapshot = Snapshot::new(1, vec![realm], deny);
    let mut clock = mint::clock();
    clock.synchronised = synchronised;
    let decision = decide(None, &credential, &request, &snapshot, &clock);
    matches!(decision, Decision::Permit(_))
}

/// All flips, of a token of every algorithm.
#[test]
fn a_flipped_bit_never_permits() {
    let (world, request) = (world(), mint::request(None, chat()));
    for alg in ALGORITHMS {
        let sound = samples::sound(alg);
        let realm = world.realms.values().next().unwrap();
        assert!(permits(&sound, chat(), realm.clone()), "{alg}");
        // The eighth bit of a byte makes no text, and a credential is text.
        for bit in 0..sound.len() * 7 {
            let mut bytes = sound.clone().into_bytes();
            bytes[bit / 7] ^= 1 << (bit % 7);
            let credential = mint::bearer(String::from_utf8(bytes).unwrap());
            let decision = decide(None, &credential, &request, &world, &mint::clock());
            assert!(matches!(decision, Decision::Deny(_)), "{alg}: bit {bit}");
        }
    }
}

fn operation() -> impl Strategy<Value = Operation> {
    let looks = [Look::Models, Look::Metrics, Look::Status].map(Operation::Look);
    prop::sample::select([vec![chat(), Operation::Cancel], looks.to_vec()].concat())
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
fn shrink(realm: &Realm, way: u8, at: usize) -> (Realm, Revocations) {
    let (mut less, mut revoked) = (realm.clone(), Revocations::default());
    let (policy, secs) = (&mut less.policy, Duration::from_secs(at as u64));
    let own = &mut policy.max_lifetime_by_client;
    match way {
        0 => policy.max_lifetime = policy.max_lifetime.saturating_sub(secs),
        1 => policy.max_age = Some(policy.max_age.unwrap_or(secs).min(secs)),
        2 => policy.leeway = Duration::ZERO,
        3 => policy.default_endpoint = None,
        4 => policy.offline_grace = Scope::ALL.map(|scope| (scope, Duration::ZERO)).into(),
        5 => policy.unsynchronised_scopes.clear(),
        6 => drop(own.insert("device-1".to_owned(), policy.max_lifetime.min(secs))),
        7 => drop(less.endpoints.remove(at % less.endpoints.len())),
        8 => less.keys = mint::realm(&[&ISSUERS[at % ISSUERS.len()]]).keys,
        9 => less.confirmed = None,
        10 => revoked = revocations(at),
        // Not the last one: without any mapping the roles mean themselves again.
        11 if policy.roles.len() > 1 => {
            let role = policy.roles.keys().nth(at % policy.roles.len()).cloned();
            policy.roles.remove(&role.unwrap());
        }
        _ => policy
            .roles
            .values_mut()
            .for_each(|scopes| _ = scopes.pop()),
    }
    (less, revoked)
}

/// Some of which name the token.
fn revocations(at: usize) -> Revocations {
    let mut revoked = Revocations::default();
    let own = |name: &str| mint::claims()[name].as_str().unwrap().to_owned();
    match at % 6 {
        0 => revoked.subjects.insert(own("sub"), None),
        1 => revoked.sessions.insert(own("sid"), None),
        2 => revoked.token_ids.insert(own("jti"), None),
        3 => revoked.clients.insert("another".to_owned(), None),
        4 => revoked.not_before = Timestamp::from_secs(NOW - at as u64),
        _ => revoked.thumbprints.insert(world_thumbprint(at), None),
    }
    revoked
}

fn world_thumbprint(at: usize) -> String {
    let keys = world().realms.into_values().next().unwrap().keys.keys();
    keys[at % keys.len()].thumbprint.clone()
}

/// Snapshots that say the same as `realm` alone: another epoch, keys in another order, realms of
/// other issuers beside it.
fn same_worlds(realm: &Realm) -> Vec<Snapshot> {
    let mut reordered = realm.clone();
    let backwards: Vec<&Issuer> = ISSUERS.iter().rev().collect();
    reordered.keys = mint::realm(&backwards).keys;
    let mut other = mint::realm(&[&Issuer::new("EdDSA", "EdDSA")]);
    other.issuer = "https://keycloak.test/realms/other".to_owned();
    other.name = "other".to_owned();
    vec![
        Snapshot::new(1, vec![realm.clone()], DenyList::default()),
        Snapshot::new(2, vec![reordered], DenyList::default()),
        Snapshot::new(3, vec![other, realm.clone()], DenyList::default()),
    ]
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn less_never_grants_more(
        roles in prop::collection::vec(role(), 0..4),
        policy in policy(),
        operation in operation(),
        way in 0..13u8,
        at in 0..4000usize,
        synchronised: bool,
    ) {
        let issuer = &ISSUERS[3];
        let mut claims = mint::claims();
        claims["resource_access"]["slm"]["roles"] = json!(roles);
        let token = issuer.token(&claims);
        let mut realm = world().realms.into_values().next().unwrap();
        realm.policy = policy;
        let none = Revocations::default();
        let before = permits_under(&token, operation, realm.clone(), none.clone(), synchronised);

        let (less, revoked) = shrink(&realm, way, at);
        prop_assert!(before || !permits_under(&token, operation, less, revoked, synchronised));
        if !roles.is_empty() {
            let mut fewer = roles.clone();
            fewer.remove(at % roles.len());
            claims["resource_access"]["slm"]["roles"] = json!(fewer);
            let token = issuer.token(&claims);
            prop_assert!(before || !permits_under(&token, operation, realm, none, synchronised));
        }
    }

    /// Neither an earlier decision, the thread, the epoch, the order of keys nor other realms
    /// change it.
    #[test]
    fn the_decision_is_a_function_of_its_arguments(
        seed: u64,
        sound: bool,
        policy in policy(),
        operation in operation(),
        later in 0..7200u64,
    ) {
        let (mutated, original) = Mutator::new(seed).next();
        let credential = mint::bearer(if sound { original } else { mutated });
        let request = mint::request(None, operation);
        let mut realm = world().realms.into_values().next().unwrap();
        realm.policy = policy;
        let mut clock = mint::clock();
        clock.now = Timestamp::from_secs(NOW + later);
        let answer = |world: &Snapshot| format!("{:?}", decide(None, &credential, &request, world, &clock));
        let worlds = same_worlds(&realm);
        let first = answer(&worlds[0]);
        for world in &worlds {
            prop_assert_eq!(&answer(world), &first);
            let elsewhere = std::thread::scope(|scope| scope.spawn(|| answer(world)).join().unwrap());
            prop_assert_eq!(&elsewhere, &first);
        }
    }

    /// Whatever was asked before, at whatever time and epoch, a cache that is too small for all
    /// answers as `decide` does, twice.
    #[test]
    fn the_cache_answers_as_decide(
        steps in prop::collection::vec((0..6usize, operation(), 0..7200u64, 1..3u64), 1..40),
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
        let looked_for = 2 * steps.len() as u64;
        for (token, operation, later, epoch) in steps {
            let mut clock = mint::clock();
            clock.now = Timestamp::from_secs(NOW + later);
            let (request, credential) = (mint::request(None, operation), mint::bearer(tokens[token].as_str()));
            let world = &worlds[epoch as usize - 1];
            let plain = format!("{:?}", decide(None, &credential, &request, world, &clock));
            for _ in 0..2 {
                let cached = cache.decide(&credential, &request, world, &clock);
                prop_assert_eq!(format!("{cached:?}"), plain.as_str());
            }
        }
        let uses = cache.uses();
        prop_assert_eq!(uses.lookups, looked_for);
        prop_assert!(uses.entries <= capacity && uses.hits <= uses.lookups);
        prop_assert!(capacity > 0 || uses.hits == 0);
    }
}
