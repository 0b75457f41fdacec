//! Limits that the token carries bind, and never loosen the realm's.

use proptest::prelude::*;
use serde_json::{Value, json};
use slmd::for_tests::auth::{Decision, Grant, LimitClaims};
use slmd::for_tests::reason::DenyReason::ClaimInvalid;

use crate::case::Case;

fn limited(claims: &[(&str, Value)], realm: Option<u32>) -> Case {
    let mut case = Case::sound();
    case.realm.policy.tokens_per_minute = realm;
    case.realm.policy.limit_claims = LimitClaims {
        tokens_per_minute: Some("tpm".to_owned()),
        max_context: Some("ctx".to_owned()),
        priority: Some("prio".to_owned()),
    };
    for (name, value) in claims {
        case.claims[*name] = value.clone();
    }
    case
}

fn grant(case: &Case) -> Grant {
    match case.decide() {
        Decision::Permit(permitted) => (**permitted.grant()).clone(),
        Decision::Deny(denied) => panic!("{denied:?}"),
    }
}

#[test]
fn a_token_without_limits_has_the_realms() {
    let grant = grant(&limited(&[], Some(600)));
    assert_eq!(grant.tokens_per_minute, Some(600));
    assert_eq!((grant.max_context, grant.priority), (None, 5));
    assert!(!grant.local_peer);
}

#[test]
fn the_lower_limit_counts() {
    for (token, realm, counts) in [(10, Some(20), 10), (30, Some(20), 20), (30, None, 30)] {
        let grant = grant(&limited(&[("tpm", json!(token))], realm));
        assert_eq!(grant.tokens_per_minute, Some(counts));
    }
    let grant = grant(&limited(&[("ctx", json!(512)), ("prio", json!(0))], None));
    assert_eq!((grant.max_context, grant.priority), (Some(512), 0));
}

#[test]
fn claims_that_the_realm_does_not_name_are_not_read() {
    let mut case = limited(&[("tpm", json!("many")), ("prio", json!(99))], None);
    case.realm.policy.limit_claims = LimitClaims::default();
    assert_eq!(grant(&case).priority, 5);
}

#[test]
fn a_limit_that_cannot_be_read_refuses() {
    for name in ["tpm", "ctx", "prio"] {
        for bad in [
            json!("5"),
            json!(1.5),
            json!(-1),
            json!(null),
            json!([5]),
            json!(u64::MAX),
        ] {
            let denied = limited(&[(name, bad.clone())], Some(1)).denied();
            assert_eq!(denied.reason, ClaimInvalid, "{name} {bad}");
        }
    }
    for (name, bad) in [("tpm", 0), ("ctx", 0), ("prio", 10)] {
        let denied = limited(&[(name, json!(bad))], None).denied();
        assert_eq!(denied.reason, ClaimInvalid, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_token_raises_the_realms_limit(token in 1..=u32::MAX, realm in 1..=u32::MAX) {
        let grant = grant(&limited(&[("tpm", json!(token))], Some(realm)));
        prop_assert_eq!(grant.tokens_per_minute, Some(token.min(realm)));
    }
}
