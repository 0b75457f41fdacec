//! A folder, such as a USB stick's: metadata and targets as they lie in a repository.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{is_plain, unreachable};
use crate::files::{self, FileError};
use crate::trust::{Mirror, MirrorError};

/// Anybody may have written to it.
#[derive(Debug, Clone)]
pub struct Folder(pub PathBuf);

impl Folder {
    fn read(&self, kind: &str, name: &str, limit: u64) -> Result<Option<Vec<u8>>, MirrorError> {
        if !is_plain(name) {
            return Ok(None);
        }
        match read(&self.0.join(kind).join(name), limit) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(FileError::TooLarge(limit)) => Err(MirrorError::TooLarge(limit)),
            // A stick that isn't there is no repository without files.
            Err(error) if error.kind() == ErrorKind::NotFound && self.0.is_dir() => Ok(None),
            Err(error) => Err(unreachable(&error)),
        }
    }
}

/// Never waits for a pipe's other end.
fn read(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no plain file").into());
    }
    files::bounded(file, limit)
}

impl Mirror for Folder {
    fn metadata(&mut self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, MirrorError> {
        self.read("metadata", name, limit)
    }

    fn target(&mut self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, MirrorError> {
        self.read("targets", path, limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_within_their_limit() {
        let folder = tempfile::tempdir().unwrap();
        let mut mirror = Folder(folder.path().join("stick"));
        let gone = mirror.metadata("timestamp.json", 9);
        assert!(matches!(gone, Err(MirrorError::Unreachable(_))), "{gone:?}");
        std::fs::create_dir_all(mirror.0.join("metadata")).unwrap();
        std::fs::create_dir_all(mirror.0.join("targets/realms")).unwrap();
        std::fs::write(mirror.0.join("metadata/timestamp.json"), "123").unwrap();
        std::fs::write(mirror.0.join("targets/realms/a"), "x").unwrap();
        assert_eq!(
            mirror.metadata("timestamp.json", 3),
            Ok(Some(b"123".to_vec()))
        );
        let large = mirror.metadata("timestamp.json", 2);
        assert_eq!(large, Err(MirrorError::TooLarge(2)));
        assert_eq!(mirror.metadata("2.root.json", 9), Ok(None));
        assert_eq!(mirror.target("realms/a", 9), Ok(Some(b"x".to_vec())));
        assert!(mirror.target("realms", 9).is_err());
        assert_eq!(mirror.target("../metadata/timestamp.json", 9), Ok(None));
    }
}
