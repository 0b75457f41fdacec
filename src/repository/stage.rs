//! What the next targets and the next revocation hold, until it is signed.

use std::time::Duration;

use super::error::RepositoryError;
use super::metadata::{Content, MAX_LEN, Metadata, Targets};
use super::settings::Expiry;
use super::state::State;
use crate::time::Timestamp;

const DAY: Duration = Duration::from_secs(86_400);

/// The state with `bytes` (`None`: nothing) as a target in the next targets. What is so already, or is
/// staged so, is left as it is, with its signatures.
pub fn stage_target(
    state: &State,
    path: &str,
    bytes: Option<&[u8]>,
    expiry: &Expiry,
    now: Timestamp,
) -> Result<State, RepositoryError> {
    let mut next = state.clone();
    let mut role = state.next_targets()?.signed.role.clone();
    if !change(&mut next, &mut role, path, bytes)? {
        return Ok(next);
    }
    stage_targets(&mut next, role, expiry, now);
    Ok(next)
}

/// The same for the next revocation.
pub fn stage_deny(
    state: &State,
    path: &str,
    bytes: &[u8],
    expiry: &Expiry,
    now: Timestamp,
) -> Result<State, RepositoryError> {
    let mut next = state.clone();
    let mut role = state.next_revocation()?.signed.role.clone();
    if !change(&mut next, &mut role, path, Some(bytes))? {
        return Ok(next);
    }
    stage_revocation(&mut next, role, expiry, now);
    Ok(next)
}

/// The state with new versions of these roles staged, which hold what the ones before did and count
/// for longer.
pub fn renew(
    state: &State,
    [root, targets, revocation]: [bool; 3],
    expiry: &Expiry,
    now: Timestamp,
) -> Result<State, RepositoryError> {
    let mut next = state.clone();
    let until = |span| now.saturating_add(span);
    let staged = &state.staged;
    if root && !is_fresh(staged.root.as_ref(), until(expiry.root)) {
        let role = state.next_root()?.signed.role.clone();
        let version = state.root()?.signed.version + 1;
        next.staged.root = Some(Metadata::new(version, until(expiry.root), role));
    }
    if targets && !is_fresh(staged.targets.as_ref(), until(expiry.targets)) {
        let role = state.next_targets()?.signed.role.clone();
        stage_targets(&mut next, role, expiry, now);
    }
    if revocation && !is_fresh(staged.revocation.as_ref(), until(expiry.revocation)) {
        let role = state.next_revocation()?.signed.role.clone();
        stage_revocation(&mut next, role, expiry, now);
    }
    Ok(next)
}

/// Whether what is staged ends as late as a new one would, but for a day: its signatures are kept.
fn is_fresh<R>(staged: Option<&Metadata<R>>, until: Timestamp) -> bool {
    staged.is_some_and(|staged| until.since(staged.signed.expires.0) < DAY)
}

/// Without signatures: those of what was staged before were for something else.
pub(super) fn stage_targets(next: &mut State, role: Targets, expiry: &Expiry, now: Timestamp) {
    let before = next
        .published
        .as_ref()
        .map_or(0, |p| p.targets.signed.version);
    let until = now.saturating_add(expiry.targets);
    next.staged.targets = Some(Metadata::new(before + 1, until, role));
}

pub(super) fn stage_revocation(next: &mut State, role: Targets, expiry: &Expiry, now: Timestamp) {
    let before = next
        .published
        .as_ref()
        .map_or(0, |p| p.revocation.signed.version);
    let until = now.saturating_add(expiry.revocation);
    next.staged.revocation = Some(Metadata::new(before + 1, until, role));
}

/// Whether it is a change.
fn change(
    next: &mut State,
    role: &mut Targets,
    path: &str,
    bytes: Option<&[u8]>,
) -> Result<bool, RepositoryError> {
    let Some(bytes) = bytes else {
        return Ok(role.targets.remove(path).is_some());
    };
    if bytes.len() > MAX_LEN {
        return Err(RepositoryError::TooLarge {
            path: path.to_owned(),
            length: bytes.len(),
            most: MAX_LEN,
        });
    }
    let content = Content::of(bytes);
    next.contents
        .insert(content.hashes.sha256.clone(), bytes.to_vec());
    let before = role.targets.insert(path.to_owned(), content.clone());
    Ok(before != Some(content))
}
