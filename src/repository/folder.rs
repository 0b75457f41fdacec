//! Published metadata in a folder: a web server's, or a stick's.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::error::RepositoryError;
use super::export::mirror;
use super::metadata::{Metadata, Root, Timestamp};
use super::state::State;
use super::{parsed, put, read};
use crate::files::Care;
use crate::trust::report;

/// With a line's end.
const MAX_REPORT: u64 = report::MAX_LEN as u64 + 2;

/// Lays it down; what is there already is left as it is, and nothing newer or another fleet's is
/// written over.
pub fn to_folder(state: &State, folder: &Path) -> Result<(), RepositoryError> {
    let ours = state.published()?;
    let first: Option<Metadata<Root>> = parsed(&folder.join("metadata/1.root.json"))?;
    if first.is_some_and(|first| state.roots.first() != Some(&first)) {
        return Err(RepositoryError::Foreign);
    }
    let there: Option<Metadata<Timestamp>> = parsed(&folder.join("metadata/timestamp.json"))?;
    let newest = there.map_or(0, |there| there.signed.version);
    not_older(ours.timestamp.signed.version, newest)?;
    for piece in mirror(state)? {
        put(&folder.join(&piece.path), &piece.bytes)?;
    }
    Ok(())
}

/// Reports of devices, each in a file with the device's name, as somebody has brought them.
pub fn reports_in(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>, RepositoryError> {
    let mut reports = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(RepositoryError::file(folder))? {
        let file = entry.map_err(RepositoryError::file(folder))?.path();
        let name = file.file_name().and_then(|name| name.to_str());
        if let Some(name) = name.filter(|_| file.is_file()) {
            let report = read(&file, MAX_REPORT, Care::Trusted)?.unwrap_or_default();
            let line = report.trim_ascii().to_vec();
            reports.insert(name.to_owned(), line);
        }
    }
    Ok(reports)
}

/// Devices would take an older timestamp for an attack.
pub fn not_older(ours: u64, there: u64) -> Result<(), RepositoryError> {
    match ours < there {
        true => Err(RepositoryError::Older { ours, there }),
        false => Ok(()),
    }
}
