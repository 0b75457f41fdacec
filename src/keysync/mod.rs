//! The pinned keys of each realm: kept in the store, changed by an explicit pin only. (HTTPS
//! refresh and the fleet's trust will drive it too.)

use std::path::PathBuf;

use crate::auth::{KeyInfo, KeySet};
use crate::store::{Store, StoreError};
use crate::time::Timestamp;

#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("not a usable key set: {0}")]
    Invalid(String),
}

/// Realm keys that survive everything.
#[derive(Debug, Clone)]
pub struct Keyring {}

#[derive(Debug, Clone)]
pub struct Pinned {
    pub keys: KeySet,
    pub confirmed_at: Timestamp,
}

impl Keyring {
    /// `backup_folder`: the last good set also lives as a plain file outside sled.
    pub fn open(_: &Store, _backup_folder: PathBuf) -> Result<Keyring, KeysError> {
        todo!()
    }
    pub fn get(&self, _realm: &str) -> Result<Option<Pinned>, KeysError> {
        todo!()
    }
    /// Replaces the realm's keys; durable when this returns. Blocks.
    pub fn pin(
        &self,
        _realm: &str,
        _jwks: &[u8],
        _now: Timestamp,
    ) -> Result<Vec<KeyInfo>, KeysError> {
        todo!()
    }
}
