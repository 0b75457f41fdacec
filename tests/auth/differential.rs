//! slmd beside npm's `jose`, configured alike, on thousands of tokens: each difference falls into
//! a class that says why, and nothing passes here that jose refuses.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use serde_json::json;
use slmd::for_tests::auth::{Decision, decide};
use slmd::for_tests::prompt::Request;
use slmd::for_tests::reason::DenyReason::{self, *};

use crate::mint::{self, ALGORITHMS, ISSUER, NOW, chat};
use crate::samples::{self, Sample};

/// Why slmd refuses what jose permits. The other way round there is no class.
struct Class {
    name: &'static str,
    /// For the reader of a failure.
    why: &'static str,
    /// Of samples; empty: all.
    groups: &'static [&'static str],
    reasons: &'static [DenyReason],
}

const CLASSES: &[Class] = &[
    Class {
        name: "type",
        why: "the payload's `typ` tells ID and refresh tokens from access tokens; jose reads the header's only",
        groups: &[],
        reasons: &[TypeRejected],
    },
    Class {
        name: "lifetime",
        why: "an offline appliance bounds `exp - iat`; jose has no such rule",
        groups: &[],
        reasons: &[LifetimeTooLong],
    },
    Class {
        name: "future",
        why: "`iat` ahead of the clock is refused; jose looks at it with `maxTokenAge` only",
        groups: &[],
        reasons: &[IssuedInFuture],
    },
    Class {
        name: "roles",
        why: "the token's roles must grant the scope; jose knows no roles",
        groups: &[],
        reasons: &[RolesMissing, ScopeMissing],
    },
    Class {
        name: "binding",
        why: "a token bound by `cnf` needs a proof, or can't be checked; jose ignores `cnf`",
        groups: &[],
        reasons: &[ConfirmationUnsupported, ProofMissing],
    },
    Class {
        name: "claim types",
        why: "claims have the types of RFC 7519, and times are whole seconds in their order; jose looks at few",
        groups: &["claim", "time", "audience"],
        reasons: &[ClaimInvalid],
    },
    Class {
        name: "key id",
        why: "the `kid` picks the key; jose guesses where just one key fits",
        groups: &["header", "key"],
        reasons: &[KeyIdMissing, TokenMalformed],
    },
    Class {
        name: "critical",
        why: "nothing critical is understood here; jose knows `b64`",
        groups: &["critical"],
        reasons: &[CriticalHeader],
    },
    Class {
        name: "duplicate members",
        why: "of two equal members parsers take different ones (RFC 8725 section 2.4); JSON.parse takes the last",
        groups: &["duplicate"],
        reasons: &[TokenMalformed],
    },
    Class {
        name: "base64url",
        why: "no padding, no stray bits, no other alphabet (RFC 7515 section 2); jose's decoder forgives them",
        groups: &["base64", "mutated"],
        reasons: &[TokenMalformed],
    },
    Class {
        name: "strict JSON",
        why: "UTF-8 without a byte order mark or lone surrogates, finite numbers, at most 128 levels; TextDecoder and JSON.parse forgive them (`exp` 1e999 never comes)",
        groups: &["json", "time"],
        reasons: &[TokenMalformed],
    },
    Class {
        name: "size",
        why: "a token is at most 16 KiB; jose has no bound",
        groups: &["size"],
        reasons: &[TokenTooLarge],
    },
];

fn class_of(sample: &Sample, reason: DenyReason) -> Option<&'static Class> {
    CLASSES.iter().find(|class| {
        let group = class.groups.is_empty() || class.groups.contains(&sample.group);
        group && class.reasons.contains(&reason)
    })
}

/// What jose says of each token: `permit` or the code of its refusal.
fn jose(samples: &[Sample]) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert!(
        root.join("target/node/ready").exists(),
        "the JavaScript peers aren't installed; run `make node`"
    );
    let jwks: serde_json::Value = serde_json::from_str(&samples::jwks()).unwrap();
    // EdDSA's other name (RFC 9864).
    let algorithms: Vec<&str> = ALGORITHMS.into_iter().chain(["Ed25519"]).collect();
    let configuration = json!({
        "jwks": jwks, "types": ["JWT", "at+jwt"], "now": NOW, "algorithms": algorithms,
        "issuer": ISSUER, "audience": "slm", "clockTolerance": 30,
        "requiredClaims": ["iss", "sub", "azp", "aud", "iat", "exp"],
    });
    let lines = samples.iter().map(|sample| json!(sample.token));
    let lines: Vec<String> = [configuration]
        .into_iter()
        .chain(lines)
        .map(|line| line.to_string())
        .collect();
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("differential.jsonl");
    std::fs::write(&file, lines.join("\n")).unwrap();

    let script = root.join("tests/clients/jose_judge.mjs");
    let output = Command::new("node").arg(script).arg(file).output();
    let output = output.expect("node runs; `make setup` installs it");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let verdicts: Vec<String> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    assert_eq!(verdicts.len(), samples.len(), "{errors}");
    verdicts
}

#[test]
fn slmd_and_jose_differ_only_where_listed() {
    let samples = samples::all();
    let (request, snapshot) = (mint::request(None, chat()), samples::world());
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut unlisted = Vec::new();
    for (sample, jose) in samples.iter().zip(jose(&samples)) {
        let ours = judge(sample, &request, &snapshot);
        let name = match (ours, jose.as_str()) {
            (None, "permit") => "both permit",
            (Some(reason), "permit") => match class_of(sample, reason) {
                Some(class) => class.name,
                None => "unlisted",
            },
            (None, _) => "unlisted",
            (Some(_), _) => "both refuse",
        };
        *seen.entry(name).or_default() += 1;
        if name == "unlisted" {
            unlisted.push(format!(
                "{}: {}: slmd {ours:?}, jose {jose}",
                sample.group, sample.what
            ));
        }
    }
    println!("{} tokens: {seen:#?}", samples.len());
    assert!(
        unlisted.is_empty(),
        "{} unlisted differences:\n{}",
        unlisted.len(),
        unlisted.join("\n")
    );
    for class in CLASSES {
        assert!(
            seen.contains_key(class.name),
            "never seen: {} ({})",
            class.name,
            class.why
        );
    }
    assert!(samples.len() >= 2000, "only {} tokens", samples.len());
    assert!(
        seen["both permit"] >= 150 && seen["both refuse"] >= 1000,
        "{seen:?}"
    );
}

fn judge(
    sample: &Sample,
    request: &Arc<Request>,
    snapshot: &slmd::for_tests::auth::Snapshot,
) -> Option<DenyReason> {
    let credential = mint::bearer(sample.token.as_str());
    match decide(None, &credential, request, snapshot, &mint::clock()) {
        Decision::Permit(_) => None,
        Decision::Deny(denied) => Some(denied.reason),
    }
}
