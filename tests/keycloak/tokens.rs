//! Each grant's token, judged for each scope.

use std::time::Duration;

use serde_json::json;
use slmd::for_tests::reason::DenyReason;

use crate::admin::fresh_realm;
use crate::grants::{Tokens, claims, header, realm};
use crate::judge::Judge;
use crate::proof::ProofKey;

/// Those that have the example clients.
const BOTH: [&str; 2] = ["staging", "dev"];

#[test]
fn a_secret_gets_what_the_service_account_may() {
    for realm in BOTH.map(realm) {
        let judge = Judge::of(&[&realm]);
        let reports = realm.service("reports", None);
        assert_eq!(judge.scopes(&reports.access), ["read", "audit"]);
        let device = realm.service("device-1", None);
        assert_eq!(judge.scopes(&device.access), ["read"]);
        let grant = judge.permitted(&device.access);
        assert_eq!(grant.realm, realm.name);
        assert_eq!(grant.principal.client, "device-1");
    }
}

#[test]
fn a_signed_assertion_gets_what_the_service_account_may() {
    for realm in BOTH.map(realm) {
        let tokens = realm.gateway();
        let judge = Judge::of(&[&realm]);
        assert_eq!(judge.scopes(&tokens.access), ["read", "write", "fine-tune"]);
    }
}

/// Keycloak takes the time that it needed itself from what it tells.
#[track_caller]
fn lasts(tokens: &Tokens, seconds: u64) {
    let told = tokens.expires_in;
    assert!((seconds - 60..=seconds).contains(&told), "{told}");
}

#[test]
fn a_device_gets_a_bound_token_for_a_day() {
    for realm in BOTH.map(realm) {
        let key = ProofKey::new();
        let tokens = realm.service("device-2", Some(&key));
        lasts(&tokens, 86_400);
        assert_eq!(tokens.kind, "DPoP");
        let claims = claims(&tokens.access);
        assert_eq!(claims["typ"], "DPoP");
        assert_eq!(claims["cnf"]["jkt"], key.thumbprint());
        // Without a proof it is of no use to whoever has seen it.
        Judge::of(&[&realm]).refuses(&tokens.access, DenyReason::ProofMissing);
    }
}

#[test]
fn a_technician_gets_a_bound_token_for_ten_hours() {
    let realm = realm("prod");
    let key = ProofKey::new();
    let tokens = realm.technician("ada", &key);
    lasts(&tokens, 36_000);
    assert_eq!(tokens.kind, "DPoP");
    let judge = Judge::of(&[&realm]);
    judge.refuses(&tokens.access, DenyReason::ProofMissing);
    let first = claims(&tokens.access);
    assert_eq!(first["preferred_username"], "ada");
    assert_eq!(
        first["resource_access"],
        json!({"slm-chat": {"roles": ["read"]}})
    );
    assert_eq!(first["cnf"]["jkt"], key.thumbprint());

    let refresh = tokens
        .refresh
        .expect("a technician's login can be refreshed");
    // Neither an access token nor of any use without the key.
    judge.refuses(&refresh, refused_as(&refresh));
    let refreshed = claims(&realm.refresh(&refresh, &key).access);
    assert_eq!(refreshed["cnf"], first["cnf"]);
    assert_eq!(refreshed["sid"], first["sid"]);
    assert_ne!(refreshed["jti"], first["jti"]);
    let fields = [
        ("grant_type", "refresh_token"),
        ("client_id", "slmd-technician"),
        ("refresh_token", refresh.as_str()),
    ];
    assert_eq!(realm.ask(&fields, Some(&ProofKey::new())).status, 400);
    assert_eq!(realm.ask(&fields, None).status, 400);
}

/// Keycloak signs refresh tokens with a key of its own (HMAC).
fn refused_as(refresh: &str) -> DenyReason {
    assert_eq!(header(refresh)["alg"], "HS512");
    DenyReason::AlgorithmRejected
}

#[test]
fn an_exchanged_token_opens_what_the_users_own_does_not() {
    let realm = realm("staging");
    realm.admin().allow_passwords();
    let user = realm.user("mary");
    let judge = Judge::of(&[&realm]);
    judge.refuses(&user.access, DenyReason::AudienceMismatch);

    let exchanged = realm.exchange(&user.access);
    assert_eq!(judge.scopes(&exchanged.access), ["read", "fine-tune"]);
    let grant = judge.permitted(&exchanged.access);
    assert_eq!(grant.principal.client, "portal");
    assert_eq!(grant.principal.subject, claims(&user.access)["sub"]);
}

#[test]
fn limits_are_in_the_token() {
    let realm = realm("staging");
    let claims = claims(&realm.service("device-1", None).access);
    assert_eq!(claims["slmd_tokens_per_minute"], 6000);
    assert_eq!(claims["slmd_max_context"], 1024);
    assert_eq!(claims["slmd_priority"], 7);
}

#[test]
fn a_lifetime_is_judged_by_the_client_that_got_it() {
    let realm = fresh_realm("lifetimes");
    let long = json!({"attributes": {"access.token.lifespan": "86400"}});
    realm.admin().change_client("reports", &long);
    let tokens = realm.service("reports", None);
    lasts(&tokens, 86_400);
    let judge = Judge::of(&[&realm]);
    judge.refuses(&tokens.access, DenyReason::LifetimeTooLong);
    let allowed = judge.policy(|policy| {
        let day = Duration::from_secs(86_400);
        policy
            .max_lifetime_by_client
            .insert("reports".to_owned(), day);
    });
    allowed.permitted(&tokens.access);
    let shorter = allowed.policy(|policy| {
        let less = Duration::from_secs(86_399);
        policy
            .max_lifetime_by_client
            .insert("reports".to_owned(), less);
    });
    shorter.refuses(&tokens.access, DenyReason::LifetimeTooLong);
}

#[test]
fn a_token_ends_when_keycloak_says() {
    let realm = realm("staging");
    let token = realm.service("device-1", None).access;
    let expiry = claims(&token)["exp"].as_u64().expect("a time");
    let at = |seconds| {
        let now = slmd::for_tests::time::Timestamp::from_secs(seconds);
        Judge::of(&[&realm]).at(now)
    };
    at(expiry + 29).permitted(&token);
    at(expiry + 30).refuses(&token, DenyReason::Expired);
    at(expiry - 331).refuses(&token, DenyReason::IssuedInFuture);
}

#[test]
fn an_id_token_is_no_access_token() {
    let realm = realm("staging");
    realm.admin().allow_passwords();
    let fields = [
        ("grant_type", "password"),
        ("client_id", "workshop-app"),
        ("username", "mary"),
        ("password", crate::directory::PASSWORD),
        ("scope", "openid"),
    ];
    let answer = realm.ask(&fields, None).success().json();
    let id_token = answer["id_token"].as_str().expect("it was asked for");
    Judge::of(&[&realm]).refuses(id_token, DenyReason::TypeRejected);
}
