//! What the running daemon offers behind its sockets: status, reload, keys.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use serde_json::{Map, Value, json};

use super::metrics::{Metrics, stops_at};
use super::{RunError, State};
use crate::admission::Admission;
use crate::audit;
use crate::auth::{self, ExplainContext, KeyInfo, Realm, Snapshot};
use crate::config::Config;
use crate::engine::Engine;
use crate::keysync::{Changed, DenyStatus, Held, Outcome, Report, Why};
use crate::prompt::{Origin, Scope};
use crate::reason::{Refusal, RefuseReason};
use crate::shutdown::Shutdown;
use crate::store::StoreError;
use crate::telemetry::Exposition;
use crate::time::{self, Timestamp};
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
        let now = time::now();
        self.check_store();
        if let Err(error) = self.state.log.tick(now) {
            tracing::error!(%error, "audit housekeeping failed");
        }
        if let Err(error) = self.admission.tick() {
            tracing::error!(%error, "delivery housekeeping failed");
        }
        if let Err(error) = self
            .state
            .floor
            .advance(now, time::synchronised(), time::instant())
        {
            tracing::error!(%error, "the time floor could not be saved");
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

    fn store_problem(&self) -> MutexGuard<'_, Option<StoreError>> {
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
    pub(super) fn keys_refreshed(&self, realm: &str, outcome: &Outcome, news: bool) {
        self.metrics.refreshed(realm, outcome);
        let recorded = match outcome {
            Outcome::Cooldown(_) => return,
            Outcome::Failed(why) => {
                tracing::warn!(
                    realm,
                    why,
                    "keys could not be refreshed; the pinned ones stay"
                );
                return;
            }
            Outcome::Held if !news => return,
            Outcome::Held => {
                tracing::warn!(realm, "an unknown key set is held; compare and pin it");
                let held = self.state.refresher.report(realm).and_then(|r| r.held);
                let fingerprint = held.map(|held| held.keys.fingerprint());
                let detail = json!({"realm": realm, "fingerprint": fingerprint});
                self.state.record("keys_held", detail)
            }
            Outcome::Replaced => {
                tracing::info!(realm, "keys refreshed");
                self.state.record("keys_refreshed", json!({"realm": realm}))
            }
            Outcome::Confirmed => Ok(()),
        };
        if let Err(error) = recorded {
            tracing::error!(realm, %error, "a key refresh could not be recorded");
        }
        if *outcome != Outcome::Held {
            self.replace_snapshot();
        }
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

    fn try_replace_snapshot(&self) -> Result<(), RunError> {
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

    /// For keys that a person pins, who sees what time the machine thinks it is.
    fn pinning_time(&self) -> Timestamp {
        time::now().max(self.state.floor.get())
    }

    /// How the realm's refreshes go; null where it isn't refreshed.
    fn refresh_status(&self, realm: &str, now: Timestamp) -> (Value, Value) {
        let Some(report) = self.state.refresher.report(realm) else {
            return (Value::Null, Value::Null);
        };
        let held = report.held.as_ref().map_or(Value::Null, held_json);
        let (outcome, at) = report.last.unzip();
        let why = outcome.as_ref().and_then(|outcome| match outcome {
            Outcome::Failed(why) => Some(why.clone()),
            _ => None,
        });
        let refresh = json!({
            "last_outcome": outcome.as_ref().map(Outcome::as_str),
            "last_at": at.map(|at| at.to_string()),
            "why": why,
            "next_at": now.saturating_add(report.next_in).to_string(),
        });
        (refresh, held)
    }

    fn clock_status(&self) -> Value {
        let (now, synchronised) = (time::now(), time::synchronised());
        let floors = match synchronised {
            true => Arc::default(),
            false => self.state.floor.realms(now, time::instant()),
        };
        let snapshot = self.admission.snapshot();
        let raised = snapshot.realms.values().filter_map(|realm| {
            let floor = floors.get(&realm.issuer)?.floor;
            let raised = floor > self.state.floor.get();
            raised.then(|| (realm.name.clone(), json!(floor.to_string())))
        });
        json!({
            "now": now.to_string(),
            "floor": self.state.floor.get().to_string(),
            "synchronised": synchronised,
            "realm_floors": raised.collect::<Map<String, Value>>(),
        })
    }

    fn set_metrics(&self) {
        let floor = self.state.floor.get();
        self.metrics.set_clock(floor, time::synchronised());
        self.metrics.clear_realms();
        let now = time::now().max(floor);
        for realm in self.admission.snapshot().realms.values() {
            let report = self.state.refresher.report(&realm.name);
            let held = report.map(|Report { held, .. }| held.is_some());
            let denied = self.state.deny_files.status(&realm.name);
            let denied = denied.map(|status| status.entries);
            self.metrics.set_realm(realm, now, held, denied);
        }
    }

    fn realms(&self) -> Vec<Value> {
        let snapshot = self.admission.snapshot();
        let now = time::now().max(self.state.floor.get());
        snapshot
            .realms
            .values()
            .map(|realm| {
                let mut status = realm_status(realm, now);
                (status["refresh"], status["held"]) = self.refresh_status(&realm.name, now);
                let denied = self.state.deny_files.status(&realm.name);
                status["deny_list"] = denied.as_ref().map_or(Value::Null, deny_json);
                status
            })
            .collect()
    }
}

fn realm_status(realm: &Realm, now: Timestamp) -> Value {
    let age = realm.confirmed_at.map(|at| now.since(at).as_secs());
    let stops: Map<String, Value> = Scope::ALL
        .into_iter()
        .filter_map(|scope| {
            let stops_at = stops_at(realm, scope)?;
            Some((scope.as_str().to_owned(), json!(stops_at.to_string())))
        })
        .collect();
    json!({
        "name": realm.name,
        "issuer": realm.issuer,
        "keys": realm.keys.keys().iter().map(key_json).collect::<Vec<_>>(),
        "fingerprint": realm.keys.fingerprint(),
        "keys_age_seconds": age,
        "keys_confirmed_at": realm.confirmed_at.map(|at| at.to_string()),
        "scope_stops_at": stops,
        "endpoints": realm.endpoints.iter().map(|e| json!({"client_id": e.client_id, "model": e.model})).collect::<Vec<_>>(),
    })
}

fn deny_json(status: &DenyStatus) -> Value {
    json!({"entries": status.entries, "problem": status.problem})
}

fn not_refreshed(realm: &str) -> String {
    format!("realm {realm:?} isn't refreshed; configure its [realm.jwks]")
}

fn held_json(held: &Held) -> Value {
    let keys: Vec<Value> = held.keys.keys().iter().map(key_json).collect();
    json!({"fingerprint": held.keys.fingerprint(), "keys": keys})
}

fn key_json(key: &KeyInfo) -> Value {
    json!({"kid": key.kid, "algorithms": key.algorithms, "thumbprint": key.thumbprint})
}

impl http::Control for Core {
    fn ready(&self) -> Result<(), String> {
        if self.shutdown.is_draining() {
            return Err("draining: the daemon is going down".to_owned());
        }
        // Without a record nothing is answered.
        if let Some(error) = &*self.store_problem() {
            let folder = self.state.folder.display();
            return Err(match error {
                StoreError::Full => {
                    format!("{error} {folder}; make room, and it goes on by itself")
                }
                other => format!("state folder {folder}: {other}"),
            });
        }
        let snapshot = self.admission.snapshot();
        let keyless = snapshot.realms.values().all(|realm| realm.keys.is_empty());
        if keyless {
            return Err("no realm has pinned keys yet; run `slmd keys pin REALM FILE`".to_owned());
        }
        Ok(())
    }

    fn status(&self) -> Value {
        let (waiting, running) = self.engine.load();
        let ready = self.ready();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "device": self.config.load().identity.device,
            "ready": ready.is_ok(),
            "not_ready_because": ready.err(),
            "uptime_seconds": time::instant().saturating_duration_since(self.started).as_secs(),
            "clock": self.clock_status(),
            "realms": self.realms(),
            "engine": {"running": running, "waiting": waiting},
            "mqtt": self.mqtt.as_ref().map(mqtt::Handle::status),
            "audit": {"next_index": self.state.log.next_index()},
        })
    }

    fn metrics(&self) -> String {
        let turn = self.metrics.turn.lock();
        let _turn = turn.unwrap_or_else(PoisonError::into_inner);
        self.set_metrics();
        self.exposition.text()
    }

    fn reload(&self) -> Result<Value, Vec<String>> {
        self.reload_configuration()
    }

    fn keys(&self) -> Value {
        json!({"realms": self.realms()})
    }

    fn pin_keys(&self, realm: &str, jwks: &[u8]) -> Result<Value, String> {
        let config = self.config.load_full();
        if !config.realms.iter().any(|known| known.name == realm) {
            let names: Vec<_> = config.realms.iter().map(|r| r.name.as_str()).collect();
            return Err(format!(
                "no realm {realm:?} is configured; there are: {}",
                names.join(", ")
            ));
        }
        let keys = self
            .state
            .keyring
            .pin(realm, jwks, self.pinning_time())
            .map_err(|e| e.to_string())?;
        self.state.refresher.settle(realm);
        let keys: Vec<Value> = keys.iter().map(key_json).collect();
        let detail = json!({"realm": realm, "keys": keys});
        let recorded = self.state.record("keys_pinned", detail.clone());
        recorded.map_err(|e| e.to_string())?;
        self.try_replace_snapshot().map_err(|e| e.to_string())?;
        Ok(detail)
    }

    fn fetch_keys(&self, realm: &str) -> Result<Value, String> {
        let fetched = self.state.refresher.fetch(realm);
        let fetched = fetched.ok_or_else(|| not_refreshed(realm))??;
        let mut answer = held_json(&fetched.set);
        answer["pinned"] = json!(fetched.pinned);
        Ok(answer)
    }

    fn pin_held_keys(&self, realm: &str, fingerprint: &str) -> Result<Value, String> {
        let pinned = self
            .state
            .refresher
            .pin_held(realm, fingerprint, self.pinning_time());
        let pinned = pinned.ok_or_else(|| {
            format!(
                "realm {realm:?} holds no set with this fingerprint; fetch it again and compare"
            )
        })?;
        let keys: Vec<Value> = pinned
            .map_err(|e| e.to_string())?
            .iter()
            .map(key_json)
            .collect();
        let detail = json!({"realm": realm, "keys": keys, "fingerprint": fingerprint});
        let recorded = self.state.record("keys_pinned", detail.clone());
        recorded.map_err(|e| e.to_string())?;
        self.replace_snapshot();
        Ok(detail)
    }

    fn refresh_keys(&self, realm: &str) -> Result<Value, String> {
        let outcome = self.state.refresher.refresh(realm, Why::Asked);
        let outcome = outcome.ok_or_else(|| not_refreshed(realm))?;
        let (refresh, held) = self.refresh_status(realm, time::now());
        Ok(
            json!({"realm": realm, "outcome": outcome.as_str(), "why": refresh["why"], "held": held}),
        )
    }

    fn explain_token(&self, token: &str, context: &ExplainContext) -> Result<Value, String> {
        let (snapshot, clock) = (self.admission.snapshot(), self.state.clock()());
        let explanation = auth::explain(token, &snapshot, &clock, context);
        serde_json::to_value(explanation).map_err(|e| e.to_string())
    }

    fn reset_time(&self, to: Option<Timestamp>) -> Result<Value, String> {
        let was = self.state.floor.get();
        let to = to.unwrap_or_else(time::now);
        let reset = self.state.floor.reset(to, time::instant());
        reset.map_err(|error| format!("the time floor could not be saved: {error}"))?;
        let detail = json!({"was": was.to_string(), "floor": self.state.floor.get().to_string()});
        let recorded = self.state.record("time_reset", detail.clone());
        recorded.map_err(|e| e.to_string())?;
        Ok(detail)
    }

    fn audit(&self) -> audit::Log {
        self.state.log.clone()
    }

    fn record_admin(&self, origin: Origin, what: &str) -> Result<(), Refusal> {
        let recorded = self
            .state
            .log
            .change(origin.clone(), what, Value::Null, time::now());
        recorded.map(drop).map_err(|error| {
            tracing::error!(?origin, what, %error, "a use of the admin socket could not be recorded");
            RefuseReason::AuditUnavailable.into()
        })
    }
}
