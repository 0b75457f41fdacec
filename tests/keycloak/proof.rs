//! A client's DPoP key (RFC 9449): ES256, signed with aws-lc-rs directly, so that nothing here
//! shares code with what is tested.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

pub struct ProofKey(EcdsaKeyPair);

impl ProofKey {
    pub fn new() -> ProofKey {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING);
        ProofKey(pair.expect("a key is made"))
    }

    /// A fresh proof for one request; `more` adds claims or replaces ours.
    pub fn proof(&self, method: &str, target: &str, more: &Value) -> String {
        let header = json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": self.jwk()});
        let mut claims = json!({
            "jti": slmd::for_tests::identity::random_hex::<16>(),
            "htm": method,
            "htu": target,
            "iat": slmd::for_tests::time::now().as_secs(),
        });
        let members = claims.as_object_mut().expect("an object, just above");
        members.extend(more.as_object().cloned().unwrap_or_default());
        let input = format!(
            "{}.{}",
            encode(header.to_string()),
            encode(claims.to_string())
        );
        let signature = self.0.sign(&SystemRandom::new(), input.as_bytes());
        format!("{input}.{}", encode(signature.expect("ECDSA signs")))
    }

    /// The key's thumbprint (RFC 7638): what Keycloak writes into `cnf.jkt`.
    pub fn thumbprint(&self) -> String {
        let jwk = self.jwk();
        let (x, y) = (&jwk["x"], &jwk["y"]);
        let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":{x},"y":{y}}}"#);
        encode(digest(&SHA256, canonical.as_bytes()))
    }

    fn jwk(&self) -> Value {
        let point = self.0.public_key().as_ref();
        let (x, y) = (&point[1..33], &point[33..]);
        json!({"kty": "EC", "crv": "P-256", "x": encode(x), "y": encode(y)})
    }
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
