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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// RFC 7515 appendix A.2.
    const RSA_N: &str = concat!(
        "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1",
        "Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSH",
        "SXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_",
        "I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"
    );
    /// RFC 7515 appendices A.2 and A.3.
    const PAYLOAD: &str = concat!(
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFt",
        "cGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
    );

    fn rsa() -> Value {
        json!({"kid": "rsa", "kty": "RSA", "n": RSA_N, "e": "AQAB"})
    }

    /// RFC 7515 appendix A.3.
    fn p256() -> Value {
        json!({
            "kid": "p256", "kty": "EC", "crv": "P-256",
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"
        })
    }

    /// RFC 8037 appendix A.2.
    fn ed25519() -> Value {
        json!({
            "kid": "ed", "kty": "OKP", "crv": "Ed25519",
            "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
        })
    }

    fn parse(keys: &[Value]) -> Result<KeySet, KeySetError> {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())
    }

    fn with(mut key: Value, name: &str, value: Value) -> Value {
        key[name] = value;
        key
    }

    #[test]
    fn published_signatures_verify() {
        let set = parse(&[rsa(), p256(), ed25519()]).unwrap();
        let rs256 = concat!(
            "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7",
            "AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4",
            "BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K",
            "0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqv",
            "hJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrB",
            "p0igcN_IoypGlUPQGe77Rw"
        );
        let es256 = concat!(
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSA",
            "pmWQxfKTUJqPP3-Kg6NU1Q"
        );
        let eddsa = concat!(
            "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5B",
            "hVsPt9g7sVvpAr_MuM0KAg"
        );
        let cases = [
            // RFC 7515 A.2, A.3; RFC 8037 A.4
            (
                "rsa",
                Algorithm::RS256,
                format!("eyJhbGciOiJSUzI1NiJ9.{PAYLOAD}"),
                rs256,
            ),
            (
                "p256",
                Algorithm::ES256,
                format!("eyJhbGciOiJFUzI1NiJ9.{PAYLOAD}"),
                es256,
            ),
            (
                "ed",
                Algorithm::EdDSA,
                "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc".to_owned(),
                eddsa,
            ),
        ];
        for (kid, alg, input, signature) in cases {
            let key = set.by_kid(kid).unwrap();
            assert!(key.verify(alg, input.as_bytes(), signature), "{kid}");
            assert!(!key.verify(alg, &input.as_bytes()[1..], signature), "{kid}");
            let others = ["rsa", "p256", "ed"].iter().filter(|other| **other != kid);
            for other in others {
                let other = set.by_kid(other).unwrap();
                assert!(!other.verify(alg, input.as_bytes(), signature), "{kid}");
            }
        }
    }

    #[test]
    fn published_thumbprints() {
        // RFC 7638 section 3.1 and RFC 8037 appendix A.3.
        let n = concat!(
            "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_",
            "BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0",
            "_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWh",
            "AI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
        );
        let keys = parse(&[with(rsa(), "n", json!(n)), ed25519()])
            .unwrap()
            .keys();
        assert_eq!(
            keys[0].thumbprint,
            "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
        );
        assert_eq!(
            keys[1].thumbprint,
            "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
        );
    }

    #[test]
    fn a_set_with_secrets_or_a_repeated_kid_is_refused() {
        let bad = [
            vec![ed25519(), with(p256(), "d", json!("jpsQ"))],
            vec![ed25519(), json!({"kty": "oct", "kid": "x"})],
            vec![ed25519(), json!({"kty": "other", "kid": "x", "k": ""})],
            vec![ed25519(), with(rsa(), "kid", json!("ed"))],
            vec![ed25519(), json!({"kid": "ed", "use": "enc"})],
            (0..33)
                .map(|i| with(ed25519(), "kid", json!(i.to_string())))
                .collect(),
            vec![],
            vec![with(rsa(), "use", json!("enc"))],
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
    fn what_is_not_ours_is_skipped_with_a_note() {
        let even = RSA_N.replace("poQ", "poA");
        let foreign = [
            with(rsa(), "alg", json!("RSA-OAEP")),
            with(rsa(), "use", json!("enc")),
            with(rsa(), "key_ops", json!(["encrypt"])),
            with(rsa(), "e", json!("Aw")),
            with(rsa(), "e", json!("AQAA")),
            with(rsa(), "e", json!("AgAAAAE")),
            with(rsa(), "e", json!("AAEAAQ")),
            with(rsa(), "e", json!("")),
            with(rsa(), "n", json!(&RSA_N[..340])),
            with(rsa(), "n", json!(RSA_N.repeat(3))),
            with(rsa(), "n", json!(even)),
            with(rsa(), "n", json!(format!("{RSA_N}=="))),
            with(rsa(), "alg", json!("ES256")),
            with(p256(), "alg", json!("ES384")),
            with(p256(), "x", p256()["y"].clone()),
            with(p256(), "crv", json!("P-521")),
            with(p256(), "crv", json!("secp256k1")),
            with(p256(), "x", json!("AA")),
            with(ed25519(), "crv", json!("X25519")),
            with(ed25519(), "crv", json!("Ed448")),
            with(
                ed25519(),
                "x",
                json!("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHUQ"),
            ),
            with(ed25519(), "alg", json!("none")),
            with(ed25519(), "kid", json!(1)),
            with(ed25519(), "kid", json!("a\u{1b}[2J")),
            with(ed25519(), "kid", json!("k".repeat(257))),
            json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": ""}),
            json!("no key"),
        ];
        for key in foreign {
            let good = with(ed25519(), "kid", json!("good"));
            let set = parse(&[key.clone(), good]).unwrap();
            assert_eq!((set.keys().len(), set.skipped().len()), (1, 1), "{key}");
            assert_eq!(set.skipped()[0].index, 0);
            let shown = set.skipped()[0].to_string();
            assert!(!shown.chars().any(char::is_control), "{shown:?}");
        }
    }

    #[test]
    fn alg_narrows_what_a_key_verifies() {
        assert_eq!(parse(&[rsa()]).unwrap().keys()[0].algorithms.len(), 6);
        let narrow = with(rsa(), "alg", json!("PS384"));
        assert_eq!(parse(&[narrow]).unwrap().keys()[0].algorithms, ["PS384"]);
    }
}
