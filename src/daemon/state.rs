//! Everything in the state folder, opened together.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use super::RunError;
use crate::auth::{Clock, DenyList, KeySet, Realm, Snapshot};
use crate::config::{Config, RealmConfig};
use crate::keysync::{Floor, Keyring};
use crate::prompt::Origin;
use crate::store::{Store, StoreError};
use crate::{audit, time};

/// The store and what lives in it. Also what the command line opens while no daemon runs.
#[derive(Debug, Clone)]
pub struct State {
    pub folder: PathBuf,
    pub store: Store,
    pub log: audit::Log,
    pub keyring: Keyring,
    pub floor: Arc<Floor>,
}

impl State {
    pub fn open(config: &Config) -> Result<State, RunError> {
        let folder = config.state_dir.clone();
        let fail = |source| RunError::State {
            folder: folder.clone(),
            source,
        };
        let store = Store::open(&folder.join("db")).map_err(fail)?;
        let log = audit::Log::open(&store, config.audit.clone(), &config.identity)
            .map_err(|e| RunError::Audit(e.to_string()))?;
        let keyring = Keyring::open(&store, folder.join("keys"))
            .map_err(|e| RunError::Keys(e.to_string()))?;
        let floor = Arc::new(Floor::open(&store).map_err(fail)?);
        let state = State {
            folder: folder.clone(),
            store,
            log,
            keyring,
            floor,
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
        Ok(())
    }

    /// Records a change made by the daemon itself; durable when this returns.
    pub fn record(&self, what: &str, detail: Value) -> Result<(), RunError> {
        let recorded = self.log.change(Origin::Daemon, what, detail, time::now());
        recorded
            .map(drop)
            .map_err(|e| RunError::Audit(e.to_string()))
    }

    /// Time as decisions see it.
    pub fn clock(&self) -> Box<dyn Fn() -> Clock + Send + Sync> {
        let floor = Arc::clone(&self.floor);
        Box::new(move || Clock {
            now: time::now(),
            floor: floor.get(),
            synchronised: time::synchronised(),
            realm_floors: Arc::default(),
        })
    }

    /// The configured realms with their pinned keys.
    pub fn snapshot(&self, config: &Config) -> Result<Snapshot, RunError> {
        let mut realms = BTreeMap::new();
        for realm in &config.realms {
            realms.insert(realm.issuer.clone(), self.realm(realm)?);
        }
        Ok(Snapshot {
            epoch: 0,
            realms,
            deny: DenyList::default(),
        })
    }

    fn realm(&self, config: &RealmConfig) -> Result<Realm, RunError> {
        let pinned = self.keyring.get(&config.name);
        let pinned = pinned.map_err(|e| RunError::Keys(format!("realm {}: {e}", config.name)))?;
        let (keys, confirmed_at) = match pinned {
            Some(pinned) => (pinned.keys, Some(pinned.confirmed_at)),
            None => (KeySet::default(), None),
        };
        Ok(Realm {
            name: config.name.clone(),
            issuer: config.issuer.clone(),
            policy: config.policy.clone(),
            endpoints: config.endpoints.iter().cloned().map(Arc::new).collect(),
            keys,
            confirmed_at,
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
        if let Err(error) = self.floor.save() {
            tracing::error!(%error, "the time floor could not be saved");
        }
        if let Err(error) = self.log.close(time::now()) {
            tracing::error!(%error, "the audit log could not be closed in order");
        }
    }
}
