//! What is trusted, and the way by which newer metadata comes to be (specification section 5.3 to 5.6).

mod search;

use std::collections::BTreeMap;

use sigstore_tuf::{
    Error, MetaFile, Metadata, Role, Snapshot, Targets, Timestamp as Signed, TrustedMetadataSet,
};

use crate::digest::percent_encoded;
use crate::time::Timestamp;

use super::check;
use super::error::TrustError;
use super::limits::Limits;
use super::mirror::{Mirror, MirrorError};
use super::moment::{EARLIEST, moment, stamp};

pub use search::Target;

const ROOT: &str = "root.json";
const TIMESTAMP: &str = "timestamp.json";
const SNAPSHOT: &str = "snapshot.json";
const TARGETS: &str = "targets.json";
/// The fleet's one delegated role.
const REVOCATION: &str = "revocation";

/// A repository's follower: what it trusts of it, each part proven by a root that it was given.
///
/// A call that fails has changed nothing but what was proven before it failed: versions only rise,
/// and [`Client::find`] tells of no target until all parts belong together again.
#[derive(Debug, Clone)]
pub struct Client {
    set: TrustedMetadataSet,
    /// The exact bytes of what is trusted, by file name.
    kept: BTreeMap<String, Vec<u8>>,
    /// A snapshot that the trusted timestamp has left behind: nothing may become older than in it.
    floor: Option<Snapshot>,
    limits: Limits,
    /// Whether something was taken up since a refresh ended well.
    news: bool,
}

/// What version of each role is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Versions {
    pub root: u64,
    pub timestamp: Option<u64>,
    pub snapshot: Option<u64>,
    pub targets: Option<u64>,
    /// Known once it was searched.
    pub revocation: Option<u64>,
}

impl Client {
    /// With the root to begin from: the latest that was kept, or the first one that was pinned. It
    /// must be signed by itself; it may have expired, if a mirror has a newer one.
    pub fn new(root: &[u8], limits: Limits) -> Result<Client, TrustError> {
        sized(root, ROOT, limits.root)?;
        check::form(root, "root")?;
        let set = TrustedMetadataSet::from_root(root);
        let set = set.map_err(|error| TrustError::of_verifier("root", error))?;
        check::root(set.root(), &limits)?;
        Ok(Client {
            set,
            kept: BTreeMap::from([(ROOT.to_owned(), root.to_vec())]),
            floor: None,
            limits,
            news: false,
        })
    }

    /// With what [`Client::kept`] told beside the root. Expired metadata still says what must not
    /// become older; what the root's keys haven't signed is left out.
    pub fn with_kept(mut self, kept: &BTreeMap<String, Vec<u8>>) -> Client {
        let others = kept.iter().filter(|(file, _)| *file != ROOT);
        let others = others.map(|(file, bytes)| (file.clone(), bytes.clone()));
        self.kept.extend(others);
        self.seed();
        self.news = false;
        self
    }

    /// Looks for newer metadata. Whether there was some since the last refresh that ended well; what
    /// is trusted then is complete, and nothing of it has expired at `now`.
    pub fn refresh(&mut self, mirror: &mut dyn Mirror, now: Timestamp) -> Result<bool, TrustError> {
        let at = moment(now);
        self.refresh_root(mirror)?;
        let fresh = self.set.check_root_expired(at);
        fresh.map_err(|error| TrustError::of_verifier("root", error))?;
        self.refresh_timestamp(mirror, at)?;
        self.refresh_snapshot(mirror, at)?;
        self.refresh_targets(mirror, at)?;
        Ok(std::mem::take(&mut self.news))
    }

    /// The exact bytes of what is trusted, by file name without version: to be stored, also after a
    /// call that failed.
    pub fn kept(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.kept
    }

    pub fn versions(&self) -> Versions {
        let targets = |role| self.set.targets_role(role).map(|targets| targets.version);
        Versions {
            root: self.set.root().version,
            timestamp: self.set.timestamp().map(|timestamp| timestamp.version),
            snapshot: self.set.snapshot().map(|snapshot| snapshot.version),
            targets: targets("targets"),
            revocation: targets(REVOCATION),
        }
    }

    /// When the trusted timestamp was signed, if it says so: a member of our own. What lies beyond
    /// its end is a mistake, and counts as unsaid.
    pub fn issued(&self) -> Option<Timestamp> {
        let timestamp = self.set.timestamp()?;
        let issued = timestamp.extra.get("issued")?.as_str()?;
        let issued: jiff::Timestamp = issued.parse().ok()?;
        (issued <= timestamp.expires).then(|| stamp(issued))
    }

    /// When the trusted timestamp ends.
    pub fn expires(&self) -> Option<Timestamp> {
        Some(stamp(self.set.timestamp()?.expires))
    }

    /// When the first of all that is trusted ends.
    pub fn ends(&self) -> Timestamp {
        let root = self.set.root().expires;
        let others = [
            self.set.timestamp().map(|signed| signed.expires),
            self.set.snapshot().map(|signed| signed.expires),
            self.set
                .targets_role("targets")
                .map(|signed| signed.expires),
        ];
        stamp(others.into_iter().flatten().fold(root, Ord::min))
    }

    fn refresh_root(&mut self, mirror: &mut dyn Mirror) -> Result<(), TrustError> {
        let first = self.set.root().version;
        for version in
            (first..first.saturating_add(self.limits.rotations)).map(|trusted| trusted + 1)
        {
            let name = format!("{version}.{ROOT}");
            let limit = self.limits.root;
            let Some(bytes) = read(&name, limit, mirror.metadata(&name, limit))? else {
                return Ok(());
            };
            self.take_root(bytes)?;
        }
        Err(TrustError::TooManyRoots(self.limits.rotations))
    }

    fn take_root(&mut self, bytes: Vec<u8>) -> Result<(), TrustError> {
        check::form(&bytes, "root")?;
        let mut set = self.set.clone();
        let updated = set.update_root(&bytes);
        updated.map_err(|error| TrustError::of_verifier("root", error))?;
        check::root(set.root(), &self.limits)?;
        self.set = set;
        self.keep(ROOT, bytes);
        self.seed();
        Ok(())
    }

    /// Takes up what was kept under the root at hand. A role whose keys were exchanged loses what
    /// the old ones have signed, and with it a version that a thief of them has raised (5.3.11).
    fn seed(&mut self) {
        self.floor = None;
        if let Some(bytes) = self.kept.remove(TIMESTAMP) {
            // What isn't signed stays out.
            let _ = self.take_timestamp(bytes, EARLIEST);
        }
        if let Some(bytes) = self.kept.remove(SNAPSHOT)
            && let Ok(snapshot) = self.signed::<Snapshot>(&bytes, "snapshot")
        {
            self.kept.insert(SNAPSHOT.to_owned(), bytes.clone());
            if self.take_snapshot(bytes, EARLIEST).is_err() {
                self.floor = Some(snapshot);
            }
        }
        if let Some(bytes) = self.kept.get(TARGETS).cloned() {
            // Those that no longer belong to the snapshot are fetched again.
            let _ = self.take_targets(bytes, EARLIEST);
        }
    }

    fn refresh_timestamp(
        &mut self,
        mirror: &mut dyn Mirror,
        at: jiff::Timestamp,
    ) -> Result<(), TrustError> {
        let limit = self.limits.timestamp;
        let found = read(TIMESTAMP, limit, mirror.metadata(TIMESTAMP, limit))?;
        let bytes = found.ok_or_else(|| missing(TIMESTAMP))?;
        self.take_timestamp(bytes, at)
    }

    /// One of the trusted version is no news, whatever it says.
    fn take_timestamp(&mut self, bytes: Vec<u8>, at: jiff::Timestamp) -> Result<(), TrustError> {
        let found = self.signed::<Signed>(&bytes, "timestamp")?;
        if found.snapshot_meta().is_none() {
            return Err(unlisted("snapshot", "timestamp"));
        }
        match self.set.update_timestamp(&bytes, at) {
            Ok(()) => {
                self.keep(TIMESTAMP, bytes);
                Ok(())
            }
            Err(Error::EqualVersion { .. }) => Ok(()),
            Err(error) => Err(TrustError::of_verifier("timestamp", error)),
        }
    }

    fn refresh_snapshot(
        &mut self,
        mirror: &mut dyn Mirror,
        at: jiff::Timestamp,
    ) -> Result<(), TrustError> {
        let fresh = self.set.check_timestamp_expired(at);
        fresh.map_err(|error| TrustError::of_verifier("timestamp", error))?;
        let listed = self.snapshot_listing()?;
        let known = self.set.snapshot();
        if known.is_some_and(|known| known.version == listed.version && !known.is_expired(at)) {
            return Ok(());
        }
        let bytes = self.listed(mirror, "snapshot", &listed, self.limits.snapshot)?;
        self.take_snapshot(bytes, at)
    }

    fn take_snapshot(&mut self, bytes: Vec<u8>, at: jiff::Timestamp) -> Result<(), TrustError> {
        let found = self.signed::<Snapshot>(&bytes, "snapshot")?;
        check::version("snapshot", &self.snapshot_listing()?, found.version)?;
        if let Some(trusted) = self.set.snapshot().or(self.floor.as_ref()) {
            check::no_older(&found, trusted)?;
        }
        let updated = self.set.update_snapshot(&bytes, at);
        updated.map_err(|error| TrustError::of_verifier("snapshot", error))?;
        self.floor = None;
        // Of delegated roles, what nobody lists any more goes.
        let stays = |file: &String| {
            [ROOT, TIMESTAMP].contains(&file.as_str())
                || found
                    .meta
                    .keys()
                    .any(|listed| percent_encoded(listed) == *file)
        };
        self.kept.retain(|file, _| stays(file));
        self.keep(SNAPSHOT, bytes);
        Ok(())
    }

    fn refresh_targets(
        &mut self,
        mirror: &mut dyn Mirror,
        at: jiff::Timestamp,
    ) -> Result<(), TrustError> {
        let listed = self.listing("targets")?;
        let known = self.set.targets_role("targets");
        if known.is_some_and(|known| known.version == listed.version && !known.is_expired(at)) {
            return Ok(());
        }
        let bytes = self.listed(mirror, "targets", &listed, self.limits.targets)?;
        self.take_targets(bytes, at)
    }

    fn take_targets(&mut self, bytes: Vec<u8>, at: jiff::Timestamp) -> Result<(), TrustError> {
        let found = self.signed::<Targets>(&bytes, "targets")?;
        check::version("targets", &self.listing("targets")?, found.version)?;
        if let Some(delegations) = &found.delegations {
            check::delegations(delegations, &self.limits)?;
        }
        let updated = self.set.update_targets(&bytes, at).map(|_| ());
        updated.map_err(|error| TrustError::of_verifier("targets", error))?;
        self.keep(TARGETS, bytes);
        Ok(())
    }

    /// The metadata of a top-level role, if the root's keys for it have signed it.
    fn signed<T: Role>(&self, bytes: &[u8], role: &str) -> Result<T, TrustError> {
        check::form(bytes, role)?;
        let root = self.set.root();
        let keys = root.role(role).ok_or_else(|| unlisted(role, "root"))?;
        let signed = Metadata::<T>::from_slice(bytes).and_then(|metadata| {
            metadata.verify_threshold(&root.keys, keys, role)?;
            Ok(metadata.into_signed())
        });
        signed.map_err(|error| TrustError::of_verifier(role, error))
    }

    /// What the timestamp says of the snapshot.
    fn snapshot_listing(&self) -> Result<MetaFile, TrustError> {
        let listed = self.set.timestamp().and_then(Signed::snapshot_meta);
        listed.cloned().ok_or(TrustError::Incomplete)
    }

    /// What the snapshot says of a targets role.
    fn listing(&self, role: &str) -> Result<MetaFile, TrustError> {
        let snapshot = self.set.snapshot().ok_or(TrustError::Incomplete)?;
        let listed = snapshot.meta.get(&format!("{role}.json"));
        listed.cloned().ok_or_else(|| unlisted(role, "snapshot"))
    }

    /// A role's file, in the version and with the content that another role lists.
    fn listed(
        &self,
        mirror: &mut dyn Mirror,
        role: &str,
        listed: &MetaFile,
        limit: u64,
    ) -> Result<Vec<u8>, TrustError> {
        let name = match self.set.root().consistent_snapshot {
            true => format!("{}.{}", listed.version, file(role)),
            false => file(role),
        };
        let length = listed.length.unwrap_or(limit);
        if length > limit {
            return Err(TrustError::TooLarge { what: name, limit });
        }
        let found = read(&name, length, mirror.metadata(&name, length))?;
        let bytes = found.ok_or_else(|| missing(&name))?;
        check::content(&name, &bytes, listed.length, listed.hashes.as_ref())?;
        Ok(bytes)
    }

    fn keep(&mut self, file: &str, bytes: Vec<u8>) {
        self.news = true;
        self.kept.insert(file.to_owned(), bytes);
    }
}

/// The file of a role, without its version; named as python-tuf does.
fn file(role: &str) -> String {
    format!("{}.json", percent_encoded(role))
}

/// A mirror's answer, of which it may have read too much.
fn read(
    what: &str,
    limit: u64,
    answer: Result<Option<Vec<u8>>, MirrorError>,
) -> Result<Option<Vec<u8>>, TrustError> {
    let found = answer.map_err(|error| TrustError::of_mirror(what, error))?;
    if let Some(bytes) = &found {
        sized(bytes, what, limit)?;
    }
    Ok(found)
}

fn sized(bytes: &[u8], what: &str, limit: u64) -> Result<(), TrustError> {
    match bytes.len() as u64 > limit {
        true => Err(TrustError::TooLarge {
            what: what.to_owned(),
            limit,
        }),
        false => Ok(()),
    }
}

fn missing(what: &str) -> TrustError {
    TrustError::Missing {
        what: what.to_owned(),
    }
}

fn unlisted(role: &str, by: &'static str) -> TrustError {
    TrustError::Unlisted {
        role: role.to_owned(),
        by,
    }
}
