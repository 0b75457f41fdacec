//! A client's own key, tokens bound to it, and proofs by it (RFC 9449).

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::{Issuer, claims};

/// Who holds a key.
pub struct Holder(Issuer);

impl Holder {
    pub fn new() -> Holder {
        Holder(Issuer::new("ES256", "of-a-client"))
    }

    fn jwk(&self) -> Value {
        let jwk = self.0.jwk();
        json!({"kty": "EC", "crv": "P-256", "x": jwk["x"], "y": jwk["y"]})
    }

    /// The private key, as programs read it from a file.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    pub fn thumbprint(&self) -> String {
        thumbprint(&self.jwk())
    }

    /// An access token of `issuer` for [`claims`], bound to this key.
    pub fn token(&self, issuer: &Issuer) -> String {
        issuer.token(bound(claims(), &thumbprint(&self.jwk())))
    }

    /// What a proof for a request says, without what its transport adds to it.
    pub fn claims(&self, method: &str, target: &str, token: &str) -> Value {
        json!({
            "jti": slmd::for_tests::identity::random_hex::<16>(),
            "iat": slmd::for_tests::time::now().as_secs(),
            "htm": method,
            "htu": target,
            "ath": hash(token.as_bytes()),
        })
    }

    /// A proof that says this.
    pub fn sign(&self, claims: &Value) -> String {
        let header = json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": self.jwk()});
        self.0.token_with(header, claims)
    }
}

/// These claims of a token, bound to the key with this thumbprint as Keycloak binds it.
pub fn bound(mut claims: Value, thumbprint: &str) -> Value {
    claims["typ"] = "DPoP".into();
    claims["cnf"] = json!({"jkt": thumbprint});
    claims
}

/// RFC 7638 section 3, of a key on P-256.
pub fn thumbprint(jwk: &Value) -> String {
    let [x, y] = ["x", "y"].map(|name| jwk[name].as_str().expect("a point"));
    let members = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
    hash(members.as_bytes())
}

/// `msh` of a proof: the hash over the parts of an MQTT message, each preceded by its length.
pub fn message_hash(topic: &str, response: &str, correlation: &str, payload: &str) -> String {
    let mut bytes = Vec::new();
    for part in [topic, response, correlation, payload] {
        let length = u32::try_from(part.len()).expect("a small message");
        bytes.extend(length.to_be_bytes());
        bytes.extend(part.as_bytes());
    }
    hash(&bytes)
}

fn hash(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, bytes))
}
