//! The state folder's database: the only module that names sled, with its edges covered.

use std::path::Path;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk is full: nothing was written, and the store recovers once there is room.
    #[error("no space left in the state folder")]
    Full,
    #[error("the store is in use by another process (a running daemon?)")]
    Locked,
    #[error("the store is damaged: {0}")]
    Corrupt(String),
    #[error("the store can't be read or written: {0}")]
    Io(String),
}

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {}

/// A named, ordered map of bytes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tree {}

/// Changes of one tree, applied together.
#[derive(Debug, Default)]
pub struct Batch {}

impl Store {
    pub fn open(_folder: &Path) -> Result<Store, StoreError> {
        todo!()
    }
    pub fn tree(&self, _name: &str) -> Result<Tree, StoreError> {
        todo!()
    }
    /// Returns when everything written before the call is on stable storage. Concurrent calls
    /// share one sync. Blocks.
    pub fn sync(&self) -> Result<(), StoreError> {
        todo!()
    }
    pub fn size_on_disk(&self) -> u64 {
        todo!()
    }
}

impl Tree {
    pub fn get(&self, _key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        todo!()
    }
    pub fn insert(&self, _key: &[u8], _value: &[u8]) -> Result<(), StoreError> {
        todo!()
    }
    pub fn remove(&self, _key: &[u8]) -> Result<(), StoreError> {
        todo!()
    }
    pub fn apply(&self, _batch: Batch) -> Result<(), StoreError> {
        todo!()
    }
    /// Up to `limit` pairs with keys ≥ `from`, in order.
    pub fn range(
        &self,
        _from: &[u8],
        _limit: usize,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
        todo!()
    }
    pub fn last(&self) -> Result<Option<(Vec<u8>, Vec<u8>)>, StoreError> {
        todo!()
    }
    pub fn len(&self) -> usize {
        todo!()
    }
}

impl Batch {
    pub fn insert(&mut self, _key: &[u8], _value: &[u8]) {
        todo!()
    }
    pub fn remove(&mut self, _key: &[u8]) {
        todo!()
    }
}
