//! A realm's pinned keys (RFC 7517), imported one by one under a strict policy.
//!
//! A key that isn't for verifying our tokens (Keycloak's set holds an RSA-OAEP one), or can't be
//! used, is left out by name, so that it can't take the good ones down with it. One key may stand
//! in the set for several algorithms; two different ones of one `kid` are left out both, because a
//! token can't tell which of them it means. Only a set that holds secrets is refused whole: whoever
//! made it made a mistake that a person must see.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::key::{Key, KeyInfo, for_signatures, printable_kid};
use super::members::is_secret;
use crate::digest::{digest, hex};
use crate::json;

const MAX_LEN: usize = 64 * 1024;
const MAX_KEYS: usize = 32;

/// Pinned keys of a realm; empty only before the first pin. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct KeySet {
    keys: Arc<[Key]>,
    skipped: Arc<[Skipped]>,
}

/// A key of the set that isn't used, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Its place in the set, from 0.
    pub index: usize,
    pub kid: Option<String>,
    /// And what to do about it.
    pub why: String,
    /// Whether tokens may be signed with it: nobody misses one that encrypts.
    #[serde(skip)]
    pub signs: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct KeySetError(pub String);

impl KeySet {
    /// Also refuses a set without one usable key.
    pub fn parse(jwks: &[u8]) -> Result<KeySet, KeySetError> {
        let set = KeySet::stored(jwks)?;
        if set.is_empty() {
            let why: Vec<String> = set.skipped.iter().map(Skipped::to_string).collect();
            let why = why.join("; ");
            return Err(KeySetError(format!("the set has no usable key: {why}")));
        }
        Ok(set)
    }

    /// A set that was good once: where its keys no longer are, it is empty and says why.
    pub fn stored(jwks: &[u8]) -> Result<KeySet, KeySetError> {
        let entries = entries(jwks)?;
        refuse_secrets(&entries)?;
        let mut found = Found::default();
        for (index, entry) in entries.iter().enumerate() {
            match Key::import(entry) {
                Ok(key) => found.add(index, key),
                Err(why) => found.skipped.push(Skipped {
                    index,
                    kid: printable_kid(entry).ok().map(str::to_owned),
                    why,
                    signs: for_signatures(entry).is_ok(),
                }),
            }
        }
        let (keys, skipped) = found.unambiguous();
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

    /// [`KeySet::same_keys`], and the same ones left out for the same reasons.
    pub fn same_set(&self, other: &KeySet) -> bool {
        let left_out = |set: &KeySet| {
            let skipped = set.skipped.iter();
            let mut skipped: Vec<_> = skipped.map(|s| (s.kid.clone(), s.why.clone())).collect();
            skipped.sort_unstable();
            skipped
        };
        self.same_keys(other) && left_out(self) == left_out(other)
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

    /// Why the set's key of this `kid` isn't used.
    pub(super) fn left_out(&self, kid: &str) -> Option<&str> {
        let of_kid = |skipped: &&Skipped| skipped.signs && skipped.kid.as_deref() == Some(kid);
        let skipped = self.skipped.iter().find(of_kid);
        skipped.map(|skipped| skipped.why.as_str())
    }

    pub(super) fn has_thumbprint(&self, thumbprint: &str) -> bool {
        self.keys.iter().any(|key| key.thumbprint() == thumbprint)
    }
}

/// What a set holds, each key with its place.
#[derive(Default)]
struct Found {
    keys: Vec<(usize, Key)>,
    skipped: Vec<Skipped>,
}

impl Found {
    fn add(&mut self, index: usize, key: Key) {
        let same = |known: &&mut (usize, Key)| {
            known.1.kid() == key.kid() && known.1.thumbprint() == key.thumbprint()
        };
        match self.keys.iter_mut().find(same) {
            Some((_, known)) => known.also(key),
            None => self.keys.push((index, key)),
        }
    }

    /// Without the keys that share a `kid` with another.
    fn unambiguous(self) -> (Vec<Key>, Vec<Skipped>) {
        let kids: Vec<String> = self
            .keys
            .iter()
            .map(|(_, key)| key.kid().to_owned())
            .collect();
        let alone = |kid: &str| kids.iter().filter(|other| *other == kid).count() == 1;
        let (keys, shared): (Vec<_>, Vec<_>) =
            self.keys.into_iter().partition(|(_, key)| alone(key.kid()));
        let mut skipped = self.skipped;
        skipped.extend(shared.into_iter().map(|(index, key)| {
            Skipped {
            index,
            kid: Some(key.kid().to_owned()),
            why: "another key of the set has the same `kid`, so that a token can't tell which it \
                  means; give each a `kid` of its own"
                .to_owned(),
            signs: true,
        }
        }));
        skipped.sort_by_key(|skipped| skipped.index);
        (keys.into_iter().map(|(_, key)| key).collect(), skipped)
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
    match entries.iter().position(is_secret) {
        None => Ok(()),
        Some(index) => Err(KeySetError(format!(
            "key {index} is a private or symmetric key; export the public keys, and replace this one: it has leaked"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::key::tests::{ed25519, p256, with};
    use super::*;

    fn parse(keys: &[Value]) -> Result<KeySet, KeySetError> {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())
    }

    #[test]
    fn a_set_with_secrets_or_without_a_key_is_refused() {
        let bad = [
            vec![ed25519(), with(p256(), "d", json!("jpsQ"))],
            vec![ed25519(), json!({"kty": "oct", "kid": "x"})],
            vec![ed25519(), json!({"kty": "other", "kid": "x", "k": ""})],
            vec![ed25519(), json!({"kty": "AKP", "pub": "", "priv": ""})],
            vec![ed25519(), with(p256(), "kid", json!("ed"))],
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

#[cfg(test)]
mod published_sets {
    use super::super::key::tests::{ed25519, p256, with};
    use super::*;

    fn parse(keys: &[Value]) -> KeySet {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
    }

    /// Kid, algorithms.
    fn used(set: &KeySet) -> Vec<(String, Vec<&'static str>)> {
        let name = |name| match name {
            std::borrow::Cow::Borrowed(name) => name,
            std::borrow::Cow::Owned(name) => panic!("{name} was read"),
        };
        let keys = set.keys().into_iter();
        let named = keys.map(|key| (key.kid, key.algorithms.into_iter().map(name).collect()));
        named.collect()
    }

    /// Place and kid of what is left out and would sign.
    fn missed(set: &KeySet) -> Vec<(usize, Option<&str>)> {
        let skipped = set.skipped().iter().filter(|skipped| skipped.signs);
        skipped
            .map(|skipped| (skipped.index, skipped.kid.as_deref()))
            .collect()
    }

    /// As Keycloak publishes an RSA key that two providers share.
    #[test]
    fn one_key_for_signatures_and_encryption_is_a_signing_key() {
        let jwks = include_bytes!("../../tests/data/jwks/one-key-sig-and-enc.json");
        let set = KeySet::parse(jwks).unwrap();
        let rs256 = vec!["RS256"];
        assert_eq!(
            used(&set),
            [
                (
                    "4GeIWp5Q8kBZoI5-s2lLC58MFM8MJoeCuQhJTyBaX-A".to_owned(),
                    rs256.clone()
                ),
                (
                    "tmPYFFaELdqEMtv_FeqfjkpD72ZeCP5-vf8AM77XdSQ".to_owned(),
                    rs256
                ),
            ]
        );
        assert_eq!((set.skipped().len(), missed(&set)), (2, vec![]));
    }

    #[test]
    fn one_key_for_two_algorithms_is_one_key_with_both() {
        let jwks = include_bytes!("../../tests/data/jwks/one-key-two-algs.json");
        let set = KeySet::parse(jwks).unwrap();
        let keys = used(&set);
        assert_eq!(keys.len(), 2);
        assert_eq!(keys[0].1, ["RS256", "PS256"]);
        assert_eq!(keys[1].1, ["RS256"]);
        assert_eq!(missed(&set), []);
    }

    #[test]
    fn ed25519_by_its_own_name_is_eddsa() {
        let jwks = include_bytes!("../../tests/data/jwks/ed25519-rfc9864.json");
        let set = KeySet::parse(jwks).unwrap();
        assert_eq!(used(&set), [("ed".to_owned(), vec!["EdDSA"])]);
    }

    #[test]
    fn a_private_key_of_a_new_type_is_a_leak() {
        let jwks = include_bytes!("../../tests/data/jwks/akp-private.json");
        let why = KeySet::parse(jwks).unwrap_err().0;
        assert!(why.contains("key 1") && why.contains("leaked"), "{why}");
    }

    #[test]
    fn an_exact_duplicate_is_one_key() {
        let set = parse(&[ed25519(), p256(), ed25519()]);
        assert_eq!(set.keys().len(), 2);
        assert!(set.skipped().is_empty());
    }

    #[test]
    fn keys_without_a_kid_are_left_out_and_harm_nobody() {
        let nameless = [ed25519(), p256()].map(|key| with(key, "kid", Value::Null));
        let [one, other] = nameless;
        let set = parse(&[one, ed25519(), other]);
        assert_eq!(used(&set), [("ed".to_owned(), vec!["EdDSA"])]);
        assert_eq!(missed(&set), [(0, None), (2, None)]);
    }

    #[test]
    fn two_keys_of_one_kid_are_left_out_both_and_named() {
        let third = with(ed25519(), "kid", json!("third"));
        let set = parse(&[ed25519(), with(p256(), "kid", json!("ed")), third]);
        assert_eq!(used(&set), [("third".to_owned(), vec!["EdDSA"])]);
        assert_eq!(missed(&set), [(0, Some("ed")), (1, Some("ed"))]);
        assert!(set.left_out("ed").unwrap().contains("`kid` of its own"));
        assert_eq!(set.left_out("third"), None);
    }

    #[test]
    fn what_cannot_sign_is_no_rival_for_a_kid() {
        let unsupported = json!({"kty": "EC", "crv": "P-521", "alg": "ES512", "kid": "ed"});
        let set = parse(&[json!({"kid": "ed", "use": "enc"}), unsupported, ed25519()]);
        assert_eq!(used(&set), [("ed".to_owned(), vec!["EdDSA"])]);
        assert_eq!(missed(&set), [(1, Some("ed"))]);
    }

    #[test]
    fn a_set_whose_keys_are_no_longer_good_enough_is_empty_and_says_why() {
        let weak = with(
            ed25519(),
            "x",
            json!("AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
        );
        let jwks = json!({ "keys": [weak] }).to_string();
        assert!(KeySet::parse(jwks.as_bytes()).is_err());
        let set = KeySet::stored(jwks.as_bytes()).unwrap();
        assert!(set.is_empty() && set.skipped()[0].why.contains("small order"));
    }

    #[test]
    fn a_part_of_a_set_is_its_keys_and_nothing_that_was_left_out() {
        let rival = with(p256(), "kid", json!("ed"));
        let jwks = json!({"keys": [ed25519(), with(ed25519(), "kid", json!("b")), rival]});
        let only = KeySet::parse(jwks.to_string().as_bytes())
            .unwrap()
            .thumbprints();
        let part = KeySet::only(jwks.to_string().as_bytes(), &only).unwrap();
        let part = KeySet::stored(&part).unwrap();
        assert_eq!(part.thumbprints(), only);
    }

    #[test]
    fn the_order_of_a_set_makes_no_difference() {
        let rsa = include_bytes!("../../tests/data/jwks/one-key-two-algs.json");
        let mut value: Value = serde_json::from_slice(rsa).unwrap();
        let set = KeySet::parse(rsa).unwrap();
        value["keys"].as_array_mut().unwrap().reverse();
        let reversed = KeySet::parse(value.to_string().as_bytes()).unwrap();
        assert!(set.same_set(&reversed));
        value["keys"].as_array_mut().unwrap().pop();
        assert!(!set.same_set(&KeySet::parse(value.to_string().as_bytes()).unwrap()));
    }
}
