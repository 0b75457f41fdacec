//! TUF's keys: their ids, and that no key counts twice.

use std::collections::BTreeMap;

use sigstore_tuf::Key;
use sigstore_tuf::canonical_json::to_canonical_bytes;

use super::error::TrustError;

/// What a signature of TUF covers: `value` as securesystemslib's canonical JSON. Fails for fractions.
pub fn canonical(value: &serde_json::Value) -> Result<Vec<u8>, TrustError> {
    to_canonical_bytes(value).map_err(|why| TrustError::malformed("signed", &why))
}

/// Whether each id is the SHA-256 of its key's canonical JSON. TUF lets a signer choose any, so only
/// a fleet's own repository can be held to it.
pub(super) fn own_ids(keys: &BTreeMap<String, Key>) -> Result<(), TrustError> {
    let foreign = keys
        .iter()
        .find(|(id, key)| key.key_id().ok().as_ref() != Some(*id));
    match foreign {
        Some((id, _)) => Err(TrustError::ForeignKeyId { key: id.clone() }),
        None => Ok(()),
    }
}

/// Whether the ids of a role name as many keys: the verifier counts ids. One public key has one
/// encoding only that the verifier can use, and one that it can't use never counts.
pub(super) fn distinct(
    role: &str,
    ids: &[String],
    keys: &BTreeMap<String, Key>,
) -> Result<(), TrustError> {
    let mut seen: BTreeMap<Vec<u8>, &String> = BTreeMap::new();
    for id in ids {
        let Some(public) = keys.get(id).and_then(|key| key.verification_key().ok()) else {
            continue;
        };
        match seen.insert(public.as_bytes().to_vec(), id) {
            // Named twice by one id: that counts once.
            Some(other) if other != id => {
                return Err(TrustError::SharedKey {
                    role: role.to_owned(),
                    one: other.clone(),
                    other: id.clone(),
                });
            }
            _ => {}
        }
    }
    Ok(())
}
