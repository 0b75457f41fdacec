//! Metrics of keys, deny-lists and clock: set when they are read.

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::admin::Kind;
use crate::auth::Realm;
use crate::authority::Fleet;
use crate::prompt::Scope;
use crate::telemetry::Registry;
use crate::time::{Moment, Timestamp, Uptime};

#[derive(Debug, Default)]
pub(super) struct Metrics {
    keys_age: Family<OfRealm, Gauge>,
    scope_remaining: Family<OfScope, Gauge>,
    held: Family<OfRealm, Gauge>,
    deny_entries: Family<OfRealm, Gauge>,
    trust_version: Family<OfRole, Gauge>,
    trust_age: Family<Unlabelled, Gauge>,
    trust_remaining: Family<Unlabelled, Gauge>,
    synchronised: Gauge,
    floor: Gauge,
    problems: Family<OfProblem, Gauge>,
    /// Readers take turns, so that none sees the realms of another half replaced.
    pub(super) turn: Mutex<()>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRealm {
    realm: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfScope {
    realm: String,
    scope: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRole {
    role: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfProblem {
    problem: &'static str,
    severity: &'static str,
}

/// A family of one, so that it can be absent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Unlabelled {}

impl Metrics {
    pub(super) fn register(registry: &mut Registry) -> Metrics {
        let metrics = Metrics::default();
        let mut gauges = |name: &str, help: &str, family: &Family<OfRealm, Gauge>| {
            registry.register(name, help, family.clone());
        };
        let age = "Since a realm's keys were confirmed";
        gauges("slmd_keys_age_seconds", age, &metrics.keys_age);
        let held = "Whether a fetched key set waits for a person";
        gauges("slmd_keys_held", held, &metrics.held);
        let entries = "Entries of a realm's deny-list";
        gauges("slmd_deny_list_entries", entries, &metrics.deny_entries);
        registry.register(
            "slmd_scope_remaining_seconds",
            "Until a scope stops unless the keys are confirmed",
            metrics.scope_remaining.clone(),
        );
        registry.register(
            "slmd_trust_version",
            "Version of each role of the fleet's that is trusted",
            metrics.trust_version.clone(),
        );
        registry.register(
            "slmd_trust_age_seconds",
            "Since a mirror of the fleet was found to be good and up to date",
            metrics.trust_age.clone(),
        );
        registry.register(
            "slmd_trust_remaining_seconds",
            "Until keys that the fleet has signed begin to grow old",
            metrics.trust_remaining.clone(),
        );
        registry.register(
            "slmd_clock_synchronised",
            "Whether the clock is kept in step with a time source",
            metrics.synchronised.clone(),
        );
        registry.register(
            "slmd_clock_floor_timestamp_seconds",
            "The time before which it certainly isn't",
            metrics.floor.clone(),
        );
        registry.register(
            "slmd_problems",
            "What is wrong, as slmd status tells it",
            metrics.problems.clone(),
        );
        metrics
    }

    /// All of them, so that one that is over is seen to be.
    pub(super) fn set_problems(&self, count: impl Fn(Kind) -> usize) {
        for kind in Kind::ALL.iter().copied() {
            let labels = OfProblem {
                problem: kind.name(),
                severity: kind.severity(),
            };
            let gauge = self.problems.get_or_create(&labels);
            gauge.set(number(count(kind) as u64));
        }
    }

    pub(super) fn set_clock(&self, floor: Timestamp, synchronised: bool) {
        self.floor.set(number(floor.as_secs()));
        self.synchronised.set(synchronised.into());
    }

    pub(super) fn set_fleet(&self, fleet: Option<&Fleet>, heard: Option<Uptime>, now: Moment) {
        self.trust_version.clear();
        self.trust_age.clear();
        self.trust_remaining.clear();
        let Some(fleet) = fleet else { return };
        let versions = fleet.signed.versions;
        let roles = [
            ("root", Some(versions.root)),
            ("timestamp", versions.timestamp),
            ("snapshot", versions.snapshot),
            ("targets", versions.targets),
            ("revocation", versions.revocation),
        ];
        for (role, version) in roles {
            if let Some(version) = version {
                let gauge = self.trust_version.get_or_create(&OfRole { role });
                gauge.set(number(version));
            }
        }
        if let Some(heard) = heard {
            let age = self.trust_age.get_or_create(&Unlabelled {});
            age.set(number(now.uptime.since(heard).as_secs()));
        }
        if let Some(end) = fleet.signed.expires {
            let remaining = self.trust_remaining.get_or_create(&Unlabelled {});
            remaining.set(number(end.since(now.known).as_secs()));
        }
    }

    /// Begins anew, so that a realm that is gone leaves nothing behind.
    pub(super) fn clear_realms(&self) {
        self.keys_age.clear();
        self.scope_remaining.clear();
        self.held.clear();
        self.deny_entries.clear();
    }

    pub(super) fn set_realm(
        &self,
        realm: &Realm,
        now: Moment,
        held: Option<bool>,
        denied: Option<usize>,
    ) {
        let name = OfRealm {
            realm: realm.name.clone(),
        };
        if let Some(confirmed) = realm.confirmed {
            let age = self.keys_age.get_or_create(&name);
            age.set(number(confirmed.age(now).as_secs()));
        }
        for scope in Scope::ALL {
            let Some(stops_at) = realm.stops_at(scope, now) else {
                continue;
            };
            let labels = OfScope {
                realm: realm.name.clone(),
                scope: scope.as_str(),
            };
            let remaining = self.scope_remaining.get_or_create(&labels);
            remaining.set(number(stops_at.since(now.known).as_secs()));
        }
        if let Some(held) = held {
            self.held.get_or_create(&name).set(held.into());
        }
        if let Some(entries) = denied {
            self.deny_entries
                .get_or_create(&name)
                .set(number(entries as u64));
        }
    }
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
