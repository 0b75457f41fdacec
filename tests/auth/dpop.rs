//! DPoP (RFC 9449): a bound token counts only with a proof made by its key for this very request.
//! (The RFC's own example stands in `auth::dpop`.)

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use proptest::prelude::*;
use serde_json::{Value, json};
use slmd::for_tests::auth::{
    Binding, Credential, Decision, NonceRule, PROOF_MAX_AGE, ProofUse, Until,
};
use slmd::for_tests::prompt::{Origin, Transport};
use slmd::for_tests::reason::DenyReason::{self, *};
use slmd::for_tests::secret::Secret;
use slmd::for_tests::time::Timestamp;

use crate::case::{Case, segments};
use crate::mint::{Issuer, NOW, encode};

/// A client's key, and the proof that it makes; sound until a case spoils it.
pub(crate) struct Bound {
    pub(crate) key: Issuer,
    pub(crate) header: Value,
    /// `ath` is added where it is missing.
    pub(crate) claims: Value,
    pub(crate) binding: Binding,
    pub(crate) spoil: fn(String) -> String,
}

const TARGET: &str = "mqtt://edge-1/slm/edge-1/v1/device-1/request";
const MESSAGE: &str = "2jmj7l5rSw0yVb_vlWAYkK_YBwk";

impl Bound {
    pub(crate) fn sound(alg: &'static str) -> Bound {
        let key = Issuer::new(alg, "client");
        Bound {
            header: json!({"typ": "dpop+jwt", "alg": alg, "jwk": public(&key)}),
            claims: json!({
                "jti": "p-1", "htm": "PUBLISH", "htu": TARGET, "msh": MESSAGE, "iat": NOW - 5
            }),
            binding: Binding {
                method: "PUBLISH".to_owned(),
                targets: vec!["mqtt://other/x".to_owned(), TARGET.to_owned()],
                message: Some(MESSAGE.to_owned()),
                nonce: NonceRule::None,
            },
            spoil: |proof| proof,
            key,
        }
    }

    pub(crate) fn credential(&self, token: String) -> Credential {
        let mut claims = self.claims.clone();
        if claims.get("ath").is_none() {
            claims["ath"] = json!(encode(digest(&SHA256, token.as_bytes())));
        }
        let proof = self.key.token_with(&self.header, &claims);
        Credential::Dpop {
            token: Secret::new(token),
            proof: Secret::new((self.spoil)(proof)),
            binding: self.binding.clone(),
        }
    }

    /// RFC 7638.
    fn thumbprint(&self) -> String {
        let jwk = public(&self.key);
        let names = ["crv", "e", "kty", "n", "x", "y"];
        let members = names.iter().filter_map(|name| {
            let value = jwk.get(name)?;
            Some(format!("\"{name}\":{value}"))
        });
        let members: Vec<String> = members.collect();
        let canonical = format!("{{{}}}", members.join(","));
        encode(digest(&SHA256, canonical.as_bytes()))
    }
}

fn public(key: &Issuer) -> Value {
    let mut jwk = key.jwk();
    jwk.as_object_mut()
        .unwrap()
        .retain(|name, _| name != "kid" && name != "use");
    jwk
}

/// Binds the token as Keycloak 26.7 does, and sends a sound proof.
pub(crate) fn bind(case: &mut Case) {
    bind_to(case, Bound::sound("ES256"));
}

fn bind_to(case: &mut Case, bound: Bound) {
    case.claims["typ"] = json!("DPoP");
    case.claims["cnf"] = json!({"jkt": bound.thumbprint(), "kc-jkt-type": "DPoP"});
    case.bound = Some(bound);
}

/// Spoils a sound proof.
fn refusal(spoil: impl Fn(&mut Bound)) -> (DenyReason, String) {
    let mut case = Case::sound();
    bind(&mut case);
    spoil(case.bound.as_mut().unwrap());
    let denied = case.denied();
    assert!(denied.principal.is_some());
    (denied.reason, denied.detail.unwrap_or_default())
}

fn used(case: &Case) -> ProofUse {
    match case.decide() {
        Decision::Permit(permitted) => *permitted.proof().unwrap(),
        Decision::Deny(denied) => panic!("{denied:?}"),
    }
}

#[test]
fn a_proof_of_every_kind_of_key_passes() {
    for alg in ["ES256", "ES384", "EdDSA", "RS256", "PS256"] {
        let mut case = Case::sound();
        bind_to(&mut case, Bound::sound(alg));
        let used = used(&case);
        let expires_at = Timestamp::from_secs(NOW + 115);
        assert_eq!(used.until, Until::Time(expires_at), "{alg}");
    }
}

#[test]
fn ed25519_is_eddsa_by_its_other_name() {
    let mut case = Case::sound();
    let mut bound = Bound::sound("EdDSA");
    bound.header["alg"] = json!("Ed25519");
    bind_to(&mut case, bound);
    used(&case);
}

/// The neutral point verifies the neutral point and 0 as the signature of everything.
#[test]
fn a_weak_key_is_no_proof_of_anything() {
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let mut case = Case::sound();
    bind_to(&mut case, Bound::sound("EdDSA"));
    let bound = case.bound.as_mut().unwrap();
    let x = encode(neutral);
    let jwk = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
    bound.header["jwk"] = serde_json::from_str(&jwk).unwrap();
    bound.spoil = |proof| {
        let mut signature = [0; 64];
        signature[0] = 1;
        segments(&proof, |s| s[2] = encode(signature))
    };
    case.claims["cnf"] = json!({ "jkt": encode(digest(&SHA256, jwk.as_bytes())) });
    let denied = case.denied();
    assert_eq!(denied.reason, ProofInvalid);
    assert!(denied.detail.unwrap().contains("weak"));
}

#[test]
fn a_key_with_more_than_its_public_members_is_refused() {
    for (member, word) in [
        ("d", "leaked"),
        ("priv", "leaked"),
        ("seed", "nothing else"),
    ] {
        let (reason, detail) = refusal(|b| b.header["jwk"][member] = json!("AA"));
        assert_eq!(reason, ProofInvalid);
        assert!(detail.contains(word), "{detail}");
    }
}

type Spoil = fn(&mut Bound);

/// The check that must refuse, and how the proof is spoiled for it.
const SPOILT: &[(&str, Spoil)] = &[
    ("form", |b| b.spoil = |_| String::new()),
    ("form", |b| b.spoil = |p| format!("{p}.{p}")),
    ("form", |b| b.spoil = |p| format!("{p}=")),
    ("form", |b| {
        b.spoil = |p| segments(&p, |s| s[1] = encode("[]"))
    }),
    ("form", |b| b.claims["pad"] = json!("x".repeat(8192))),
    ("typ", |b| b.header["typ"] = json!("JWT")),
    ("typ", |b| b.header["typ"] = json!(null)),
    ("crit", |b| b.header["crit"] = json!(["exp"])),
    ("alg", |b| b.header["alg"] = json!("none")),
    ("alg", |b| b.header["alg"] = json!("HS256")),
    ("alg", |b| b.header["alg"] = json!("RS256")),
    ("jwk", |b| b.header["jwk"] = json!(null)),
    ("jwk", |b| {
        b.header["jwk"] = json!({"kty": "oct", "k": "AA"})
    }),
    ("jwk", |b| b.header["jwk"]["d"] = json!("AA")),
    ("jwk", |b| b.header["jwk"]["use"] = json!("enc")),
    ("jwk", |b| {
        b.header["jwk"]["x"] = b.header["jwk"]["y"].clone()
    }),
    ("jwk", |b| {
        b.key = Issuer::new("ES256", "thief");
        b.header["jwk"] = public(&b.key);
    }),
    ("htm", |b| b.claims["htm"] = json!("POST")),
    ("htm", |b| b.claims["htm"] = json!("publish")),
    ("htu", |b| b.claims["htu"] = json!(format!("{TARGET}/x"))),
    ("htu", |b| {
        b.claims["htu"] = json!("mqtt://edge-2/slm/edge-1/v1/device-1/request")
    }),
    ("htu", |b| b.claims["htu"] = json!(null)),
    ("htu", |b| b.binding.targets.clear()),
    ("ath", |b| b.claims["ath"] = json!(encode([0; 32]))),
    ("msh", |b| b.claims["msh"] = json!("another")),
    ("msh", |b| {
        drop(b.claims.as_object_mut().unwrap().remove("msh"))
    }),
    ("jti", |b| b.claims["jti"] = json!("")),
    ("jti", |b| b.claims["jti"] = json!(7)),
    ("jti", |b| b.claims["jti"] = json!("x".repeat(129))),
    ("iat", |b| b.claims["iat"] = json!(NOW - 120)),
    ("iat", |b| b.claims["iat"] = json!(NOW + 31)),
    ("iat", |b| b.claims["iat"] = json!(NOW as f64 + 30.5)),
    ("iat", |b| b.claims["iat"] = json!(NOW as f64 - 120.5)),
    ("iat", |b| b.claims["iat"] = json!(1e300)),
    ("iat", |b| b.claims["iat"] = json!((NOW - 5).to_string())),
    ("iat", |b| b.claims["iat"] = json!(null)),
    ("signature", |b| {
        b.spoil = |p| segments(&p, |s| s[2] = encode([0; 64]))
    }),
    ("signature", |b| b.key = Issuer::new("ES256", "client")),
];

/// `Date.now() / 1000`.
#[test]
fn a_proof_may_say_fractions_of_seconds() {
    let mut case = Case::sound();
    bind(&mut case);
    case.bound.as_mut().unwrap().claims["iat"] = json!(NOW as f64 - 5.5);
    let expires_at = Timestamp::from_secs(NOW + 114);
    assert_eq!(used(&case).until, Until::Time(expires_at), "rounded down");
}

#[test]
fn each_check_of_a_proof_refuses() {
    for (place, (check, spoil)) in SPOILT.iter().enumerate() {
        let (reason, detail) = refusal(spoil);
        assert_eq!(reason, ProofInvalid, "case {place}: {detail}");
        assert!(
            detail.starts_with(&format!("{check}:")),
            "case {place}: {detail}"
        );
    }
}

#[test]
fn a_proof_without_a_current_nonce_is_told_so() {
    let wants = |b: &mut Bound| {
        b.binding.nonce = NonceRule::OneOf(vec!["old".to_owned(), "new".to_owned()]);
    };
    for nonce in [json!(null), json!("older"), json!(1)] {
        let (reason, _) = refusal(|b| {
            wants(b);
            b.claims["nonce"] = nonce.clone();
        });
        assert_eq!(reason, UseDpopNonce);
    }
    let mut case = Case::sound();
    bind(&mut case);
    let bound = case.bound.as_mut().unwrap();
    wants(bound);
    bound.claims["nonce"] = json!("old");
    // The nonce bounds the age, not `iat`.
    bound.claims["iat"] = json!(NOW - 500);
    assert_eq!(used(&case).until, Until::Nonce);
    case.bound.as_mut().unwrap().claims["iat"] = json!(NOW + 31);
    assert_eq!(case.denied().reason, ProofInvalid);
    // Who doesn't know the time can't call it wrong.
    case.clock.synchronised = false;
    used(&case);
    case.bound.as_mut().unwrap().binding.nonce = NonceRule::None;
    assert_eq!(case.denied().reason, ProofInvalid);
    // A redelivery is decided as at its first admission: its nonce was current then.
    case.bound.as_mut().unwrap().binding.nonce = NonceRule::Checked;
    case.bound.as_mut().unwrap().claims["nonce"] = json!("older");
    for iat in [NOW - 500, NOW + 31] {
        case.bound.as_mut().unwrap().claims["iat"] = json!(iat);
        assert_eq!(used(&case).until, Until::Nonce);
    }
}

/// Two requests with one proof have one use; another `jti` or another key another.
#[test]
fn a_proofs_use_is_its_key_and_id() {
    let mut case = Case::sound();
    bind(&mut case);
    let first = used(&case);
    case.bound.as_mut().unwrap().claims["iat"] = json!(NOW - 6);
    assert_eq!(used(&case).id, first.id);
    case.bound.as_mut().unwrap().claims["jti"] = json!("p-2");
    assert_ne!(used(&case).id, first.id);
    bind(&mut case);
    assert_ne!(used(&case).id, first.id);
}

#[test]
fn a_realm_can_want_bound_tokens_on_some_transports() {
    let mut case = Case::sound();
    case.realm.policy.require_dpop = vec![Transport::Mqtt, Transport::Tcp];
    case.origin = Origin::Socket {
        uid: 1,
        gid: 1,
        pid: None,
    };
    assert!(matches!(case.decide(), Decision::Permit(_)));
    case.origin = Origin::Mqtt {
        topic: "t".to_owned(),
    };
    assert_eq!(case.denied().reason, DpopRequired);
    bind(&mut case);
    used(&case);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// What was not made for this body, this address, this key, this token, now, is refused.
    #[test]
    fn a_proof_fits_one_request(
        way in 0..5,
        other in "[A-Za-z0-9_-]{1,40}",
        late in 115..1_000_000u64,
    ) {
        let mut case = Case::sound();
        bind(&mut case);
        let bound = case.bound.as_mut().unwrap();
        let check = match way {
            0 => { bound.binding.message = Some(other); "msh" }
            1 => { bound.binding.targets = vec![format!("mqtt://edge-1/slm/{other}")]; "htu" }
            2 => { case.claims["cnf"]["jkt"] = json!(other); "jwk" }
            3 => { bound.claims["ath"] = json!(encode(digest(&SHA256, other.as_bytes()))); "ath" }
            _ => {
                let age = Duration::from_secs(late.max(PROOF_MAX_AGE.as_secs()));
                bound.claims["iat"] = json!(NOW - age.as_secs());
                "iat"
            }
        };
        let denied = case.denied();
        prop_assert_eq!(denied.reason, ProofInvalid);
        prop_assert!(denied.detail.unwrap().starts_with(check));
    }
}
