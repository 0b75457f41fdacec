//! Decisions a second: cold against jsonwebtoken's bare signature check (what no verifier can do
//! without), cached against the SHA-256 of the token (what no cache of whole tokens can).
//!
//! Prints one line a figure; with `BENCH_JSON` set also writes them to that file.

use std::hint::black_box;
use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::json;
use slmd::auth::{Cache, Credential, Decision, decide};
use slmd::time::instant;

use mint::{Issuer, chat};

#[path = "../auth/mint.rs"]
#[expect(
    dead_code,
    clippy::unwrap_used,
    reason = "the tests' issuer: it does more than the bench needs, and may panic"
)]
mod mint;

const ROUNDS: u32 = 20;
const ROUND: Duration = Duration::from_millis(50);

struct Figure {
    name: String,
    /// Per second, one thread.
    ours: f64,
    peer: f64,
}

fn main() {
    let algs = [
        ("RS256", Algorithm::RS256),
        ("ES256", Algorithm::ES256),
        ("EdDSA", Algorithm::EdDSA),
    ];
    let figures: Vec<Figure> = algs.iter().flat_map(|(name, alg)| of(name, *alg)).collect();
    for Figure { name, ours, peer } in &figures {
        println!(
            "{name}: {ours:.0}/s, peer {peer:.0}/s, ratio {:.2}",
            ours / peer
        );
    }
    if let Some(path) = std::env::var_os("BENCH_JSON") {
        let list: Vec<_> = figures.iter().map(Figure::json).collect();
        std::fs::write(path, json!(list).to_string()).expect("BENCH_JSON can be written");
    }
}

impl Figure {
    fn json(&self) -> serde_json::Value {
        json!({
            "name": self.name, "ours": self.ours, "peer": self.peer,
            "ratio": self.ours / self.peer, "unit": "1/s", "threads": 1
        })
    }
}

fn of(name: &'static str, alg: Algorithm) -> [Figure; 2] {
    let issuer = Issuer::new(name, "key");
    let mut claims = mint::claims();
    // As long as what Keycloak issues with a handful of roles: about 1,250 bytes.
    claims["name"] = json!("x".repeat(200));
    let token = issuer.token(&claims);
    let (input, signature) = token.rsplit_once('.').expect("three segments");
    let key = decoding_key(&issuer);
    let bare = || {
        let good = jsonwebtoken::crypto::verify(signature, input.as_bytes(), &key, alg);
        assert!(good.is_ok_and(|good| good));
    };
    let hash = || {
        black_box(aws_lc_rs::digest::digest(
            &aws_lc_rs::digest::SHA256,
            token.as_bytes(),
        ));
    };

    let credential: Credential = mint::bearer(token.as_str());
    let (request, clock) = (mint::request(None, chat()), mint::clock());
    let (snapshot, cache) = (mint::snapshot(&[&issuer]), Cache::new(64));
    let permitted = |decision| assert!(matches!(decision, Decision::Permit(_)));
    let cold = || permitted(decide(&credential, &request, &snapshot, &clock));
    let cached = || permitted(cache.decide(&credential, &request, &snapshot, &clock));

    let figure = |what: &str, (ours, peer)| Figure {
        name: format!("token decision, {name}, {what} ({} bytes)", token.len()),
        ours,
        peer,
    };
    [
        figure(
            "cold, against the bare signature check",
            compare(&cold, &bare),
        ),
        figure(
            "cached, against SHA-256 of the token",
            compare(&cached, &hash),
        ),
    ]
}

fn decoding_key(issuer: &Issuer) -> DecodingKey {
    let jwk = serde_json::from_value(issuer.jwk()).expect("a JWK");
    DecodingKey::from_jwk(&jwk).expect("a public key")
}

/// Calls a second of both, in turns, so that a noisy neighbour hits both alike.
fn compare(ours: &dyn Fn(), peer: &dyn Fn()) -> (f64, f64) {
    let (mut a, mut b) = (0.0, 0.0);
    for _ in 0..ROUNDS {
        a += round(ours);
        b += round(peer);
    }
    (a / f64::from(ROUNDS), b / f64::from(ROUNDS))
}

fn round(call: &dyn Fn()) -> f64 {
    let (start, mut calls) = (instant(), 0u32);
    while start.elapsed() < ROUND {
        (0..16).for_each(|_| call());
        calls += 16;
    }
    f64::from(calls) / start.elapsed().as_secs_f64()
}
