//! What stands around the decision: deny files, key sets as people compare them, and signatures
//! of documents that are no tokens.

use serde_json::{Value, json};
use slmd::for_tests::auth::{KeySet, Revocations, verify_jws};
use slmd::for_tests::reason::DenyReason::{self, *};
use slmd::for_tests::time::Timestamp;

use crate::case::segments;
use crate::mint::{Issuer, NOW, encode, jwks};

fn deny(file: &Value) -> Result<Revocations, String> {
    Revocations::parse(file.to_string().as_bytes())
}

#[test]
fn a_deny_file_is_read_whole() {
    let list = deny(&json!({
        "version": 1, "not_before": NOW, "not_before_by_client": {"device-1": NOW + 1},
        "revoked": [
            {"jti": "t"}, {"sub": "s"}, {"sid": "i"}, {"azp": "c"}, {"jkt": "k", "expires": NOW},
            {"sub": "s", "expires": NOW}
        ]
    }));
    let mut expected = Revocations::default();
    expected.token_ids.insert("t".to_owned(), None);
    expected.subjects.insert("s".to_owned(), None);
    expected.sessions.insert("i".to_owned(), None);
    expected.clients.insert("c".to_owned(), None);
    let until = Some(Timestamp::from_secs(NOW));
    expected.thumbprints.insert("k".to_owned(), until);
    expected.not_before = Timestamp::from_secs(NOW);
    let later = Timestamp::from_secs(NOW + 1);
    expected
        .not_before_by_client
        .insert("device-1".to_owned(), later);
    assert_eq!(expected.entries(), 7);
    assert_eq!(list, Ok(expected));
    assert_eq!(deny(&json!({"version": 1})).unwrap().entries(), 0);
}

#[test]
fn a_deny_file_that_is_half_understood_is_refused() {
    for bad in [
        json!([]),
        json!([1]),
        json!([1, [["x", null, null, null, null, null]]]),
        json!({"version": 1, "revoked": [["x", null, null, null, null, null]]}),
        json!({}),
        json!({"version": 2}),
        json!({"version": 1, "more": 1}),
        json!({"version": 1, "revoked": [{"user": "x"}]}),
        json!({"version": 1, "revoked": [{"sub": "x", "jti": "y"}]}),
        json!({"version": 1, "revoked": [{"sub": ""}]}),
        json!({"version": 1, "revoked": [{"sub": 1}]}),
        json!({"version": 1, "revoked": [{}]}),
        json!({"version": 1, "revoked": [{"expires": NOW}]}),
        json!({"version": 1, "revoked": [{"sub": "x", "expires": "never"}]}),
        json!({"version": 1, "revoked": [{"sub": "x", "expires": u64::MAX}]}),
        json!({"version": 1, "not_before": -1}),
        json!({"version": 1, "not_before": NOW * 1000}),
        json!({"version": 1, "not_before_by_client": [1]}),
        json!({"version": 1, "revoked": vec![json!({"sub": "x"}); 10_001]}),
    ] {
        assert!(deny(&bad).is_err(), "{bad:.80}");
    }
    let twice: &[u8] = br#"{"version":1,"not_before_by_client":{"a":1,"a":2}}"#;
    assert!(Revocations::parse(twice).is_err());
    let long = format!("{}{}", json!({"version": 1}), " ".repeat(256 * 1024));
    assert!(Revocations::parse(long.as_bytes()).is_err());
}

#[test]
fn key_sets_compare_by_their_keys() {
    let [a, b, c] = ["a", "b", "c"].map(|kid| Issuer::new("ES256", kid));
    let set = |issuers: &[&Issuer]| KeySet::parse(jwks(issuers).as_bytes()).unwrap();
    let (ab, ba, bc) = (set(&[&a, &b]), set(&[&b, &a]), set(&[&b, &c]));
    assert_eq!(ab.fingerprint().len(), 64);
    assert_eq!(ab.fingerprint(), ba.fingerprint());
    assert_ne!(ab.fingerprint(), bc.fingerprint());
    assert!(ab.same_keys(&ba) && !ab.same_keys(&bc));
    assert!(!ab.thumbprints().is_disjoint(&bc.thumbprints()));
    assert!(set(&[&a]).thumbprints().is_disjoint(&bc.thumbprints()));
    let renamed = jwks(&[&a, &b]).replace("\"kid\":\"a\"", "\"kid\":\"z\"");
    let renamed = KeySet::parse(renamed.as_bytes()).unwrap();
    assert!(
        !ab.same_keys(&renamed),
        "the same key by another name isn't found by the old one"
    );
    assert_eq!(ab.thumbprints(), renamed.thumbprints());
}

/// Anybody can sign for the neutral point: with itself and 0, whatever the message.
#[test]
fn a_point_of_small_order_signs_nothing() {
    let issuer = Issuer::new("ES256", "ec");
    let (mut neutral, mut signature) = ([0; 32], [0; 64]);
    (neutral[0], signature[0]) = (1, 1);
    let weak = json!({"kty": "OKP", "crv": "Ed25519", "kid": "weak", "x": encode(neutral)});
    let set = json!({"keys": [issuer.jwk(), weak]}).to_string();
    let keys = KeySet::parse(set.as_bytes()).unwrap();
    let header = encode(json!({"alg": "EdDSA", "kid": "weak"}).to_string());
    let forged = format!("{header}.{}.{}", encode("{}"), encode(signature));
    assert_eq!(verify_jws(&forged, &keys).unwrap_err(), KeyUnusable);
    assert!(keys.skipped()[0].why.contains("small order"));
}

#[test]
fn a_signature_alone_is_checked() {
    let (ec, ed) = (Issuer::new("ES256", "ec"), Issuer::new("EdDSA", "ed"));
    let keys = KeySet::parse(jwks(&[&ec, &ed]).as_bytes()).unwrap();
    let payload = "no JSON, and no claims";
    let signed = |header: Value| ec.token_of(&header.to_string(), payload);
    let verdict = |jws: &str| verify_jws(jws, &keys).map(|key| key.kid);
    for header in [
        json!({"alg": "ES256", "kid": "ec"}),
        json!({"alg": "ES256", "typ": "x"}),
    ] {
        assert_eq!(verdict(&signed(header)), Ok("ec".to_owned()));
    }
    let bad: &[(DenyReason, String)] = &[
        (KeyUnknown, signed(json!({"alg": "ES256", "kid": "other"}))),
        (
            AlgorithmRejected,
            signed(json!({"alg": "ES256", "kid": "ed"})),
        ),
        (AlgorithmRejected, signed(json!({"alg": "ES384"}))),
        (AlgorithmRejected, signed(json!({"alg": "none"}))),
        (
            CriticalHeader,
            signed(json!({"alg": "ES256", "crit": ["b64"], "b64": false})),
        ),
        (TokenMalformed, signed(json!({"alg": "ES256", "kid": 1}))),
        (TokenMalformed, signed(json!([]))),
        (
            SignatureInvalid,
            segments(&signed(json!({"alg": "ES256"})), |s| s[1] = encode("x")),
        ),
    ];
    for (reason, jws) in bad {
        assert_eq!(verdict(jws), Err(*reason), "{jws}");
    }
    let good = signed(json!({"alg": "ES256"}));
    assert_eq!(
        verify_jws(&good, &KeySet::default()).unwrap_err(),
        KeysMissing
    );
    let huge = format!("{good}{}", "A".repeat(1024 * 1024));
    assert_eq!(verdict(&huge), Err(TokenTooLarge));
}
