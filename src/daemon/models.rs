//! The bundles that the endpoints name, each whole and verified.

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::RunError;
use crate::catalog::{Bundle, Catalog};
use crate::config::Config;
use crate::store::Store;

/// Opens each model once. Hashes are checked once per file identity: a bundle's files are only
/// ever replaced by rename, so the same identity means the same bytes.
pub(super) fn open(config: &Config, store: &Store) -> Result<Vec<Bundle>, RunError> {
    let catalog = Catalog::new(&config.models_dir);
    let endpoints = config.realms.iter().flat_map(|realm| &realm.endpoints);
    let names: BTreeSet<&str> = endpoints.map(|endpoint| endpoint.model.as_str()).collect();
    let mut bundles = Vec::new();
    for name in names {
        let fail = |why: String| RunError::Model {
            name: name.to_owned(),
            why,
        };
        let bundle = catalog.open(name).map_err(|e| fail(e.to_string()))?;
        verify_once(&catalog, &bundle, store).map_err(fail)?;
        bundles.push(bundle);
    }
    Ok(bundles)
}

fn verify_once(catalog: &Catalog, bundle: &Bundle, store: &Store) -> Result<(), String> {
    let verified = store.tree("verified").map_err(|e| e.to_string())?;
    let identity = identity(&bundle.folder).map_err(|e| e.to_string())?;
    let key = bundle.digest.as_bytes();
    let known = verified.get(key).map_err(|e| e.to_string())?;
    if known.as_deref() == Some(identity.as_bytes()) {
        return Ok(());
    }
    catalog.verify(bundle).map_err(|e| e.to_string())?;
    let noted = verified.insert(key, identity.as_bytes());
    if let Err(error) = noted {
        // Only costs another verification at the next start.
        tracing::warn!(%error, "a verified model could not be noted");
    }
    Ok(())
}

/// Device, inode, size and times of every file below `folder`, in name order.
fn identity(folder: &Path) -> std::io::Result<String> {
    let mut entries = std::fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    let mut text = String::new();
    for entry in entries {
        let meta = entry.path().metadata()?;
        if meta.is_dir() {
            text.push_str(&identity(&entry.path())?);
        } else {
            text.push_str(&file_identity(&entry.path(), &meta));
        }
    }
    Ok(text)
}

fn file_identity(path: &Path, meta: &Metadata) -> String {
    format!(
        "{} {} {} {} {}.{} {}.{}\n",
        path.display(),
        meta.dev(),
        meta.ino(),
        meta.size(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec()
    )
}
