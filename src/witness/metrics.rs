//! Metrics of witnesses: sizes and ages are set when they are read.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::{Refused, Standing};
use crate::telemetry::Registry;
use crate::time::Timestamp;

#[derive(Debug, Default)]
pub(super) struct Metrics {
    age: Family<OfWitness, Gauge>,
    size: Family<OfWitness, Gauge>,
    alarm: Family<OfWitness, Gauge>,
    refused: Family<ByReason, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfWitness {
    witness: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    witness: String,
    reason: &'static str,
}

impl Metrics {
    pub(super) fn register(registry: &mut Registry) -> Metrics {
        let metrics = Metrics::default();
        registry.register(
            "slmd_audit_witness_age_seconds",
            "Since a witness has cosigned the audit log last, by its clock",
            metrics.age.clone(),
        );
        registry.register(
            "slmd_audit_witness_size",
            "Records of the audit log that a witness has cosigned",
            metrics.size.clone(),
        );
        registry.register(
            "slmd_audit_witness_alarm",
            "Whether a witness has seen an audit log that this one can't have grown from",
            metrics.alarm.clone(),
        );
        registry.register(
            "slmd_audit_witness_refusals",
            "What a witness didn't take of the audit log, or the daemon of its answers",
            metrics.refused.clone(),
        );
        metrics
    }

    pub(super) fn set(&self, all: &[Standing], now: Timestamp) {
        self.age.clear();
        self.size.clear();
        self.alarm.clear();
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        for one in all {
            let label = OfWitness {
                witness: one.name.clone(),
            };
            if let Some((_, size, at)) = one.cosigned {
                self.size.get_or_create(&label).set(number(size));
                let age = self.age.get_or_create(&label);
                age.set(number(now.since(at).as_secs()));
            }
            let alarm = one.refused.as_ref().is_some_and(Refused::is_alarm);
            self.alarm.get_or_create(&label).set(alarm.into());
        }
    }

    pub(super) fn refused(&self, witness: &str, reason: &'static str) {
        let label = ByReason {
            witness: witness.to_owned(),
            reason,
        };
        self.refused.get_or_create(&label).inc();
    }
}
