//! What is checked of signed metadata beside what the verifier checks.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::digest::{SHA256, SHA512, digest};
use serde::Deserialize;
use sigstore_tuf::{DelegatedRole, Delegations, MetaFile, Root, Snapshot, Targets};

use crate::digest::hex;
use crate::json;

use super::error::TrustError;
use super::key;
use super::limits::Limits;

/// Roles that the root has keys for; nobody else can delegate them.
pub(super) const TOP_LEVEL: [&str; 4] = ["root", "timestamp", "snapshot", "targets"];

#[derive(Deserialize)]
struct Envelope {
    signed: Head,
}

#[derive(Deserialize)]
struct Head {
    #[serde(rename = "_type")]
    type_: String,
    spec_version: String,
}

/// Whether `bytes` are metadata of this type, by a version of the specification that we know; and
/// JSON that every parser reads alike, because signers look at it with others.
pub(super) fn form(bytes: &[u8], role: &str) -> Result<(), TrustError> {
    json::parse(bytes).map_err(|why| TrustError::malformed(role, &why))?;
    let envelope: Envelope =
        serde_json::from_slice(bytes).map_err(|why| TrustError::malformed(role, &why))?;
    let head = envelope.signed;
    let wanted = if TOP_LEVEL.contains(&role) {
        role
    } else {
        "targets"
    };
    if head.type_ != wanted {
        return Err(TrustError::WrongType {
            role: role.to_owned(),
            found: head.type_,
        });
    }
    if head.spec_version.split('.').next() != Some("1") {
        return Err(TrustError::Specification {
            role: role.to_owned(),
            found: head.spec_version,
        });
    }
    Ok(())
}

/// Whether `bytes` have the length and the hashes that were signed for them.
pub(super) fn content(
    what: &str,
    bytes: &[u8],
    length: Option<u64>,
    hashes: Option<&BTreeMap<String, String>>,
) -> Result<(), TrustError> {
    let found = bytes.len() as u64;
    if let Some(signed) = length.filter(|signed| *signed != found) {
        return Err(TrustError::Length {
            what: what.to_owned(),
            signed,
            found,
        });
    }
    let Some(hashes) = hashes else {
        return Ok(());
    };
    let known = hashes.iter().filter_map(|(algorithm, signed)| {
        let algorithm = match algorithm.as_str() {
            "sha256" => &SHA256,
            "sha512" => &SHA512,
            _ => return None,
        };
        Some(hex(digest(algorithm, bytes).as_ref()).eq_ignore_ascii_case(signed))
    });
    let known: Vec<bool> = known.collect();
    if known.is_empty() {
        return Err(TrustError::malformed(
            what,
            &"none of its hashes is SHA-256 or SHA-512",
        ));
    }
    match known.into_iter().all(|same| same) {
        true => Ok(()),
        false => Err(TrustError::Hash {
            what: what.to_owned(),
        }),
    }
}

/// Whether a file is the version that another role's metadata lists.
pub(super) fn version(role: &str, listed: &MetaFile, found: u64) -> Result<(), TrustError> {
    match listed.version == found {
        true => Ok(()),
        false => Err(TrustError::Mixed {
            role: role.to_owned(),
            pinned: listed.version,
            found,
        }),
    }
}

/// Whether a root's roles can be proven, each by as many keys as it says.
pub(super) fn root(root: &Root, limits: &Limits) -> Result<(), TrustError> {
    if limits.strict {
        key::own_ids(&root.keys)?;
    }
    for role in TOP_LEVEL {
        let Some(keys) = root.role(role) else {
            let role = role.to_owned();
            return Err(TrustError::Unlisted { role, by: "root" });
        };
        threshold(role, keys.threshold)?;
        key::distinct(role, &keys.keyids, &root.keys)?;
    }
    Ok(())
}

/// The same of the roles that a targets role delegates to.
pub(super) fn delegations(found: &Delegations, limits: &Limits) -> Result<(), TrustError> {
    if found.roles.len() > limits.delegations && limits.strict {
        return Err(TrustError::TooManyDelegations(limits.delegations));
    }
    if limits.strict {
        key::own_ids(&found.keys)?;
    }
    let mut names = BTreeSet::new();
    for role in &found.roles {
        let name = role.name.as_str();
        if !names.insert(name) {
            return Err(TrustError::malformed(name, &"it is delegated twice"));
        }
        if TOP_LEVEL.contains(&name) {
            return Err(TrustError::ReservedRole {
                role: name.to_owned(),
            });
        }
        if role.paths.is_some() == role.path_hash_prefixes.is_some() {
            let why = "its delegation has either paths or path_hash_prefixes";
            return Err(TrustError::malformed(name, &why));
        }
        threshold(name, role.threshold)?;
        key::distinct(name, &role.keyids, &found.keys)?;
    }
    Ok(())
}

fn threshold(role: &str, threshold: usize) -> Result<(), TrustError> {
    match threshold {
        0 => Err(TrustError::NoThreshold {
            role: role.to_owned(),
        }),
        _ => Ok(()),
    }
}

/// Whether a delegated role lists nothing but what it was delegated. A search would never find the
/// rest, but nobody would hear of it either.
pub(super) fn within(targets: &Targets, delegated: &DelegatedRole) -> Result<(), TrustError> {
    for path in targets.targets.keys() {
        if !matches(delegated, path)? {
            return Err(TrustError::BeyondDelegation {
                role: delegated.name.clone(),
                path: path.clone(),
            });
        }
    }
    Ok(())
}

pub(super) fn matches(delegated: &DelegatedRole, path: &str) -> Result<bool, TrustError> {
    let matches = delegated.matches_path(path);
    matches.map_err(|error| TrustError::of_verifier(&delegated.name, error))
}

/// Whether a snapshot lists all that an earlier one did, nothing of it in an older version.
pub(super) fn no_older(new: &Snapshot, trusted: &Snapshot) -> Result<(), TrustError> {
    for (file, before) in &trusted.meta {
        let role = file.strip_suffix(".json").unwrap_or(file).to_owned();
        let Some(now) = new.meta.get(file) else {
            return Err(TrustError::Dropped { role });
        };
        if now.version < before.version {
            return Err(TrustError::Rollback {
                role,
                trusted: before.version,
                found: now.version,
            });
        }
    }
    Ok(())
}
