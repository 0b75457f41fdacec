//! What is true at the moment of keys, trust, clock, disk and the rest. It is read when Prometheus
//! asks, and kept nowhere: so nothing of it is out of date, or of a realm that is gone.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};

use super::core::Core;
use crate::admin::Kind;
use crate::auth::Realm;
use crate::authority::{Authority, Fleet};
use crate::config::Config;
use crate::fleet::MirrorReport;
use crate::prompt::Scope;
use crate::telemetry::Registry;
use crate::time::{Moment, Timestamp};
use crate::tls;
use crate::transport::http::Control;

/// Gauges of one moment.
#[derive(Debug, Default)]
pub(super) struct Gauges(Registry);

type Labels<const N: usize> = [(&'static str, String); N];

/// What is told of a realm.
pub(super) struct OfRealm<'a> {
    pub(super) realm: &'a Realm,
    /// Whether a fetched key set waits for a person; `None`: none is fetched.
    pub(super) held: Option<bool>,
    pub(super) denied: u64,
    /// Whether its deny file can't be read; `None`: it has none.
    pub(super) unread: Option<bool>,
}

impl Core {
    /// May wait for the disk.
    pub(super) fn gauges(&self) -> Registry {
        let (authority, config) = (&self.state.authority, self.config.load());
        let (now, snapshot) = (authority.moment(), authority.snapshot());
        self.exports.measure(&self.state.log);
        self.witnesses.set_metrics(now.known);
        let mut gauges = Gauges::default();
        gauges.add_clock(authority, now);
        let realms: Vec<OfRealm<'_>> = snapshot
            .realms
            .values()
            .map(|realm| {
                let list = snapshot.deny.realms.get(&realm.issuer);
                OfRealm {
                    realm,
                    held: authority.report(&realm.name).map(|r| r.held.is_some()),
                    denied: list.map_or(0, |list| list.entries() as u64),
                    unread: authority
                        .deny_status(&realm.name)
                        .map(|status| status.problem.is_some()),
                }
            })
            .collect();
        gauges.add_realms(&realms, now);
        if let Some(fleet) = &authority.force().fleet {
            gauges.add_fleet(fleet, now);
        }
        if let Some(heard) = authority.fleet_heard() {
            let help = "Since a mirror of the fleet was found to be good and up to date";
            let age = now.uptime.since(heard).as_secs();
            gauges.one("slmd_trust_age_seconds", help, age);
        }
        gauges.add_mirrors(&authority.mirrors().unwrap_or_default(), now);
        self.add_itself(&config, &mut gauges);
        self.add_state(&config, &mut gauges);
        self.add_problems(&mut gauges);
        gauges.registry()
    }

    /// All kinds, so that one that is over is seen to be.
    fn add_problems(&self, gauges: &mut Gauges) {
        self.notice();
        let problems = Kind::ALL.iter().map(|kind| {
            let (name, severity) = (kind.name().to_owned(), kind.severity().to_owned());
            let labels = [("problem", name), ("severity", severity)];
            (labels, self.noticed.count(*kind) as u64)
        });
        let help = "How often something is wrong, in the words of slmd status";
        gauges.each("slmd_problems", help, problems);
    }

    fn add_itself(&self, config: &Config, gauges: &mut Gauges) {
        let device = config.identity.device.clone();
        let kernels = self.engine.kernels().0.as_str().to_owned();
        let labels = [("device", device), ("kernels", kernels)];
        let help = "The device's name, and the kernels that it computes with";
        gauges.each("slmd_device_info", help, [(labels, 1)]);
        gauges.add_models(self.engine.digests());
        let help = "Whether prompts can be answered; status says why not";
        gauges.one("slmd_ready", help, self.ready().is_ok().into());
        let help = "Whether the daemon is going down";
        gauges.one("slmd_draining", help, self.shutdown.is_draining().into());
        let reload = *self.last_reload.lock();
        let help = "Whether the configuration was taken when it was read last";
        gauges.one(
            "slmd_config_last_reload_successful",
            help,
            reload.taken.into(),
        );
        let help = "When the configuration in force was read";
        let at = reload.in_force_since.as_secs();
        gauges.one(
            "slmd_config_last_reload_success_timestamp_seconds",
            help,
            at,
        );
        let help = "Prompts that may wait for the engine";
        gauges.one("slmd_queue_capacity", help, config.engine.queue as u64);
        let help = "Connections that each HTTP socket may have open";
        let limit = config.http.max_connections as u64;
        gauges.one("slmd_http_connections_limit", help, limit);
        if let Some(mqtt) = &self.mqtt {
            let help = "Whether status tells of something wrong with the broker's connection";
            let problem = mqtt.status().problem.is_some();
            gauges.one("slmd_mqtt_problem", help, problem.into());
        }
        let own = config.mqtt.as_ref().and_then(|mqtt| mqtt.tls.as_ref());
        let own = own.and_then(|tls| tls.own.as_ref());
        gauges.add_certificates([
            ("https", self.certificates.ends_at()),
            ("mqtts", own.and_then(tls::ends_at)),
        ]);
    }

    fn add_state(&self, config: &Config, gauges: &mut Gauges) {
        let store = &self.state.store;
        let help = "Whether records can be written; without one nothing is answered";
        gauges.one(
            "slmd_store_writable",
            help,
            store.problem().is_none().into(),
        );
        if let Some((free, size)) = store.disk() {
            let help = "Room that is left on the disk of the state folder";
            gauges.one("slmd_disk_free_bytes", help, free);
            let help = "Size of the disk of the state folder";
            gauges.one("slmd_disk_size_bytes", help, size);
        }
        let help = "What the audit log may take on the disk";
        gauges.one("slmd_audit_max_bytes", help, config.audit.max_bytes);
        // Where the log can't be read, the store's own gauge says so.
        if let Ok(Some(oldest)) = self.state.log.oldest() {
            let help = "Time of the oldest record in the audit log";
            let name = "slmd_audit_oldest_record_timestamp_seconds";
            gauges.one(name, help, oldest.as_secs());
        }
    }
}

impl Gauges {
    pub(super) fn registry(self) -> Registry {
        self.0
    }

    fn one(&mut self, name: &str, help: &str, value: u64) {
        self.0.register(name, help, ConstGauge::new(value));
    }

    /// Nothing where there are no values.
    fn each<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<N>, u64)>,
    ) {
        let family = Family::<Labels<N>, Gauge<u64, AtomicU64>>::default();
        let mut values = values.into_iter().peekable();
        if values.peek().is_none() {
            return;
        }
        for (labels, value) in values {
            family.get_or_create(&labels).set(value);
        }
        self.0.register(name, help, family);
    }

    fn add_clock(&mut self, authority: &Authority, now: Moment) {
        let help = "Whether the clock is kept in step with a time source";
        let synchronised = authority.clocks().synchronised();
        self.one("slmd_clock_synchronised", help, synchronised.into());
        let help = "What the device's clock says";
        let clock = authority.clocks().now().as_secs();
        self.one("slmd_clock_timestamp_seconds", help, clock);
        let help = "The time before which it certainly isn't";
        let floor = authority.floor().get(now.uptime).as_secs();
        self.one("slmd_clock_floor_timestamp_seconds", help, floor);
    }

    pub(super) fn add_realms(&mut self, realms: &[OfRealm<'_>], now: Moment) {
        let each = |value: &dyn Fn(&OfRealm<'_>) -> Option<u64>| {
            let labelled = |of: &OfRealm<'_>| Some((realm_label(of), value(of)?));
            realms.iter().filter_map(labelled).collect::<Vec<_>>()
        };
        let keys = each(&|of| Some(of.realm.keys.keys().len() as u64));
        self.each("slmd_keys_usable", "Keys of a realm that count", keys);
        let left_out = each(&|of| Some(of.realm.keys.skipped().len() as u64));
        let help = "Keys of a realm that can't be used; `slmd keys list` says why";
        self.each("slmd_keys_left_out", help, left_out);
        let ages = each(&|of| Some(of.realm.confirmed?.age(now).as_secs()));
        let help = "Since a realm's keys were confirmed";
        self.each("slmd_keys_age_seconds", help, ages);
        let held = each(&|of| of.held.map(u64::from));
        let help = "Whether a fetched key set waits for a person";
        self.each("slmd_keys_held", help, held);
        let denied = each(&|of| Some(of.denied));
        let help = "Revocations of a realm that count, the fleet's too";
        self.each("slmd_deny_list_entries", help, denied);
        let unread = each(&|of| of.unread.map(u64::from));
        let help = "Whether a realm's deny file can't be read, so that the list before it counts";
        self.each("slmd_deny_file_unreadable", help, unread);
        let scopes = realms.iter().flat_map(|of| {
            Scope::ALL.into_iter().filter_map(|scope| {
                let [realm] = realm_label(of);
                let labels = [realm, ("scope", scope.as_str().to_owned())];
                let stops_at = of.realm.stops_at(scope, now)?;
                Some((labels, stops_at.since(now.known).as_secs()))
            })
        });
        let help = "Until a scope stops unless the keys are confirmed";
        self.each("slmd_scope_remaining_seconds", help, scopes);
    }

    fn add_fleet(&mut self, fleet: &Fleet, now: Moment) {
        let versions = fleet.signed.versions;
        let roles = [
            ("root", Some(versions.root)),
            ("timestamp", versions.timestamp),
            ("snapshot", versions.snapshot),
            ("targets", versions.targets),
            ("revocation", versions.revocation),
        ];
        let versions = roles.into_iter().filter_map(|(role, version)| {
            let labels = [("role", role.to_owned())];
            Some((labels, version?))
        });
        let help = "Version of each role of the fleet's that is trusted";
        self.each("slmd_trust_version", help, versions);
        if let Some(end) = fleet.signed.expires {
            let help = "Until keys that the fleet has signed begin to grow old";
            let remaining = end.since(now.known).as_secs();
            self.one("slmd_trust_remaining_seconds", help, remaining);
        }
    }

    pub(super) fn add_mirrors(&mut self, mirrors: &[MirrorReport], now: Moment) {
        let label = |mirror: &MirrorReport| [("mirror", mirror.place.clone())];
        let ages = mirrors.iter().filter_map(|mirror| {
            let age = now.uptime.since(mirror.good_at?).as_secs();
            Some((label(mirror), age))
        });
        let help = "Since a mirror of the fleet had nothing wrong";
        self.each("slmd_trust_mirror_age_seconds", help, ages);
        let good = mirrors.iter().map(|mirror| {
            let good = mirror.asked_at.is_some() && mirror.error.is_none();
            (label(mirror), good.into())
        });
        let help = "Whether a mirror of the fleet had nothing wrong when it was asked last";
        self.each("slmd_trust_mirror_good", help, good);
    }

    pub(super) fn add_models<'a>(&mut self, models: impl Iterator<Item = (&'a str, &'a str)>) {
        let models = models.map(|(name, digest)| {
            let digest = format!("sha256:{digest}");
            ([("model", name.to_owned()), ("digest", digest)], 1)
        });
        let help = "The models that are loaded";
        self.each("slmd_model_info", help, models);
    }

    fn add_certificates(&mut self, ends: [(&str, Option<Timestamp>); 2]) {
        let ends = ends.into_iter().filter_map(|(scheme, end)| {
            let labels = [("scheme", scheme.to_owned())];
            Some((labels, end?.as_secs()))
        });
        let help = "When the device's own certificate ends, as server and as the broker's client";
        self.each("slmd_tls_certificate_expiry_timestamp_seconds", help, ends);
    }
}

fn realm_label(of: &OfRealm<'_>) -> Labels<1> {
    [("realm", of.realm.name.clone())]
}
