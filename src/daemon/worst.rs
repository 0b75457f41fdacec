//! The most that `/metrics` can have to say, for tests and benchmarks: as many realms, models and
//! mirrors as a configuration may have, all with the longest names, and each label with every value.

use std::time::Duration;

use super::metrics::{Gauges, OfRealm};
use crate::auth::{KeySet, Policy, Realm};
use crate::config::{MAX_MIRRORS, MAX_MODELS, MAX_REALMS};
use crate::fleet::MirrorReport;
use crate::prompt::Scope;
use crate::telemetry::{Exposition, Format, Registry};
use crate::time::{Clocks, Mark, Moment};
use crate::transport::http;
use crate::{admission, audit, engine};

/// The longest name of a realm or a model.
const LONGEST: usize = 64;

/// Metrics with every series that there can be.
#[derive(Debug)]
pub struct Worst {
    kept: Exposition,
    realms: Vec<Realm>,
    models: Vec<String>,
    mirrors: Vec<MirrorReport>,
    now: Moment,
}

impl Default for Worst {
    fn default() -> Worst {
        let clocks = Clocks::default();
        let now = Moment {
            known: clocks.now(),
            uptime: clocks.uptime(),
        };
        let realms: Vec<Realm> = names("realm", MAX_REALMS).map(|n| realm(n, now)).collect();
        let names_of_realms: Vec<String> = realms.iter().map(|it| it.name.clone()).collect();
        let models: Vec<String> = names("model", MAX_MODELS).collect();
        let mut registry = Registry::default();
        admission::fill_metrics(&mut registry, &names_of_realms);
        engine::fill_metrics(&mut registry, &models);
        http::fill_metrics(&mut registry);
        audit::Metrics::default().register(&mut registry);
        let mirror = |place| MirrorReport {
            place,
            asked_at: Some(now.known),
            error: None,
            good_at: Some(now.uptime),
        };
        Worst {
            kept: Exposition::new(registry),
            realms,
            models,
            mirrors: names("https://mirror", MAX_MIRRORS).map(mirror).collect(),
            now,
        }
    }
}

impl Worst {
    pub fn text(&self, format: Format) -> String {
        let mut gauges = Gauges::default();
        let of = |realm| OfRealm {
            realm,
            held: Some(true),
            denied: 100,
            unread: Some(true),
        };
        let realms: Vec<OfRealm<'_>> = self.realms.iter().map(of).collect();
        gauges.add_realms(&realms, self.now);
        gauges.add_mirrors(&self.mirrors, self.now);
        let digest = "0".repeat(64);
        let models = self.models.iter();
        gauges.add_models(models.map(|name| (name.as_str(), digest.as_str())));
        self.kept.text(&gauges.registry(), format)
    }
}

fn names(of: &str, count: usize) -> impl Iterator<Item = String> {
    (0..count).map(move |number| {
        let name = format!("{of}-{number}-");
        format!("{name:x<LONGEST$}")
    })
}

fn realm(name: String, now: Moment) -> Realm {
    let mut policy = Policy::default();
    for scope in Scope::ALL {
        policy
            .offline_grace
            .insert(scope, Duration::from_secs(86_400));
    }
    Realm {
        issuer: format!("https://keycloak.example/realms/{name}"),
        name,
        policy,
        endpoints: Vec::new(),
        keys: KeySet::default(),
        confirmed: Some(Mark::here(now)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_happens_there_are_no_more_series_than_prometheus_bears() {
        let worst = Worst::default();
        let series = |format| {
            let text = worst.text(format);
            text.lines().filter(|line| !line.starts_with('#')).count()
        };
        let count = series(Format::OpenMetrics);
        assert_eq!(count, series(Format::Text));
        assert!((10_000..16_000).contains(&count), "{count}");
    }
}
