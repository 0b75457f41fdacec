//! Tokens as Keycloak makes them, from keys made here.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RSA_PSS_SHA256, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::Serialize;
use serde_json::{Value, json};

use super::secrets;

/// One signing key of a realm.
pub struct Issuer {
    alg: &'static str,
    kid: String,
    key: Key,
}

enum Key {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl Issuer {
    /// `alg` is `RS256`, `PS256`, `ES256` or `EdDSA`.
    pub fn new(alg: &str, kid: &str) -> Issuer {
        let rsa = || Key::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).expect("a key is made"));
        let ec = || {
            let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING);
            Key::Ec(pair.expect("a key is made"))
        };
        let ed = || Key::Ed(Ed25519KeyPair::generate().expect("a key is made"));
        let (alg, key) = match alg {
            "RS256" => ("RS256", rsa()),
            "PS256" => ("PS256", rsa()),
            "ES256" => ("ES256", ec()),
            "EdDSA" => ("EdDSA", ed()),
            other => panic!("no test issuer signs {other}"),
        };
        let kid = kid.to_owned();
        Issuer { alg, kid, key }
    }

    /// The public key set with this key only.
    pub fn jwks(&self) -> String {
        json!({"keys": [self.jwk()]}).to_string()
    }

    pub fn jwk(&self) -> Value {
        let mut jwk = match &self.key {
            Key::Rsa(pair) => {
                let public = pair.public_key();
                json!({
                    "kty": "RSA",
                    "n": encode(public.modulus().big_endian_without_leading_zero()),
                    "e": encode(public.exponent().big_endian_without_leading_zero()),
                })
            }
            Key::Ec(pair) => {
                // SEC 1 section 2.3.3: 0x04, x, y.
                let point = pair.public_key().as_ref();
                let (x, y) = (encode(&point[1..33]), encode(&point[33..65]));
                json!({"kty": "EC", "crv": "P-256", "x": x, "y": y})
            }
            Key::Ed(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key().as_ref())})
            }
        };
        jwk["kid"] = self.kid.as_str().into();
        jwk["alg"] = self.alg.into();
        jwk["use"] = "sig".into();
        jwk
    }

    /// The private key of ES256 in PKCS #8.
    pub fn pem(&self) -> String {
        let Key::Ec(pair) = &self.key else {
            panic!("only keys of ES256 are written");
        };
        let der = pair.to_pkcs8v1().expect("a key can be written");
        let text = STANDARD.encode(der.as_ref());
        format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n")
    }

    /// An access token with Keycloak's header.
    pub fn token(&self, claims: impl Serialize) -> String {
        self.token_with(self.header(), claims)
    }

    /// Any header at all, signed with this key and its algorithm.
    pub fn token_with(&self, header: impl Serialize, claims: impl Serialize) -> String {
        let part = |bytes: Vec<u8>| encode(&bytes);
        let header = part(serde_json::to_vec(&header).expect("JSON"));
        let claims = part(serde_json::to_vec(&claims).expect("JSON"));
        let signed = format!("{header}.{claims}");
        let token = format!("{signed}.{}", encode(&self.sign(signed.as_bytes())));
        secrets::token(&token);
        token
    }

    pub fn header(&self) -> Value {
        json!({"alg": self.alg, "typ": "JWT", "kid": self.kid})
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.key {
            Key::Rsa(pair) => {
                let padding: &dyn aws_lc_rs::signature::RsaEncoding = match self.alg {
                    "PS256" => &RSA_PSS_SHA256,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, message, &mut signature)
                    .expect("RSA signs");
                signature
            }
            Key::Ec(pair) => {
                let signature = pair.sign(&random, message).expect("ECDSA signs");
                signature.as_ref().to_vec()
            }
            Key::Ed(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }
}

/// A token's payload that the realm `dev` of [`super::Setup`] accepts for reading, good for five
/// minutes. Change what the test is about.
pub fn claims() -> Value {
    let now = slmd::for_tests::time::now().as_secs();
    json!({
        "iss": "https://keycloak.test/realms/dev",
        "sub": "f5a1c9a6-5d0e-4a52-9d3c-0b7d3f0a6c11",
        "aud": ["slm"],
        "azp": "device-1",
        "typ": "Bearer",
        "jti": slmd::for_tests::identity::random_hex::<16>(),
        "iat": now,
        "exp": now + 300,
        "scope": "profile",
        "resource_access": {"slm": {"roles": ["read"]}},
    })
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
