//! What Keycloak would be: a key, its public half as a JWKS, and one access token.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::{Value, json};

use super::super::exit::Failure;
use crate::digest::sha256;
use crate::identity::random_hex;
use crate::secret::Secret;
use crate::time::Timestamp;

pub(super) const ISSUER: &str = "https://keycloak.demo.invalid/realms/demo";
pub(super) const CLIENT: &str = "demo-device";
pub(super) const ENDPOINT: &str = "slm-chat";
/// Keycloak's own default is 5 minutes; a reader of the demo needs a little more.
const LIFETIME_SECS: u64 = 15 * 60;

pub(super) struct Issuer {
    key: Ed25519KeyPair,
    x: String,
    kid: String,
}

impl Issuer {
    pub(super) fn new() -> Result<Issuer, Failure> {
        let key = Ed25519KeyPair::generate()
            .map_err(|_| Failure::failed("no signing key could be made"))?;
        let x = BASE64URL.encode(key.public_key().as_ref());
        // RFC 7638 section 3 with RFC 8037 section 2: the required members in lexical order.
        let canonical = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
        let kid = BASE64URL.encode(sha256(canonical.as_bytes()));
        Ok(Issuer { key, x, kid })
    }

    pub(super) fn jwks(&self) -> Value {
        json!({"keys": [{
            "kty": "OKP", "crv": "Ed25519", "x": self.x,
            "kid": self.kid, "alg": "EdDSA", "use": "sig",
        }]})
    }

    /// An access token as Keycloak issues it: role `read` of the endpoint's client, for 15 minutes.
    pub(super) fn token(&self, now: Timestamp) -> Secret<String> {
        let header = json!({"alg": "EdDSA", "typ": "JWT", "kid": self.kid});
        let claims = json!({
            "exp": now.as_secs() + LIFETIME_SECS,
            "iat": now.as_secs(),
            "jti": random_hex::<16>(),
            "iss": ISSUER,
            "aud": ENDPOINT,
            "sub": random_hex::<16>(),
            "typ": "Bearer",
            "azp": CLIENT,
            "resource_access": {ENDPOINT: {"roles": ["read"]}},
        });
        let part = |value: &Value| BASE64URL.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = self.key.sign(signed.as_bytes());
        Secret::new(format!("{signed}.{}", BASE64URL.encode(signature)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

    #[test]
    fn the_published_key_verifies_the_token() {
        let issuer = Issuer::new().unwrap();
        let token = issuer.token(Timestamp::from_secs(1000)).expose().clone();
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let jwks = issuer.jwks();
        let x = BASE64URL
            .decode(jwks["keys"][0]["x"].as_str().unwrap())
            .unwrap();
        let signature = BASE64URL.decode(signature).unwrap();
        let key = UnparsedPublicKey::new(&ED25519, x);
        key.verify(signed.as_bytes(), &signature).unwrap();
        let claims = BASE64URL.decode(signed.split_once('.').unwrap().1).unwrap();
        let claims: Value = serde_json::from_slice(&claims).unwrap();
        assert_eq!(claims["exp"], 1900);
    }
}
