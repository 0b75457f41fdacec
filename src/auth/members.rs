//! Which members a public JWK may have.
//!
//! What is private can't be listed for all times: ML-DSA brought `priv`. So a key may have the
//! members that its type has as public, and no others; those that are known to be private mean,
//! besides, that a secret has leaked.

use serde_json::{Map, Value};

/// Of private and symmetric keys: RFC 7518 sections 6.2.2, 6.3.2 and 6.4.1, and `priv` of the type
/// AKP (ML-DSA for JOSE).
const PRIVATE: [&str; 9] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"];

/// Of every type: RFC 7517 section 4, WebCrypto's `ext`, and the dates that OpenID Federation adds.
const COMMON: [&str; 13] = [
    "kty", "use", "key_ops", "alg", "kid", "x5u", "x5c", "x5t", "x5t#S256", "ext", "iat", "nbf",
    "exp",
];

/// A member's name is as long as whoever wrote it likes.
const SHOWN: usize = 32;

/// Whether the key is no public one: it has leaked.
pub(super) fn is_secret(jwk: &Map<String, Value>) -> bool {
    jwk.get("kty").is_some_and(|kty| kty == "oct")
        || PRIVATE.iter().any(|name| jwk.contains_key(*name))
}

/// Why the key isn't taken for public, where its type is a known one.
pub(super) fn all_public(jwk: &Map<String, Value>) -> Result<(), String> {
    let kty = jwk.get("kty").and_then(Value::as_str).unwrap_or_default();
    let Some(own) = public(kty) else {
        return Ok(());
    };
    let fits = |name: &&String| COMMON.contains(&name.as_str()) || own.contains(&name.as_str());
    match jwk.keys().find(|name| !fits(name)) {
        None => Ok(()),
        Some(name) => {
            let name: String = name.chars().take(SHOWN).collect();
            Err(format!(
                "{name:?} is no member of a public {kty} key; export the public key alone"
            ))
        }
    }
}

/// RFC 7518 sections 6.2.1 and 6.3.1, RFC 8037 section 2, ML-DSA for JOSE.
fn public(kty: &str) -> Option<&'static [&'static str]> {
    Some(match kty {
        "RSA" => &["n", "e"],
        "EC" => &["crv", "x", "y"],
        "OKP" => &["crv", "x"],
        "AKP" => &["pub"],
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_public_key_has_what_its_type_has_and_no_more() {
        let public = [
            json!({"kty": "RSA", "n": "", "e": "", "x5c": [], "x5t#S256": "", "kid": "a"}),
            json!({"kty": "EC", "crv": "", "x": "", "y": "", "ext": true, "key_ops": ["verify"]}),
            json!({"kty": "OKP", "crv": "", "x": ""}),
            json!({"kty": "AKP", "alg": "ML-DSA-65", "pub": ""}),
            // Of a type to come nobody can tell.
            json!({"kty": "new", "seed": ""}),
        ];
        for jwk in public {
            let jwk = jwk.as_object().unwrap();
            assert!(!is_secret(jwk) && all_public(jwk).is_ok(), "{jwk:?}");
        }
        let long = "s".repeat(1000);
        let surplus = [
            json!({"kty": "OKP", "crv": "", "x": "", "y": ""}),
            json!({"kty": "RSA", "n": "", "e": "", "D": ""}),
            json!({"kty": "AKP", "pub": "", "seed": ""}),
            json!({"kty": "EC", "crv": "", "x": "", "y": "", "\u{1b}[2J": ""}),
            json!({"kty": "EC", "crv": "", "x": "", "y": "", long: ""}),
        ];
        for jwk in surplus {
            let why = all_public(jwk.as_object().unwrap()).unwrap_err();
            assert!(
                why.len() < 200 && !why.chars().any(char::is_control),
                "{why}"
            );
        }
        for name in PRIVATE {
            assert!(
                is_secret(json!({"kty": "new", name: ""}).as_object().unwrap()),
                "{name}"
            );
        }
        assert!(is_secret(json!({"kty": "oct"}).as_object().unwrap()));
    }
}
