//! The running daemon: its housekeeping, and what changes in it while it runs.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use serde_json::json;

use super::metrics::Metrics;
use super::{RunError, State};
use crate::admission::Admission;
use crate::auth::Snapshot;
use crate::config::Config;
use crate::engine::Engine;
use crate::keysync::{Changed, Outcome, Report, Told, Why};
use crate::shutdown::Shutdown;
use crate::store::StoreError;
use crate::telemetry::Exposition;
use crate::time::{self, Reading};
use crate::transport::{http, mqtt};

pub(super) struct Core {
    pub(super) admission: Admission,
    pub(super) engine: Engine,
    pub(super) mqtt: Option<mqtt::Handle>,
    pub(super) certificates: Arc<http::Certificates>,
    pub(super) shutdown: Shutdown,
    pub(super) source: Option<PathBuf>,
    pub(super) state: State,
    pub(super) exposition: Exposition,
    pub(super) started: Instant,
    pub(super) config: ArcSwap<Config>,
    pub(super) metrics: Metrics,
    /// Why nothing can be recorded, as the last tick has found it.
    pub(super) store_problem: Mutex<Option<StoreError>>,
    /// Held while a snapshot is made and put in force, or an older one could take the place of a
    /// newer.
    pub(super) replacing: Mutex<()>,
}

impl Core {
    /// Once a second. A part that fails says so and is tried again.
    pub(super) fn tick(&self) {
        self.check_store();
        let reading = time::reading();
        let Reading {
            now,
            at,
            synchronised,
        } = reading;
        if let Err(error) = self.state.floor.advance(now, synchronised, at) {
            tracing::error!(%error, "the time floor could not be saved");
        }
        if let Err(error) = self.state.log.tick(now, synchronised) {
            tracing::error!(%error, "audit housekeeping failed");
        }
        if let Err(error) = self.admission.tick(&self.state.clock_at(reading)) {
            tracing::error!(%error, "delivery housekeeping failed");
        }
        self.refresh_due();
    }

    /// Says when the store breaks, and when it is whole again.
    fn check_store(&self) {
        let found = self.state.store.check().err();
        let mut known = self.store_problem();
        match (&*known, &found) {
            (None, Some(error)) => tracing::error!(%error, "not ready: nothing can be recorded"),
            (Some(_), None) => tracing::info!("records can be written again"),
            _ => {}
        }
        *known = found;
    }

    pub(super) fn store_problem(&self) -> MutexGuard<'_, Option<StoreError>> {
        self.store_problem
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread for each fetch that is due: an issuer that hangs delays neither another realm nor
    /// the housekeeping. One a realm at most.
    fn refresh_due(&self) {
        for realm in self.state.refresher.due() {
            let (refresher, name) = (self.state.refresher.clone(), realm.clone());
            let fetch = move || drop(refresher.refresh(&name, Why::Due));
            let thread = std::thread::Builder::new().name("keys".to_owned());
            if let Err(error) = thread.spawn(fetch) {
                tracing::error!(realm, %error, "no thread to refresh keys with");
            }
        }
    }

    /// Puts in force what a fetch has found, and says so.
    pub(super) fn keys_refreshed(&self, told: &Told<'_>) {
        let (realm, outcome) = (told.realm, told.outcome);
        self.metrics.refreshed(realm, outcome);
        if let Outcome::Failed(why) = outcome {
            tracing::warn!(
                realm,
                why,
                "keys could not be refreshed; the pinned ones stay"
            );
        }
        let recorded = self.record_refresh(told);
        if let Err(error) = recorded {
            tracing::error!(realm, %error, "a key refresh could not be recorded");
        }
        let confirmed = matches!(outcome, Outcome::Confirmed | Outcome::Replaced);
        if confirmed || !told.change.is_empty() {
            self.replace_snapshot();
        }
    }

    fn record_refresh(&self, told: &Told<'_>) -> Result<(), RunError> {
        let (realm, change) = (told.realm, told.change);
        if *told.outcome == Outcome::Replaced || !change.is_empty() {
            let (added, removed) = (&change.added, &change.removed);
            tracing::info!(realm, ?added, ?removed, "the realm's keys have changed");
            let detail = json!({"realm": realm, "added": added, "removed": removed});
            self.state.record("keys_refreshed", detail)?;
        }
        if *told.outcome == Outcome::Held && told.news {
            tracing::warn!(realm, "an unknown key set is held; compare and pin it");
            let held = self.state.refresher.report(realm).and_then(|r| r.held);
            let fingerprint = held.map(|held| held.keys.fingerprint());
            let detail = json!({"realm": realm, "fingerprint": fingerprint});
            self.state.record("keys_held", detail)?;
        }
        Ok(())
    }

    /// Looks at the deny files, and puts in force what has changed. Twice a second.
    pub(super) fn look_at_deny_files(&self) {
        let changed = self.state.deny_files.look();
        if changed.iter().any(|changed| changed.result.is_ok()) {
            self.replace_deny_list();
        }
        for Changed { realm, result } in changed {
            let recorded = match result {
                Ok(entries) => {
                    tracing::info!(realm, entries, "deny-list replaced");
                    let detail = json!({"realm": realm, "entries": entries});
                    self.state.record("deny_list_replaced", detail)
                }
                Err(why) => {
                    tracing::error!(realm, why, "deny-list refused; the old one stays in force");
                    let detail = json!({"realm": realm, "why": why});
                    self.state.record("deny_list_refused", detail)
                }
            };
            if let Err(error) = recorded {
                tracing::error!(realm, %error, "a change of a deny-list could not be recorded");
            }
        }
    }

    /// A revocation waits for nothing that can fail, so the realms stay as they are in force.
    fn replace_deny_list(&self) {
        let _turn = self.replacing();
        let snapshot = Snapshot {
            epoch: 0,
            realms: self.admission.snapshot().realms.clone(),
            deny: self.state.deny_list(&self.config.load()),
        };
        self.admission.replace_snapshot(snapshot);
    }

    fn replace_snapshot(&self) {
        if let Err(error) = self.try_replace_snapshot() {
            tracing::error!(%error, "changed keys can't be put in force");
        }
    }

    pub(super) fn try_replace_snapshot(&self) -> Result<(), RunError> {
        let _turn = self.replacing();
        let snapshot = self.state.snapshot(&self.config.load())?;
        self.admission.replace_snapshot(snapshot);
        Ok(())
    }

    pub(super) fn replacing(&self) -> MutexGuard<'_, ()> {
        self.replacing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_metrics(&self) {
        let now = self.state.moment();
        let floor = self.state.floor.get(now.uptime);
        self.metrics.set_clock(floor, time::synchronised());
        self.metrics.clear_realms();
        for realm in self.admission.snapshot().realms.values() {
            let report = self.state.refresher.report(&realm.name);
            let held = report.map(|Report { held, .. }| held.is_some());
            let denied = self.state.deny_files.status(&realm.name);
            let denied = denied.map(|status| status.entries);
            self.metrics.set_realm(realm, now, held, denied);
        }
    }
}
