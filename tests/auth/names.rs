//! What people are called is for the audit alone: it is read where the realm says so, and decides
//! nothing.

use serde_json::json;
use slmd::for_tests::auth::Decision;

use crate::case::Case;

/// Of a permit, or of a refusal because the token has expired.
fn username(recorded: bool, called: &serde_json::Value, expired: bool) -> Option<String> {
    let mut case = Case::sound();
    case.realm.policy.record_username = recorded;
    case.claims["preferred_username"] = called.clone();
    if expired {
        case.claims["exp"] = json!(case.claims["iat"].as_u64().unwrap() + 1);
    }
    match case.decide() {
        Decision::Permit(permitted) if !expired => permitted.grant().username.clone(),
        Decision::Deny(denied) if expired => denied.username,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_name_is_read_where_the_realm_records_names() {
    for expired in [false, true] {
        let alice = json!("alice");
        assert_eq!(
            username(true, &alice, expired).as_deref(),
            Some("alice"),
            "{expired}"
        );
        assert_eq!(username(false, &alice, expired), None, "{expired}");
    }
}

#[test]
fn a_name_that_cannot_be_read_is_none_and_refuses_nobody() {
    for odd in [json!(7), json!(""), json!(["alice"]), json!(null)] {
        assert_eq!(username(true, &odd, false), None, "{odd}");
    }
}

/// A claim that refuses the token leaves it genuine, so the refusal names whose it is.
#[test]
fn a_refused_claim_leaves_the_name() {
    let mut case = Case::sound();
    case.realm.policy.record_username = true;
    case.claims["preferred_username"] = json!("alice");
    case.claims["aud"] = json!(7);
    assert_eq!(case.denied().username.as_deref(), Some("alice"));
}
