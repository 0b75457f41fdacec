//! Bundles: what exists, its digest, whether it is whole.

mod manifest;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use serde::Serialize;

use crate::digest::hex;

pub use manifest::{Architecture, FORMAT, FileEntry, GRAPH, LAYOUT, Manifest, Source, WEIGHTS};

/// The manifest's name inside of a bundle.
pub const MANIFEST: &str = "slmd.json";
/// A manifest has about 2 KiB.
const MAX_MANIFEST: u64 = 64 << 10;
/// Folders looked at by [`Catalog::list`].
const MAX_BUNDLES: usize = 256;
const MAX_NAME: usize = 64;
const MISSING: &str =
    "not found; import the model with `slmd model import`, or name one of `slmd model list`";

/// A model folder whose manifest has been read and whose files are there with the right sizes.
#[derive(Debug, Clone, Serialize)]
pub struct Bundle {
    pub name: String,
    pub folder: PathBuf,
    /// Digest of the canonical content, the same on every CPU; hexadecimal SHA-256.
    pub digest: String,
    #[serde(skip)]
    pub manifest: Arc<Manifest>,
}

#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("{path}: {what}")]
    Bad { path: PathBuf, what: String },
}

/// A folder of bundles.
#[derive(Debug, Clone)]
pub struct Catalog {
    models_dir: PathBuf,
}

impl Catalog {
    #[must_use]
    pub fn new(models_dir: &Path) -> Catalog {
        Catalog {
            models_dir: models_dir.to_owned(),
        }
    }

    /// All bundles, in the order of their names. A folder that doesn't exist has none; what is
    /// hidden or not a folder is not a bundle.
    #[must_use]
    pub fn list(&self) -> Vec<Result<Bundle, BundleError>> {
        let entries = match fs::read_dir(&self.models_dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(e) => return vec![Err(bad(&self.models_dir, e))],
        };
        let mut names: Vec<String> = entries
            .filter_map(Result::ok)
            .filter(|entry| entry.path().is_dir())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| !name.starts_with('.'))
            .take(MAX_BUNDLES)
            .collect();
        names.sort_unstable();
        names.iter().map(|name| self.open(name)).collect()
    }

    /// A bundle by its name, which is its folder's.
    pub fn open(&self, name: &str) -> Result<Bundle, BundleError> {
        if !is_name(name) {
            let what = format!("{name:?} can't be a model's name");
            return Err(bad(&self.models_dir, what));
        }
        let bundle = Bundle::open(&self.models_dir.join(name))?;
        if bundle.name != name {
            let what = format!("the manifest says that it is {:?}", bundle.name);
            return Err(bad(&bundle.folder, what));
        }
        Ok(bundle)
    }

    /// Reads every byte and compares the hashes.
    pub fn verify(&self, bundle: &Bundle) -> Result<(), BundleError> {
        bundle.verify()
    }
}

impl Bundle {
    /// Reads the manifest and compares the files' sizes.
    pub fn open(folder: &Path) -> Result<Bundle, BundleError> {
        let path = folder.join(MANIFEST);
        let bytes = read_bounded(&path, MAX_MANIFEST).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => bad(&path, MISSING),
            _ => bad(&path, e),
        })?;
        let manifest = Manifest::parse(&bytes).map_err(|what| bad(&path, what))?;
        if !is_name(&manifest.name) {
            return Err(bad(&path, format!("the name {:?}", manifest.name)));
        }
        for (name, entry) in &manifest.files {
            let path = folder.join(name);
            let metadata = fs::symlink_metadata(&path).map_err(|e| bad(&path, e))?;
            if !metadata.is_file() {
                return Err(bad(&path, "not a regular file"));
            }
            if metadata.len() != entry.size {
                let (found, size) = (metadata.len(), entry.size);
                let what = format!("{found} bytes instead of {size}; import the model again");
                return Err(bad(&path, what));
            }
        }
        Ok(Bundle {
            name: manifest.name.clone(),
            folder: folder.to_owned(),
            digest: manifest.digest.clone(),
            manifest: Arc::new(manifest),
        })
    }

    /// Reads every byte and compares the hashes.
    pub fn verify(&self) -> Result<(), BundleError> {
        for (name, entry) in &self.manifest.files {
            let path = self.folder.join(name);
            let hash = hash_file(&path).map_err(|e| bad(&path, e))?;
            if hash != entry.sha256 {
                return Err(bad(
                    &path,
                    "its content has changed; import the model again",
                ));
            }
        }
        Ok(())
    }
}

/// The SHA-256 of a file's content.
pub fn hash_file(path: &Path) -> io::Result<String> {
    hash(File::open(path)?)
}

/// The SHA-256 of what is left to read.
pub fn hash(mut file: impl Read) -> io::Result<String> {
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(context.finish().as_ref())),
            n => context.update(&buffer[..n]),
        }
    }
}

/// A name that is a safe folder, topic and log word.
#[must_use]
pub fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && !name.starts_with(['.', '-'])
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

fn read_bounded(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::other(format!("it has over {most} bytes")));
    }
    Ok(bytes)
}

#[expect(clippy::needless_pass_by_value, reason = "texts and errors alike")]
fn bad(path: &Path, what: impl ToString) -> BundleError {
    BundleError::Bad {
        path: path.to_owned(),
        what: what.to_string(),
    }
}
