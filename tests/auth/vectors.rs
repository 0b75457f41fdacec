//! The published cases of DPoP over MQTT (`deploy/mqtt/dpop-vectors.json`), which another program
//! made from the text of `deploy/mqtt/README.md`.

use aws_lc_rs::digest::{SHA256, digest};
use serde::Deserialize;
use serde_json::Value;
use slmd::for_tests::auth::{
    Binding, Credential, Decision, DenyList, KeySet, Published, Snapshot, decide,
};
use slmd::for_tests::secret::Secret;

use crate::mint::{self, Issuer, NOW, chat, encode};

#[derive(Deserialize)]
struct Vectors {
    device: String,
    now: u64,
    nonces: Vec<String>,
    realm_keys: Value,
    keys: Value,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    key: String,
    message: Message,
    hashed: String,
    proof: String,
    outcome: String,
    check: Option<String>,
}

#[derive(Deserialize)]
struct Message {
    topic: String,
    response_topic: Option<String>,
    correlation_data: Option<String>,
    payload: String,
}

impl Message {
    fn binding(&self, vectors: &Vectors) -> Binding {
        let correlation = self.correlation_data.as_deref().map(bytes);
        let published = Published {
            topic: &self.topic,
            response_topic: self.response_topic.as_deref(),
            correlation: correlation.as_deref(),
            payload: self.payload.as_bytes(),
        };
        published.binding(&vectors.device, vectors.nonces.clone())
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let pairs = (0..hex.len()).step_by(2);
    pairs
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

/// The reason and its detail, or `accepted`.
fn decided(case: &Case, binding: Binding, vectors: &Vectors) -> (String, String) {
    let token = vectors.keys[&case.key]["token"].as_str().unwrap();
    let credential = Credential::Dpop {
        token: Secret::new(token.to_owned()),
        proof: Secret::new(case.proof.clone()),
        binding,
    };
    let mut realm = mint::realm(&[&Issuer::new("EdDSA", "unused")]);
    realm.keys = KeySet::parse(vectors.realm_keys.to_string().as_bytes()).unwrap();
    let snapshot = Snapshot::new(1, vec![realm], DenyList::default());
    let request = mint::request(None, chat());
    match decide(None, &credential, &request, &snapshot, &mint::clock()) {
        Decision::Permit(_) => ("accepted".to_owned(), String::new()),
        Decision::Deny(denied) => (
            denied.reason.as_str().to_owned(),
            denied.detail.unwrap_or_default(),
        ),
    }
}

#[test]
fn the_published_proofs_come_out_as_they_say() {
    let text = include_str!("../../deploy/mqtt/dpop-vectors.json");
    let vectors: Vectors = serde_json::from_str(text).unwrap();
    assert_eq!(vectors.now, NOW);
    for case in &vectors.cases {
        let binding = case.message.binding(&vectors);
        let hash = encode(digest(&SHA256, &bytes(&case.hashed)));
        assert_eq!(
            binding.message.as_deref(),
            Some(hash.as_str()),
            "{}",
            case.name
        );
        let (outcome, detail) = decided(case, binding, &vectors);
        assert_eq!(outcome, case.outcome, "{}: {detail}", case.name);
        let check = case.check.as_deref().unwrap_or_default();
        assert!(detail.starts_with(check), "{}: {detail}", case.name);
    }
}
