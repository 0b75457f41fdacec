//! A realm's key set in the fleet: a rotation adds keys, and only `retire` takes one away.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::error::RepositoryError;
use crate::auth::{KeyInfo, KeySet, Skipped};
use crate::json;

/// Of no use to a device, which follows no certificate; left out, they make the set a third as long.
const CERTIFICATES: [&str; 3] = ["x5c", "x5t", "x5t#S256"];

/// A realm's next key set, and what became of each key.
#[derive(Debug, Clone)]
pub struct KeyChange {
    pub jwks: Vec<u8>,
    pub added: Vec<KeyInfo>,
    pub stays: Vec<KeyInfo>,
    /// In the fleet, and no longer served by Keycloak.
    pub kept: Vec<KeyInfo>,
    /// Served by Keycloak, and of no use to a device.
    pub left_out: Vec<Skipped>,
}

/// Keys of the fleet that are named by one `kid` or thumbprint, with the set that lacks them.
#[derive(Debug, Clone)]
pub struct Kept {
    pub jwks: Vec<u8>,
    pub gone: KeyInfo,
    pub left: Vec<KeyInfo>,
}

/// The set with the keys that Keycloak serves, beside those that devices have already.
pub fn with_fetched(current: Option<&[u8]>, fetched: &[u8]) -> Result<KeyChange, RepositoryError> {
    let refuse = |what: &str, why: &dyn std::fmt::Display| {
        RepositoryError::Refused(format!("{what} can't be used: {why}"))
    };
    let new = KeySet::parse(fetched).map_err(|e| refuse("the key set", &e))?;
    let old = current.map_or_else(|| Ok(KeySet::default()), KeySet::stored);
    let old = old.map_err(|e| refuse("the fleet's key set", &e))?;
    let (new_prints, old_prints) = (new.thumbprints(), old.thumbprints());
    let kept: BTreeSet<String> = old_prints.difference(&new_prints).cloned().collect();
    let mut entries = entries(fetched, &new_prints)?;
    entries.extend(current.map_or_else(|| Ok(Vec::new()), |jwks| self::entries(jwks, &kept))?);
    let jwks = set(entries);
    // As devices will read it: together the keys may be too many, or share a `kid`.
    let union = KeySet::parse(&jwks).map_err(|e| refuse("old and new keys together", &e))?;
    let all: BTreeSet<String> = new_prints.union(&old_prints).cloned().collect();
    if union.thumbprints() != all {
        let why: Vec<String> = union.skipped().iter().map(Skipped::to_string).collect();
        return Err(refuse("old and new keys together", &why.join("; ")));
    }
    let of = |set: &KeySet, with: &dyn Fn(&str) -> bool| {
        let keys = set.keys().into_iter();
        keys.filter(|key| with(&key.thumbprint)).collect()
    };
    Ok(KeyChange {
        jwks,
        added: of(&new, &|print| !old_prints.contains(print)),
        stays: of(&new, &|print| old_prints.contains(print)),
        kept: of(&old, &|print| kept.contains(print)),
        left_out: new.skipped().to_vec(),
    })
}

/// The set without the key of this `kid` or thumbprint.
pub fn without(current: &[u8], key: &str) -> Result<Kept, RepositoryError> {
    let refused = |what: String| Err(RepositoryError::Refused(what));
    let keys = match KeySet::stored(current) {
        Ok(set) => set.keys(),
        Err(error) => return refused(format!("the fleet's key set can't be read: {error}")),
    };
    let (gone, left): (Vec<KeyInfo>, Vec<KeyInfo>) = keys
        .into_iter()
        .partition(|known| known.kid == key || known.thumbprint == key);
    let Some(one) = gone.into_iter().next() else {
        return refused(format!(
            "the realm has no key {key:?}; `slmd fleet review` lists them"
        ));
    };
    if left.is_empty() {
        return refused(format!(
            "{key} is the realm's last key; rotate a new one in first"
        ));
    }
    let thumbprints = left.iter().map(|key| key.thumbprint.clone()).collect();
    Ok(Kept {
        jwks: set(entries(current, &thumbprints)?),
        gone: one,
        left,
    })
}

fn entries(
    jwks: &[u8],
    thumbprints: &BTreeSet<String>,
) -> Result<Vec<Map<String, Value>>, RepositoryError> {
    let refused = |error: String| RepositoryError::Refused(error);
    let only = KeySet::only(jwks, thumbprints).map_err(|e| refused(e.to_string()))?;
    let value = json::parse(&only).map_err(|e| refused(e.to_string()))?;
    let list = value.get("keys").and_then(Value::as_array);
    let list = list.into_iter().flatten().filter_map(Value::as_object);
    Ok(list.cloned().collect())
}

/// By `kid`, so that the same keys make the same bytes.
fn set(mut entries: Vec<Map<String, Value>>) -> Vec<u8> {
    for entry in &mut entries {
        entry.retain(|name, _| !CERTIFICATES.contains(&name.as_str()));
    }
    entries.sort_by_key(|entry| {
        let text = |name: &str| {
            entry
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        (text("kid"), text("alg"))
    });
    json!({ "keys": entries }).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kid: &str, x: &str) -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": kid,
               "x": x, "x5c": ["MIIB"], "x5t": "t", "x5t#S256": "s"})
    }

    const ONE: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    const OTHER: &str = "PUAXw-hDiVqStwqnTRt-vJyYLM8uxJaMwM1V8Sr0Zgw";

    fn jwks(keys: &[Value]) -> Vec<u8> {
        json!({ "keys": keys }).to_string().into_bytes()
    }

    fn kids(keys: &[KeyInfo]) -> Vec<&str> {
        keys.iter().map(|key| key.kid.as_str()).collect()
    }

    #[test]
    fn a_rotation_adds_and_keeps() {
        let first = with_fetched(
            None,
            &jwks(&[
                key("a", ONE),
                json!({"kty": "RSA", "use": "enc", "kid": "e"}),
            ]),
        )
        .unwrap();
        assert_eq!(kids(&first.added), ["a"]);
        assert_eq!(first.left_out.len(), 1);
        let text = String::from_utf8(first.jwks.clone()).unwrap();
        assert!(!text.contains("x5") && !text.contains("enc"), "{text}");
        let second = with_fetched(Some(&first.jwks), &jwks(&[key("b", OTHER)])).unwrap();
        assert_eq!(
            (kids(&second.added), kids(&second.kept)),
            (vec!["b"], vec!["a"])
        );
        assert_eq!(KeySet::parse(&second.jwks).unwrap().keys().len(), 2);
        let third = with_fetched(Some(&second.jwks), &jwks(&[key("b", OTHER), key("a", ONE)]));
        let third = third.unwrap();
        assert_eq!(kids(&third.stays), ["b", "a"]);
        assert_eq!(third.jwks, second.jwks, "the same keys are the same bytes");
    }

    #[test]
    fn two_keys_of_one_kid_would_take_each_other_down() {
        let first = with_fetched(None, &jwks(&[key("a", ONE)])).unwrap();
        let refused = with_fetched(Some(&first.jwks), &jwks(&[key("a", OTHER)]));
        let why = refused.unwrap_err().to_string();
        assert!(
            why.contains("`kid` of its own") || why.contains("no usable key"),
            "{why}"
        );
    }

    #[test]
    fn a_key_is_retired_by_kid_or_thumbprint_and_never_the_last() {
        let set = with_fetched(None, &jwks(&[key("a", ONE), key("b", OTHER)])).unwrap();
        let thumbprint = set.added[0].thumbprint.clone();
        for name in ["a", &thumbprint] {
            let kept = without(&set.jwks, name).unwrap();
            assert_eq!((kept.gone.kid.as_str(), kids(&kept.left)), ("a", vec!["b"]));
            let last = without(&kept.jwks, "b").unwrap_err().to_string();
            assert!(last.contains("last key"), "{last}");
        }
        assert!(without(&set.jwks, "c").is_err());
    }
}
