//! Published metadata in a folder: a web server's, or a stick's.

use std::path::Path;

use super::error::RepositoryError;
use super::export::mirror;
use super::metadata::{Metadata, Root, Timestamp};
use super::state::State;
use super::{parsed, put};

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

/// Devices would take an older timestamp for an attack.
pub fn not_older(ours: u64, there: u64) -> Result<(), RepositoryError> {
    match ours < there {
        true => Err(RepositoryError::Older { ours, there }),
        false => Ok(()),
    }
}
