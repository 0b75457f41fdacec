//! What is about to be signed, said so that a person can judge it: the difference to what is published.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::error::RepositoryError;
use super::key::{KeyId, PublicKey};
use super::metadata::{Content, Metadata, Root, Targets, Threshold};
use super::state::State;
use crate::auth::{KeyInfo, KeySet};

/// Lines for a staged role: `+` comes, `-` goes. Texts are others' and may hold anything.
pub fn review(state: &State, what: &str) -> Result<Vec<String>, RepositoryError> {
    let published = state.published.as_ref();
    let staged = &state.staged;
    let lines = match what {
        "root" => roots(state, state.roots.last(), state.next_root()?),
        "targets" => match &staged.targets {
            Some(next) => {
                let before = published.map(|published| &published.targets);
                let mut lines = contents(state, before, next);
                lines.extend(revokers(state, before, next));
                lines
            }
            None => Vec::new(),
        },
        _ => match &staged.revocation {
            Some(next) => contents(
                state,
                published.map(|published| &published.revocation),
                next,
            ),
            None => Vec::new(),
        },
    };
    match lines.is_empty() {
        true => Ok(vec!["nothing but a later end".to_owned()]),
        false => Ok(lines),
    }
}

fn roots(state: &State, before: Option<&Metadata<Root>>, next: &Metadata<Root>) -> Vec<String> {
    let before = before.map(|before| &before.signed.role.roles);
    let next = &next.signed.role.roles;
    let roles = [
        ("root", before.map(|roles| &roles.root), &next.root),
        ("targets", before.map(|roles| &roles.targets), &next.targets),
        (
            "snapshot",
            before.map(|roles| &roles.snapshot),
            &next.snapshot,
        ),
        (
            "timestamp",
            before.map(|roles| &roles.timestamp),
            &next.timestamp,
        ),
    ];
    let roles = roles.into_iter();
    roles
        .flat_map(|(name, before, next)| keys(state, name, before, next))
        .collect()
}

fn revokers(
    state: &State,
    before: Option<&Metadata<Targets>>,
    next: &Metadata<Targets>,
) -> Vec<String> {
    let of = |targets: &Metadata<Targets>| -> Option<(BTreeMap<KeyId, PublicKey>, Threshold)> {
        let (keys, of) = targets.signed.role.revocation()?;
        Some((keys.clone(), of.clone()))
    };
    let before = before.and_then(of).map(|(_, of)| of);
    let next = of(next).map(|(_, of)| of).unwrap_or_default();
    keys(state, "revocation", before.as_ref(), &next)
}

fn keys(state: &State, role: &str, before: Option<&Threshold>, next: &Threshold) -> Vec<String> {
    let none = BTreeSet::new();
    let old = before.map_or(&none, |before| &before.keyids);
    let mut lines = Vec::new();
    for id in next.keyids.difference(old) {
        lines.push(format!(
            "+ {role} may be signed by {} ({id})",
            state.name_of(id)
        ));
    }
    for id in old.difference(&next.keyids) {
        lines.push(format!(
            "- {role} may no longer be signed by {} ({id})",
            state.name_of(id)
        ));
    }
    let threshold = before.map(|before| before.threshold);
    if threshold != Some(next.threshold) {
        let (needs, of) = (next.threshold, next.keyids.len());
        lines.push(format!("+ {role} needs {needs} of {of} signatures"));
    }
    lines
}

fn contents(
    state: &State,
    before: Option<&Metadata<Targets>>,
    next: &Metadata<Targets>,
) -> Vec<String> {
    let none = BTreeMap::new();
    let old = before.map_or(&none, |before| &before.signed.role.targets);
    let new = &next.signed.role.targets;
    let paths: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let mut lines = Vec::new();
    for path in paths {
        let (before, after) = (old.get(path), new.get(path));
        if before == after {
            continue;
        }
        let how = match (before, after) {
            (None, _) => "new",
            (_, None) => "removed",
            _ => "changed",
        };
        lines.push(format!("{path} ({how})"));
        let bytes = |content: Option<&Content>| content.and_then(|c| state.bytes(&c.hashes.sha256));
        let (before, after) = (items(path, bytes(before)), items(path, bytes(after)));
        let gone = before.difference(&after).map(|item| format!("  - {item}"));
        let come = after.difference(&before).map(|item| format!("  + {item}"));
        lines.extend(gone.chain(come));
    }
    lines
}

/// A target's parts, each of which comes or goes as one.
fn items(path: &str, bytes: Option<&[u8]>) -> BTreeSet<String> {
    let Some(bytes) = bytes else {
        return BTreeSet::new();
    };
    if path.ends_with("/jwks.json") {
        let keys = KeySet::stored(bytes)
            .map(|set| set.keys())
            .unwrap_or_default();
        return keys.iter().map(key).collect();
    }
    let mut items = BTreeSet::new();
    match serde_json::from_slice(bytes) {
        Ok(value) => leaves("", &value, &mut items),
        Err(_) => drop(items.insert(String::from_utf8_lossy(bytes).into_owned())),
    }
    items
}

/// `thumbprint EdDSA (kid a)`.
fn key(key: &KeyInfo) -> String {
    let algorithms = key.algorithms.join("/");
    format!("{} {algorithms} (kid {})", key.thumbprint, key.kid)
}

/// `realms.prod.max_lifetime: 3600`: every value by its place, and members of a list each as a whole.
fn leaves(place: &str, value: &Value, items: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let place = match place {
                    "" => name.clone(),
                    place => format!("{place}.{name}"),
                };
                leaves(&place, member, items);
            }
        }
        Value::Array(list) => {
            items.extend(list.iter().map(|item| format!("{place}: {item}")));
        }
        other => drop(items.insert(format!("{place}: {other}"))),
    }
}
