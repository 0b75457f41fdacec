//! Why the store fails, in our terms.

use std::io::{self, ErrorKind};
use std::path::Path;

#[derive(Debug, Clone, thiserror::Error)]
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
    #[error("a {what} of {size} bytes is larger than the store's limit of {limit}")]
    TooLarge {
        what: &'static str,
        size: usize,
        limit: usize,
    },
}

pub(super) fn from_sled(error: sled::Error) -> StoreError {
    match error {
        sled::Error::Io(error) => match error.kind() {
            // The file ends too early, or a part of it is missing.
            ErrorKind::UnexpectedEof | ErrorKind::InvalidData | ErrorKind::NotFound => {
                StoreError::Corrupt(error.to_string())
            }
            _ => StoreError::from_io(&error),
        },
        sled::Error::Corruption { at: Some(at), .. } => {
            StoreError::Corrupt(format!("unreadable data at {at:?}"))
        }
        sled::Error::Corruption { at: None, .. } => StoreError::Corrupt("unreadable data".into()),
        // "Unsupported" is what sled says of a settings file that it can't read.
        other => StoreError::Corrupt(other.to_string()),
    }
}

impl StoreError {
    /// With the path, where the store's own folder isn't meant.
    pub fn in_file(path: &Path, error: &io::Error) -> StoreError {
        match StoreError::from_io(error) {
            StoreError::Io(what) => StoreError::Io(format!("{}: {what}", path.display())),
            other => other,
        }
    }

    pub fn from_io(error: &io::Error) -> StoreError {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                StoreError::Full
            }
            _ => StoreError::Io(error.to_string()),
        }
    }
}
