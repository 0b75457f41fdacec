//! How an export does, for status and metrics.

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::failure::Failure;
use super::syslog::Gap;
use crate::telemetry::Registry;

/// What an export is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// `syslog` or `journald`.
    pub to: &'static str,
    /// The receiver has all records before this.
    pub confirmed: u64,
    /// Records that were removed before they could be sent, since the start.
    pub missing: u64,
    /// Why it doesn't get on.
    pub problem: Option<String>,
}

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Metrics {
    position: Family<To, Gauge>,
    lag: Family<To, Gauge>,
    sent: Family<To, Counter>,
    missing: Family<To, Counter>,
    failures: Family<Failed, Counter>,
    up: Family<To, Gauge>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct To {
    to: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failed {
    to: &'static str,
    reason: &'static str,
}

impl Metrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "slmd_audit_export_position",
            "Index of the first record that the receiver may not have",
            self.position.clone(),
        );
        registry.register(
            "slmd_audit_export_lag_records",
            "Records from there to the end of the log",
            self.lag.clone(),
        );
        registry.register(
            "slmd_audit_export_sent_records",
            "Records sent, those sent again counted again",
            self.sent.clone(),
        );
        registry.register(
            "slmd_audit_export_missing_records",
            "Records that cap or retention had removed before they were sent",
            self.missing.clone(),
        );
        registry.register(
            "slmd_audit_export_failures",
            "Connections to a receiver that failed or ended badly",
            self.failures.clone(),
        );
        registry.register(
            "slmd_audit_export_up",
            "Whether the last attempt to reach the receiver went well",
            self.up.clone(),
        );
    }
}

#[derive(Debug)]
pub(super) struct Progress {
    standing: Mutex<Standing>,
    metrics: Metrics,
    to: To,
}

impl Progress {
    pub(super) fn new(to: &'static str, metrics: &Metrics) -> Progress {
        let standing = Standing {
            to,
            confirmed: 0,
            missing: 0,
            problem: None,
        };
        let to = To { to };
        // All series are there from the start, so that a rate is told from the first failure on.
        drop(metrics.sent.get_or_create(&to));
        drop(metrics.missing.get_or_create(&to));
        for reason in Failure::REASONS {
            let failed = Failed { to: to.to, reason };
            drop(metrics.failures.get_or_create(&failed));
        }
        metrics.up.get_or_create(&to).set(1);
        Progress {
            standing: Mutex::new(standing),
            metrics: metrics.clone(),
            to,
        }
    }

    pub(super) fn to(&self) -> &'static str {
        self.to.to
    }

    pub(super) fn standing(&self) -> Standing {
        self.standing.lock().clone()
    }

    /// Before metrics are read. `next`: the index that the log gives next.
    pub(super) fn measure(&self, next: u64) {
        let confirmed = self.standing.lock().confirmed;
        let number = |value| i64::try_from(value).unwrap_or(i64::MAX);
        let (position, lag) = (&self.metrics.position, &self.metrics.lag);
        position.get_or_create(&self.to).set(number(confirmed));
        let left = next.saturating_sub(confirmed);
        lag.get_or_create(&self.to).set(number(left));
    }

    pub(super) fn confirmed(&self, index: u64) {
        self.standing.lock().confirmed = index;
    }

    pub(super) fn sent(&self, records: usize) {
        let sent = self.metrics.sent.get_or_create(&self.to);
        sent.inc_by(records as u64);
    }

    pub(super) fn missing(&self, gap: Gap) {
        let to = self.to.to;
        let (first, last) = (gap.first, gap.last);
        tracing::warn!(
            to,
            first,
            last,
            "records were removed before they were exported"
        );
        self.standing.lock().missing += gap.count();
        let missing = self.metrics.missing.get_or_create(&self.to);
        missing.inc_by(gap.count());
    }

    /// All goes well.
    pub(super) fn well(&self) {
        self.metrics.up.get_or_create(&self.to).set(1);
        if self.standing.lock().problem.take().is_some() {
            tracing::info!(to = self.to.to, "audit records are exported again");
        }
    }

    pub(super) fn failed(&self, failure: &Failure) {
        let (to, reason) = (self.to.to, failure.reason());
        self.metrics.up.get_or_create(&self.to).set(0);
        let failures = self.metrics.failures.get_or_create(&Failed { to, reason });
        failures.inc();
        let told = failure.to_string();
        let before = self.standing.lock().problem.replace(told.clone());
        if before.as_ref() != Some(&told) {
            tracing::warn!(to, reason, "audit records aren't exported: {told}");
        }
    }
}
