//! Keys of a fleet: public ones as TUF has them, private ones encrypted under a passphrase.

use std::fmt;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use pkcs8::der::SecretDocument;
use pkcs8::pkcs5::{pbes2, scrypt};
use pkcs8::{EncryptedPrivateKeyInfo, LineEnding, PrivateKeyInfo};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::digest::{hex, sha256};
use crate::secret::Secret;
use crate::trust::canonical;

/// Hexadecimal SHA-256 of a key's canonical JSON, as securesystemslib names it.
pub type KeyId = String;

const LABEL: &str = "ENCRYPTED PRIVATE KEY";

/// scrypt with N = 2^14, r = 8, p = 5: one of OWASP's equally strong settings, and the one that takes
/// no more memory (16 MiB) than OpenSSL allows when it reads such a key.
const SCRYPT: (u8, u32, u32) = (14, 8, 5);

/// An Ed25519 public key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublicKey {
    keytype: Ed25519,
    scheme: Ed25519,
    keyval: KeyValue,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Ed25519 {
    #[serde(rename = "ed25519")]
    Ed25519,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyValue {
    /// Hexadecimal.
    public: String,
}

/// Why a private key can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("it is no encrypted PKCS #8 key in PEM; `slmd fleet key new` makes one")]
    Form,
    #[error("the passphrase is wrong")]
    Passphrase,
    #[error("it is no Ed25519 key; `slmd fleet key new` makes one")]
    Kind,
    #[error("this machine gives no random numbers")]
    Random,
}

impl PublicKey {
    fn new(public: &[u8]) -> PublicKey {
        PublicKey {
            keytype: Ed25519::Ed25519,
            scheme: Ed25519::Ed25519,
            keyval: KeyValue {
                public: hex(public),
            },
        }
    }

    /// Reads a TUF key's JSON.
    pub fn parse(text: &[u8]) -> Result<PublicKey, String> {
        let value = crate::json::parse(text).map_err(|error| error.to_string())?;
        let key: PublicKey = serde_json::from_value(value).map_err(|error| error.to_string())?;
        match unhex::<32>(&key.keyval.public) {
            Some(public) if hex(&public) == key.keyval.public => Ok(key),
            _ => Err("an Ed25519 key is 64 lower-case hexadecimal digits".to_owned()),
        }
    }

    pub fn text(&self) -> Vec<u8> {
        format!("{}\n", json!(self)).into_bytes()
    }

    pub fn id(&self) -> KeyId {
        // INVARIANT: a key holds no number.
        let canonical = canonical(&json!(self)).expect("a key holds strings");
        hex(&sha256(&canonical))
    }

    /// Whether it made the signature, in hexadecimal, over `signed`.
    pub fn verifies(&self, signed: &[u8], signature: &str) -> bool {
        let parts = unhex::<32>(&self.keyval.public).zip(unhex::<64>(signature));
        parts.is_some_and(|(public, signature)| {
            let key = UnparsedPublicKey::new(&ED25519, public);
            key.verify(signed, &signature).is_ok()
        })
    }
}

/// A key that can sign.
pub struct PrivateKey(Ed25519KeyPair);

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.public().id())
    }
}

impl PrivateKey {
    /// A new one, with the PEM file that keeps it.
    pub fn generate(passphrase: &Secret<String>) -> Result<(PrivateKey, String), KeyError> {
        let random = SystemRandom::new();
        // Version 1, which OpenSSL reads: it leaves the public half out.
        let document = Ed25519KeyPair::generate_pkcs8v1(&random).map_err(|_| KeyError::Random)?;
        let document = Secret::new(document.as_ref().to_vec());
        let pair = PrivateKey::of(document.expose())?;
        let (mut salt, mut iv) = ([0; 16], [0; 16]);
        random.fill(&mut salt).map_err(|_| KeyError::Random)?;
        random.fill(&mut iv).map_err(|_| KeyError::Random)?;
        let pem = encrypted(document.expose(), passphrase, &salt, &iv);
        Ok((pair, pem.ok_or(KeyError::Form)?))
    }

    /// One that is kept nowhere, and takes no time.
    #[cfg(test)]
    pub fn passing() -> PrivateKey {
        let document = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new()).unwrap();
        PrivateKey::of(document.as_ref()).unwrap()
    }

    /// Reads what [`PrivateKey::generate`] or `openssl pkcs8 -topk8 -scrypt` has written.
    pub fn open(pem: &str, passphrase: &Secret<String>) -> Result<PrivateKey, KeyError> {
        let (label, document) = SecretDocument::from_pem(pem).map_err(|_| KeyError::Form)?;
        if label != LABEL {
            return Err(KeyError::Form);
        }
        let encrypted = EncryptedPrivateKeyInfo::try_from(document.as_bytes());
        let encrypted = encrypted.map_err(|_| KeyError::Form)?;
        let document = encrypted.decrypt(passphrase.expose());
        // What a wrong passphrase decrypts to is noise: no padding, or no key.
        let document = document.map_err(|_| KeyError::Passphrase)?;
        PrivateKey::of(document.as_bytes())
    }

    fn of(pkcs8: &[u8]) -> Result<PrivateKey, KeyError> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8);
        pair.map(PrivateKey).map_err(|_| KeyError::Kind)
    }

    pub fn public(&self) -> PublicKey {
        PublicKey::new(self.0.public_key().as_ref())
    }

    /// As RFC 8032 encodes it.
    pub fn public_bytes(&self) -> Option<[u8; 32]> {
        self.0.public_key().as_ref().try_into().ok()
    }

    /// A signature as it is.
    pub fn sign_raw(&self, bytes: &[u8]) -> Option<[u8; 64]> {
        self.0.sign(bytes).as_ref().try_into().ok()
    }

    /// A signature in hexadecimal.
    pub fn sign(&self, bytes: &[u8]) -> String {
        hex(self.0.sign(bytes).as_ref())
    }
}

fn encrypted(
    document: &[u8],
    passphrase: &Secret<String>,
    salt: &[u8; 16],
    iv: &[u8; 16],
) -> Option<String> {
    let (log_n, r, p) = SCRYPT;
    let scrypt = scrypt::Params::new(log_n, r, p, 32).ok()?;
    let parameters = pbes2::Parameters::scrypt_aes256cbc(scrypt, salt, iv).ok()?;
    let key = PrivateKeyInfo::try_from(document).ok()?;
    let encrypted = key.encrypt_with_params(parameters, passphrase.expose());
    let pem = encrypted.ok()?.to_pem(LABEL, LineEnding::LF).ok()?;
    Some(pem.to_string())
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; N];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passphrase(text: &str) -> Secret<String> {
        Secret::new(text.to_owned())
    }

    #[test]
    fn a_key_opens_with_its_passphrase_and_no_other() {
        let (key, pem) = PrivateKey::generate(&passphrase("correct horse")).unwrap();
        assert!(
            pem.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"),
            "{pem}"
        );
        let opened = PrivateKey::open(&pem, &passphrase("correct horse")).unwrap();
        assert_eq!(opened.public(), key.public());
        let wrong = PrivateKey::open(&pem, &passphrase("battery staple")).unwrap_err();
        assert_eq!(wrong, KeyError::Passphrase);
        let torn = PrivateKey::open(&pem[..90], &passphrase("correct horse"));
        assert_eq!(torn.unwrap_err(), KeyError::Form);
    }

    #[test]
    fn a_signature_is_its_keys_and_of_its_bytes() {
        let (key, other) = (PrivateKey::passing(), PrivateKey::passing());
        let signature = key.sign(b"text");
        assert!(key.public().verifies(b"text", &signature));
        assert!(!key.public().verifies(b"texts", &signature));
        assert!(!other.public().verifies(b"text", &signature));
        assert!(!key.public().verifies(b"text", &signature[2..]));
        assert!(!key.public().verifies(b"text", "é"));
    }

    /// As python's securesystemslib has it (1.6.0, `SSlibKey`).
    #[test]
    fn a_key_id_is_securesystemslibs() {
        let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        let text = format!(
            r#"{{"keytype":"ed25519","scheme":"ed25519","keyval":{{"public":"{public}"}}}}"#
        );
        let key = PublicKey::parse(text.as_bytes()).unwrap();
        assert_eq!(
            key.id(),
            "74c181c7ad8a0855d4b55e44d2ba87aabdddb196832571f15f92fece332e4916"
        );
        for (from, to) in [
            (public, &public.to_uppercase() as &str),
            (public, &public[2..]),
            ("ed25519\",\"scheme", "rsa\",\"scheme"),
            ("}}", "},\"x\":1}"),
        ] {
            let other = text.replacen(from, to, 1);
            assert_ne!(other, text);
            assert!(PublicKey::parse(other.as_bytes()).is_err(), "{other}");
        }
    }
}
