//! What the device's report says: what is in force now, and how its fleet's mirrors do.

use serde_json::Map;

use super::core::Core;
use super::report::{Head, Log};
use crate::admin::{Cosigned, TrustFailure, WitnessStatus};
use crate::auth;
use crate::config::Config;
use crate::reason::DenyReason;
use crate::time::{self, Moment};
use crate::trust::report::{Audit, Fleet, Realm, Report, VERSION};
use crate::witness::{Refused, Standing};

impl Core {
    /// Once a second. May wait for the disk.
    pub(super) fn report(&self) {
        let config = self.config.load();
        let (Some(mqtt), true) = (&self.mqtt, reports(&config)) else {
            return;
        };
        let status = mqtt.status();
        let connection = status.connected.then_some(status.reconnects);
        let report = self.statement(&config);
        let checkpoint = self.state.log.checkpoint();
        let log = Log {
            head: Head {
                signed: checkpoint.map(|signed| (signed.epoch, signed.size)),
                disputed: self.witnesses.disputed(),
            },
            say: || self.witnesses.statement(),
        };
        let told = self.reporter.tell(report, log, connection, time::instant());
        let told = told.map(|report| report.and_then(|report| report.audit));
        match told {
            Ok(Some(audit)) => self.shown(&audit),
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "the fleet isn't told what is in force"),
        }
    }

    /// The next reports prove that the log has grown from what this one shows.
    fn shown(&self, audit: &Audit) {
        if let Err(error) = self.witnesses.reported(&audit.checkpoint) {
            tracing::error!(%error, "what was reported of the audit log isn't kept");
        }
    }

    /// Who watches the audit log, as status tells it.
    pub(super) fn witnessed(&self) -> Vec<WitnessStatus> {
        let all = self.witnesses.standing().into_iter();
        let status = |one: Standing| WitnessStatus {
            name: one.name,
            url: one.url,
            cosigned: one.cosigned.map(|(epoch, size, at)| Cosigned {
                epoch,
                size,
                at: at.to_string(),
            }),
            alarm: one.refused.as_ref().is_some_and(Refused::is_alarm),
            refused: one.refused.map(|refused| TrustFailure {
                reason: refused.name().to_owned(),
                why: refused.to_string(),
            }),
        };
        all.map(status).collect()
    }

    /// Not numbered yet.
    fn statement(&self, config: &Config) -> Report {
        let authority = &self.state.authority;
        let (now, snapshot) = (authority.moment(), authority.snapshot());
        let realms = snapshot.realms.values().map(|realm| {
            let denied = snapshot.deny.realms.get(&realm.issuer);
            let denied = denied.map_or(0, |list| list.entries() as u64);
            (realm.name.clone(), in_force(realm, denied, now))
        });
        let models = self.engine.digests();
        let models = models.map(|(name, digest)| (name.to_owned(), format!("sha256:{digest}")));
        let mut mirrors = authority.mirrors().unwrap_or_default().into_iter();
        let mut refused = mirrors.find_map(|mirror| Some(mirror.error?.name().to_owned()));
        let force = authority.force();
        if force
            .fleet
            .as_ref()
            .is_some_and(|fleet| !fleet.unread.is_empty())
        {
            refused = Some(DenyReason::TrustUnread.to_string());
        }
        Report {
            version: VERSION,
            device: config.identity.device.clone(),
            counter: 0,
            time: authority.clocks().now(),
            synchronised: authority.clocks().synchronised(),
            floor: authority.floor().get(now.uptime),
            slmd: env!("CARGO_PKG_VERSION").to_owned(),
            fleet: self.followed(config),
            realms: realms.collect(),
            models: models.collect(),
            error: refused,
            audit: None,
            more: Map::new(),
        }
    }

    /// `None`: no fleet is configured, or no root of it is pinned.
    fn followed(&self, config: &Config) -> Option<Fleet> {
        let force = self.state.authority.force();
        let versions = force.fleet.as_ref()?.signed.versions;
        Some(Fleet {
            name: config.fleet.as_ref()?.name.clone(),
            root: versions.root,
            timestamp: versions.timestamp.unwrap_or(0),
            snapshot: versions.snapshot.unwrap_or(0),
            targets: versions.targets.unwrap_or(0),
            revocation: versions.revocation.unwrap_or(0),
            more: Map::new(),
        })
    }
}

/// Whoever follows a fleet tells it what came of that, unless it is said otherwise.
fn reports(config: &Config) -> bool {
    let settings = config.mqtt.as_ref();
    settings.is_some_and(|mqtt| mqtt.report.unwrap_or(config.fleet.is_some()))
}

fn in_force(realm: &auth::Realm, denied: u64, now: Moment) -> Realm {
    let keys = realm.keys.keys();
    Realm {
        keys: keys.iter().map(|key| key.thumbprint.clone()).collect(),
        kids: keys.into_iter().map(|key| key.kid).collect(),
        confirmed: realm.confirmed.map(|at| at.shown(now)),
        denied,
        more: Map::new(),
    }
}
