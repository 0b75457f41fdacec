//! An issuer of test tokens: keys made on the spot, signed with aws-lc-rs directly, so that
//! nothing here shares code with what is tested.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
    RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use slmd::for_tests::auth::{
    Clock, Credential, DenyList, Endpoint, KeySet, Policy, Realm, Snapshot,
};
use slmd::for_tests::prompt::{Dialect, Operation, Origin, Request, RequestId};
use slmd::for_tests::secret::Secret;
use slmd::for_tests::time::{Mark, Timestamp, Uptime};
use slmd::for_tests::trace::Trace;

pub(crate) const ISSUER: &str = "https://keycloak.test/realms/dev";
/// 2026-11-24, in seconds: when all tests happen.
pub(crate) const NOW: u64 = 1_795_500_000;

/// All that slmd verifies.
pub(crate) const ALGORITHMS: [&str; 9] = [
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA",
];

pub(crate) struct Issuer {
    pub(crate) alg: &'static str,
    pub(crate) kid: String,
    key: SigningKey,
}

enum SigningKey {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl Issuer {
    pub(crate) fn new(alg: &'static str, kid: &str) -> Issuer {
        let ec = |curve| SigningKey::Ec(EcdsaKeyPair::generate(curve).unwrap());
        let key = match alg {
            "ES256" => ec(&ECDSA_P256_SHA256_FIXED_SIGNING),
            "ES384" => ec(&ECDSA_P384_SHA384_FIXED_SIGNING),
            "EdDSA" => SigningKey::Ed(Ed25519KeyPair::generate().unwrap()),
            _ => SigningKey::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()),
        };
        Issuer {
            alg,
            kid: kid.to_owned(),
            key,
        }
    }

    pub(crate) fn header(&self) -> Value {
        json!({"alg": self.alg, "typ": "JWT", "kid": self.kid})
    }

    pub(crate) fn token(&self, claims: &Value) -> String {
        self.token_with(&self.header(), claims)
    }

    pub(crate) fn token_with(&self, header: &Value, claims: &Value) -> String {
        self.token_of(&header.to_string(), &claims.to_string())
    }

    /// Header and claims as they are, whatever they are.
    pub(crate) fn token_of(&self, header: &str, claims: &str) -> String {
        let input = format!("{}.{}", encode(header), encode(claims));
        let signature = self.sign(self.alg, input.as_bytes());
        format!("{input}.{}", encode(signature))
    }

    pub(crate) fn sign(&self, alg: &str, message: &[u8]) -> Vec<u8> {
        let rng = SystemRandom::new();
        match &self.key {
            SigningKey::Ec(key) => key.sign(&rng, message).unwrap().as_ref().to_vec(),
            SigningKey::Ed(key) => key.sign(message).as_ref().to_vec(),
            SigningKey::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(rsa_encoding(alg), &rng, message, &mut signature)
                    .unwrap();
                signature
            }
        }
    }

    /// The public key, without `alg`.
    pub(crate) fn jwk(&self) -> Value {
        let (kid, half) = (&self.kid, |point: &[u8], i: usize| {
            let coordinate = &point[1..];
            encode(&coordinate[coordinate.len() / 2 * i..coordinate.len() / 2 * (i + 1)])
        });
        match &self.key {
            SigningKey::Rsa(key) => {
                let (n, e) = rsa_components(key.public_key().as_ref());
                json!({"kid": kid, "kty": "RSA", "use": "sig", "n": encode(n), "e": encode(e)})
            }
            SigningKey::Ec(key) => {
                let point = key.public_key().as_ref();
                let crv = if point.len() == 65 { "P-256" } else { "P-384" };
                let (x, y) = (half(point, 0), half(point, 1));
                json!({"kid": kid, "kty": "EC", "use": "sig", "crv": crv, "x": x, "y": y})
            }
            SigningKey::Ed(key) => {
                let x = encode(key.public_key().as_ref());
                json!({"kid": kid, "kty": "OKP", "use": "sig", "crv": "Ed25519", "x": x})
            }
        }
    }

    /// The raw public key, as an attacker would use it for an HMAC.
    pub(crate) fn public_bytes(&self) -> Vec<u8> {
        match &self.key {
            SigningKey::Rsa(key) => key.public_key().as_ref().to_vec(),
            SigningKey::Ec(key) => key.public_key().as_ref().to_vec(),
            SigningKey::Ed(key) => key.public_key().as_ref().to_vec(),
        }
    }
}

fn rsa_encoding(alg: &str) -> &'static dyn RsaEncoding {
    match alg {
        "RS256" => &RSA_PKCS1_SHA256,
        "RS384" => &RSA_PKCS1_SHA384,
        "RS512" => &RSA_PKCS1_SHA512,
        "PS256" => &RSA_PSS_SHA256,
        "PS384" => &RSA_PSS_SHA384,
        "PS512" => &RSA_PSS_SHA512,
        _ => panic!("no RSA algorithm: {alg}"),
    }
}

/// Modulus and exponent of a DER `RSAPublicKey` (RFC 8017 appendix A.1.1).
fn rsa_components(der: &[u8]) -> (&[u8], &[u8]) {
    let (_, _, body) = element(der);
    let (n, rest, _) = element(body);
    let (e, ..) = element(rest);
    (n.strip_prefix(&[0]).unwrap_or(n), e)
}

/// Content of the first element, what follows it, and its content again.
fn element(der: &[u8]) -> (&[u8], &[u8], &[u8]) {
    let (len, start) = match usize::from(der[1]) {
        short @ ..0x80 => (short, 2),
        long => {
            let bytes = &der[2..2 + (long & 0x7f)];
            let len = bytes.iter().fold(0, |sum, b| sum << 8 | usize::from(*b));
            (len, 2 + bytes.len())
        }
    };
    let content = &der[start..start + len];
    (content, &der[start + len..], content)
}

pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) fn jwks(issuers: &[&Issuer]) -> String {
    let keys: Vec<Value> = issuers.iter().map(|issuer| issuer.jwk()).collect();
    json!({ "keys": keys }).to_string()
}

/// As Keycloak writes them: five minutes old, an hour long.
pub(crate) fn claims() -> Value {
    json!({
        "iss": ISSUER, "sub": "7d3c1d9e-0b1f-4c57-9e5d-2f6a4f4b8f10", "azp": "device-1",
        "aud": ["slm", "account"], "typ": "Bearer", "jti": "onrtac:1f0c", "sid": "s-1",
        "iat": NOW - 300, "exp": NOW + 3300, "scope": "profile email",
        "realm_access": {"roles": ["offline_access"]},
        "resource_access": {"slm": {"roles": ["read"]}, "account": {"roles": ["manage-account"]}}
    })
}

pub(crate) fn realm(issuers: &[&Issuer]) -> Realm {
    let endpoint = |client_id: &str| Endpoint {
        client_id: client_id.to_owned(),
        model: "smollm2-135m-instruct".to_owned(),
        ..Endpoint::default()
    };
    Realm {
        name: "dev".to_owned(),
        issuer: ISSUER.to_owned(),
        policy: Policy {
            default_endpoint: Some("slm".to_owned()),
            ..Policy::default()
        },
        endpoints: vec![Arc::new(endpoint("slm")), Arc::new(endpoint("other"))],
        keys: KeySet::parse(jwks(issuers).as_bytes()).unwrap(),
        confirmed: confirmed(NOW - 3600),
    }
}

/// By an earlier process than the one that decides.
pub(crate) fn confirmed(secs: u64) -> Option<Mark> {
    Some(Mark::before(
        Timestamp::from_secs(secs),
        Duration::ZERO,
        Uptime(0),
    ))
}

pub(crate) fn snapshot(issuers: &[&Issuer]) -> Snapshot {
    Snapshot::new(1, vec![realm(issuers)], DenyList::default())
}

pub(crate) fn clock() -> Clock {
    Clock {
        now: Timestamp::from_secs(NOW),
        floor: Timestamp::from_secs(NOW - 86_400),
        uptime: Uptime(0),
        synchronised: true,
        realm_floors: Arc::default(),
    }
}

pub(crate) fn bearer(token: impl Into<String>) -> Credential {
    Credential::Bearer(Secret::new(token.into()))
}

pub(crate) fn chat() -> Operation {
    Operation::Complete(Dialect::Chat)
}

pub(crate) fn request(model: Option<&str>, operation: Operation) -> Arc<Request> {
    Arc::new(Request {
        id: RequestId::random(),
        origin: Origin::Daemon,
        model: model.map(str::to_owned),
        deadline: None,
        trace: Trace::default(),
        asks: operation,
    })
}
