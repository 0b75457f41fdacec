//! Any bytes as a device's report: as its text, or as what the enrolled key signed. What is taken is
//! the enrolled device's own word, no older than the last, and is written as it was read.
//!
//! The first byte picks which of the two.

#![no_main]

use std::sync::LazyLock;

use aws_lc_rs::signature::KeyPair;
use libfuzzer_sys::{Corpus, fuzz_target};
use serde_json::{Value, json};
use slmd_fuzz::identity::PublicKey;
use slmd_fuzz::json;
use slmd_fuzz::trust::report::{Enrolled, verify};
use slmd_fuzz::world::{KEY, encode, sign};

const DEVICE: &str = "edge-1";
const COUNTER: u64 = 7;

static ENROLLED: LazyLock<PublicKey> =
    LazyLock::new(|| PublicKey::parse(&encode(KEY.public_key())).expect("32 bytes"));

static HEADER: LazyLock<String> = LazyLock::new(|| {
    json!({"alg": "EdDSA", "typ": "slmd-report+jwt", "kid": ENROLLED.thumbprint()}).to_string()
});

fuzz_target!(|data: &[u8]| -> Corpus {
    let Some((first, rest)) = data.split_first() else {
        return Corpus::Reject;
    };
    let signed = first % 4 != 0;
    let jws = match signed {
        true => sign(HEADER.as_bytes(), rest).into_bytes(),
        false => rest.to_vec(),
    };
    let enrolled = Enrolled {
        device: DEVICE,
        key: &ENROLLED,
        counter: COUNTER,
    };
    if let Ok(report) = verify(&jws, &enrolled) {
        assert!(signed, "nobody else holds the key");
        let said: Value = serde_json::from_slice(rest).expect("what was taken is JSON");
        assert_eq!(json::parse(rest).expect("no member twice"), said);
        assert_eq!(said["device"], DEVICE);
        assert!(said["counter"].as_u64() >= Some(COUNTER));
        assert!(said["version"].as_u64() >= Some(1));
        let written = serde_json::to_value(&report).expect("a report is JSON");
        for (name, value) in said.as_object().expect("an object") {
            let kept = written.get(name).is_some_and(|own| holds(own, value));
            // What may be absent may be null.
            assert!(kept || value.is_null(), "{name} is lost");
        }
    }
    Corpus::Keep
});

/// Whether all of `said` is in `own`, where absent members may be written out.
fn holds(own: &Value, said: &Value) -> bool {
    match (own, said) {
        (Value::Object(own), Value::Object(said)) => said.iter().all(|(name, value)| {
            value.is_null() || own.get(name).is_some_and(|own| holds(own, value))
        }),
        _ => own == said,
    }
}
