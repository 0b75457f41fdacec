//! Signatures on what is staged: who may still give one, and how many are missing.

use std::collections::BTreeSet;

use super::error::RepositoryError;
use super::key::{KeyId, PrivateKey};
use super::metadata::{Metadata, Moment, REVOCATION, Role, Signature};
use super::state::{Keys, State, of_root};

/// One staged role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    pub what: &'static str,
    pub version: u64,
    pub expires: Moment,
    /// Who has signed and counts.
    pub signers: BTreeSet<KeyId>,
    /// How many more must.
    pub missing: usize,
    /// Who of those may.
    pub may: BTreeSet<KeyId>,
}

/// What is staged, in the order in which it is published.
pub fn pending(state: &State) -> Result<Vec<Pending>, RepositoryError> {
    let staged = &state.staged;
    let mut all = Vec::new();
    if let Some(root) = &staged.root {
        // The new root is signed as the old one wants and as it wants itself.
        let before = state.roots.last().map(of_root);
        all.push(look("root", root, &[Some(of_root(root)), before]));
    }
    let next = state.next_root()?;
    if let Some(targets) = &staged.targets {
        let of = (&next.signed.role.keys, &next.signed.role.roles.targets);
        all.push(look("targets", targets, &[Some(of)]));
    }
    if let Some(revocation) = &staged.revocation {
        let of = state.next_targets()?.signed.role.revocation();
        all.push(look(REVOCATION, revocation, &[of]));
    }
    Ok(all)
}

/// The state with the signatures that `key` may give, and the roles that got one.
pub fn sign(
    state: &State,
    key: &PrivateKey,
) -> Result<(State, Vec<&'static str>), RepositoryError> {
    if state.staged.is_empty() {
        return Err(RepositoryError::NothingStaged);
    }
    let id = key.public().id();
    let pending = pending(state)?;
    let mut next = state.clone();
    let mut signed = Vec::new();
    for role in pending.iter().filter(|role| role.may.contains(&id)) {
        let staged = &mut next.staged;
        match role.what {
            "root" => add(staged.root.as_mut(), key),
            "targets" => add(staged.targets.as_mut(), key),
            _ => add(staged.revocation.as_mut(), key),
        }
        signed.push(role.what);
    }
    match signed.is_empty() {
        true => Err(RepositoryError::NotASigner),
        false => Ok((next, signed)),
    }
}

/// One signature a key, in the order of their ids.
pub(super) fn add<R: Role>(document: Option<&mut Metadata<R>>, key: &PrivateKey) {
    let Some(document) = document else { return };
    let keyid = key.public().id();
    let sig = key.sign(&document.canonical());
    document.signatures.retain(|other| other.keyid != keyid);
    document.signatures.push(Signature { keyid, sig });
    document
        .signatures
        .sort_by(|one, other| one.keyid.cmp(&other.keyid));
}

fn look<R: Role>(what: &'static str, document: &Metadata<R>, by: &[Option<Keys<'_>>]) -> Pending {
    let (mut signers, mut may, mut missing) = (BTreeSet::new(), BTreeSet::new(), 0);
    for (keys, of) in by.iter().flatten() {
        let have = document.signers(keys, of);
        missing = missing.max(of.threshold.saturating_sub(have.len()));
        may.extend(of.keyids.iter().cloned());
        signers.extend(have);
    }
    may.retain(|id| !signers.contains(id));
    Pending {
        what,
        version: document.signed.version,
        expires: document.signed.expires,
        signers,
        missing,
        may,
    }
}
