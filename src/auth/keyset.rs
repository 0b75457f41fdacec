//! A realm's pinned keys (RFC 7517), imported one by one under a strict policy.
//!
//! A key that isn't for verifying our tokens (Keycloak's set holds an RSA-OAEP one) is skipped
//! with a note, so that it can't take the good ones down with it. A set that holds secrets or
//! repeats a `kid` is refused whole: whoever made it made a mistake that a person must see.

use std::fmt;
use std::sync::Arc;

use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};

use super::jwk::Material;
use super::token::algorithm;
use crate::json;

const MAX_LEN: usize = 64 * 1024;
const MAX_KEYS: usize = 32;
const MAX_KID_LEN: usize = 256;

/// Members that only a private or symmetric key has (RFC 7518 sections 6.2.2, 6.3.2, 6.4.1).
const PRIVATE_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// Pinned keys of a realm; empty only before the first pin. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct KeySet {
    keys: Arc<[Key]>,
    skipped: Arc<[Skipped]>,
}

/// A key that may verify tokens. Holding one proves that it passed the import policy.
#[derive(Debug)]
pub(super) struct Key {
    kid: String,
    algorithms: Vec<Algorithm>,
    pub(super) thumbprint: String,
    decoding: DecodingKey,
}

/// A key of the set that isn't used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Its place in the set, from 0.
    pub index: usize,
    pub kid: Option<String>,
    pub why: String,
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct KeySetError(pub String);

#[derive(Debug, Clone)]
pub struct KeyInfo {
    pub kid: String,
    pub algorithms: Vec<&'static str>,
    /// RFC 7638, base64url.
    pub thumbprint: String,
}

impl KeySet {
    /// Also refuses a set without one usable key.
    pub fn parse(jwks: &[u8]) -> Result<KeySet, KeySetError> {
        let entries = entries(jwks)?;
        refuse_secrets(&entries)?;
        refuse_duplicates(&entries)?;
        let (mut keys, mut skipped) = (Vec::new(), Vec::new());
        for (index, entry) in entries.iter().enumerate() {
            match Key::import(entry) {
                Ok(key) => keys.push(key),
                Err(why) => skipped.push(Skipped {
                    index,
                    kid: printable_kid(entry).ok().map(str::to_owned),
                    why,
                }),
            }
        }
        if keys.is_empty() {
            let why: Vec<String> = skipped.iter().map(Skipped::to_string).collect();
            let why = why.join("; ");
            return Err(KeySetError(format!("the set has no usable key: {why}")));
        }
        Ok(KeySet {
            keys: keys.into(),
            skipped: skipped.into(),
        })
    }

    pub fn keys(&self) -> Vec<KeyInfo> {
        self.keys.iter().map(Key::info).collect()
    }

    /// The keys of the set that aren't used.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(super) fn by_kid(&self, kid: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.kid == kid)
    }

    pub(super) fn has_thumbprint(&self, thumbprint: &str) -> bool {
        self.keys.iter().any(|key| key.thumbprint == thumbprint)
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kid {
            Some(kid) => write!(f, "key {} ({kid}): {}", self.index, self.why),
            None => write!(f, "key {}: {}", self.index, self.why),
        }
    }
}

impl Key {
    pub(super) fn allows(&self, alg: Algorithm) -> bool {
        self.algorithms.contains(&alg)
    }

    pub(super) fn verify(&self, alg: Algorithm, message: &[u8], signature: &str) -> bool {
        // An error means a key or a signature that doesn't fit the algorithm.
        jsonwebtoken::crypto::verify(signature, message, &self.decoding, alg).unwrap_or(false)
    }

    fn info(&self) -> KeyInfo {
        KeyInfo {
            kid: self.kid.clone(),
            algorithms: self.algorithms.iter().map(|alg| name(*alg)).collect(),
            thumbprint: self.thumbprint.clone(),
        }
    }

    /// The key, or why it isn't one of ours.
    fn import(entry: &Map<String, Value>) -> Result<Key, String> {
        let kid = printable_kid(entry)?.to_owned();
        for_signatures(entry)?;
        let material = Material::import(entry)?;
        let algorithms = match text(entry, "alg")? {
            None => material.algorithms.to_vec(),
            Some(alg) => match algorithm(alg).filter(|a| material.algorithms.contains(a)) {
                Some(alg) => vec![alg],
                None => return Err("its `alg` isn't a signature algorithm for its kind".into()),
            },
        };
        Ok(Key {
            kid,
            algorithms,
            thumbprint: material.thumbprint,
            decoding: material.decoding,
        })
    }
}

fn entries(jwks: &[u8]) -> Result<Vec<Map<String, Value>>, KeySetError> {
    let refuse = |what: String| Err(KeySetError(what));
    if jwks.len() > MAX_LEN {
        return refuse(format!("the set is larger than {} KiB", MAX_LEN / 1024));
    }
    let value = match json::parse(jwks) {
        Ok(value) => value,
        Err(error) => return refuse(format!("the set is no strict JSON: {error}")),
    };
    let Some(Value::Array(list)) = value.get("keys") else {
        return refuse("the set has no array `keys`; is this a JWKS document?".into());
    };
    if list.len() > MAX_KEYS {
        return refuse(format!("the set has more than {MAX_KEYS} keys"));
    }
    // What isn't an object is kept as an empty one, so that it is skipped in its place.
    let object = |entry: &Value| entry.as_object().cloned().unwrap_or_default();
    Ok(list.iter().map(object).collect())
}

fn refuse_secrets(entries: &[Map<String, Value>]) -> Result<(), KeySetError> {
    let is_secret = |entry: &Map<String, Value>| {
        entry.get("kty").is_some_and(|kty| kty == "oct")
            || PRIVATE_MEMBERS.iter().any(|name| entry.contains_key(*name))
    };
    match entries.iter().position(is_secret) {
        None => Ok(()),
        Some(index) => Err(KeySetError(format!(
            "key {index} is a private or symmetric key; export the public keys, and replace this one: it has leaked"
        ))),
    }
}

fn refuse_duplicates(entries: &[Map<String, Value>]) -> Result<(), KeySetError> {
    let kids: Vec<&Value> = entries.iter().filter_map(|e| e.get("kid")).collect();
    let repeats = |(place, kid): (usize, &&Value)| kids[..place].contains(kid);
    if kids.iter().enumerate().any(repeats) {
        return Err(KeySetError("two keys of the set share one `kid`".into()));
    }
    Ok(())
}

/// `use` and `key_ops` must leave room for verifying (RFC 7517 sections 4.2 and 4.3).
fn for_signatures(entry: &Map<String, Value>) -> Result<(), String> {
    if text(entry, "use")?.is_some_and(|usage| usage != "sig") {
        return Err("its `use` isn't `sig`".into());
    }
    match entry.get("key_ops") {
        None => Ok(()),
        Some(Value::Array(ops)) if ops.iter().any(|op| op == "verify") => Ok(()),
        Some(_) => Err("its `key_ops` lack `verify`".into()),
    }
}

/// A `kid` that can be shown on a terminal.
fn printable_kid(entry: &Map<String, Value>) -> Result<&str, String> {
    let kid = text(entry, "kid")?.ok_or("it has no `kid`")?;
    let fits = !kid.is_empty() && kid.len() <= MAX_KID_LEN;
    if fits && !kid.chars().any(char::is_control) {
        Ok(kid)
    } else {
        Err("its `kid` is empty, too long or has control characters".into())
    }
}

fn text<'m>(entry: &'m Map<String, Value>, name: &str) -> Result<Option<&'m str>, String> {
    match entry.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("its `{name}` is no string")),
    }
}

fn name(alg: Algorithm) -> &'static str {
    match alg {
        Algorithm::RS256 => "RS256",
        Algorithm::RS384 => "RS384",
        Algorithm::RS512 => "RS512",
        Algorithm::PS256 => "PS256",
        Algorithm::PS384 => "PS384",
        Algorithm::PS512 => "PS512",
        Algorithm::ES256 => "ES256",
        Algorithm::ES384 => "ES384",
        Algorithm::EdDSA => "EdDSA",
        _ => "other",
    }
}
