//! The client's half of DPoP (RFC 9449): a key of the login's own, and proofs made with it.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use jsonwebtoken::jwk::{
    AlgorithmParameters, CommonParameters, EllipticCurve, EllipticCurveKeyParameters,
    EllipticCurveKeyType, Jwk,
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;

use crate::digest::sha256;
use crate::identity::random;
use crate::secret::Secret;
use crate::time::Timestamp;

/// The cryptographic library failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("no signing key could be made")]
    Generate,
    #[error("no DPoP proof could be signed")]
    Sign,
}

/// An ES256 key. It never leaves its owner's file and this process.
#[derive(Debug, Clone)]
pub struct ProofKey {
    pkcs8: Secret<Vec<u8>>,
    public: Jwk,
}

impl ProofKey {
    pub fn generate() -> Result<ProofKey, KeyError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING);
        let pkcs8 = pair.and_then(|pair| pair.to_pkcs8v1());
        let pkcs8 = pkcs8.map_err(|_| KeyError::Generate)?;
        ProofKey::from_pkcs8(Secret::new(pkcs8.as_ref().to_vec())).ok_or(KeyError::Generate)
    }

    pub fn from_pkcs8(pkcs8: Secret<Vec<u8>>) -> Option<ProofKey> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.expose());
        let pair = pair.ok()?;
        // SEC 1 section 2.3.3: 0x04, x, y.
        let (x, y) = pair.public_key().as_ref().get(1..65)?.split_at(32);
        let parameters = EllipticCurveKeyParameters {
            key_type: EllipticCurveKeyType::EC,
            curve: EllipticCurve::P256,
            x: BASE64URL.encode(x),
            y: BASE64URL.encode(y),
        };
        let public = Jwk {
            common: CommonParameters::default(),
            algorithm: AlgorithmParameters::EllipticCurve(parameters),
        };
        Some(ProofKey { pkcs8, public })
    }

    pub fn pkcs8(&self) -> &Secret<Vec<u8>> {
        &self.pkcs8
    }

    /// A proof for one request, `method` and URL (RFC 9449 section 4.2). `token` where the request
    /// shows one, `nonce` where the server asked for it.
    pub fn proof(
        &self,
        (method, url): (&str, &str),
        token: Option<&Secret<String>>,
        nonce: Option<&str>,
        now: Timestamp,
    ) -> Result<Secret<String>, KeyError> {
        let mut header = Header::new(Algorithm::ES256);
        header.typ = Some("dpop+jwt".to_owned());
        header.jwk = Some(self.public.clone());
        let mut claims = json!({
            "jti": BASE64URL.encode(random::<16>()),
            "htm": method,
            "htu": url,
            "iat": now.as_secs(),
        });
        if let Some(token) = token {
            let hash = sha256(token.expose().as_bytes());
            claims["ath"] = BASE64URL.encode(hash).into();
        }
        if let Some(nonce) = nonce {
            claims["nonce"] = nonce.into();
        }
        let key = EncodingKey::from_ec_der(self.pkcs8.expose());
        let proof = encode(&header, &claims, &key);
        proof.map(Secret::new).map_err(|_| KeyError::Sign)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
    use serde_json::Value;

    fn part(text: &str) -> Value {
        serde_json::from_slice(&BASE64URL.decode(text).unwrap()).unwrap()
    }

    #[test]
    fn a_proof_verifies_with_the_key_that_it_carries() {
        let key = ProofKey::generate().unwrap();
        let token = Secret::new("the.access.token".to_owned());
        let url = "http://edge-1/v1/chat/completions";
        let proof = key.proof(
            ("GET", url),
            Some(&token),
            Some("n"),
            Timestamp::from_secs(7),
        );
        let proof = proof.unwrap().expose().clone();
        let parts: Vec<&str> = proof.split('.').collect();
        let header = part(parts[0]);
        assert_eq!(header["typ"], "dpop+jwt");
        assert_eq!(header["alg"], "ES256");
        let jwk = &header["jwk"];
        let names: Vec<&String> = jwk.as_object().unwrap().keys().collect();
        assert_eq!(names, ["kty", "crv", "x", "y"], "nothing secret in {jwk}");
        let coordinate = |name: &str| BASE64URL.decode(jwk[name].as_str().unwrap()).unwrap();
        let point = [vec![4], coordinate("x"), coordinate("y")].concat();
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
        let signed = format!("{}.{}", parts[0], parts[1]);
        let signature = BASE64URL.decode(parts[2]).unwrap();
        public.verify(signed.as_bytes(), &signature).unwrap();
        let claims = part(parts[1]);
        assert_eq!(
            (&claims["htm"], &claims["htu"]),
            (&"GET".into(), &url.into())
        );
        assert_eq!((&claims["iat"], &claims["nonce"]), (&7.into(), &"n".into()));
        let hash = BASE64URL.encode(sha256(b"the.access.token"));
        assert_eq!(claims["ath"], hash.as_str());
    }

    #[test]
    fn every_proof_has_its_own_id_and_the_key_survives_saving() {
        let key = ProofKey::generate().unwrap();
        let again = ProofKey::from_pkcs8(key.pkcs8().clone()).unwrap();
        assert_eq!(key.public, again.public);
        let id = |key: &ProofKey| {
            let proof = key
                .proof(("POST", "http://x"), None, None, Timestamp(0))
                .unwrap();
            part(proof.expose().split('.').nth(1).unwrap())["jti"].clone()
        };
        assert_ne!(id(&key), id(&again));
        assert!(ProofKey::from_pkcs8(Secret::new(vec![1, 2, 3])).is_none());
    }
}
