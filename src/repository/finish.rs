//! From staged to published: what has its signatures goes in, under a new snapshot and timestamp.

use std::collections::BTreeMap;

use super::error::RepositoryError;
use super::key::PrivateKey;
use super::metadata::{Listed, Metadata, Moment, REVOCATION, Root, Snapshot, Targets, Timestamp};
use super::settings::Expiry;
use super::sign::{add, pending};
use super::state::{Published, State, needs, of_root, signed, whole};
use crate::time::Timestamp as Time;

/// The staged roles that have all their signatures.
pub fn ready(state: &State) -> Result<Vec<&'static str>, RepositoryError> {
    let pending = pending(state)?.into_iter();
    let complete = pending.filter(|role| role.missing == 0);
    Ok(complete.map(|role| role.what).collect())
}

/// The state with all that is signed published, and the online roles renewed in any case.
pub fn finish(
    state: &State,
    online: &PrivateKey,
    expiry: &Expiry,
    now: Time,
) -> Result<State, RepositoryError> {
    not_back(state, now)?;
    let Completed {
        mut next,
        root,
        targets,
        revocation,
    } = completed(state)?;
    let id = online.public().id();
    let roles = &root.signed.role.roles;
    if !roles.timestamp.keyids.contains(&id) || !roles.snapshot.keyids.contains(&id) {
        let name = next.name_of(&id).to_owned();
        let what = format!("{name} isn't the fleet's online key; use the one that root names");
        return Err(RepositoryError::Refused(what));
    }
    let before = next.published.as_ref();
    let snapshot = match before.map(|published| &published.snapshot) {
        Some(snapshot) if still_good(snapshot, &root, &targets, &revocation, expiry, now) => {
            snapshot.clone()
        }
        before => new_snapshot(before, &targets, &revocation, online, expiry, now),
    };
    let version = before.map_or(0, |published| published.timestamp.signed.version) + 1;
    let role = Timestamp {
        issued: Moment::of(now),
        meta: BTreeMap::from([("snapshot.json".to_owned(), snapshot.listed())]),
    };
    let mut timestamp = Metadata::new(version, now.saturating_add(expiry.timestamp), role);
    add(Some(&mut timestamp), online);
    let published = Published {
        targets,
        revocation,
        snapshot,
        timestamp,
    };
    whole(&root, &published)?;
    next.published = Some(published);
    Ok(next)
}

/// Whether [`finish`] would find all signatures that it needs.
pub fn check_finish(state: &State) -> Result<(), RepositoryError> {
    completed(state).map(drop)
}

/// What is signed, taken from what is staged.
struct Completed {
    next: State,
    root: Metadata<Root>,
    targets: Metadata<Targets>,
    revocation: Metadata<Targets>,
}

fn completed(state: &State) -> Result<Completed, RepositoryError> {
    let mut next = state.clone();
    next_root(&mut next)?;
    let root = next.root()?.clone();
    let targets = next_targets(&mut next, &root)?;
    let revocation = next_revocation(&mut next, &targets)?;
    Ok(Completed {
        next,
        root,
        targets,
        revocation,
    })
}

/// A timestamp from the past would be taken for a replay, and its end would come early.
fn not_back(state: &State, now: Time) -> Result<(), RepositoryError> {
    let last = state
        .published
        .as_ref()
        .map(|p| p.timestamp.signed.role.issued);
    match last {
        Some(last) if Moment::of(now) < last => Err(RepositoryError::Clock {
            now: Moment::of(now).to_string(),
            last: last.to_string(),
        }),
        _ => Ok(()),
    }
}

fn next_root(next: &mut State) -> Result<(), RepositoryError> {
    let Some(root) = &next.staged.root else {
        return Ok(());
    };
    let before = next.roots.last();
    let by_both = before
        .into_iter()
        .chain([root])
        .all(|by| signed(root, of_root(by)));
    match by_both {
        true => next.roots.extend(next.staged.root.take()),
        false if next.roots.is_empty() => needs("root", root, Some(of_root(root)))?,
        false => {}
    }
    Ok(())
}

fn next_targets(
    next: &mut State,
    root: &Metadata<Root>,
) -> Result<Metadata<Targets>, RepositoryError> {
    let role = &root.signed.role;
    let by = (&role.keys, &role.roles.targets);
    let ready = next.staged.targets.take_if(|targets| signed(targets, by));
    if let Some(targets) = ready {
        return Ok(targets);
    }
    match (&next.published, &next.staged.targets) {
        (Some(published), staged) => {
            // A new root may want other signatures on what is published.
            let staged = staged.as_ref().unwrap_or(&published.targets);
            if !signed(&published.targets, by) {
                needs("targets", staged, Some(by))?;
            }
            Ok(published.targets.clone())
        }
        (None, Some(staged)) => {
            needs("targets", staged, Some(by))?;
            Err(RepositoryError::Unpublished)
        }
        (None, None) => Err(RepositoryError::Unpublished),
    }
}

fn next_revocation(
    next: &mut State,
    targets: &Metadata<Targets>,
) -> Result<Metadata<Targets>, RepositoryError> {
    let by = targets.signed.role.revocation();
    let is_signed = |role: &mut Metadata<Targets>| by.is_some_and(|by| signed(role, by));
    let ready = next.staged.revocation.take_if(is_signed);
    let before = next
        .published
        .as_ref()
        .map(|published| &published.revocation);
    let waiting = next.staged.revocation.as_ref();
    match (ready, before, waiting) {
        (Some(revocation), ..) => Ok(revocation),
        (None, Some(before), waiting) => {
            if by.is_none_or(|by| !signed(before, by)) {
                needs(REVOCATION, waiting.unwrap_or(before), by)?;
            }
            Ok(before.clone())
        }
        (None, None, Some(waiting)) => {
            needs(REVOCATION, waiting, by)?;
            Err(RepositoryError::Unpublished)
        }
        (None, None, None) => Err(RepositoryError::Unpublished),
    }
}

fn listed(targets: &Metadata<Targets>, revocation: &Metadata<Targets>) -> BTreeMap<String, Listed> {
    BTreeMap::from([
        ("targets.json".to_owned(), targets.listed()),
        ("revocation.json".to_owned(), revocation.listed()),
    ])
}

/// Whether the snapshot says what there is, was signed by the root's key and has half of its time left.
fn still_good(
    snapshot: &Metadata<Snapshot>,
    root: &Metadata<Root>,
    targets: &Metadata<Targets>,
    revocation: &Metadata<Targets>,
    expiry: &Expiry,
    now: Time,
) -> bool {
    let role = &root.signed.role;
    signed(snapshot, (&role.keys, &role.roles.snapshot))
        && snapshot.signed.role.meta == listed(targets, revocation)
        && snapshot.signed.expires.0.since(now) > expiry.snapshot / 2
}

fn new_snapshot(
    before: Option<&Metadata<Snapshot>>,
    targets: &Metadata<Targets>,
    revocation: &Metadata<Targets>,
    online: &PrivateKey,
    expiry: &Expiry,
    now: Time,
) -> Metadata<Snapshot> {
    let version = before.map_or(0, |before| before.signed.version) + 1;
    let role = Snapshot {
        meta: listed(targets, revocation),
    };
    let mut snapshot = Metadata::new(version, now.saturating_add(expiry.snapshot), role);
    add(Some(&mut snapshot), online);
    snapshot
}
