//! Any bytes as a key set: what is imported is public, asymmetric and the only one of its name, and
//! a token passes only where the set holds the very key that signed it.

#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use serde_json::Value;
use slmd_fuzz::auth::{Decision, KeySet, decide::decide};
use slmd_fuzz::world::{KEY, REQUEST, bearer, clock, encode, sign, snapshot};

use aws_lc_rs::signature::KeyPair;

const ALGORITHMS: [&str; 9] = [
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA",
];
const SECRETS: [&str; 9] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"];

fuzz_target!(|data: &[u8]| -> Corpus {
    let Ok(set) = KeySet::parse(data) else {
        return Corpus::Keep;
    };
    // Read again by another parser.
    let value: Value = serde_json::from_slice(data).expect("what was imported is JSON");
    let entries = value["keys"].as_array().expect("it has keys");
    let keys = set.keys();
    assert!(keys.len() + set.skipped().len() <= entries.len());
    for entry in entries {
        assert!(entry["kty"] != "oct");
        assert!(SECRETS.iter().all(|name| entry.get(*name).is_none()));
    }
    for (place, key) in keys.iter().enumerate() {
        assert!(keys[..place].iter().all(|other| other.kid != key.kid), "one kid, two keys");
        let own = entries.iter().filter(|entry| entry["kid"] == key.kid.as_str());
        let own: Vec<&Value> = own.filter(|entry| signs(entry)).collect();
        assert!(!own.is_empty(), "each key has an entry");
        assert!(!key.algorithms.is_empty());
        for alg in &key.algorithms {
            assert!(ALGORITHMS.contains(&alg.as_ref()));
            assert!(own.iter().any(|entry| is_for(entry, alg)), "another algorithm than its own");
        }
        assert_eq!(key.thumbprint.len(), 43);
    }
    // What a set is cut down to is no more than it was.
    let first = [keys[0].thumbprint.clone()].into();
    let part = KeySet::only(data, &first).expect("a part of a set is one");
    let part = KeySet::parse(&part).expect("it has a key");
    assert_eq!(part.thumbprints(), first);

    let token = sign(include_bytes!("../sound/header"), include_bytes!("../sound/claims"));
    let decision = decide(None, &bearer(&token), &REQUEST, &snapshot(data), &clock());
    if matches!(decision, Decision::Permit(_)) {
        let x = encode(KEY.public_key());
        assert!(entries.iter().any(|entry| entry["x"] == x.as_str()));
    }
    Corpus::Keep
});

fn signs(entry: &Value) -> bool {
    entry.get("use").is_none_or(|usage| usage == "sig")
}

fn is_for(entry: &Value, alg: &str) -> bool {
    let same = |named: &Value| named == alg || (alg == "EdDSA" && named == "Ed25519");
    entry.get("alg").is_none_or(same)
}
