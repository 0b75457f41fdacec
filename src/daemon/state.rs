//! Everything in the state folder, opened together.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use serde_json::json;

use super::RunError;
use crate::audit;
use crate::auth::{Clock, DenyList, KeySet, Realm, Revocations, Snapshot};
use crate::config::{Config, RealmConfig};
use crate::files;
use crate::identity::{Key, Nonces};
use crate::keysync::{DenyFiles, Floor, Keyring, KeysError, Lines, NewDenyFiles, Refresher};
use crate::prompt::Origin;
use crate::store::{Store, StoreError};
use crate::time::{self, Moment, Reading};

/// The store and what lives in it. Also what the command line opens while no daemon runs.
#[derive(Debug, Clone)]
pub struct State {
    pub folder: PathBuf,
    pub store: Store,
    pub log: audit::Log,
    pub keyring: Keyring,
    pub floor: Floor,
    /// What transports give out for DPoP proofs.
    pub nonces: Nonces,
    pub refresher: Refresher,
    pub deny_files: DenyFiles,
}

/// Everything that following a configuration needs; nothing of it is in force.
#[derive(Debug)]
pub struct Prepared {
    deny_files: NewDenyFiles,
    lines: Lines,
    issuers: Vec<String>,
    snapshot: Snapshot,
}

impl State {
    pub fn open(config: &Config) -> Result<State, RunError> {
        let folder = config.state_dir.clone();
        let fail = |source| RunError::State {
            folder: folder.clone(),
            source,
        };
        let own = files::check_own_folder(&folder).map_err(std::io::Error::from);
        own.map_err(|e| fail(StoreError::from_io(&e)))?;
        let store = Store::open(&folder.join("db")).map_err(fail)?;
        let log = audit::Log::open(&store, config.audit.clone(), &config.identity)
            .map_err(|e| RunError::Audit(e.to_string()))?;
        let floor = Floor::open(&store, time::booted()).map_err(fail)?;
        let passed = floor.clone();
        let moment = move || passed.moment(time::now(), time::uptime());
        let begun = time::uptime();
        let keyring = Keyring::open(&store, folder.join("keys"), floor.ran(begun), begun)
            .map_err(|e| RunError::Keys(e.to_string()))?;
        if time::synchronised() {
            // A confirmation that lies in the future is from a clock that was wrong.
            let mended = keyring.mend(moment());
            mended.map_err(|e| RunError::Keys(e.to_string()))?;
        }
        let clock = move || (moment(), time::instant());
        let deny_files = DenyFiles::default();
        let refresher = Refresher::new(keyring.clone(), deny_files.clone(), Box::new(clock));
        let key = Key::open(&folder).map_err(|e| RunError::DeviceKey(e.to_string()))?;
        let state = State {
            refresher,
            nonces: Nonces::new(key, &config.identity.device, time::booted().boot),
            folder: folder.clone(),
            store,
            log,
            keyring,
            floor,
            deny_files,
        };
        state.record_repairs()?;
        Ok(state)
    }

    /// What opening had to mend is an event of its own.
    fn record_repairs(&self) -> Result<(), RunError> {
        if let Some(recovery) = self.store.recovery() {
            tracing::error!(error = recovery.error, kept = %recovery.kept.display(), "the store was damaged");
            let detail =
                json!({"error": recovery.error, "kept": recovery.kept, "left": recovery.left});
            self.record("store_recovered", detail)?;
        }
        for realm in self.keyring.restored() {
            tracing::warn!(realm, "pinned keys were restored from their copy");
            self.record("keys_restored", json!({"realm": realm}))?;
        }
        for realm in self.keyring.ignored() {
            tracing::warn!(
                realm,
                "a copy of pinned keys isn't what was pinned; it was set aside"
            );
            self.record("keys_copy_ignored", json!({"realm": realm}))?;
        }
        Ok(())
    }

    /// Records a change made by the daemon itself; durable when this returns.
    pub fn record(&self, what: &str, detail: impl Serialize) -> Result<(), RunError> {
        self.record_by(Origin::Daemon, what, detail)
    }

    pub fn record_by(
        &self,
        origin: Origin,
        what: &str,
        detail: impl Serialize,
    ) -> Result<(), RunError> {
        let failed = |e: &dyn std::fmt::Display| RunError::Audit(e.to_string());
        let detail = serde_json::to_value(detail).map_err(|e| failed(&e))?;
        let recorded = self.log.change(origin, what, detail, time::now());
        recorded.map(drop).map_err(|e| failed(&e))
    }

    /// Time as decisions see it.
    pub fn clock(&self) -> Box<dyn Fn() -> Clock + Send + Sync> {
        let floor = self.floor.clone();
        Box::new(move || clock_at(&floor, time::reading()))
    }

    /// [`State::clock`] at an earlier reading.
    pub fn clock_at(&self, reading: Reading) -> Clock {
        clock_at(&self.floor, reading)
    }

    /// Both clocks, the wall clock held up by the floor.
    pub fn moment(&self) -> Moment {
        self.floor.moment(time::now(), time::uptime())
    }

    /// Reads and makes all that a configuration's realms need. Whatever can fail does so here,
    /// where nothing is in force yet.
    pub fn prepare(&self, config: &Config) -> Result<Prepared, RunError> {
        let deny_files = self.read_deny_files(config)?;
        let sources = config.realms.iter().filter_map(|realm| {
            let source = realm.jwks.clone()?;
            Some((realm.name.clone(), source))
        });
        let lines = self.refresher.prepare(&sources.collect());
        let lines = lines.map_err(|e| RunError::Keys(e.to_string()))?;
        let snapshot = Snapshot {
            epoch: 0,
            realms: self.realms(config)?,
            deny: deny_list(config, |realm| deny_files.list(realm)),
        };
        Ok(Prepared {
            deny_files,
            lines,
            issuers: issuers(config),
            snapshot,
        })
    }

    fn read_deny_files(&self, config: &Config) -> Result<NewDenyFiles, RunError> {
        let files = config.realms.iter().filter_map(|realm| {
            let path = realm.deny_file.clone()?;
            Some((realm.name.clone(), path))
        });
        let deny_files = self.deny_files.prepare(&files.collect());
        deny_files.map_err(RunError::DenyFile)
    }

    /// What would be in force if a daemon began now; nothing is refreshed.
    pub fn survey(&self, config: &Config) -> Result<Snapshot, RunError> {
        self.deny_files.follow(self.read_deny_files(config)?);
        self.follow_floors(&issuers(config));
        self.snapshot(config)
    }

    /// Follows what was prepared, and no other realm, from now on. Can't fail. The snapshot is
    /// for whoever decides by it.
    pub fn follow(&self, prepared: Prepared) -> Snapshot {
        self.deny_files.follow(prepared.deny_files);
        self.refresher.follow(prepared.lines);
        self.follow_floors(&prepared.issuers);
        prepared.snapshot
    }

    fn follow_floors(&self, issuers: &[String]) {
        let issuers: Vec<&str> = issuers.iter().map(String::as_str).collect();
        self.floor.follow(&issuers, time::booted());
    }

    /// The configured realms with their pinned keys.
    pub fn snapshot(&self, config: &Config) -> Result<Snapshot, RunError> {
        Ok(Snapshot {
            epoch: 0,
            realms: self.realms(config)?,
            deny: self.deny_list(config),
        })
    }

    pub fn deny_list(&self, config: &Config) -> DenyList {
        deny_list(config, |realm| self.deny_files.list(realm))
    }

    /// By issuer.
    fn realms(&self, config: &Config) -> Result<BTreeMap<String, Realm>, RunError> {
        let realms = config.realms.iter();
        realms
            .map(|realm| Ok((realm.issuer.clone(), self.realm(realm)?)))
            .collect()
    }

    fn realm(&self, config: &RealmConfig) -> Result<Realm, RunError> {
        let pinned = match self.keyring.get(&config.name) {
            // One realm without keys mustn't keep the others from their start.
            Err(KeysError::Invalid(why)) => {
                tracing::error!(
                    realm = config.name,
                    why,
                    "the pinned keys can't be used; pin them again"
                );
                None
            }
            other => other.map_err(|e| RunError::Keys(format!("realm {}: {e}", config.name)))?,
        };
        let (keys, confirmed) = match pinned {
            Some(pinned) => (pinned.keys, Some(pinned.confirmed)),
            None => (KeySet::default(), None),
        };
        Ok(Realm {
            name: config.name.clone(),
            issuer: config.issuer.clone(),
            policy: config.policy.clone(),
            endpoints: config.endpoints.iter().cloned().map(Arc::new).collect(),
            keys,
            confirmed,
        })
    }

    pub fn error(&self, source: StoreError) -> RunError {
        RunError::State {
            folder: self.folder.clone(),
            source,
        }
    }

    /// The last record and the last sync. What fails here has been said in the log.
    pub fn close(&self) {
        let closed = self.record("stop", json!({}));
        if let Err(error) = closed {
            tracing::error!(%error, "the stop could not be recorded");
        }
        if let Err(error) = self.floor.save(time::booted()) {
            tracing::error!(%error, "the time floor could not be saved");
        }
        if let Err(error) = self.log.close(time::now()) {
            tracing::error!(%error, "the audit log could not be closed in order");
        }
    }
}

fn issuers(config: &Config) -> Vec<String> {
    let realms = config.realms.iter();
    realms.map(|realm| realm.issuer.clone()).collect()
}

fn clock_at(floor: &Floor, reading: Reading) -> Clock {
    let (now, uptime) = (reading.now, reading.at.uptime);
    Clock {
        now,
        floor: floor.get(uptime),
        uptime,
        synchronised: reading.synchronised,
        realm_floors: match reading.synchronised {
            true => Arc::default(),
            false => floor.realms(now, uptime),
        },
    }
}

fn deny_list(config: &Config, list: impl Fn(&str) -> Option<Revocations>) -> DenyList {
    let lists = config.realms.iter().filter_map(|realm| {
        let list = list(&realm.name)?;
        Some((realm.issuer.clone(), list))
    });
    DenyList {
        realms: lists.collect(),
    }
}
