//! Everything in the state folder, opened together.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde_json::json;

use super::{RunError, wipe};
use crate::audit::{self, AuditError, Change};
use crate::auth::Snapshot;
use crate::authority::{Authority, Refused};
use crate::config::Config;
use crate::files;
use crate::identity::{Key, Nonces};
use crate::prompt::Origin;
use crate::store::{self, Store, StoreError};
use crate::telemetry::Registry;
use crate::time::Clocks;
use crate::witness::{OpenError, Witnesses};

/// The store and what lives in it. Also what the command line opens while no daemon runs.
#[derive(Debug, Clone)]
pub struct State {
    pub folder: PathBuf,
    pub store: Store,
    pub log: audit::Log,
    pub authority: Authority,
    /// The device's own.
    pub key: Key,
    /// What transports give out for DPoP proofs.
    pub nonces: Nonces,
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
        wipe::check(&folder)?;
        let open = || Store::open_sparing(&folder.join(store::FOLDER), &audit::TREES);
        let mut store = open().map_err(fail)?;
        let clocks = Clocks::default();
        let key = Key::open(&folder).map_err(|e| RunError::DeviceKey(e.to_string()))?;
        let device = audit::Device {
            identity: &config.identity,
            key: &key,
            folder: &folder,
        };
        let open_log =
            |store: &Store| audit::Log::open(store, config.audit.clone(), device, clocks.clone());
        let mut log = open_log(&store);
        if let Err(AuditError::Store(StoreError::Corrupt(_))) = log {
            // Now all of it is read, and repaired.
            drop(store);
            store = open().map_err(fail)?;
            log = open_log(&store);
        }
        let log = log.map_err(|e| RunError::Audit(e.to_string()))?;
        // What opening had to mend is an event of its own.
        if let Some(recovery) = store.recovery() {
            tracing::error!(error = recovery.error, kept = %recovery.kept.display(), "the store was damaged");
            let detail =
                json!({"error": recovery.error, "kept": recovery.kept, "left": recovery.left});
            let recorded = log.change(Origin::Daemon, Change::StoreRecovered, detail, clocks.now());
            recorded.map_err(|e| RunError::Audit(e.to_string()))?;
        }
        let authority = Authority::open(&store, &folder, &log);
        let authority = authority.map_err(|refused| not_opened(&folder, refused))?;
        Ok(State {
            authority,
            nonces: Nonces::new(key.clone(), &config.identity.device, clocks.booted().boot),
            key,
            folder,
            store,
            log,
        })
    }

    /// Records a change made by the daemon itself; durable when this returns.
    pub fn record(&self, what: Change, detail: impl Serialize) -> Result<(), RunError> {
        let failed = |e: &dyn std::fmt::Display| RunError::Audit(e.to_string());
        let detail = serde_json::to_value(detail).map_err(|e| failed(&e))?;
        let now = self.authority.clocks().now();
        let recorded = self.log.change(Origin::Daemon, what, detail, now);
        recorded.map(drop).map_err(|e| failed(&e))
    }

    /// Puts the configuration's realms in force for the first time.
    pub fn begin(&self, config: &Config, registry: &mut Registry) -> Result<(), RunError> {
        self.authority.register(registry);
        let listed = config.listed_models_only();
        let begun = self.authority.prepare(config.realms.clone(), listed);
        let begun = begun.and_then(|prepared| self.authority.follow(prepared, None));
        begun.map_err(|refused| not_opened(&self.folder, refused))
    }

    /// Those who watch the log, with what was kept of them.
    pub fn witnesses(
        &self,
        config: &Config,
        registry: &mut Registry,
    ) -> Result<Witnesses, OpenError> {
        let (all, device) = (&config.audit.witnesses, self.key.public());
        Witnesses::open(all, &self.log, &self.store, device, registry)
    }

    /// What would be in force if a daemon began now; nothing is refreshed.
    pub fn survey(&self, config: &Config) -> Result<Arc<Snapshot>, RunError> {
        let surveyed = self.authority.survey(config.realms.clone());
        surveyed.map_err(|refused| not_opened(&self.folder, refused))?;
        Ok(self.authority.snapshot())
    }

    pub fn error(&self, source: StoreError) -> RunError {
        RunError::State {
            folder: self.folder.clone(),
            source,
        }
    }

    /// The last record and the last sync. What fails here has been said in the log.
    pub fn close(&self) {
        let closed = self.record(Change::Stop, json!({}));
        if let Err(error) = closed {
            tracing::error!(%error, "the stop could not be recorded");
        }
        let clocks = self.authority.clocks();
        if let Err(error) = self.authority.floor().save(clocks.booted()) {
            tracing::error!(%error, "the time floor could not be saved");
        }
        if let Err(error) = self.log.close(clocks.now()) {
            tracing::error!(%error, "the audit log could not be closed in order");
        }
    }
}

fn not_opened(folder: &Path, refused: Refused) -> RunError {
    match refused {
        Refused::Store(source) => RunError::State {
            folder: folder.to_owned(),
            source,
        },
        Refused::Audit(error) => RunError::Audit(error.to_string()),
        Refused::DenyFile(why) => RunError::DenyFile(why),
        other => RunError::Keys(other.to_string()),
    }
}
