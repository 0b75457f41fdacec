//! Any bytes as a key set: what is imported is public, asymmetric and named once, and a token
//! passes only where the set holds the very key that signed it.

#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use serde_json::Value;
use slmd_fuzz::auth::{Decision, KeySet, decide};
use slmd_fuzz::world::{KEY, REQUEST, bearer, clock, encode, sign, snapshot};

use aws_lc_rs::signature::KeyPair;

const ALGORITHMS: [&str; 9] = [
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA",
];
const SECRETS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

fuzz_target!(|data: &[u8]| -> Corpus {
    let Ok(set) = KeySet::parse(data) else {
        return Corpus::Keep;
    };
    // Read again by another parser.
    let value: Value = serde_json::from_slice(data).expect("what was imported is JSON");
    let entries = value["keys"].as_array().expect("it has keys");
    let keys = set.keys();
    assert_eq!(keys.len() + set.skipped().len(), entries.len());
    for entry in entries {
        assert!(entry["kty"] != "oct");
        assert!(SECRETS.iter().all(|name| entry.get(*name).is_none()));
    }
    for key in &keys {
        let mut own = entries.iter().filter(|entry| entry["kid"] == key.kid.as_str());
        let entry = own.next().expect("each key has an entry");
        assert!(own.next().is_none(), "one kid, two keys");
        assert!(!key.algorithms.is_empty());
        assert!(key.algorithms.iter().all(|alg| ALGORITHMS.contains(alg)));
        let named = entry.get("alg").is_none_or(|alg| key.algorithms == [alg.as_str().unwrap()]);
        assert!(named, "another algorithm than its own");
        assert!(entry.get("use").is_none_or(|usage| usage == "sig"));
        assert_eq!(key.thumbprint.len(), 43);
    }
    let token = sign(include_bytes!("../sound/header"), include_bytes!("../sound/claims"));
    let decision = decide(&bearer(&token), &REQUEST, &snapshot(data), &clock());
    if matches!(decision, Decision::Permit(_)) {
        let x = encode(KEY.public_key());
        assert!(entries.iter().any(|entry| entry["x"] == x.as_str()));
    }
    Corpus::Keep
});
