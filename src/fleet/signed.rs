//! What the fleet has signed, as far as this device is concerned: proven, and understood whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value;

use super::{Held, ROOT};
use crate::auth::Revocations;
use crate::keysync::Set;
use crate::time::Timestamp;
use crate::trust::targets::{self, FleetPolicy, Lifted, MAX_TARGET};
use crate::trust::{Client, Limits, Mirror, TrustError, Versions};

/// What this device needs of the fleet's targets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// By name.
    pub realms: BTreeSet<String>,
    /// Bundles by name.
    pub models: BTreeSet<String>,
}

/// What the fleet's managers say. Holding one proves that they have signed all of it.
#[derive(Debug, Clone)]
pub struct Signed {
    /// What was trusted when this was asked for.
    pub over: Held,
    /// What is to be trusted; what was revoked before is for whoever takes it up to add.
    pub held: Held,
    pub versions: Versions,
    /// When the timestamp ends; `None`: there is none yet.
    pub expires: Option<Timestamp>,
    /// A time that has passed, as the fleet says: no later than the end of anything that is
    /// trusted, so that whoever has stolen the timestamp's key can't move time beyond what the
    /// holders of the others have foreseen.
    pub issued: Option<Timestamp>,
    /// By realm, as everything below.
    pub keys: BTreeMap<String, Set>,
    pub denied: BTreeMap<String, Revocations>,
    pub lifted: BTreeMap<String, BTreeSet<Lifted>>,
    pub policy: FleetPolicy,
    /// Digests of bundles by name.
    pub models: BTreeMap<String, BTreeSet<String>>,
    /// Realms that a mirror was asked about.
    pub asked: BTreeSet<String>,
    /// A mirror has just told it, and nothing of it has expired.
    pub fresh: bool,
    /// What follows from it wasn't written: keys that are in force needn't be these.
    pub again: bool,
}

/// What is kept and can't be read, with why: nobody is let in where it may be about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unread {
    /// It may be about any realm.
    pub anywhere: Option<String>,
    pub realms: BTreeMap<String, String>,
}

/// Parts that a line names, and its length.
const MOST_PARTS: usize = 8;
const MOST_SAID: usize = 500;

impl Unread {
    pub fn is_empty(&self) -> bool {
        *self == Unread::default()
    }

    pub fn is_about(&self, realm: &str) -> bool {
        self.anywhere.is_some() || self.realms.contains_key(realm)
    }

    fn target(&mut self, path: &str, why: &str) {
        let why = format!("{path}: {why}");
        match path.split('/').collect::<Vec<_>>()[..] {
            ["realms", realm, _] => drop(self.realms.insert(realm.to_owned(), why)),
            // A bundle that isn't listed doesn't run.
            ["models", _] => {}
            _ => self.anywhere = Some(why),
        }
    }
}

/// A line, as far as there is room in it.
impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.anywhere.iter().chain(self.realms.values());
        let parts: Vec<&str> = parts.take(MOST_PARTS).map(String::as_str).collect();
        let line: String = parts.join("; ").chars().take(MOST_SAID).collect();
        f.write_str(&line)
    }
}

const REVOCATION: &str = "revocation.json";

/// Of metadata that was proven when it was kept.
fn version(bytes: &[u8]) -> Option<u64> {
    let metadata: Value = serde_json::from_slice(bytes).ok()?;
    metadata["signed"]["version"].as_u64()
}

impl Wanted {
    fn paths(&self) -> Vec<String> {
        let kinds = [targets::jwks, targets::deny, targets::lift];
        let realms = self.realms.iter();
        let realms = realms.flat_map(|realm| kinds.map(|path| path(realm)));
        let models = self.models.iter().map(|name| targets::model(name));
        let policy = [targets::POLICY.to_owned()];
        realms.chain(models).chain(policy).collect()
    }
}

impl Signed {
    /// Fetches what is wanted of what `client` trusts, as far as `held` hasn't it.
    pub(super) fn fetch(
        mut client: Client,
        mirror: &mut dyn Mirror,
        (over, held): (&Held, &Held),
        wanted: &Wanted,
        now: Timestamp,
    ) -> Result<Signed, TrustError> {
        let mut files = BTreeMap::new();
        for path in wanted.paths() {
            let Some(target) = client.find(mirror, &path, now)? else {
                continue;
            };
            let known = held.targets.get(&path);
            let bytes = match known.filter(|known| target.check(known).is_ok()) {
                Some(known) => known.clone(),
                None => client.fetch(mirror, &target)?,
            };
            files.insert(path, bytes);
        }
        let held = Held {
            metadata: client.kept().clone(),
            targets: files,
            denied: held.denied.clone(),
            ..Held::default()
        };
        let signed = Signed::read(&client, over.clone(), held)?;
        Ok(Signed {
            asked: wanted.realms.clone(),
            fresh: true,
            ..signed
        })
    }

    /// A root, and nothing that its keys have signed.
    pub fn pinned(root: &[u8]) -> Result<Signed, TrustError> {
        let held = Held::rooted(root);
        let client = Client::new(root, Limits::FLEET)?;
        Signed::read(&client, held.clone(), held)
    }

    /// What was trusted before: as much as can be read of what was kept, and what can't.
    pub fn kept(held: &Held) -> (Signed, Unread) {
        let mut unread = Unread::default();
        for (realm, list) in &held.denied {
            if let Err(why) = Revocations::parse(list) {
                let why = format!("what is revoked in {realm}: {why}");
                unread.realms.insert(realm.clone(), why);
            }
        }
        if let Some(name) = held.strange.first() {
            unread.anywhere = Some(format!("{name}: nothing that this release knows"));
        }
        let client = match Client::new(held.root(), Limits::FLEET) {
            Ok(client) => client.with_kept(&held.metadata),
            Err(error) => {
                unread.anywhere = Some(error.to_string());
                return (Signed::unread(held), unread);
            }
        };
        let left_out = |file: &&String| !client.kept().contains_key(*file);
        if let Some(file) = held.metadata.keys().find(left_out) {
            unread.anywhere = Some(format!("{file}: nothing that the root's keys have signed"));
        }
        let mut signed = Signed::of(&client, held.clone());
        for (path, bytes) in &held.targets {
            if let Err(why) = signed.take(path, bytes) {
                unread.target(path, &why);
            }
        }
        signed.held = held.clone();
        // Delegated roles are looked into when a target is asked for.
        signed.versions.revocation = held.metadata.get(REVOCATION).and_then(|b| version(b));
        (signed, unread)
    }

    /// Nothing but its bytes, which the next round begins with.
    pub fn unread(held: &Held) -> Signed {
        Signed {
            over: held.clone(),
            held: held.clone(),
            versions: Versions::default(),
            expires: None,
            issued: None,
            keys: BTreeMap::new(),
            denied: BTreeMap::new(),
            lifted: BTreeMap::new(),
            policy: FleetPolicy::new(),
            models: BTreeMap::new(),
            asked: BTreeSet::new(),
            fresh: false,
            again: false,
        }
    }

    /// Newer roots alone: what the older ones' keys sign counts no more.
    pub(super) fn rooted(over: &Held, root: &[u8]) -> Result<Signed, TrustError> {
        let mut held = over.clone();
        held.metadata.insert(ROOT.to_owned(), root.to_vec());
        let client = Client::new(root, Limits::FLEET)?.with_kept(&held.metadata);
        held.metadata = client.kept().clone();
        Signed::read(&client, over.clone(), held)
    }

    fn of(client: &Client, over: Held) -> Signed {
        Signed {
            over,
            versions: client.versions(),
            expires: client.expires(),
            issued: client.issued().map(|at| at.min(client.ends())),
            ..Signed::unread(&Held::default())
        }
    }

    fn read(client: &Client, over: Held, held: Held) -> Result<Signed, TrustError> {
        let mut signed = Signed::of(client, over);
        for (path, bytes) in &held.targets {
            let taken = signed.take(path, bytes);
            taken.map_err(|why| TrustError::Malformed {
                what: path.clone(),
                why,
            })?;
        }
        signed.held = held;
        Ok(signed)
    }

    fn take(&mut self, path: &str, bytes: &[u8]) -> Result<(), String> {
        let parts: Vec<&str> = path.split('/').collect();
        match parts[..] {
            [targets::POLICY] => self.policy = targets::parse_policy(bytes)?,
            ["realms", realm, "jwks.json"] => {
                let set = Set::parse(bytes).map_err(|error| error.to_string())?;
                self.keys.insert(realm.to_owned(), set);
            }
            ["realms", realm, "deny.json"] => {
                if bytes.len() as u64 > MAX_TARGET {
                    return Err("it is too large".to_owned());
                }
                self.denied
                    .insert(realm.to_owned(), Revocations::parse(bytes)?);
            }
            ["realms", realm, "lift.json"] => {
                let lifted = targets::parse_lift(bytes)?;
                self.lifted.insert(realm.to_owned(), lifted);
            }
            ["models", file] => {
                let name = file.strip_suffix(".json").unwrap_or(file);
                let digests = targets::parse_model(bytes)?;
                self.models.insert(name.to_owned(), digests);
            }
            _ => {}
        }
        Ok(())
    }
}
