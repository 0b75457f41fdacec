//! Any compact JWS (RFC 7515 section 3.1) with its header as JSON, read strictly: DPoP proofs,
//! signed documents, and tokens that are shown to a person.
//!
//! An access token that is to be decided goes through `token`, which reads less of it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::key::Key;
use super::key::KeyInfo;
use super::keyset::KeySet;
use crate::algorithm::Algorithm;
use crate::json;
use crate::reason::DenyReason;

/// A signed document may be longer than a token.
const MAX_LEN: usize = 1024 * 1024;

/// Well-formed; nobody has checked its signature.
pub(super) struct Compact<'a> {
    pub(super) header: Map<String, Value>,
    pub(super) payload: Vec<u8>,
    signing_input: &'a [u8],
    signature: Vec<u8>,
}

impl<'a> Compact<'a> {
    pub(super) fn parse(text: &'a str) -> Option<Compact<'a>> {
        let (signing_input, signature) = text.rsplit_once('.')?;
        let (header, payload) = signing_input.split_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        if signature.is_empty() {
            return None;
        }
        Some(Compact {
            header: object(&URL_SAFE_NO_PAD.decode(header).ok()?)?,
            payload: URL_SAFE_NO_PAD.decode(payload).ok()?,
            signing_input: signing_input.as_bytes(),
            signature,
        })
    }

    pub(super) fn payload_object(&self) -> Option<Map<String, Value>> {
        object(&self.payload)
    }

    /// `alg`, where it is one of ours.
    pub(super) fn algorithm(&self) -> Option<Algorithm> {
        Algorithm::parse(self.header.get("alg")?.as_str()?)
    }

    pub(super) fn signed_by(&self, key: &Key, alg: Algorithm) -> bool {
        key.allows(alg) && key.verify(alg, self.signing_input, &self.signature)
    }
}

fn object(bytes: &[u8]) -> Option<Map<String, Value>> {
    match json::parse(bytes).ok()? {
        Value::Object(members) => Some(members),
        _ => None,
    }
}

/// Checks the signature of `jws` and nothing else: no type, no claims, any payload. The key is the
/// one that `kid` names; without a `kid`, any of the set whose algorithm fits.
pub fn verify_jws(jws: &str, keys: &KeySet) -> Result<KeyInfo, DenyReason> {
    if jws.len() > MAX_LEN {
        return Err(DenyReason::TokenTooLarge);
    }
    let jws = Compact::parse(jws).ok_or(DenyReason::TokenMalformed)?;
    if jws.header.contains_key("crit") {
        return Err(DenyReason::CriticalHeader);
    }
    let alg = jws.algorithm().ok_or(DenyReason::AlgorithmRejected)?;
    if keys.is_empty() {
        return Err(DenyReason::KeysMissing);
    }
    let candidates: Vec<&Key> = match jws.header.get("kid") {
        None => keys.iter().filter(|key| key.allows(alg)).collect(),
        Some(Value::String(kid)) => {
            let unknown = match keys.left_out(kid) {
                Some(_) => DenyReason::KeyUnusable,
                None => DenyReason::KeyUnknown,
            };
            let key = keys.by_kid(kid).ok_or(unknown)?;
            if !key.allows(alg) {
                return Err(DenyReason::AlgorithmRejected);
            }
            vec![key]
        }
        Some(_) => return Err(DenyReason::TokenMalformed),
    };
    if candidates.is_empty() {
        return Err(DenyReason::AlgorithmRejected);
    }
    let signer = candidates.iter().find(|key| jws.signed_by(key, alg));
    signer
        .map(|key| key.info())
        .ok_or(DenyReason::SignatureInvalid)
}
