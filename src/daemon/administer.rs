//! Administration over the opened state: the same for a running daemon and for the command line
//! while none runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::State;
use crate::admin::{
    ClientFloor, ClockStatus, EndpointStatus, Keys, KeysChanged, Pinned, RealmStatus, RefreshStatus,
};
use crate::auth::{self, Explanation, Realm, Snapshot, ToExplain};
use crate::authority::{self, Done, Refused};
use crate::config::Config;
use crate::keysync::{Outcome, Set};
use crate::prompt::{Origin, Scope};
use crate::time::{Moment, Reading, Timestamp};

impl State {
    /// The realms of what is in force. What only a running daemon knows is left out without one.
    pub fn realm_statuses(&self, snapshot: &Snapshot) -> Vec<RealmStatus> {
        let now = self.authority.moment();
        let realms = snapshot.realms.values();
        realms.map(|realm| self.realm_status(realm, now)).collect()
    }

    fn realm_status(&self, realm: &Realm, now: Moment) -> RealmStatus {
        let stops = Scope::ALL.into_iter().filter_map(|scope| {
            let at = realm.stops_at(scope, now)?;
            Some((scope.as_str().to_owned(), at.to_string()))
        });
        let endpoints = realm.endpoints.iter().map(|endpoint| EndpointStatus {
            client_id: endpoint.client_id.clone(),
            model: endpoint.model.clone(),
        });
        let (refresh, held) = self.refresh_status(&realm.name, now.known);
        RealmStatus {
            name: realm.name.clone(),
            issuer: realm.issuer.clone(),
            keys: Keys::from(&realm.keys),
            keys_source: self.keys_source(&realm.name).map(str::to_owned),
            keys_age_seconds: realm.confirmed.map(|at| at.age(now).as_secs()),
            keys_confirmed_at: realm.confirmed.map(|at| at.shown(now).to_string()),
            scope_stops_at: stops.collect(),
            endpoints: endpoints.collect(),
            keys_changed: self.keys_changed(&realm.name),
            refresh,
            held,
            deny_list: self.authority.deny_status(&realm.name),
        }
    }

    /// Who has chosen the realm's keys.
    fn keys_source(&self, realm: &str) -> Option<&'static str> {
        let force = self.authority.force();
        let pinned = force.keys.get(realm)?;
        let signed = force.fleet.as_ref().and_then(|f| f.signed.keys.get(realm));
        Some(match signed {
            Some(signed) if signed.keys.same_keys(&pinned.keys) => "fleet",
            _ if pinned.history.is_by_hand(&pinned.keys.thumbprints()) => "hand",
            _ => "https",
        })
    }

    pub(super) fn keys_changed(&self, realm: &str) -> Option<KeysChanged> {
        let force = self.authority.force();
        let (at, change) = force.keys.get(realm)?.changed.clone()?;
        let at = at.to_string();
        Some(KeysChanged { at, change })
    }

    /// How the realm's refreshes go, and the set that is held.
    pub(super) fn refresh_status(
        &self,
        realm: &str,
        now: Timestamp,
    ) -> (Option<RefreshStatus>, Option<Keys>) {
        let Some(report) = self.authority.report(realm) else {
            return (None, None);
        };
        let held = report.held.as_ref().map(|held| Keys::from(&held.keys));
        let (outcome, at) = report.last.unzip();
        let refresh = RefreshStatus {
            last_outcome: outcome.as_ref().map(|outcome| outcome.as_str().to_owned()),
            last_at: at.map(|at| at.to_string()),
            why: match outcome {
                Some(Outcome::Failed(why)) => Some(why),
                _ => None,
            },
            next_at: now.saturating_add(report.next_in).to_string(),
            vouching: self.authority.vouching(realm),
        };
        (Some(refresh), held)
    }

    pub(super) fn clock_status(&self, snapshot: &Snapshot) -> ClockStatus {
        let Reading {
            now,
            at,
            synchronised,
        } = self.authority.clocks().reading();
        let floor = self.authority.floor().get(at.uptime);
        let mut status = ClockStatus {
            now: now.to_string(),
            floor: floor.to_string(),
            floor_ahead_seconds: floor.since(now).as_secs(),
            synchronised,
            ..ClockStatus::default()
        };
        let floors = match synchronised {
            true => Arc::default(),
            false => self.authority.floor().realms(now, at.uptime),
        };
        for realm in snapshot.realms.values() {
            let Some(told) = floors.get(&realm.issuer) else {
                continue;
            };
            if told.floor > floor {
                let floor = told.floor.to_string();
                status.realm_floors.insert(realm.name.clone(), floor);
            }
            if let Some((client, at)) = told.ahead.as_ref().filter(|(_, at)| *at > floor) {
                let (client, floor) = (client.clone(), at.to_string());
                let told = ClientFloor { client, floor };
                status.client_floors.insert(realm.name.clone(), told);
            }
        }
        status
    }

    /// Tells check by check what becomes of the token.
    pub fn explain(&self, snapshot: &Snapshot, asked: &ToExplain) -> Explanation {
        auth::explain(asked, snapshot, &self.authority.clock())
    }

    /// Pins keys that a person has chosen, where no daemon runs.
    pub fn pin(
        &self,
        config: &Config,
        realm: &str,
        jwks: &[u8],
        origin: &Origin,
    ) -> Result<Pinned, Refused> {
        let change = authority::Change::Configuration {
            realms: config.realms.clone(),
            denied: BTreeMap::new(),
            listed_models_only: false,
            told: None,
        };
        self.authority.apply(&change, origin)?;
        let pinned = self.authority.pin(realm, jwks, origin)?;
        Ok(pinned_as(realm, &pinned))
    }
}

pub(super) fn pinned_as(realm: &str, (set, done): &(Set, Done)) -> Pinned {
    Pinned {
        realm: realm.to_owned(),
        keys: Keys::from(&set.keys),
        change: done.difference.clone(),
    }
}
