//! One pinned key: who may be a key, what it may verify, and the check itself.

use std::borrow::Cow;

use aws_lc_rs::signature::ParsedPublicKey;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::jwk::{Material, Wanted, strong};
use super::members::all_public;
use crate::algorithm::Algorithm;

const MAX_KID_LEN: usize = 256;

/// A key that may verify tokens. Holding one proves that it passed the import policy.
#[derive(Debug)]
pub(super) struct Key {
    kid: String,
    /// One for each algorithm that it may verify, built once: jsonwebtoken builds the key anew at
    /// each verification, which costs a tenth of it.
    verifiers: Vec<(Algorithm, ParsedPublicKey)>,
    thumbprint: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyInfo {
    pub kid: String,
    pub algorithms: Vec<Cow<'static, str>>,
    /// RFC 7638, base64url.
    pub thumbprint: String,
}

impl KeyInfo {
    /// What makes the key, for comparison.
    pub(super) fn parts(mut self) -> (String, Vec<Cow<'static, str>>, String) {
        self.algorithms.sort_unstable();
        (self.kid, self.algorithms, self.thumbprint)
    }
}

impl Key {
    pub(super) fn kid(&self) -> &str {
        &self.kid
    }

    pub(super) fn thumbprint(&self) -> &str {
        &self.thumbprint
    }

    pub(super) fn allows(&self, alg: Algorithm) -> bool {
        self.verifier(alg).is_some()
    }

    /// Never true for an algorithm that the key isn't allowed.
    pub(super) fn verify(&self, alg: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let verifier = self.verifier(alg);
        verifier.is_some_and(|key| key.verify_sig(message, signature).is_ok())
    }

    fn verifier(&self, alg: Algorithm) -> Option<&ParsedPublicKey> {
        let verifier = self.verifiers.iter().find(|(own, _)| *own == alg);
        verifier.map(|(_, key)| key)
    }

    pub(super) fn info(&self) -> KeyInfo {
        KeyInfo {
            kid: self.kid.clone(),
            algorithms: self
                .verifiers
                .iter()
                .map(|(alg, _)| alg.as_str().into())
                .collect(),
            thumbprint: self.thumbprint.clone(),
        }
    }

    /// The key, or why it isn't one of ours and what to do about it.
    pub(super) fn import(entry: &Map<String, Value>) -> Result<Key, String> {
        let key = Key::unnamed(entry, &|_| true)?;
        if key.verifiers.is_empty() {
            let why = "its `alg` is no signature algorithm for its kind that is supported";
            return Err(why.into());
        }
        let kid = printable_kid(entry)?.to_owned();
        strong(entry)?;
        Ok(Key { kid, ..key })
    }

    /// The key that a DPoP proof brings, for the proof's own algorithm: its `kid` doesn't count. One
    /// that the algorithm doesn't fit allows none.
    pub(super) fn of_proof(entry: &Map<String, Value>, alg: Algorithm) -> Result<Key, String> {
        Key::unnamed(entry, &|own| own == alg)
    }

    /// Adds what the same key was published for besides.
    pub(super) fn also(&mut self, other: Key) {
        for (alg, verifier) in other.verifiers {
            if !self.allows(alg) {
                self.verifiers.push((alg, verifier));
            }
        }
    }

    fn unnamed(entry: &Map<String, Value>, wanted: Wanted<'_>) -> Result<Key, String> {
        for_signatures(entry)?;
        all_public(entry)?;
        let named = text(entry, "alg")?.map(Algorithm::parse);
        let both = |own| wanted(own) && named.is_none_or(|named| named == Some(own));
        let Material {
            verifiers,
            thumbprint,
        } = Material::import(entry, &both)?;
        Ok(Key {
            kid: String::new(),
            verifiers,
            thumbprint,
        })
    }
}

/// `use` and `key_ops` must leave room for verifying (RFC 7517 sections 4.2 and 4.3), and `alg` too.
pub(super) fn for_signatures(entry: &Map<String, Value>) -> Result<(), String> {
    if text(entry, "use")?.is_some_and(|usage| usage != "sig") {
        return Err("its `use` isn't `sig`".into());
    }
    if text(entry, "alg")?.is_some_and(encrypts) {
        return Err("its `alg` is for encryption".into());
    }
    match entry.get("key_ops") {
        None => Ok(()),
        Some(Value::Array(ops)) if ops.iter().any(|op| op == "verify") => Ok(()),
        Some(_) => Err("its `key_ops` lack `verify`".into()),
    }
}

/// Key management algorithms for asymmetric keys (RFC 7518 section 4.1).
fn encrypts(alg: &str) -> bool {
    alg.starts_with("RSA-OAEP") || alg.starts_with("RSA1_5") || alg.starts_with("ECDH-ES")
}

/// A `kid` that can be shown on a terminal.
pub(super) fn printable_kid(entry: &Map<String, Value>) -> Result<&str, String> {
    let kid = match entry.get("kid") {
        None | Some(Value::Null) => {
            return Err("it has no `kid`, by which tokens name their key".into());
        }
        Some(_) => text(entry, "kid")?.unwrap_or_default(),
    };
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

#[cfg(test)]
pub(super) mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
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
    pub(in crate::auth) fn p256() -> Value {
        json!({
            "kid": "p256", "kty": "EC", "crv": "P-256",
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"
        })
    }

    /// RFC 8037 appendix A.2.
    pub(in crate::auth) fn ed25519() -> Value {
        json!({
            "kid": "ed", "kty": "OKP", "crv": "Ed25519",
            "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
        })
    }

    pub(in crate::auth) fn with(mut key: Value, name: &str, value: Value) -> Value {
        key[name] = value;
        key
    }

    fn import(key: &Value) -> Result<Key, String> {
        Key::import(key.as_object().unwrap())
    }

    #[test]
    fn published_signatures_verify() {
        let keys = [rsa(), p256(), ed25519()].map(|key| import(&key).unwrap());
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
            let message = input.as_bytes();
            let signature = &URL_SAFE_NO_PAD.decode(signature).unwrap();
            for key in &keys {
                let own = key.kid() == kid;
                assert_eq!(key.verify(alg, message, signature), own, "{kid}");
                assert!(!key.verify(alg, &message[1..], signature), "{kid}");
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
        let keys = [with(rsa(), "n", json!(n)), ed25519()].map(|key| import(&key).unwrap());
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
    fn what_is_not_ours_is_no_key() {
        let even = RSA_N.replace("poQ", "poA");
        let foreign = [
            with(rsa(), "alg", json!("RSA-OAEP")),
            with(rsa(), "alg", json!("RSA-OAEP-256")),
            with(p256(), "alg", json!("ECDH-ES+A256KW")),
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
            with(ed25519(), "kid", Value::Null),
            with(ed25519(), "alg", json!("Ed448")),
            with(ed25519(), "seed", json!("")),
            json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": ""}),
        ];
        for key in foreign {
            assert!(import(&key).is_err(), "{key}");
        }
    }

    #[test]
    fn a_proofs_key_is_for_the_proofs_algorithm_alone() {
        let of = |key: &Value, alg| Key::of_proof(key.as_object().unwrap(), alg).unwrap();
        let rsa_key = of(&rsa(), Algorithm::PS256);
        assert_eq!(rsa_key.info().algorithms, ["PS256"]);
        assert_eq!(rsa_key.thumbprint(), import(&rsa()).unwrap().thumbprint());
        assert_eq!(of(&p256(), Algorithm::ES256).info().algorithms, ["ES256"]);
        let narrow = with(rsa(), "alg", json!("RS256"));
        for (key, alg) in [
            (p256(), Algorithm::ES384),
            (ed25519(), Algorithm::ES256),
            (rsa(), Algorithm::EdDSA),
            (narrow, Algorithm::PS256),
        ] {
            let key = of(&key, alg);
            assert!(key.info().algorithms.is_empty() && !key.allows(alg));
        }
    }

    #[test]
    fn what_is_left_out_is_said_with_what_to_do() {
        let three = RSA_N.replacen('o', "t", 1);
        for (key, why) in [
            (
                with(p256(), "crv", json!("P-521")),
                "\"P-521\"; supported are",
            ),
            (
                with(ed25519(), "crv", json!("Ed448")),
                "\"Ed448\"; supported are",
            ),
            (json!({"kty": "AKP", "pub": ""}), "\"AKP\"; supported are"),
            (
                with(rsa(), "n", json!(RSA_N.replace("poQ", "poA"))),
                "even: its private key",
            ),
            (
                with(rsa(), "n", json!(three)),
                "factor 3: its private key can be computed",
            ),
            (
                with(
                    ed25519(),
                    "x",
                    json!("AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
                ),
                "small order: its private key",
            ),
            (
                with(ed25519(), "d", json!("")),
                "no member of a public OKP key",
            ),
            (with(ed25519(), "kid", Value::Null), "no `kid`"),
        ] {
            let said = import(&key).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }

    /// RFC 9864 gives EdDSA with this curve a name of its own.
    #[test]
    fn ed25519_has_two_names_and_is_one_algorithm() {
        for name in ["EdDSA", "Ed25519"] {
            let key = import(&with(ed25519(), "alg", json!(name))).unwrap();
            assert_eq!(key.info().algorithms, ["EdDSA"]);
        }
        assert!(import(&with(p256(), "alg", json!("Ed25519"))).is_err());
    }

    #[test]
    fn alg_narrows_what_a_key_verifies() {
        assert_eq!(import(&rsa()).unwrap().info().algorithms.len(), 6);
        let narrow = with(rsa(), "alg", json!("PS384"));
        assert_eq!(import(&narrow).unwrap().info().algorithms, ["PS384"]);
    }
}
