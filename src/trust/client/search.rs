//! Targets: found through delegations (specification section 5.6.7), fetched and proven (5.7).

use std::collections::{BTreeMap, BTreeSet};

use sigstore_tuf::{DelegatedRole, Metadata, Role, Targets};

use crate::time::Timestamp;

use super::super::check;
use super::super::error::TrustError;
use super::super::mirror::Mirror;
use super::super::moment::moment;
use super::{Client, TARGETS, file, missing, read, unlisted};

/// What is signed of one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub path: String,
    pub length: u64,
    /// Its role: top-level `targets`, or whom that has delegated the path to.
    pub role: String,
    hashes: BTreeMap<String, String>,
}

impl Target {
    /// Whether `bytes` are the target's.
    pub fn check(&self, bytes: &[u8]) -> Result<(), TrustError> {
        check::content(&self.path, bytes, Some(self.length), Some(&self.hashes))
    }

    /// Its name in a repository with consistent snapshots.
    fn hashed(&self) -> Result<String, TrustError> {
        let known = [("sha256", 64), ("sha512", 128)];
        let mut known = known
            .iter()
            .filter_map(|(name, length)| Some((self.hashes.get(*name)?, *length)));
        let (hash, length) = known
            .next()
            .ok_or_else(|| TrustError::malformed(&self.path, &"it has no hash that is known"))?;
        // It becomes a part of a path.
        if hash.len() != length || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(TrustError::malformed(&self.path, &"its hash is none"));
        }
        Ok(match self.path.rsplit_once('/') {
            Some((folder, name)) => format!("{folder}/{hash}.{name}"),
            None => format!("{hash}.{}", self.path),
        })
    }
}

/// A role to be searched, and who delegates to it.
struct Visit {
    role: String,
    by: Option<String>,
}

impl Client {
    /// What is signed of the target at `path`, by the first role in the order of delegation that has
    /// something to say of it. After a refresh that ended well, and as long as nothing has expired.
    pub fn find(
        &mut self,
        mirror: &mut dyn Mirror,
        path: &str,
        now: Timestamp,
    ) -> Result<Option<Target>, TrustError> {
        let at = moment(now);
        self.complete(at)?;
        let mut visited = BTreeSet::new();
        let mut next = vec![Visit {
            role: "targets".to_owned(),
            by: None,
        }];
        while let Some(Visit { role, by }) = next.pop() {
            if visited.contains(&role) {
                continue;
            }
            if visited.len() > self.limits.delegations {
                return Err(TrustError::TooManyDelegations(self.limits.delegations));
            }
            if let Some(by) = &by {
                self.load(mirror, &role, by, at)?;
            }
            let targets = self.set.targets_role(&role);
            let targets = targets.ok_or(TrustError::Incomplete)?;
            if let Some(found) = targets.targets.get(path) {
                return Ok(Some(Target {
                    path: path.to_owned(),
                    length: found.length,
                    role,
                    hashes: found.hashes.clone(),
                }));
            }
            let (children, last) = delegated(targets, path)?;
            if last {
                next.clear();
            }
            next.extend(children.into_iter().rev().map(|child| Visit {
                role: child,
                by: Some(role.clone()),
            }));
            visited.insert(role);
        }
        Ok(None)
    }

    /// The target's bytes.
    pub fn fetch(&self, mirror: &mut dyn Mirror, target: &Target) -> Result<Vec<u8>, TrustError> {
        let (path, limit) = (&target.path, self.limits.target);
        if target.length > limit {
            return Err(TrustError::TooLarge {
                what: path.clone(),
                limit,
            });
        }
        let name = match self.set.root().consistent_snapshot {
            true => target.hashed()?,
            false => path.clone(),
        };
        let found = read(path, target.length, mirror.target(&name, target.length))?;
        let bytes = found.ok_or_else(|| missing(path))?;
        target.check(&bytes)?;
        Ok(bytes)
    }

    /// Whether what is trusted belongs together and is still good. A refresh that failed may have
    /// left a newer timestamp beside older targets.
    fn complete(&self, at: jiff::Timestamp) -> Result<(), TrustError> {
        let fresh = self.set.check_root_expired(at);
        let fresh = fresh.and_then(|()| self.set.check_timestamp_expired(at));
        let fresh = fresh.and_then(|()| self.set.check_snapshot_expired(at));
        fresh.map_err(|error| TrustError::of_verifier("root", error))?;
        let (Some(timestamp), Some(snapshot), Some(targets)) = (
            self.set.timestamp(),
            self.set.snapshot(),
            self.set.targets_role("targets"),
        ) else {
            return Err(TrustError::Incomplete);
        };
        expired("targets", targets, at)?;
        let of_timestamp = timestamp.snapshot_meta().map(|listed| listed.version);
        let of_snapshot = snapshot.meta.get(TARGETS).map(|listed| listed.version);
        match (of_timestamp, of_snapshot) == (Some(snapshot.version), Some(targets.version)) {
            true => Ok(()),
            false => Err(TrustError::Incomplete),
        }
    }

    /// Sees to it that a delegated role is trusted, by its delegator at hand: another one may have
    /// named other keys.
    fn load(
        &mut self,
        mirror: &mut dyn Mirror,
        role: &str,
        by: &str,
        at: jiff::Timestamp,
    ) -> Result<(), TrustError> {
        if let Some(known) = self.set.targets_role(role).cloned() {
            let trusted = self.set.verify_delegated_targets(role, by, at).map(|_| ());
            trusted.map_err(|error| TrustError::of_verifier(role, error))?;
            return self.within(&known, role, by);
        }
        let name = file(role);
        if let Some(kept) = self.kept.get(&name).cloned()
            && self.take_delegated(&kept, role, by, at).is_ok()
        {
            return Ok(());
        }
        let listed = self.listing(role)?;
        let bytes = self.listed(mirror, role, &listed, self.limits.targets)?;
        self.take_delegated(&bytes, role, by, at)?;
        self.keep(&name, bytes);
        Ok(())
    }

    fn take_delegated(
        &mut self,
        bytes: &[u8],
        role: &str,
        by: &str,
        at: jiff::Timestamp,
    ) -> Result<(), TrustError> {
        check::form(bytes, role)?;
        let delegated = self.delegation(role, by)?;
        let keys = self
            .set
            .targets_role(by)
            .and_then(|by| by.delegations.as_ref());
        let keys = &keys.ok_or_else(|| unlisted(role, "its delegator"))?.keys;
        let found = Metadata::<Targets>::from_slice(bytes).and_then(|metadata| {
            metadata.verify_threshold(keys, &delegated.role_keys(), role)?;
            Ok(metadata.into_signed())
        });
        let found = found.map_err(|error| TrustError::of_verifier(role, error))?;
        check::version(role, &self.listing(role)?, found.version)?;
        if let Some(delegations) = &found.delegations {
            check::delegations(delegations, &self.limits)?;
        }
        self.within(&found, role, by)?;
        let updated = self
            .set
            .update_delegated_targets(bytes, role, by, at)
            .map(|_| ());
        updated.map_err(|error| TrustError::of_verifier(role, error))
    }

    fn within(&self, targets: &Targets, role: &str, by: &str) -> Result<(), TrustError> {
        match self.limits.strict {
            true => check::within(targets, &self.delegation(role, by)?),
            false => Ok(()),
        }
    }

    fn delegation(&self, role: &str, by: &str) -> Result<DelegatedRole, TrustError> {
        let by = self.set.targets_role(by);
        let roles = by.and_then(|by| by.delegations.as_ref());
        let delegated = roles.and_then(|found| found.roles.iter().find(|own| own.name == role));
        delegated
            .cloned()
            .ok_or_else(|| unlisted(role, "its delegator"))
    }
}

/// Who else may know `path`, in order; and whether nobody beside them may be asked.
fn delegated(targets: &Targets, path: &str) -> Result<(Vec<String>, bool), TrustError> {
    let mut children = Vec::new();
    for role in targets.delegations.iter().flat_map(|found| &found.roles) {
        if check::matches(role, path)? {
            children.push(role.name.clone());
            if role.terminating {
                return Ok((children, true));
            }
        }
    }
    Ok((children, false))
}

fn expired(role: &str, targets: &Targets, at: jiff::Timestamp) -> Result<(), TrustError> {
    match targets.is_expired(at) {
        true => Err(TrustError::Expired {
            role: role.to_owned(),
            at: super::super::moment::stamp(targets.expires),
        }),
        false => Ok(()),
    }
}
