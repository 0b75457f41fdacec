//! A realm's pinned keys (RFC 7517), imported one by one under a strict policy.
//!
//! A key that isn't for verifying our tokens (Keycloak's set holds an RSA-OAEP one) is skipped
//! with a note, so that it can't take the good ones down with it. A set that holds secrets or
//! repeats a `kid` is refused whole: whoever made it made a mistake that a person must see.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::key::{Key, KeyInfo, printable_kid};
use crate::identity::{digest, hex};
use crate::json;

const MAX_LEN: usize = 64 * 1024;
const MAX_KEYS: usize = 32;

/// Members that only a private or symmetric key has (RFC 7518 sections 6.2.2, 6.3.2, 6.4.1).
pub(super) const PRIVATE_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// Pinned keys of a realm; empty only before the first pin. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct KeySet {
    keys: Arc<[Key]>,
    skipped: Arc<[Skipped]>,
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

    /// Names the set by its keys, whatever their order and `kid`s: hexadecimal SHA-256 over their
    /// sorted thumbprints, for two people to compare.
    pub fn fingerprint(&self) -> String {
        let thumbprints = self.thumbprints();
        let parts: Vec<&[u8]> = thumbprints.iter().map(String::as_bytes).collect();
        hex(&digest(&parts))
    }

    /// RFC 7638, base64url: what tells one key from another, whatever its `kid`.
    pub fn thumbprints(&self) -> BTreeSet<String> {
        let thumbprints = self.keys.iter().map(Key::thumbprint);
        thumbprints.map(str::to_owned).collect()
    }

    /// The document without all but the keys of these thumbprints.
    pub fn only(jwks: &[u8], thumbprints: &BTreeSet<String>) -> Result<Vec<u8>, KeySetError> {
        let is_one = |entry: &Map<String, Value>| {
            Key::import(entry).is_ok_and(|key| thumbprints.contains(key.thumbprint()))
        };
        let mut entries = entries(jwks)?;
        entries.retain(is_one);
        Ok(json!({ "keys": entries }).to_string().into_bytes())
    }

    /// Whether both hold the same keys under the same names for the same algorithms.
    pub fn same_keys(&self, other: &KeySet) -> bool {
        let named = |set: &KeySet| {
            let mut keys: Vec<_> = set.keys().into_iter().map(KeyInfo::parts).collect();
            keys.sort_unstable();
            keys
        };
        named(self) == named(other)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter()
    }

    pub(super) fn by_kid(&self, kid: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.kid() == kid)
    }

    pub(super) fn has_thumbprint(&self, thumbprint: &str) -> bool {
        self.keys.iter().any(|key| key.thumbprint() == thumbprint)
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

#[cfg(test)]
mod tests {
    use super::super::key::tests::{ed25519, p256, with};
    use super::*;

    fn parse(keys: &[Value]) -> Result<KeySet, KeySetError> {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())
    }

    #[test]
    fn a_set_with_secrets_or_a_repeated_kid_is_refused() {
        let bad = [
            vec![ed25519(), with(p256(), "d", json!("jpsQ"))],
            vec![ed25519(), json!({"kty": "oct", "kid": "x"})],
            vec![ed25519(), json!({"kty": "other", "kid": "x", "k": ""})],
            vec![ed25519(), with(p256(), "kid", json!("ed"))],
            vec![ed25519(), json!({"kid": "ed", "use": "enc"})],
            (0..33)
                .map(|i| with(ed25519(), "kid", json!(i.to_string())))
                .collect(),
            vec![],
            vec![with(p256(), "use", json!("enc"))],
        ];
        for keys in bad {
            assert!(parse(&keys).is_err(), "{keys:?}");
        }
        for text in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[],"keys":[]}"#] {
            assert!(KeySet::parse(text.as_bytes()).is_err(), "{text}");
        }
        let padded = format!("{}{}", json!({"keys": [ed25519()]}), " ".repeat(MAX_LEN));
        assert!(KeySet::parse(padded.as_bytes()).is_err());
    }

    #[test]
    fn a_foreign_key_is_skipped_in_its_place() {
        let keys = [
            json!({"kid": "enc", "kty": "RSA", "alg": "RSA-OAEP", "use": "enc"}),
            ed25519(),
            json!("no key"),
            with(p256(), "kid", json!("a\u{1b}[2J")),
        ];
        let set = parse(&keys).unwrap();
        assert_eq!(set.keys().len(), 1);
        assert!(set.by_kid("ed").is_some() && set.by_kid("enc").is_none());
        let places: Vec<usize> = set.skipped().iter().map(|skipped| skipped.index).collect();
        assert_eq!(places, [0, 2, 3]);
        let shown = set.skipped().iter().map(Skipped::to_string);
        assert!(
            shown
                .clone()
                .all(|text| !text.chars().any(char::is_control))
        );
        assert_eq!(
            shown.into_iter().next().unwrap(),
            "key 0 (enc): its `use` isn't `sig`"
        );
    }
}
