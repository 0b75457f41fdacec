//! What the running daemon offers behind its sockets: status, reload, keys.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use serde_json::{Map, Value, json};

use super::metrics::{Metrics, stops_at};
use super::{RunError, State};
use crate::admission::Admission;
use crate::audit;
use crate::auth::{self, ExplainContext, KeyInfo, KeySet, Realm, Skipped, Snapshot};
use crate::config::Config;
use crate::engine::Engine;
use crate::keysync::{Change, Changed, DenyStatus, Held, KeysError, Outcome, Report, Told, Why};
use crate::prompt::{Origin, Scope};
use crate::reason::{Refusal, RefuseReason};
use crate::shutdown::Shutdown;
use crate::store::StoreError;
use crate::telemetry::Exposition;
use crate::time::{self, MAX_SECS, Moment, Timestamp};
use crate::transport::{http, mqtt};

/// A floor may be set later than a synchronised clock by so much: a mistake for a day at most.
const AHEAD: Duration = Duration::from_secs(86_400);

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
        // Read anew, and between two answers: the clock may have been stepped and called
        // synchronised meanwhile, and a wrong floor would stay.
        let before = time::synchronised();
        let now = time::now();
        let synchronised = before && time::synchronised();
        let advanced = self.state.floor.advance(now, synchronised, time::booted());
        if let Err(error) = advanced {
            tracing::error!(%error, "the time floor could not be saved");
        }
        self.refresh_due();
    }

    /// Says when the store breaks, and when it is whole again.
    fn check_store(&self) {
        let known = self.state.store.problem();
        match (known, self.state.store.check()) {
            (None, Err(error)) => tracing::error!(%error, "not ready: nothing can be recorded"),
            (Some(_), Ok(())) => tracing::info!("records can be written again"),
            _ => {}
        }
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

    /// The last change of the realm's keys since the start; null without one.
    fn keys_changed(&self, realm: &str) -> Value {
        let pinned = self.state.keyring.get(realm).ok().flatten();
        let changed = pinned.and_then(|pinned| pinned.changed().cloned());
        changed.map_or(Value::Null, |(at, change)| {
            json!({"at": at.to_string(), "added": change.added, "removed": change.removed})
        })
    }

    /// Puts keys in force that a person has pinned.
    fn pinned(
        &self,
        realm: &str,
        pinned: Result<(KeySet, Change), KeysError>,
    ) -> Result<Value, String> {
        let (keys, change) = pinned.map_err(|e| e.to_string())?;
        let (added, removed) = (&change.added, &change.removed);
        tracing::info!(realm, ?added, ?removed, "the realm's keys were pinned");
        let detail = json!({
            "realm": realm,
            "keys": keys.keys().iter().map(key_json).collect::<Vec<_>>(),
            "fingerprint": keys.fingerprint(),
            "left_out": left_out(&keys),
            "added": added,
            "removed": removed,
        });
        let recorded = self.state.record("keys_pinned", detail.clone());
        recorded.map_err(|e| e.to_string())?;
        self.try_replace_snapshot().map_err(|e| e.to_string())?;
        Ok(detail)
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
            "vouching": report.vouching,
        });
        (refresh, held)
    }

    fn clock_status(&self) -> Value {
        let (now, uptime) = (time::now(), time::uptime());
        let (floor, synchronised) = (self.state.floor.get(uptime), time::synchronised());
        let floors = match synchronised {
            true => Arc::default(),
            false => self.state.floor.realms(now, uptime),
        };
        let snapshot = self.admission.snapshot();
        let realms = snapshot.realms.values().filter_map(|realm| {
            let told = floors.get(&realm.issuer)?;
            Some((realm.name.clone(), told))
        });
        let (mut raised, mut alone) = (Map::new(), Map::new());
        for (realm, told) in realms {
            if told.floor > floor {
                raised.insert(realm.clone(), json!(told.floor.to_string()));
            }
            if let Some((client, at)) = told.ahead.as_ref().filter(|(_, at)| *at > floor) {
                alone.insert(realm, json!({"client": client, "floor": at.to_string()}));
            }
        }
        json!({
            "now": now.to_string(),
            "floor": floor.to_string(),
            "floor_ahead_seconds": floor.since(now).as_secs(),
            "synchronised": synchronised,
            "realm_floors": raised,
            "client_floors": alone,
        })
    }

    fn set_metrics(&self) {
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

    fn realms(&self) -> Vec<Value> {
        let snapshot = self.admission.snapshot();
        let now = self.state.moment();
        snapshot
            .realms
            .values()
            .map(|realm| {
                let mut status = realm_status(realm, now);
                status["keys_changed"] = self.keys_changed(&realm.name);
                (status["refresh"], status["held"]) = self.refresh_status(&realm.name, now.known);
                let denied = self.state.deny_files.status(&realm.name);
                status["deny_list"] = denied.as_ref().map_or(Value::Null, deny_json);
                status
            })
            .collect()
    }
}

fn realm_status(realm: &Realm, now: Moment) -> Value {
    let age = realm
        .confirmed
        .map(|confirmed| confirmed.age(now).as_secs());
    let confirmed_at = realm.confirmed.map(|confirmed| confirmed.shown(now));
    let stops: Map<String, Value> = Scope::ALL
        .into_iter()
        .filter_map(|scope| {
            let stops_at = stops_at(realm, scope, now)?;
            Some((scope.as_str().to_owned(), json!(stops_at.to_string())))
        })
        .collect();
    json!({
        "name": realm.name,
        "issuer": realm.issuer,
        "keys": realm.keys.keys().iter().map(key_json).collect::<Vec<_>>(),
        "fingerprint": realm.keys.fingerprint(),
        "left_out": left_out(&realm.keys),
        "keys_age_seconds": age,
        "keys_confirmed_at": confirmed_at.map(|at| at.to_string()),
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
    json!({
        "fingerprint": held.keys.fingerprint(),
        "keys": keys,
        "left_out": left_out(&held.keys),
    })
}

/// Keys of a set that aren't used, and why.
fn left_out(keys: &KeySet) -> Value {
    keys.skipped().iter().map(Skipped::to_json).collect()
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
        if let Some(error) = &self.state.store.problem() {
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
        let pinned = self.state.keyring.pin(realm, jwks, self.state.moment());
        let answer = self.pinned(realm, pinned)?;
        self.state.refresher.settle(realm);
        Ok(answer)
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
            .pin_held(realm, fingerprint, self.state.moment());
        let pinned = pinned.ok_or_else(|| {
            format!(
                "realm {realm:?} holds no set with this fingerprint; fetch it again and compare"
            )
        })?;
        self.pinned(realm, pinned)
    }

    fn refresh_keys(&self, realm: &str) -> Result<Value, String> {
        let outcome = self.state.refresher.refresh(realm, Why::Asked);
        let outcome = outcome.ok_or_else(|| not_refreshed(realm))?;
        let (refresh, held) = self.refresh_status(realm, self.state.moment().known);
        Ok(json!({
            "realm": realm,
            "outcome": outcome.as_str(),
            "why": refresh["why"],
            "changed": self.keys_changed(realm),
            "held": held,
        }))
    }

    fn explain_token(&self, token: &str, context: &ExplainContext) -> Result<Value, String> {
        let (snapshot, clock) = (self.admission.snapshot(), self.state.clock()());
        let explanation = auth::explain(token, &snapshot, &clock, context);
        serde_json::to_value(explanation).map_err(|e| e.to_string())
    }

    fn reset_time(&self, to: Option<Timestamp>) -> Result<Value, String> {
        let (now, synchronised) = (time::now(), time::synchronised());
        let to = to.unwrap_or(now);
        if to.as_secs() > MAX_SECS || (synchronised && to > now.saturating_add(AHEAD)) {
            return Err(format!(
                "{to} is later than the clock ({now}); a floor that is too late refuses every token"
            ));
        }
        let was = self.state.floor.get(time::uptime());
        let reset = self.state.floor.reset(to, time::booted());
        reset.map_err(|error| format!("the time floor could not be saved: {error}"))?;
        let moment = self.state.moment();
        let mended = self.state.keyring.mend(moment);
        mended.map_err(|error| format!("the keys' confirmations could not be mended: {error}"))?;
        let mended = self.admission.mend_time(moment);
        mended.map_err(|error| format!("what was delivered could not be mended: {error}"))?;
        self.try_replace_snapshot().map_err(|e| e.to_string())?;
        let floor = self.state.floor.get(moment.uptime);
        let detail = json!({"was": was.to_string(), "floor": floor.to_string()});
        let recorded = self.state.record("time_reset", detail.clone());
        recorded.map_err(|e| e.to_string())?;
        Ok(detail)
    }

    fn audit(&self) -> audit::Log {
        self.state.log.clone()
    }

    fn record_look(&self, origin: Origin, what: &str) {
        if let Err(error) = self.state.log.look(origin, what, time::now()) {
            tracing::error!(%error, what, "a look by the admin socket could not be recorded yet");
        }
    }

    fn record_refused(&self, origin: Origin, what: String, refusal: &Refusal) -> bool {
        self.admission.refuse_admin(origin, what, refusal)
    }

    fn record_admin(&self, origin: Origin, what: &str) -> Result<(), Refusal> {
        if let Origin::Admin { uid, .. } = origin {
            self.admission.take_admin_turn(uid).inspect_err(|refusal| {
                self.record_refused(origin.clone(), what.to_owned(), refusal);
            })?;
        }
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
