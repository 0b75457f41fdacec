//! Decisions a second: cold against jsonwebtoken's bare signature check (what no verifier can do
//! without), cached against the SHA-256 of the token (what no cache of whole tokens can), with a
//! DPoP proof against the two bare checks, and how long good ones take while another thread is
//! flooded with bad ones.
//!
//! Prints one line a figure. With `BENCH_JSON` set also writes them to that file, and with
//! `BENCH_TOKENS` the tokens and keys, for peers in other languages.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Value, json};
use slmd::for_tests::auth::{Binding, Cache, Credential, Decision, KeySet, NonceRule, decide};
use slmd::for_tests::secret::Secret;
use slmd::for_tests::time::instant;

use mint::{ALGORITHMS, Issuer, chat, encode};

#[path = "../auth/mint.rs"]
#[expect(
    dead_code,
    clippy::unwrap_used,
    reason = "the tests' issuer: it does more than the bench needs, and may panic"
)]
mod mint;

const ROUNDS: usize = 200;
const ROUND: Duration = Duration::from_millis(5);
/// Decisions whose times make a percentile.
const TIMED: usize = 50_000;

struct Figure {
    name: String,
    ours: f64,
    peer: f64,
    unit: &'static str,
}

fn main() {
    let mut figures = Vec::new();
    for name in ALGORITHMS {
        let subject = Subject::new(name);
        figures.push(subject.cold());
        if matches!(name, "RS256" | "ES256" | "EdDSA") {
            figures.push(subject.cached());
        }
        if name == "RS256" {
            figures.extend(subject.flooded());
            figures.push(subject.proven());
            if let Some(path) = std::env::var_os("BENCH_TOKENS") {
                std::fs::write(path, subject.export()).expect("BENCH_TOKENS can be written");
            }
        }
    }
    for figure in &figures {
        let Figure {
            name,
            ours,
            peer,
            unit,
        } = figure;
        println!(
            "{name}: {ours:.1} {unit}, peer {peer:.1}, ratio {:.2}",
            figure.ratio()
        );
    }
    if let Some(path) = std::env::var_os("BENCH_JSON") {
        let list: Vec<_> = figures.iter().map(Figure::json).collect();
        std::fs::write(path, json!(list).to_string()).expect("BENCH_JSON can be written");
    }
}

impl Figure {
    /// Above 1 is better than the peer.
    fn ratio(&self) -> f64 {
        match self.unit {
            "1/s" => self.ours / self.peer,
            _ => self.peer / self.ours,
        }
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name, "ours": self.ours, "peer": self.peer, "ratio": self.ratio(),
            "unit": self.unit, "threads": 1
        })
    }
}

/// A token of one algorithm, and those who judge it.
struct Subject {
    name: &'static str,
    alg: Algorithm,
    issuer: Issuer,
    token: String,
}

impl Subject {
    fn new(name: &'static str) -> Subject {
        let issuer = Issuer::new(name, "key");
        let mut claims = mint::claims();
        // As long as what Keycloak issues with a handful of roles: about 1,250 bytes.
        claims["name"] = json!("x".repeat(200));
        let token = issuer.token(&claims);
        Subject {
            name,
            alg: name.parse().expect("jsonwebtoken knows it too"),
            issuer,
            token,
        }
    }

    fn figure(&self, what: &str, (ours, peer): (f64, f64)) -> Figure {
        Figure {
            name: format!("token decision, {}, {what}", self.name),
            ours,
            peer,
            unit: "1/s",
        }
    }

    fn cold(&self) -> Figure {
        let (input, signature) = self.token.rsplit_once('.').expect("three segments");
        let key = decoding_key(&self.issuer);
        let bare = || {
            let good = jsonwebtoken::crypto::verify(signature, input.as_bytes(), &key, self.alg);
            assert!(good.is_ok_and(|good| good));
        };
        let (credential, snapshot) = (self.credential(), mint::snapshot(&[&self.issuer]));
        let (request, clock) = (mint::request(None, chat()), mint::clock());
        let cold = || permitted(&decide(None, &credential, &request, &snapshot, &clock));
        let rates = compare(&cold, &bare);
        self.figure("cold, against the bare signature check", rates)
    }

    fn cached(&self) -> Figure {
        let hash = || {
            let algorithm = &aws_lc_rs::digest::SHA256;
            black_box(aws_lc_rs::digest::digest(algorithm, self.token.as_bytes()));
        };
        let (credential, snapshot) = (self.credential(), mint::snapshot(&[&self.issuer]));
        let (request, clock) = (mint::request(None, chat()), mint::clock());
        let cache = Cache::new(64);
        let cached = || permitted(&cache.decide(&credential, &request, &snapshot, &clock));
        let rates = compare(&cached, &hash);
        self.figure("cached, against SHA-256 of the token", rates)
    }

    /// With a DPoP proof of an ES256 key, as clients make them.
    fn proven(&self) -> Figure {
        let client = Issuer::new("ES256", "client");
        let keys = KeySet::parse(mint::jwks(&[&client]).as_bytes()).expect("a set");
        let mut claims = mint::claims();
        claims["name"] = json!("x".repeat(200));
        claims["typ"] = json!("DPoP");
        claims["cnf"] = json!({ "jkt": keys.keys()[0].thumbprint });
        let token = self.issuer.token(&claims);
        let binding = Binding {
            method: "POST".to_owned(),
            targets: vec!["https://edge-1/v1/chat/completions".to_owned()],
            message: None,
            nonce: NonceRule::None,
        };
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
        let header = json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": client.jwk()});
        let said = json!({
            "jti": "proof-1", "htm": binding.method, "htu": binding.targets[0],
            "iat": mint::NOW, "ath": encode(hash)
        });
        let proof = client.token_with(&header, &said);
        let checks = [
            (&token, decoding_key(&self.issuer), self.alg),
            (&proof, decoding_key(&client), Algorithm::ES256),
        ];
        let bare = || {
            for (jws, key, alg) in &checks {
                let (input, signature) = jws.rsplit_once('.').expect("three segments");
                let good = jsonwebtoken::crypto::verify(signature, input.as_bytes(), key, *alg);
                assert!(good.is_ok_and(|good| good));
            }
        };
        let credential = Credential::Dpop {
            token: Secret::new(token.clone()),
            proof: Secret::new(proof.clone()),
            binding,
        };
        let snapshot = mint::snapshot(&[&self.issuer]);
        let (request, clock) = (mint::request(None, chat()), mint::clock());
        let cold = || permitted(&decide(None, &credential, &request, &snapshot, &clock));
        let rates = compare(&cold, &bare);
        self.figure("cold with an ES256 proof, against both bare checks", rates)
    }

    /// The 99th percentile of good decisions through a cache that another thread asks for bad ones
    /// all the while; the peer is the same without the flood.
    fn flooded(&self) -> [Figure; 2] {
        let snapshot = mint::snapshot(&[&self.issuer]);
        let (request, clock) = (mint::request(None, chat()), mint::clock());
        let (credential, cache, stop) = (self.credential(), Cache::new(64), AtomicBool::new(false));
        let bad = mint::bearer(format!("{}AAAA", &self.token[..self.token.len() - 4]));
        let cached = || permitted(&cache.decide(&credential, &request, &snapshot, &clock));
        let cold = || permitted(&decide(None, &credential, &request, &snapshot, &clock));
        let quiet = (percentile(&cached), percentile(&cold));
        let flooded = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let decision = cache.decide(&bad, &request, &snapshot, &clock);
                    assert!(matches!(decision, Decision::Deny(_)));
                }
            });
            let times = (percentile(&cached), percentile(&cold));
            stop.store(true, Ordering::Relaxed);
            times
        });
        let figure = |what, ours, peer| Figure {
            unit: "us",
            ..self.figure(what, (ours, peer))
        };
        [
            figure(
                "cached, p99 under a flood of bad tokens, against without",
                flooded.0,
                quiet.0,
            ),
            figure(
                "cold, p99 under a flood of bad tokens, against without",
                flooded.1,
                quiet.1,
            ),
        ]
    }

    fn credential(&self) -> Credential {
        mint::bearer(self.token.as_str())
    }

    /// What a verifier in another language needs to judge the same token.
    fn export(&self) -> String {
        let jwks: Value = serde_json::from_str(&mint::jwks(&[&self.issuer])).expect("a set");
        json!({
            "token": self.token, "alg": self.name, "jwks": jwks, "issuer": mint::ISSUER,
            "audience": "slm", "now": mint::NOW
        })
        .to_string()
    }
}

fn permitted(decision: &Decision) {
    assert!(matches!(decision, Decision::Permit(_)));
}

/// Microseconds.
fn percentile(call: &dyn Fn()) -> f64 {
    let mut times: Vec<Duration> = (0..TIMED)
        .map(|_| {
            let start = instant();
            call();
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[TIMED * 99 / 100].as_secs_f64() * 1e6
}

fn decoding_key(issuer: &Issuer) -> DecodingKey {
    let jwk = serde_json::from_value(issuer.jwk()).expect("a JWK");
    DecodingKey::from_jwk(&jwk).expect("a public key")
}

/// Calls a second of both: the best of short rounds in turns, because others on the machine only
/// ever slow them down.
fn compare(ours: &dyn Fn(), peer: &dyn Fn()) -> (f64, f64) {
    let rounds = (0..ROUNDS).map(|_| (round(ours), round(peer)));
    rounds.fold((0.0, 0.0), |best: (f64, f64), (a, b)| {
        (best.0.max(a), best.1.max(b))
    })
}

fn round(call: &dyn Fn()) -> f64 {
    let (start, mut calls) = (instant(), 0u32);
    while start.elapsed() < ROUND {
        (0..16).for_each(|_| call());
        calls += 16;
    }
    f64::from(calls) / start.elapsed().as_secs_f64()
}
