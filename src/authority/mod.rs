//! What is in force: realms, their keys, what is denied, and the floor of time, with one owner.
//!
//! Whatever changes it is a [`Change`]. [`force`] says, purely, what a change comes to;
//! [`Authority::apply`] is the one place that takes the steps, in their order: written, recorded, put
//! in force. People, issuers ([`Refresher`]) and deny files ([`DenyFiles`]) only bring changes.

#[cfg(test)]
mod clock_tests;
mod fleet;
#[cfg(test)]
mod fleet_tests;
mod force;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
mod trusted;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use serde_json::{Value, json};
use tokio::sync::watch;

use self::fleet::Following;
pub use self::force::{Change, Done, Force, RealmConfig};
use self::force::{Next, Note, next};
pub use self::trusted::Fleet;
use crate::audit::{self, AuditError, Log};
use crate::auth::{Clock, Snapshot};
use crate::fleet::Vault;
use crate::https::HttpsError;
use crate::keysync::{
    self, DenyFiles, DenyStatus, Flight, Floor, Keyring, KeysError, Lines, NewDenyFiles, Outcome,
    Refresher, Report, Set, Verdict, Why, tell_left_out,
};
use crate::prompt::Origin;
use crate::store::{Store, StoreError};
use crate::telemetry::Registry;
use crate::time::{Clocks, MAX_SECS, Moment, Reading, Timestamp};
use crate::trust::TrustError;

/// A floor may be set later than a synchronised clock by so much: a mistake for a day at most.
const AHEAD: Duration = Duration::from_secs(86_400);

/// Records that are owed for want of a disk; of more, the first count.
const MOST_OWED: usize = 256;

/// Why a change isn't made.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("no realm {realm:?} is configured; there are: {known}")]
    NoRealm { realm: String, known: String },
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error("realm {0:?} isn't refreshed; configure its [realm.jwks]")]
    NotRefreshed(String),
    #[error("{0}")]
    Fetch(String),
    #[error("realm {0:?} holds no set with this fingerprint; fetch it again and compare")]
    NotHeld(String),
    #[error("{to} is later than the clock ({now}); a floor that is too late refuses every token")]
    TooLate { to: Timestamp, now: Timestamp },
    #[error("{0}")]
    DenyFile(String),
    #[error("no fleet's root is pinned; run `slmd trust pin ROOT.json`")]
    NoRoot,
    #[error("something else was signed and taken up meanwhile")]
    Overtaken,
    #[error("what is kept of the fleet can't be read; only what a mirror has whole replaces it")]
    Unread,
    #[error(
        "the fleet has revoked more in realm {0:?} than can be kept; let entries end, or lift some"
    )]
    TooManyRevoked(String),
    #[error("not a root that can be trusted: {0}")]
    Trust(#[from] TrustError),
    #[error("key sets can't be fetched: {0}")]
    Https(#[from] HttpsError),
    #[error("state folder: {0}")]
    Store(#[from] StoreError),
    #[error("audit log: {0}")]
    Audit(#[from] AuditError),
    #[error("what was delivered could not be mended: {0}")]
    Delivered(StoreError),
}

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Authority(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    force: ArcSwap<Force>,
    snapshot: ArcSwap<Snapshot>,
    /// The epoch that is in force.
    epoch: watch::Sender<u64>,
    /// Held while a change is made: one is made of what the one before has left. What is in force
    /// and not on record yet.
    turn: Mutex<Vec<Note>>,
    keyring: Keyring,
    vault: Vault,
    floor: Floor,
    log: Log,
    refresher: Refresher,
    deny_files: DenyFiles,
    refreshes: Family<OfOutcome, Counter>,
    following: Following,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOutcome {
    realm: String,
    outcome: &'static str,
}

/// Everything that following a configuration needs; nothing of it is in force.
#[derive(Debug)]
pub struct Prepared {
    realms: Vec<RealmConfig>,
    deny_files: NewDenyFiles,
    lines: Lines,
    listed_models_only: bool,
}

impl Authority {
    /// With no realm yet. What opening had to mend is recorded. `folder`: the state's.
    pub fn open(store: &Store, folder: &Path, log: &Log) -> Result<Authority, Refused> {
        let clocks = log.clocks().clone();
        let floor = Floor::open(store, clocks.booted())?;
        let begun = clocks.uptime();
        let copies = folder.join(keysync::FOLDER);
        let keyring = Keyring::open(store, copies, floor.ran(begun), begun)?;
        let vault = Vault::open(store, &folder.join(crate::fleet::FOLDER))?;
        let stored = keyring.load()?;
        let mut keys = stored.clone();
        if clocks.synchronised() {
            // A confirmation that lies in the future is from a clock that was wrong.
            let now = floor.moment(clocks.now(), clocks.uptime());
            for pinned in keys.values_mut() {
                pinned.confirmed = pinned.confirmed.mended(now);
            }
            keyring.save(&stored, &keys, now, || Ok::<_, StoreError>(()))?;
        }
        let force = Force {
            keys,
            fleet: fleet::kept(&vault)?,
            ..Force::default()
        };
        let authority = Authority(Arc::new(Inner {
            snapshot: ArcSwap::from_pointee(force.snapshot(0)),
            force: ArcSwap::from_pointee(force),
            epoch: watch::Sender::new(0),
            turn: Mutex::default(),
            keyring,
            vault,
            floor,
            log: log.clone(),
            refresher: Refresher::default(),
            deny_files: DenyFiles::default(),
            refreshes: Family::default(),
            following: Following::default(),
        }));
        authority.record_repairs()?;
        authority.begin_fleet()?;
        Ok(authority)
    }

    fn record_repairs(&self) -> Result<(), Refused> {
        for realm in self.0.keyring.restored() {
            tracing::warn!(realm, "pinned keys were restored from their copy");
            self.record(audit::Change::KeysRestored, json!({"realm": realm}))?;
        }
        for realm in self.0.keyring.ignored() {
            tracing::warn!(
                realm,
                "a copy of pinned keys isn't what was pinned; it was set aside"
            );
            self.record(audit::Change::KeysCopyIgnored, json!({"realm": realm}))?;
        }
        Ok(())
    }

    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "slmd_keys_refreshes",
            "Fetches of a realm's keys, by what came of them",
            self.0.refreshes.clone(),
        );
        registry.register(
            "slmd_trust_refusals",
            "Mirrors of the fleet that gave nothing good, by reason",
            self.0.following.refused.clone(),
        );
    }

    pub fn force(&self) -> Arc<Force> {
        self.0.force.load_full()
    }

    /// What is in force, as decisions see it.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.0.snapshot.load_full()
    }

    /// Tells of every epoch, for whoever has built on an earlier one.
    pub fn epochs(&self) -> watch::Receiver<u64> {
        self.0.epoch.subscribe()
    }

    pub fn floor(&self) -> &Floor {
        &self.0.floor
    }

    pub fn clocks(&self) -> &Clocks {
        self.0.log.clocks()
    }

    /// Time as decisions see it.
    pub fn clock(&self) -> Clock {
        self.clock_at(self.clocks().reading())
    }

    /// [`Authority::clock`] at an earlier reading.
    pub fn clock_at(&self, reading: Reading) -> Clock {
        let (now, uptime) = (reading.now, reading.at.uptime);
        Clock {
            now,
            floor: self.0.floor.get(uptime),
            uptime,
            synchronised: reading.synchronised,
            realm_floors: match reading.synchronised {
                true => Arc::default(),
                false => self.0.floor.realms(now, uptime),
            },
        }
    }

    /// Both clocks, the wall clock held up by the floor.
    pub fn moment(&self) -> Moment {
        let clocks = self.clocks();
        self.0.floor.moment(clocks.now(), clocks.uptime())
    }

    /// Makes a change: written, recorded, put in force, in this order, or nothing of it. But a
    /// revocation waits for nothing that can fail: a deny-list, and the leaving of keys that their
    /// issuer has dropped, are in force before they are written. Blocks.
    pub fn apply(&self, change: &Change, by: &Origin) -> Result<Done, Refused> {
        let mut owed = self.0.turn.lock();
        let (old, now) = (self.force(), self.moment_of(change));
        let next = next(&old, change, now)?;
        if next.done.verdict == Some(Verdict::Foreign) {
            return Ok(next.done);
        }
        let first = match change {
            // Its file is what is written.
            Change::DenyFile(_) => Some((next.force.clone(), next.notes.clone())),
            Change::Fetched { .. } => old.without_what_leaves(&next.force),
            Change::Signed(_) => old.with_what_is_revoked(&next.force),
            _ => None,
        };
        let gone = first.map(|(less, notes)| {
            self.swap(less);
            notes
        });
        if let Err(error) = self.keep(change, &old, &next, &owed, now, by) {
            owed.extend(gone.unwrap_or_default());
            owed.truncate(MOST_OWED);
            return Err(error);
        }
        owed.clear();
        if !matches!(change, Change::DenyFile(_)) {
            self.swap(next.force);
        }
        for note in &next.notes {
            tracing::info!(what = %note.what, detail = %note.detail, "in force");
        }
        Ok(next.done)
    }

    /// A time that is set counts for what is made of it.
    fn moment_of(&self, change: &Change) -> Moment {
        match change {
            Change::TimeReset { to, at, .. } => Moment {
                known: self.clocks().now().max(*to),
                uptime: at.uptime,
            },
            _ => {
                let mut now = self.moment();
                now.known = now.known.max(self.issued(change).unwrap_or_default());
                now
            }
        }
    }

    /// Writes and records, both or neither, with what is owed.
    fn keep(
        &self,
        change: &Change,
        old: &Force,
        next: &Next,
        owed: &[Note],
        now: Moment,
        by: &Origin,
    ) -> Result<(), Refused> {
        let record = || {
            let owed = owed.iter().map(|note| (&Origin::Daemon, note));
            let mut notes = owed.chain(next.notes.iter().map(|note| (by, note)));
            notes.try_for_each(|(by, note)| {
                let (by, detail) = (by.clone(), note.detail.clone());
                let now = self.clocks().now();
                let recorded = self.0.log.change(by, note.what, detail, now);
                recorded.map(drop).map_err(Refused::from)
            })
        };
        let save = || {
            self.0
                .keyring
                .save(&old.keys, &next.force.keys, now, record)
        };
        match change {
            Change::TimeReset { to, at, .. } => self.0.floor.reset(*to, *at, save),
            Change::Signed(_) | Change::Rooted { .. } => {
                let to = self.issued(change).unwrap_or_default();
                let fleet = next.force.fleet.as_ref().ok_or(Refused::NoRoot)?;
                let save = || self.0.vault.save(&fleet.signed.held, save);
                self.0.floor.raise(to, self.clocks().booted(), save)
            }
            _ => save(),
        }
    }

    fn swap(&self, force: Force) {
        let epoch = self.0.snapshot.load().epoch + 1;
        self.0.snapshot.store(Arc::new(force.snapshot(epoch)));
        self.0.force.store(Arc::new(force));
        self.0.epoch.send_replace(epoch);
    }

    /// Records what is no change of what is in force; durable when this returns.
    fn record(&self, what: audit::Change, detail: Value) -> Result<(), Refused> {
        let now = self.clocks().now();
        let recorded = self.0.log.change(Origin::Daemon, what, detail, now);
        Ok(recorded.map(drop)?)
    }
}

/// Configurations.
impl Authority {
    /// Reads and makes all that a configuration's realms need. Whatever can fail does so here or in
    /// [`Authority::follow`], before anything of it is in force.
    pub fn prepare(
        &self,
        realms: Vec<RealmConfig>,
        listed_models_only: bool,
    ) -> Result<Prepared, Refused> {
        let sources = realms.iter().filter_map(|realm| {
            let source = realm.jwks.clone()?;
            Some((realm.name.clone(), source))
        });
        let lines = self.0.refresher.prepare(&sources.collect())?;
        Ok(Prepared {
            listed_models_only,
            ..self.prepare_with(realms, lines)?
        })
    }

    /// What would be in force if a daemon began now; nothing is refreshed.
    pub fn survey(&self, realms: Vec<RealmConfig>) -> Result<(), Refused> {
        self.follow(self.prepare_with(realms, Lines::default())?, None)
    }

    fn prepare_with(&self, realms: Vec<RealmConfig>, lines: Lines) -> Result<Prepared, Refused> {
        let files = realms.iter().filter_map(|realm| {
            let path = realm.deny_file.clone()?;
            Some((realm.name.clone(), path))
        });
        let deny_files = self.0.deny_files.prepare(&files.collect());
        Ok(Prepared {
            deny_files: deny_files.map_err(Refused::DenyFile)?,
            realms,
            lines,
            listed_models_only: false,
        })
    }

    /// Follows what was prepared, and no other realm, from now on. `told`: what the record says.
    pub fn follow(&self, prepared: Prepared, told: Option<Value>) -> Result<(), Refused> {
        let issuers: Vec<String> = prepared.realms.iter().map(|r| r.issuer.clone()).collect();
        let change = Change::Configuration {
            denied: prepared.deny_files.lists(),
            realms: prepared.realms,
            listed_models_only: prepared.listed_models_only,
            told,
        };
        self.apply(&change, &Origin::Daemon)?;
        self.0.deny_files.follow(prepared.deny_files);
        self.0.refresher.follow(prepared.lines);
        self.ask_fleet();
        let issuers: Vec<&str> = issuers.iter().map(String::as_str).collect();
        self.0.floor.follow(&issuers, self.clocks().booted());
        Ok(())
    }
}

/// What people do.
impl Authority {
    /// Replaces the realm's keys by a person's choice.
    pub fn pin(&self, realm: &str, jwks: &[u8], by: &Origin) -> Result<(Set, Done), Refused> {
        self.pin_set(realm, Set::parse(jwks)?, by)
    }

    /// Pins the set that `fingerprint` names: the held one, or the one in force, whose keys then
    /// count as a person's choice.
    pub fn pin_held(
        &self,
        realm: &str,
        fingerprint: &str,
        by: &Origin,
    ) -> Result<(Set, Done), Refused> {
        let held = self.0.refresher.line(realm).and_then(|line| line.held());
        let named = |set: &Set| set.keys.fingerprint() == fingerprint;
        let set = match held.filter(named) {
            Some(set) => set,
            None => {
                let pinned = self.force().keys.get(realm).map(Set::from);
                let pinned = pinned.filter(named);
                pinned.ok_or_else(|| Refused::NotHeld(realm.to_owned()))?
            }
        };
        self.pin_set(realm, set, by)
    }

    fn pin_set(&self, realm: &str, set: Set, by: &Origin) -> Result<(Set, Done), Refused> {
        let change = Change::Pinned {
            realm: realm.to_owned(),
            set: set.clone(),
        };
        let done = self.apply(&change, by)?;
        if let Some(line) = self.0.refresher.line(realm) {
            line.settle();
        }
        tell_left_out(realm, &set.keys);
        Ok((set, done))
    }

    /// Sets the floor of time, also back. Returns what it was and what it is.
    pub fn reset_time(
        &self,
        to: Option<Timestamp>,
        by: &Origin,
    ) -> Result<(Timestamp, Timestamp), Refused> {
        let Reading {
            now,
            at,
            synchronised,
        } = self.clocks().reading();
        let to = to.unwrap_or(now);
        if to.as_secs() > MAX_SECS || (synchronised && to > now.saturating_add(AHEAD)) {
            return Err(Refused::TooLate { to, now });
        }
        let (was, to) = (self.0.floor.get(at.uptime), Floor::after_reset(to));
        self.apply(&Change::TimeReset { was, to, at }, by)?;
        Ok((was, to))
    }
}

/// What issuers and deny files bring.
impl Authority {
    /// Realms whose regular fetch is due and not under way.
    pub fn due(&self) -> Vec<String> {
        self.0.refresher.due()
    }

    /// Fetches the realm's keys and puts in force what is vouched for. `None`: the realm isn't
    /// refreshed. Blocks until the fetch, or the one under way, has ended.
    pub fn refresh(&self, realm: &str, why: Why) -> Option<Outcome> {
        let line = self.0.refresher.line(realm)?;
        let flight = match line.begin(why) {
            Ok(flight) => flight,
            Err(outcome) => return Some(outcome),
        };
        let outcome = match flight.fetch() {
            Ok(set) => self.fetched(realm, &flight, set),
            Err(why) => Outcome::Failed(why),
        };
        let held = flight.end(&outcome, self.moment().known);
        let labels = OfOutcome {
            realm: realm.to_owned(),
            outcome: outcome.as_str(),
        };
        self.0.refreshes.get_or_create(&labels).inc();
        if let Outcome::Failed(why) = &outcome {
            tracing::warn!(
                realm,
                why,
                "keys could not be refreshed; the pinned ones stay"
            );
        }
        if let Some(fingerprint) = held {
            tracing::warn!(realm, "an unknown key set is held; compare and pin it");
            let detail = json!({"realm": realm, "fingerprint": fingerprint});
            if let Err(error) = self.record(audit::Change::KeysHeld, detail) {
                tracing::error!(realm, %error, "a held key set could not be recorded");
            }
        }
        // Within the flight, so that whoever has waited for it sees its effect.
        drop(flight);
        Some(outcome)
    }

    fn fetched(&self, realm: &str, flight: &Flight<'_>, set: Set) -> Outcome {
        let change = Change::Fetched {
            realm: realm.to_owned(),
            set: set.clone(),
            passed: flight.passed(),
        };
        match self.apply(&change, &Origin::Daemon) {
            Ok(done) => {
                let verdict = done.verdict.unwrap_or(Verdict::Foreign);
                if verdict == Verdict::Taken {
                    tell_left_out(realm, &set.keys);
                }
                flight.judged(set, verdict)
            }
            Err(error) => Outcome::Failed(error.to_string()),
        }
    }

    /// Fetches the realm's set for a person to look at, and holds it; `true`: it is in force, and
    /// confirmed by that.
    pub fn fetch(&self, realm: &str) -> Result<(Set, bool), Refused> {
        let not_refreshed = || Refused::NotRefreshed(realm.to_owned());
        let line = self.0.refresher.line(realm).ok_or_else(not_refreshed)?;
        let flight = line.take();
        let set = flight.fetch().map_err(Refused::Fetch)?;
        let force = self.force();
        let known = force.keys.get(realm);
        if !known.is_some_and(|known| known.keys.same_keys(&set.keys)) {
            flight.hold(set.clone());
            return Ok((set, false));
        }
        match self.fetched(realm, &flight, set.clone()) {
            Outcome::Failed(why) => Err(Refused::Fetch(why)),
            outcome => Ok((set, outcome == Outcome::Confirmed)),
        }
    }

    /// What is known of the realm's refreshes.
    pub fn report(&self, realm: &str) -> Option<Report> {
        Some(self.0.refresher.line(realm)?.report())
    }

    /// The keys that vouch for a fetched set, by thumbprint.
    pub fn vouching(&self, realm: &str) -> Vec<String> {
        let force = self.force();
        let found = force.realm(realm).ok().zip(force.keys.get(realm));
        found
            .map(|(realm, pinned)| realm.vouching(pinned))
            .unwrap_or_default()
    }

    /// Looks at the deny files, and puts in force what has changed. Blocks.
    pub fn look_at_deny_files(&self) {
        let mut lists = Vec::new();
        let mut refused = Vec::new();
        for changed in self.0.deny_files.look() {
            match changed.result {
                Ok(list) => lists.push((changed.realm, list)),
                Err(why) => refused.push((changed.realm, why)),
            }
        }
        if !lists.is_empty()
            && let Err(error) = self.apply(&Change::DenyFile(lists), &Origin::Daemon)
        {
            tracing::error!(%error, "a change of a deny-list could not be recorded");
        }
        for (realm, why) in refused {
            tracing::error!(realm, why, "deny-list refused; the old one stays in force");
            let recorded = self.record(
                audit::Change::DenyListRefused,
                json!({"realm": realm, "why": why}),
            );
            if let Err(error) = recorded {
                tracing::error!(realm, %error, "a refused deny-list could not be recorded");
            }
        }
    }

    /// What is in force of the realm's file.
    pub fn deny_status(&self, realm: &str) -> Option<DenyStatus> {
        self.0.deny_files.status(realm)
    }
}
