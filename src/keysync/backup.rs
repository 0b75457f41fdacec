//! Copies of the pinned keys as plain files, for when the store is lost.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::stored::Stored;
use super::vouch::History;
use super::{MAX_JWKS, is_realm_name};
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
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)?;
            fs::set_permissions(&folder, Permissions::from_mode(0o700))?;
            folder.parent().map_or(Ok(()), sync_folder)
        };
        create().map_err(|e| StoreError::from_io(&e))?;
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

    /// Replaces a realm's copy, whole or not at all.
    pub(super) fn write(&self, realm: &str, stored: &Stored) -> Result<(), StoreError> {
        self.replace(realm, stored)
            .map_err(|e| StoreError::from_io(&e))
    }

    fn replace(&self, realm: &str, stored: &Stored) -> io::Result<()> {
        let invalid = |e: std::str::Utf8Error| io::Error::new(io::ErrorKind::InvalidData, e);
        let copy = Copy {
            confirmed_at: stored.confirmed_at,
            history: stored.history.clone(),
            jwks: std::str::from_utf8(&stored.jwks)
                .map_err(invalid)?
                .to_owned(),
        };
        let new = self.0.join(format!("{realm}.json.new"));
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(&serde_json::to_vec(&copy)?)?;
        file.sync_all()?;
        fs::rename(&new, self.0.join(format!("{realm}.json")))?;
        sync_folder(&self.0)
    }
}

fn read(path: &Path) -> io::Result<Stored> {
    // JSON may need six bytes for one; a history needs less than its key.
    if fs::metadata(path)?.len() > 7 * MAX_JWKS as u64 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is too large",
        ));
    }
    let copy: Copy = serde_json::from_slice(&fs::read(path)?)?;
    Ok(Stored {
        jwks: copy.jwks.into_bytes(),
        confirmed_at: copy.confirmed_at,
        history: copy.history,
    })
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
