//! All of a repository at one moment, as a value: each command makes the next one from it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::error::RepositoryError;
use super::key::{KeyId, PublicKey};
use super::metadata::{
    Metadata, Moment, REVOCATION, Role, Root, Snapshot, Targets, Threshold, Timestamp,
};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// By the names that people call them by.
    pub keys: BTreeMap<String, PublicKey>,
    /// Every published root; the first has version 1.
    pub roots: Vec<Metadata<Root>>,
    pub published: Option<Published>,
    pub staged: Staged,
    /// What the targets that are published or staged name, by SHA-256.
    pub contents: BTreeMap<String, Vec<u8>>,
}

/// What the newest timestamp leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    pub targets: Metadata<Targets>,
    pub revocation: Metadata<Targets>,
    pub snapshot: Metadata<Snapshot>,
    pub timestamp: Metadata<Timestamp>,
}

/// What waits for signatures.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Staged {
    pub root: Option<Metadata<Root>>,
    pub targets: Option<Metadata<Targets>>,
    pub revocation: Option<Metadata<Targets>>,
}

impl Staged {
    pub fn is_empty(&self) -> bool {
        self.root.is_none() && self.targets.is_none() && self.revocation.is_none()
    }
}

/// Roles that people must sign are to be renewed by then.
pub const SOON: Duration = Duration::from_secs(14 * 86_400);

/// When those end that people must sign.
pub fn ends(state: &State) -> Result<[(&'static str, Moment); 3], RepositoryError> {
    let published = state.published()?;
    Ok([
        ("root", state.root()?.signed.expires),
        ("targets", published.targets.signed.expires),
        (REVOCATION, published.revocation.signed.expires),
    ])
}

/// The keys of one role and how many must sign.
pub type Keys<'a> = (&'a BTreeMap<KeyId, PublicKey>, &'a Threshold);

impl State {
    /// What has been published and counts.
    pub fn root(&self) -> Result<&Metadata<Root>, RepositoryError> {
        self.roots.last().ok_or(RepositoryError::Unpublished)
    }

    pub fn published(&self) -> Result<&Published, RepositoryError> {
        self.published.as_ref().ok_or(RepositoryError::Unpublished)
    }

    /// As it will be when all that is staged is signed.
    pub fn next_root(&self) -> Result<&Metadata<Root>, RepositoryError> {
        let staged = self.staged.root.as_ref();
        staged.map_or_else(|| self.root(), Ok)
    }

    pub fn next_targets(&self) -> Result<&Metadata<Targets>, RepositoryError> {
        let staged = self.staged.targets.as_ref();
        staged.map_or_else(|| Ok(&self.published()?.targets), Ok)
    }

    pub fn next_revocation(&self) -> Result<&Metadata<Targets>, RepositoryError> {
        let staged = self.staged.revocation.as_ref();
        staged.map_or_else(|| Ok(&self.published()?.revocation), Ok)
    }

    /// A target's content, as it will be.
    pub fn content(&self, path: &str) -> Result<Option<&[u8]>, RepositoryError> {
        let targets = self.next_targets()?.signed.role.targets.get(path);
        let revocation = self.next_revocation()?.signed.role.targets.get(path);
        Ok(targets
            .or(revocation)
            .and_then(|content| self.bytes(&content.hashes.sha256)))
    }

    pub fn bytes(&self, sha256: &str) -> Option<&[u8]> {
        self.contents.get(sha256).map(Vec::as_slice)
    }

    /// What people call a key.
    pub fn name_of<'a>(&'a self, id: &'a str) -> &'a str {
        let mut keys = self.keys.iter();
        let named = keys.find(|(_, key)| key.id() == id);
        named.map_or(id, |(name, _)| name)
    }

    pub fn key(&self, name: &str) -> Result<&PublicKey, RepositoryError> {
        let key = self.keys.get(name);
        key.ok_or_else(|| RepositoryError::NoKey(name.to_owned()))
    }

    /// Whether all that is published was signed by those who may: each root by the one before and by
    /// itself, all else as a root of this fleet has it.
    pub fn check(&self) -> Result<(), RepositoryError> {
        let damaged = |what: String| Err(RepositoryError::Damaged(what));
        for (index, root) in self.roots.iter().enumerate() {
            let version = index as u64 + 1;
            if root.signed.version != version {
                return damaged(format!("{version}.root.json has another version"));
            }
            let before = index.checked_sub(1).map(|before| &self.roots[before]);
            if !before
                .into_iter()
                .chain([root])
                .all(|by| signed(root, of_root(by)))
            {
                return damaged(format!("{version}.root.json isn't signed by who may"));
            }
        }
        let Some(published) = &self.published else {
            return Ok(());
        };
        // A break may have come between a new root and what is signed as it wants.
        let fits = self
            .roots
            .iter()
            .rev()
            .take(2)
            .any(|root| whole(root, published).is_ok());
        match fits {
            true => Ok(()),
            false => damaged("the published metadata isn't signed by who may".to_owned()),
        }
    }
}

/// What keeps `published` from being what a device with `root` trusts.
pub fn whole(root: &Metadata<Root>, published: &Published) -> Result<(), RepositoryError> {
    let roles = &root.signed.role.roles;
    let keys = &root.signed.role.keys;
    needs("targets", &published.targets, Some((keys, &roles.targets)))?;
    needs(
        "snapshot",
        &published.snapshot,
        Some((keys, &roles.snapshot)),
    )?;
    needs(
        "timestamp",
        &published.timestamp,
        Some((keys, &roles.timestamp)),
    )?;
    let delegated = published.targets.signed.role.revocation();
    needs(REVOCATION, &published.revocation, delegated)?;
    let meta = &published.snapshot.signed.role.meta;
    let listed = [
        meta.get("targets.json") == Some(&published.targets.listed()),
        meta.get("revocation.json") == Some(&published.revocation.listed()),
        published.timestamp.signed.role.meta.get("snapshot.json")
            == Some(&published.snapshot.listed()),
    ];
    match listed.contains(&false) {
        true => Err(RepositoryError::Damaged(
            "snapshot or timestamp name other metadata".to_owned(),
        )),
        false => Ok(()),
    }
}

pub fn of_root(root: &Metadata<Root>) -> Keys<'_> {
    (&root.signed.role.keys, &root.signed.role.roles.root)
}

pub fn signed<R: Role>(document: &Metadata<R>, (keys, of): Keys<'_>) -> bool {
    document.is_signed(keys, of)
}

/// That `document` has the signatures that it needs.
pub fn needs<R: Role>(
    what: &'static str,
    document: &Metadata<R>,
    keys: Option<Keys<'_>>,
) -> Result<(), RepositoryError> {
    let Some((keys, of)) = keys else {
        return Err(RepositoryError::Damaged(format!("nobody may sign {what}")));
    };
    let has = document.signers(keys, of).len();
    match has >= of.threshold && of.threshold > 0 {
        true => Ok(()),
        false => Err(RepositoryError::Unsigned {
            what,
            has,
            needs: of.threshold,
        }),
    }
}
