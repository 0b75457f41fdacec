//! Bundles: what exists, its digest, whether it is whole.

use std::path::{Path, PathBuf};

/// A model folder whose manifest has been read and whose files are there with the right sizes.
#[derive(Debug, Clone)]
pub struct Bundle {
    pub name: String,
    pub folder: PathBuf,
    /// Digest of the canonical content, the same on every CPU; hexadecimal SHA-256.
    pub digest: String,
}

#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("{path}: {what}")]
    Bad { path: PathBuf, what: String },
}

/// A folder of bundles.
#[derive(Debug, Clone)]
pub struct Catalog {}

impl Catalog {
    pub fn new(_models_dir: &Path) -> Catalog {
        todo!()
    }
    pub fn list(&self) -> Vec<Result<Bundle, BundleError>> {
        todo!()
    }
    pub fn open(&self, _name: &str) -> Result<Bundle, BundleError> {
        todo!()
    }
    /// Reads every byte and compares the hashes.
    pub fn verify(&self, _bundle: &Bundle) -> Result<(), BundleError> {
        todo!()
    }
}
