//! Any bytes as a DPoP proof: as its text, or as the claims of one that the client's own key
//! signed. What passes satisfies an independent reading of RFC 9449 section 4.3.
//!
//! The first byte picks which of the two.

#![no_main]

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::KeyPair;
use libfuzzer_sys::{Corpus, fuzz_target};
use serde_json::{Value, json};
use slmd_fuzz::auth::{Binding, Credential, Decision, NonceRule, decide::decide};
use slmd_fuzz::json;
use slmd_fuzz::secret::Secret;
use slmd_fuzz::world::{ISSUER, KEY, LEEWAY, NOW, REQUEST, SNAPSHOT, clock, encode, sign};

const TARGET: &str = "https://edge-1/v1/models";
const MAX_AGE: u64 = 120;

/// The client's key is the realm's: one is enough here.
static TOKEN: LazyLock<String> = LazyLock::new(|| {
    let sound = include_bytes!("../sound/claims");
    let mut claims: Value = serde_json::from_slice(sound).expect("sound claims");
    claims["typ"] = json!("DPoP");
    claims["cnf"] = json!({ "jkt": SNAPSHOT.realms[ISSUER].keys.keys()[0].thumbprint });
    sign(include_bytes!("../sound/header"), claims.to_string().as_bytes())
});

static HEADER: LazyLock<String> = LazyLock::new(|| {
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": encode(KEY.public_key())});
    json!({"typ": "dpop+jwt", "alg": "EdDSA", "jwk": jwk}).to_string()
});

fuzz_target!(|data: &[u8]| -> Corpus {
    let Some((first, rest)) = data.split_first() else {
        return Corpus::Reject;
    };
    // `~ath~` stands for the hash, which no fuzzer guesses.
    let hash = encode(digest(&SHA256, TOKEN.as_bytes()));
    let Ok(text) = std::str::from_utf8(rest) else {
        return Corpus::Reject;
    };
    let text = text.replace("~ath~", &hash);
    let signed = first % 4 != 0;
    let proof = match signed {
        true => sign(HEADER.as_bytes(), text.as_bytes()),
        false => text.clone(),
    };
    let credential = Credential::Dpop {
        token: Secret::new(TOKEN.clone()),
        proof: Secret::new(proof),
        binding: Binding {
            method: "GET".to_owned(),
            targets: vec![TARGET.to_owned()],
            message: None,
            nonce: NonceRule::None,
        },
    };
    if let Decision::Permit(permitted) = decide(None, &credential, &REQUEST, &SNAPSHOT, &clock()) {
        assert!(signed, "nobody else holds the key");
        assert!(permitted.proof().is_some(), "its use must be recorded");
        check(&json::parse(text.as_bytes()).expect("strict JSON"), &hash);
    }
    Corpus::Keep
});

/// Panics where a permitted proof breaks a rule.
fn check(claims: &Value, hash: &str) {
    assert_eq!(claims["htm"], "GET");
    let target = claims["htu"].as_str().expect("htu is text");
    let (scheme, rest) = target.split_once("://").expect("htu is absolute");
    let (host, path) = rest.split_once('/').expect("it has a path");
    assert_eq!(scheme.to_ascii_lowercase(), "https");
    assert!(["edge-1", "edge-1:", "edge-1:443"].contains(&host.to_ascii_lowercase().as_str()));
    assert_eq!(path.split(['?', '#']).next(), Some("v1/models"));
    assert_eq!(claims["ath"], hash);
    let id = claims["jti"].as_str().expect("jti is text");
    assert!((1..=128).contains(&id.len()));
    let issued = claims["iat"].as_u64().expect("iat is whole");
    assert!(issued + MAX_AGE > NOW && issued <= NOW + LEEWAY);
}
