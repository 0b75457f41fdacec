//! A storm of mutated tokens: none may pass, none may panic. Only a mutation that gives the same
//! bytes back is skipped.
//!
//! (The one known change that keeps an ES256 signature good, `s` → `n - s`, changes nothing that
//! was signed; nothing here tells tokens apart by their signature.)

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::Command;

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use serde_json::{Value, json};
use slmd::for_tests::auth::{Decision, Snapshot, decide};

use crate::mint::{self, Issuer, NOW, chat, encode};
use crate::properties::{ISSUERS, world};

const TOKENS: u64 = 100_000;
/// With `SLMD_TEST_MORE`, which also writes the report.
const MORE_TOKENS: u64 = 10_300_000;
const THREADS: u64 = 2;
const REPORT: &str = "tests/reports/mutations.txt";
const COMMAND: &str = "SLMD_TEST_MORE=1 cargo test --test auth no_mutated_token_passes";

pub(crate) struct Mutator {
    rng: Xoshiro256PlusPlus,
    /// A sound token of each issuer.
    tokens: Vec<String>,
    /// Same `kid`s, other keys.
    attackers: Vec<Issuer>,
}

impl Mutator {
    pub(crate) fn new(seed: u64) -> Mutator {
        Mutator {
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            tokens: ISSUERS.iter().map(|i| i.token(&mint::claims())).collect(),
            attackers: ["ES256", "EdDSA"].map(|alg| Issuer::new(alg, alg)).into(),
        }
    }

    fn below(&mut self, n: usize) -> usize {
        (self.rng.next_u64() % n as u64) as usize
    }

    /// A mutated token, and the sound one that it came from.
    pub(crate) fn next(&mut self) -> (String, String) {
        let which = self.below(ISSUERS.len());
        let sound = self.tokens[which].clone();
        let mutated = match self.below(16) {
            0..4 => self.bytes(&sound),
            4..6 => self.segments(&sound),
            6..10 => self.header(which, &sound),
            10..13 => self.claims(&sound),
            13 | 14 => self.signature(&sound),
            _ => self.resigned(),
        };
        (mutated, sound)
    }

    /// Flips, replaces, inserts, removes, cuts or repeats characters.
    fn bytes(&mut self, token: &str) -> String {
        let mut bytes = token.as_bytes().to_vec();
        for _ in 0..=self.below(3) {
            // Rarely, nothing is left after a cut and a removal.
            if bytes.is_empty() {
                break;
            }
            let at = self.below(bytes.len());
            let byte = b"ABz09-_.=+/ \0\n\"{"[self.below(16)];
            match self.below(6) {
                0 => bytes[at] ^= 1 << self.below(7),
                1 => bytes[at] = byte,
                2 => bytes.insert(at, byte),
                3 => drop(bytes.remove(at)),
                4 => bytes.truncate(at.max(1)),
                _ => bytes.extend_from_within(at..),
            }
        }
        String::from_utf8(bytes).unwrap()
    }

    /// Swaps, repeats, drops and empties segments, also with those of another token.
    fn segments(&mut self, token: &str) -> String {
        let other = self.below(self.tokens.len());
        let other: Vec<String> = self.tokens[other].split('.').map(str::to_owned).collect();
        let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
        let (a, b) = (self.below(3), self.below(3));
        match self.below(6) {
            0 => parts.swap(a, b),
            1 => parts[a] = other[b].clone(),
            2 => drop(parts.remove(a)),
            3 => parts.insert(a, other[b].clone()),
            4 => parts[a].clear(),
            _ => parts[a] += &other[b],
        }
        parts.join(".")
    }

    /// Another header over the same claims and signature.
    fn header(&mut self, which: usize, token: &str) -> String {
        let mut header = ISSUERS[which].header();
        for _ in 0..=self.below(2) {
            let kids = [
                "RS256",
                "ES256",
                "ES384",
                "EdDSA",
                "",
                "unknown",
                "../../key",
            ];
            let algs = [
                "none", "None", "HS256", "HS512", "RS256", "RS512", "PS256", "ES256", "ES384",
                "ES512", "EdDSA", "",
            ];
            let own = ISSUERS[which].jwk();
            match self.below(8) {
                0 | 1 => header["alg"] = json!(algs[self.below(algs.len())]),
                2 => header["kid"] = json!(kids[self.below(kids.len())]),
                3 => header["typ"] = json!(["at+jwt", "JWS", "dpop+jwt", ""][self.below(4)]),
                4 => header["crit"] = json!(["b64"]),
                5 => header["jwk"] = self.attackers[0].jwk(),
                6 => header["jku"] = json!("https://attacker.test/jwks"),
                _ => header["x5c"] = json!([own.to_string()]),
            }
        }
        let rest = token.split_once('.').unwrap().1;
        format!("{}.{rest}", encode(header.to_string()))
    }

    /// Claims that would open more, under the old signature.
    fn claims(&mut self, token: &str) -> String {
        let mut claims = mint::claims();
        for _ in 0..=self.below(2) {
            self.change_claim(&mut claims);
        }
        let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
        parts[1] = encode(claims.to_string());
        parts.join(".")
    }

    fn change_claim(&mut self, claims: &mut Value) {
        let names: Vec<String> = claims.as_object().unwrap().keys().cloned().collect();
        let name = names[self.below(names.len())].clone();
        match self.below(6) {
            0 => drop(claims.as_object_mut().unwrap().remove(&name)),
            1 => claims["exp"] = json!(NOW + self.rng.next_u64() % 100_000),
            2 => claims["sub"] = json!(self.rng.next_u64().to_string()),
            3 => claims["resource_access"] = json!({"slm": {"roles": ["read", "audit"]}}),
            4 => claims["aud"] = json!(["slm", "other"]),
            _ => claims[name] = json!([null, 0, -1, 1e300, "", [], {}])[self.below(7)].clone(),
        }
    }

    /// Other signatures over the same header and claims.
    fn signature(&mut self, token: &str) -> String {
        let (input, old) = token.rsplit_once('.').unwrap();
        let len = [0, 1, 32, 63, 64, 65, 96, 128, 256, 257, 512][self.below(11)];
        let signature = match self.below(4) {
            0 => encode(vec![0; len]),
            1 => encode(vec![0xff; len]),
            2 => {
                let mut random = vec![0; len];
                self.rng.fill_bytes(&mut random);
                encode(random)
            }
            _ => {
                let which = self.below(self.attackers.len());
                encode(self.attackers[which].sign("", input.as_bytes()))
            }
        };
        format!("{input}.{signature}{}", &old[..self.below(2) * old.len()])
    }

    /// Signed by whom the attacker is, by HMAC with the public key, or by the true key over claims
    /// that open nothing.
    fn resigned(&mut self) -> String {
        if self.below(4) == 0 {
            let public = ISSUERS[0].public_bytes();
            let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &public);
            let header = json!({"alg": "HS256", "typ": "JWT", "kid": "RS256"}).to_string();
            let input = format!("{}.{}", encode(header), encode(mint::claims().to_string()));
            let tag = aws_lc_rs::hmac::sign(&key, input.as_bytes());
            return format!("{input}.{}", encode(tag));
        }
        if self.below(2) == 0 {
            let which = self.below(self.attackers.len());
            return self.attackers[which].token(&mint::claims());
        }
        let mut claims = mint::claims();
        match self.below(8) {
            0 => claims["exp"] = json!(NOW - 30 - self.rng.next_u64() % 250),
            1 => claims["iat"] = json!(NOW + 31 + self.rng.next_u64() % 3000),
            2 => claims["nbf"] = json!(NOW + 31 + self.rng.next_u64() % 100_000),
            3 => claims["exp"] = json!(NOW + 3301 + self.rng.next_u64() % 100_000),
            4 => claims["aud"] = json!(["account", "sl", "slm "][self.below(3)]),
            5 => claims["iss"] = json!(format!("{}x", mint::ISSUER)),
            6 => claims["typ"] = json!(["ID", "Refresh", "Offline", "DPoP"][self.below(4)]),
            _ => claims["resource_access"]["slm"]["roles"] = json!(["reader", "READ"]),
        }
        ISSUERS[3].token(&claims)
    }
}

/// What became of mutated tokens.
#[derive(Default)]
struct Tally {
    decided: u64,
    /// The first of those that were permitted or made the decision panic.
    worst: Option<String>,
    accepted: u64,
    panics: u64,
}

fn storm(seed: u64, count: u64, world: &Snapshot) -> Tally {
    let (mut mutator, request) = (Mutator::new(seed), mint::request(None, chat()));
    let (mut tally, clock) = (Tally::default(), mint::clock());
    for _ in 0..count {
        let (mutated, sound) = mutator.next();
        if mutated == sound {
            continue;
        }
        tally.decided += 1;
        let credential = mint::bearer(mutated.as_str());
        let decide = || decide(None, &credential, &request, world, &clock);
        match std::panic::catch_unwind(AssertUnwindSafe(decide)) {
            Ok(Decision::Deny(_)) => continue,
            Ok(Decision::Permit(_)) => tally.accepted += 1,
            Err(_) => tally.panics += 1,
        }
        tally.worst.get_or_insert(mutated);
    }
    tally
}

impl Tally {
    fn add(self, other: Tally) -> Tally {
        Tally {
            decided: self.decided + other.decided,
            worst: self.worst.or(other.worst),
            accepted: self.accepted + other.accepted,
            panics: self.panics + other.panics,
        }
    }

    fn report(&self, seconds: u64) -> String {
        let git = Command::new("git")
            .args(["describe", "--always", "--dirty"])
            .output();
        let commit = String::from_utf8(git.unwrap().stdout).unwrap();
        format!(
            "mutated tokens: {}\naccepted: {}\npanics: {}\nseconds: {seconds} on {THREADS} threads\n\
             date: {}\ncommit: {}\ncommand: {COMMAND}\n",
            self.decided,
            self.accepted,
            self.panics,
            slmd::for_tests::time::now(),
            commit.trim(),
        )
    }
}

#[test]
fn no_mutated_token_passes() {
    let world = &world();
    for issuer in ISSUERS.iter() {
        let credential = mint::bearer(issuer.token(&mint::claims()));
        let request = mint::request(None, chat());
        let sound = decide(None, &credential, &request, world, &mint::clock());
        assert!(matches!(sound, Decision::Permit(_)), "{sound:?}");
    }
    let more = std::env::var_os("SLMD_TEST_MORE").is_some();
    let tokens = if more { MORE_TOKENS } else { TOKENS };
    let start = slmd::for_tests::time::instant();
    let tally = std::thread::scope(|scope| {
        let run = |seed| scope.spawn(move || storm(seed, tokens / THREADS, world));
        let threads: Vec<_> = (1..=THREADS).map(run).collect();
        let tallies = threads.into_iter().map(|thread| thread.join().unwrap());
        tallies.fold(Tally::default(), Tally::add)
    });
    let report = tally.report(start.elapsed().as_secs());
    println!("{report}");
    if more {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(REPORT);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, &report).unwrap();
    }
    assert_eq!(tally.worst, None, "{report}");
    let few = tally.decided * 10 <= tokens * 9;
    assert!(!few, "only {} were mutated at all", tally.decided);
}
