//! Two realms, many clients: what belongs to one opens nothing of another.

use serde_json::{Value, json};
use slmd::for_tests::auth::Decision;
use slmd::for_tests::prompt::{Look, Operation};
use slmd::for_tests::reason::DenyReason;

use crate::admin::fresh_realm;
use crate::certificates::rsa;
use crate::grants::{claims, header, realm};
use crate::judge::{Judge, trusted, trusted_with};

#[test]
fn a_token_opens_its_own_realm_only() {
    let (staging, dev) = (realm("staging"), realm("dev"));
    let of_staging = staging.service("device-1", None).access;
    let of_dev = dev.service("device-1", None).access;
    let both = Judge::of(&[&staging, &dev]);
    assert_eq!(both.permitted(&of_staging).realm, "staging");
    assert_eq!(both.permitted(&of_dev).realm, "dev");

    Judge::of(&[&dev]).refuses(&of_staging, DenyReason::IssuerUnknown);
    Judge::of(&[&staging]).refuses(&of_dev, DenyReason::IssuerUnknown);
    let crossed = Judge::new(vec![
        trusted_with(&staging, &dev.jwks()),
        trusted_with(&dev, &staging.jwks()),
    ]);
    crossed.refuses(&of_staging, DenyReason::KeyUnknown);
    crossed.refuses(&of_dev, DenyReason::KeyUnknown);
}

#[test]
fn the_same_kid_in_two_realms_never_crosses() {
    let (staging, dev) = (realm("staging"), realm("dev"));
    let token = dev.service("device-1", None).access;
    let kid = header(&token)["kid"].clone();
    // Staging's keys under the other realm's names: the name fits, the signature must not.
    let mut jwks: Value = serde_json::from_str(&staging.jwks()).expect("JSON");
    let keys = jwks["keys"].as_array_mut().expect("a set");
    for key in keys.iter_mut().filter(|key| key["use"] == "sig") {
        key["kid"] = kid.clone();
    }
    let renamed = jwks.to_string();
    let sound = Judge::new(vec![trusted_with(&staging, &renamed), trusted(&dev)]);
    assert_eq!(sound.permitted(&token).realm, "dev");
    let wrong = Judge::new(vec![trusted(&staging), trusted_with(&dev, &renamed)]);
    wrong.refuses(&token, DenyReason::SignatureInvalid);
}

#[test]
fn one_key_in_two_realms_opens_each_ones_own() {
    let (left, right) = (fresh_realm("left"), fresh_realm("right"));
    let pair = rsa(&left.server.folder, "shared");
    for realm in [&left, &right] {
        realm.admin().import_key(&pair, 200);
    }
    right.admin().revoke("device-1", "slm-chat", "read");
    right.admin().grant("device-1", "slm-chat", "write");
    let tokens = [&left, &right].map(|realm| realm.service("device-1", None).access);
    assert_eq!(header(&tokens[0])["kid"], header(&tokens[1])["kid"]);
    let judge = Judge::of(&[&left, &right]);
    assert_eq!(judge.scopes(&tokens[0]), ["read"]);
    assert_eq!(judge.scopes(&tokens[1]), ["write"]);
    assert_eq!(judge.permitted(&tokens[0]).realm, "left");
    judge.refuses(&tokens[1], DenyReason::ScopeMissing);
}

#[test]
fn a_role_of_another_client_opens_nothing_here() {
    let realm = fresh_realm("others");
    let admin = realm.admin();
    let other = json!({"clientId": "slm-other", "standardFlowEnabled": false});
    admin.create_client(&other);
    admin.create_role("slm-other", "read");
    admin.grant("reports", "slm-other", "read");
    admin.revoke("reports", "slm-chat", "read");
    let token = realm.service("reports", None).access;
    assert_eq!(claims(&token)["aud"], json!(["slm-chat", "slm-other"]));

    let judge = Judge::of(&[&realm]);
    // Its role for slm-chat is `audit`.
    judge.refuses(&token, DenyReason::ScopeMissing);
    let other = judge.decide(&token, Some("slm-other"), Operation::Look(Look::Metrics));
    let Decision::Deny(denied) = other else {
        panic!("the audit is read with a role of another client");
    };
    assert_eq!(denied.reason, DenyReason::ScopeMissing);
    admin.revoke("reports", "slm-chat", "audit");
    let token = realm.service("reports", None).access;
    judge.refuses(&token, DenyReason::AudienceMismatch);
}

#[test]
fn the_usual_mistakes_are_refused_by_name() {
    let realm = fresh_realm("mistakes");
    let admin = realm.admin();
    let judge = Judge::of(&[&realm]);
    let change = |value: &str| {
        let attribute =
            json!({"attributes": {"client.use.lightweight.access.token.enabled": value}});
        admin.change_client("reports", &attribute);
        realm.service("reports", None).access
    };
    judge.permitted(&change("false"));
    let denied = judge.denied(&change("true"));
    let reasons = [
        DenyReason::SubjectMissing,
        DenyReason::AudienceMismatch,
        DenyReason::RolesMissing,
    ];
    assert!(reasons.contains(&denied.reason), "{denied:?}");
    change("false");

    let itself = json!({"serviceAccountsEnabled": true});
    admin.change_client("slm-chat", &itself);
    admin.grant("slm-chat", "slm-chat", "read");
    let token = realm.service("slm-chat", None).access;
    judge.refuses(&token, DenyReason::AudienceMismatch);

    let nobody = json!({"clientId": "newcomer", "serviceAccountsEnabled": true});
    admin.create_client(&nobody);
    let token = realm.service("newcomer", None).access;
    judge.refuses(&token, DenyReason::AudienceMismatch);
}

#[test]
fn an_auditor_audits_and_does_nothing_else() {
    let realm = fresh_realm("auditors");
    realm.admin().allow_passwords();
    realm.admin().create_user("olga", "slm-auditors");
    let token = realm.exchange(&realm.user("olga").access).access;
    assert_eq!(Judge::of(&[&realm]).scopes(&token), ["audit"]);
    let roles = claims(&token)["resource_access"].clone();
    assert_eq!(roles, json!({"slm-chat": {"roles": ["audit"]}}));
}

#[test]
fn a_token_carries_no_role_beyond_its_clients_scope() {
    let realm = fresh_realm("scopes");
    let admin = realm.admin();
    admin.create_client(&json!({"clientId": "slm-other", "standardFlowEnabled": false}));
    admin.create_role("slm-other", "read");
    for (client_id, role) in [("slm-chat", "write"), ("slm-other", "read")] {
        admin.assign("device-1", client_id, role);
    }
    let token = realm.service("device-1", None).access;
    assert_eq!(claims(&token)["aud"], json!("slm-chat"));
    assert_eq!(Judge::of(&[&realm]).scopes(&token), ["read"]);
}

#[test]
fn what_clients_and_administrators_did_is_kept() {
    let realm = fresh_realm("events");
    let admin = realm.admin();
    realm.service("device-1", None);
    let logins = admin.kept("/events?type=CLIENT_LOGIN");
    assert!(logins.iter().any(|login| login["clientId"] == "device-1"));
    admin.create_role("slm-chat", "temporary");
    let changes = admin.kept("/admin-events?operationTypes=CREATE");
    let made = |change: &&Value| change["resourceType"] == "CLIENT_ROLE";
    let change = changes.iter().find(made).expect("the new role");
    // What an administrator writes may be a secret.
    assert_eq!(change["representation"], Value::Null);
}
