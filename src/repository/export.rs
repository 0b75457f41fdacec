//! What devices read, in the order in which it is to be laid down: nothing before what it names.

use std::collections::BTreeMap;

use super::error::RepositoryError;
use super::metadata::Metadata;
use super::state::{Staged, State};

/// One file of a mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// From the mirror's root: `metadata/…` or `targets/…`.
    pub path: String,
    pub bytes: Vec<u8>,
}

/// Where a target's content is, with consistent snapshots.
pub fn target_file(path: &str, sha256: &str) -> String {
    match path.rsplit_once('/') {
        Some((folder, name)) => format!("targets/{folder}/{sha256}.{name}"),
        None => format!("targets/{sha256}.{path}"),
    }
}

/// What a mirror holds: [`pieces`] without what is only staged.
pub fn mirror(state: &State) -> Result<Vec<Piece>, RepositoryError> {
    let published = State {
        staged: Staged::default(),
        ..state.clone()
    };
    pieces(&published)
}

/// Contents (staged ones too, which nothing published names), then metadata from what is named to
/// what names it; the timestamp last.
pub fn pieces(state: &State) -> Result<Vec<Piece>, RepositoryError> {
    let staged = [&state.staged.targets, &state.staged.revocation];
    let published = state.published.iter();
    let published = published.flat_map(|p| [&p.targets, &p.revocation]);
    let mut contents = BTreeMap::new();
    for role in published.chain(staged.into_iter().flatten()) {
        for (path, content) in &role.signed.role.targets {
            let hash = &content.hashes.sha256;
            let bytes = state.bytes(hash).ok_or_else(|| {
                RepositoryError::Damaged(format!("the content of {path} is missing"))
            })?;
            contents.insert(target_file(path, hash), bytes.to_vec());
        }
    }
    let contents = contents.into_iter();
    let mut pieces: Vec<Piece> = contents
        .map(|(path, bytes)| Piece { path, bytes })
        .collect();
    let mut add = |name: String, bytes: Vec<u8>| {
        let path = format!("metadata/{name}.json");
        pieces.push(Piece { path, bytes });
    };
    for root in &state.roots {
        add(format!("{}.root", root.signed.version), root.bytes());
    }
    if let Some(published) = &state.published {
        let (targets, revocation) = (&published.targets, &published.revocation);
        add(
            format!("{}.targets", targets.signed.version),
            targets.bytes(),
        );
        let version = revocation.signed.version;
        add(format!("{version}.revocation"), revocation.bytes());
        let version = published.snapshot.signed.version;
        add(format!("{version}.snapshot"), published.snapshot.bytes());
        add(
            "timestamp".to_owned(),
            Metadata::bytes(&published.timestamp),
        );
    }
    Ok(pieces)
}
