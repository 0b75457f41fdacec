//! The bytes that signatures of TUF metadata are over: canonical JSON as securesystemslib writes it.

use serde_json::Value;
use sigstore_tuf::canonical_json::to_canonical_bytes;

/// A value has none: it holds a number that is no integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a number in it is no integer, and has no canonical form")]
pub struct NotCanonical;

pub fn canonical(value: &Value) -> Result<Vec<u8>, NotCanonical> {
    to_canonical_bytes(value).map_err(|_| NotCanonical)
}
