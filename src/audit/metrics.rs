//! The audit's metrics.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use crate::telemetry::Registry;

/// Cheap to clone; clones count together.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    pub(super) records: Counter,
    pub(super) bytes: Gauge,
    pub(super) summarised: Counter,
    pub(super) counted: Counter,
    pub(super) removed: Counter,
    pub(super) unread: Gauge,
    pub(super) fill: Gauge<f64, AtomicU64>,
    pub(super) last: Gauge<u64, AtomicU64>,
    pub(super) leaves: Gauge<u64, AtomicU64>,
    pub(super) signed: Gauge<u64, AtomicU64>,
    pub(super) signed_at: Gauge<u64, AtomicU64>,
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "slmd_audit_records",
            "Audit records written",
            self.records.clone(),
        );
        registry.register(
            "slmd_audit_bytes",
            "Bytes of audit records in the log",
            self.bytes.clone(),
        );
        registry.register(
            "slmd_audit_refusals_summarised",
            "Refusals counted into summary records",
            self.summarised.clone(),
        );
        registry.register(
            "slmd_audit_reads_summarised",
            "Permitted reads counted into summary records",
            self.counted.clone(),
        );
        registry.register(
            "slmd_audit_records_removed",
            "Audit records removed by cap and retention",
            self.removed.clone(),
        );
        registry.register(
            "slmd_audit_records_unread",
            "Records of a newer release, which this one keeps and shows but can't read",
            self.unread.clone(),
        );
        registry.register(
            "slmd_audit_fill_ratio",
            "How full the audit log is; at 1 those who have most of it lose their oldest records",
            self.fill.clone(),
        );
        registry.register(
            "slmd_audit_last_record_timestamp_seconds",
            "Time of the newest record in the audit log",
            self.last.clone(),
        );
        registry.register(
            "slmd_audit_tree_size",
            "Records of this epoch of the audit log, the removed ones too",
            self.leaves.clone(),
        );
        registry.register(
            "slmd_audit_checkpoint_size",
            "Records that the newest signed checkpoint covers",
            self.signed.clone(),
        );
        registry.register(
            "slmd_audit_checkpoint_timestamp_seconds",
            "When the device has signed its audit log since its start; 0: not yet",
            self.signed_at.clone(),
        );
    }
}
