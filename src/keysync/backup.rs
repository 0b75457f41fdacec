//! Copies of the pinned keys as plain files, for when the store is lost.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::stored::Stored;
use super::vouch::History;
use super::{MAX_JWKS, is_realm_name};
use crate::files::{self, Care, Staged};
use crate::store::StoreError;
use crate::time::Timestamp;

/// A folder with one file a realm.
#[derive(Debug)]
pub(super) struct Backup(PathBuf);

/// A file's content. `jwks` is text, so that the pinned bytes survive unchanged.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Copy {
    confirmed_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    history: Option<History>,
    jwks: String,
}

impl Backup {
    pub(super) fn open(folder: PathBuf) -> Result<Backup, StoreError> {
        let create = || {
            files::private_folder(&folder)?;
            folder.parent().map_or(Ok(()), files::sync_folder)
        };
        let told = |e: io::Error| StoreError::in_file(&folder, &e);
        create().map_err(told)?;
        Ok(Backup(folder))
    }

    /// Every readable copy. One that isn't readable helps nobody, and must not keep the others
    /// from being used.
    pub(super) fn all(&self) -> Result<Vec<(String, Stored)>, StoreError> {
        let entries = fs::read_dir(&self.0).map_err(|e| StoreError::from_io(&e))?;
        let mut all = Vec::new();
        for entry in entries {
            let path = entry.map_err(|e| StoreError::from_io(&e))?.path();
            let realm = path.file_name().and_then(|name| name.to_str());
            let Some(realm) = realm.and_then(|name| name.strip_suffix(".json")) else {
                continue;
            };
            if !is_realm_name(realm) {
                continue;
            }
            match read(&path) {
                Ok(stored) => all.push((realm.to_owned(), stored)),
                Err(error) => tracing::warn!(?path, %error, "a copy of pinned keys is unreadable"),
            }
        }
        all.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(all)
    }

    /// A copy that isn't of what is pinned stays to be looked at, and is never read again.
    pub(super) fn set_aside(&self, realm: &str, pinned: Option<&Stored>) -> Result<(), StoreError> {
        let file = self.0.join(format!("{realm}.json"));
        let aside = self.0.join(format!("{realm}.json.unknown"));
        let moved = fs::rename(file, aside).and_then(|()| files::sync_folder(&self.0));
        moved.map_err(|e| StoreError::from_io(&e))?;
        pinned.map_or(Ok(()), |pinned| self.write(realm, pinned))
    }

    /// Replaces a realm's copy, whole or not at all.
    pub(super) fn write(&self, realm: &str, stored: &Stored) -> Result<(), StoreError> {
        self.stage(realm, stored)?.put()
    }

    /// Writes a realm's copy beside the one that is there, which stays until it is put.
    pub(super) fn stage(&self, realm: &str, stored: &Stored) -> Result<NewCopy, StoreError> {
        let staged = self.staged(realm, stored);
        staged.map(NewCopy).map_err(|e| StoreError::from_io(&e))
    }

    fn staged(&self, realm: &str, stored: &Stored) -> io::Result<Staged> {
        let invalid = |e: std::str::Utf8Error| io::Error::new(io::ErrorKind::InvalidData, e);
        let copy = Copy {
            confirmed_at: stored.confirmed_at,
            history: stored.history.clone(),
            jwks: std::str::from_utf8(&stored.jwks)
                .map_err(invalid)?
                .to_owned(),
        };
        let file = self.0.join(format!("{realm}.json"));
        files::stage(&file, &serde_json::to_vec(&copy)?)
    }
}

/// A copy that is on the disk, and not in its place yet.
#[must_use]
pub(super) struct NewCopy(Staged);

impl NewCopy {
    pub(super) fn put(self) -> Result<(), StoreError> {
        self.0.put().map_err(|e| StoreError::from_io(&e))
    }
}

fn read(path: &Path) -> io::Result<Stored> {
    // JSON may need six bytes for one; a history needs less than its key.
    let bytes = files::read(path, 7 * MAX_JWKS as u64, Care::Kept)?;
    let copy: Copy = serde_json::from_slice(&bytes)?;
    Ok(Stored {
        jwks: copy.jwks.into_bytes(),
        confirmed_at: copy.confirmed_at,
        history: copy.history,
    })
}
