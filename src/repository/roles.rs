//! Whose keys may sign what: the next root, and what must be signed anew because of it.

use std::collections::BTreeMap;

use super::error::RepositoryError;
use super::key::{KeyId, PublicKey};
use super::metadata::{Delegations, Metadata, Root, Threshold, by_id};
use super::settings::{Expiry, is_name};
use super::stage::{stage_revocation, stage_targets};
use super::state::State;
use crate::time::Timestamp;

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// Root and targets.
    Offline,
    /// Snapshot and timestamp.
    Online,
    Revocation,
}

/// The state with a key more. `replace`: a key of the same duty that goes for it. `threshold`: how many
/// offline keys must sign from then on.
pub fn add_key(
    state: &State,
    (name, key): (&str, &PublicKey),
    duty: Duty,
    replace: Option<&str>,
    threshold: Option<usize>,
    (expiry, now): (&Expiry, Timestamp),
) -> Result<State, RepositoryError> {
    if !is_name(name) {
        return Err(RepositoryError::Name(name.to_owned()));
    }
    if state.keys.get(name).is_some_and(|known| known != key) {
        return Err(RepositoryError::KeyTaken(name.to_owned()));
    }
    let id = key.id();
    if let Some(duty) = duties(state, &id)?.first() {
        let what = format!("this key is one of the fleet's already ({duty:?})").to_lowercase();
        return Err(RepositoryError::Refused(what));
    }
    let mut next = state.clone();
    next.keys.insert(name.to_owned(), key.clone());
    let gone = replace
        .map(|name| state.key(name).map(PublicKey::id))
        .transpose()?;
    if let Some(gone) = &gone
        && !duties(state, gone)?.contains(&duty)
    {
        let what = format!("{} isn't a key of this duty", state.name_of(gone));
        return Err(RepositoryError::Refused(what));
    }
    change(
        &mut next,
        duty,
        Some(key),
        gone.as_ref(),
        threshold,
        (expiry, now),
    )?;
    Ok(next)
}

/// The state without a key. Its name stays known, so that what it signed can be told.
pub fn remove_key(
    state: &State,
    name: &str,
    threshold: Option<usize>,
    (expiry, now): (&Expiry, Timestamp),
) -> Result<State, RepositoryError> {
    let id = state.key(name)?.id();
    let duties = duties(state, &id)?;
    if duties.is_empty() {
        let what = format!("{name} signs nothing in this fleet");
        return Err(RepositoryError::Refused(what));
    }
    let mut next = state.clone();
    for duty in duties {
        change(&mut next, duty, None, Some(&id), threshold, (expiry, now))?;
    }
    Ok(next)
}

/// What a key is for in the next root and the next targets.
fn duties(state: &State, id: &KeyId) -> Result<Vec<Duty>, RepositoryError> {
    let roles = &state.next_root()?.signed.role.roles;
    let revocation = state.next_targets()?.signed.role.revocation();
    let all = [
        (Duty::Offline, roles.root.keyids.contains(id)),
        (Duty::Online, roles.timestamp.keyids.contains(id)),
        (
            Duty::Revocation,
            revocation.is_some_and(|(_, of)| of.keyids.contains(id)),
        ),
    ];
    let has = all.into_iter().filter(|(_, has)| *has);
    Ok(has.map(|(duty, _)| duty).collect())
}

fn change(
    next: &mut State,
    duty: Duty,
    new: Option<&PublicKey>,
    gone: Option<&KeyId>,
    threshold: Option<usize>,
    (expiry, now): (&Expiry, Timestamp),
) -> Result<(), RepositoryError> {
    let targets = next.next_targets()?.signed.role.clone();
    if duty == Duty::Revocation {
        let mut keys = targets
            .revocation()
            .map(|(keys, _)| keys.clone())
            .unwrap_or_default();
        exchange(&mut keys, new, gone)?;
        let keys: Vec<PublicKey> = keys.into_values().collect();
        let mut targets = targets;
        targets.delegations = Some(Delegations::to_revocation(&keys));
        stage_targets(next, targets, expiry, now);
        // Signed by a key that goes, the list in force would no longer count.
        let role = next.next_revocation()?.signed.role.clone();
        stage_revocation(next, role, expiry, now);
        return Ok(());
    }
    let Root {
        keys, mut roles, ..
    } = next.next_root()?.signed.role.clone();
    let mut keys = keys;
    exchange(&mut keys, new, gone)?;
    let of_duty = match duty {
        Duty::Offline => [&mut roles.root, &mut roles.targets],
        Duty::Online | Duty::Revocation => [&mut roles.snapshot, &mut roles.timestamp],
    };
    for role in of_duty {
        role.keyids.extend(new.map(PublicKey::id));
        role.keyids.retain(|id| Some(id) != gone);
        if duty == Duty::Offline {
            role.threshold = threshold.unwrap_or(role.threshold);
        }
        enough(role)?;
    }
    let version = next.root()?.signed.version + 1;
    let role = Root::new(keys, roles);
    let root = Metadata::new(version, now.saturating_add(expiry.root), role);
    next.staged.root = Some(root);
    if duty == Duty::Offline {
        // So that it has the new root's signatures even where it lacks one that goes.
        stage_targets(next, targets, expiry, now);
    }
    Ok(())
}

fn exchange(
    keys: &mut BTreeMap<KeyId, PublicKey>,
    new: Option<&PublicKey>,
    gone: Option<&KeyId>,
) -> Result<(), RepositoryError> {
    if let Some(gone) = gone {
        keys.remove(gone);
    }
    keys.extend(by_id(new.map(std::slice::from_ref).unwrap_or_default()));
    match keys.is_empty() {
        true => Err(RepositoryError::Refused(
            "no key would be left for it; add one first".to_owned(),
        )),
        false => Ok(()),
    }
}

fn enough(role: &Threshold) -> Result<(), RepositoryError> {
    let (keys, threshold) = (role.keyids.len(), role.threshold);
    if threshold == 0 || threshold > keys {
        return Err(RepositoryError::Refused(format!(
            "{threshold} of {keys} keys can't sign; add a key first, or give --threshold"
        )));
    }
    Ok(())
}
