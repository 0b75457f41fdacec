//! A realm's keys are changed as Keycloak's documentation says: a new one, the old one passive,
//! the old one gone. No good token is refused and no bad one accepted.

use serde_json::json;
use slmd::for_tests::reason::DenyReason;

use crate::admin::{State, fresh_realm};
use crate::certificates::rsa;
use crate::grants::{Realm, header};
use crate::judge::{Judge, trusted_with};

fn judge(realm: &Realm, jwks: &str) -> Judge {
    Judge::new(vec![trusted_with(realm, jwks)])
}

fn token(realm: &Realm) -> String {
    realm.service("device-1", None).access
}

#[test]
fn each_step_of_a_rotation_keeps_good_tokens() {
    let realm = fresh_realm("rotation");
    let admin = realm.admin();
    let (first, before) = (token(&realm), realm.jwks());
    judge(&realm, &before).permitted(&first);
    let [old] = admin.rsa_keys().try_into().expect("a new realm has one");

    let new = admin.generate_key("rsa", &json!({"priority": ["300"], "algorithm": ["RS256"]}));
    let (second, both) = (token(&realm), realm.jwks());
    assert_ne!(header(&first)["kid"], header(&second)["kid"]);
    judge(&realm, &before).refuses(&second, DenyReason::KeyUnknown);
    for token in [&first, &second] {
        judge(&realm, &both).permitted(token);
    }

    admin.set_key(&old, State::Passive);
    let passive = realm.jwks();
    for token in [&first, &second, &token(&realm)] {
        judge(&realm, &passive).permitted(token);
    }

    admin.remove_key(&old);
    let after = realm.jwks();
    judge(&realm, &after).refuses(&first, DenyReason::KeyUnknown);
    judge(&realm, &after).permitted(&second);
    admin.set_key(&new, State::Active);
    judge(&realm, &realm.jwks()).permitted(&token(&realm));
}

#[test]
fn every_kind_of_key_is_followed() {
    let realm = fresh_realm("algorithms");
    let admin = realm.admin();
    let kinds = [
        (
            "ecdsa",
            json!({"priority": ["200"], "ecdsaEllipticCurveKey": ["P-256"]}),
            "ES256",
        ),
        (
            "ecdsa",
            json!({"priority": ["210"], "ecdsaEllipticCurveKey": ["P-384"]}),
            "ES384",
        ),
        (
            "eddsa",
            json!({"priority": ["220"], "eddsaEllipticCurveKey": ["Ed25519"]}),
            "EdDSA",
        ),
        (
            "rsa",
            json!({"priority": ["230"], "algorithm": ["PS256"]}),
            "PS256",
        ),
    ];
    let mut tokens = vec![("RS256", token(&realm))];
    for (kind, config, algorithm) in kinds {
        admin.generate_key(kind, &config);
        let attribute = json!({"attributes": {"access.token.signed.response.alg": algorithm}});
        admin.change_client("device-1", &attribute);
        tokens.push((algorithm, token(&realm)));
    }
    let judge = judge(&realm, &realm.jwks());
    for (algorithm, token) in &tokens {
        assert_eq!(header(token)["alg"], *algorithm);
        judge.permitted(token);
    }
}

#[test]
fn a_key_that_the_test_brought_signs_for_keycloak() {
    let realm = fresh_realm("imported");
    let pair = rsa(&realm.server.folder, "imported");
    realm.admin().import_key(&pair, 400);
    let token = token(&realm);
    let judge = judge(&realm, &realm.jwks());
    judge.permitted(&token);

    let minted = pair.sign(&header(&token), &crate::grants::claims(&token));
    judge.permitted(&minted);
}
