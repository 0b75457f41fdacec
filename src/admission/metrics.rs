//! Decisions and finishes, counted by the names that replies and audit use.

use std::collections::BTreeMap;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::auth::Permitted;
use crate::prompt::{Finish, Transport};
use crate::reason::{DenyReason, Reason};
use crate::telemetry::Registry;

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Metrics {
    decisions: Family<DecisionLabels, Counter>,
    finishes: Family<FinishLabels, Counter>,
    local_peers: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    transport: &'static str,
    decision: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FinishLabels {
    transport: &'static str,
    finish: &'static str,
    /// Of a permission that was taken away.
    reason: &'static str,
}

impl Metrics {
    pub(super) fn register(registry: &mut Registry) -> Metrics {
        let metrics = Metrics::default();
        registry.register(
            "slmd_decisions",
            "Requests permitted and refused, by transport and reason",
            metrics.decisions.clone(),
        );
        registry.register(
            "slmd_finishes",
            "Answers ended, by transport and how",
            metrics.finishes.clone(),
        );
        registry.register(
            "slmd_local_peer_permits",
            "Requests permitted to local groups without a token",
            metrics.local_peers.clone(),
        );
        metrics
    }

    pub(super) fn decided(&self, transport: &'static str, decision: Result<(), Reason>) {
        let (decision, reason) = match decision {
            Ok(()) => ("permit", ""),
            Err(reason) => ("deny", reason.as_str()),
        };
        let labels = DecisionLabels {
            transport,
            decision,
            reason,
        };
        self.decisions.get_or_create(&labels).inc();
    }

    /// Loud, because it is for emergencies.
    pub(super) fn permitted(&self, permitted: &Permitted) {
        let request = permitted.request();
        self.decided(request.origin.transport(), Ok(()));
        let grant = permitted.grant();
        if grant.local_peer {
            self.local_peers.inc();
            let (peer, scope) = (&grant.principal.subject, grant.scope.as_str());
            tracing::warn!(peer, scope, "a local peer was let in without a token");
        }
    }

    /// Since the start: how many were permitted, and refused by reason.
    pub(super) fn requests(&self) -> (u64, BTreeMap<String, u64>) {
        let count = |decision, reason| {
            let one = |transport: &Transport| {
                let transport = transport.as_str();
                let labels = DecisionLabels {
                    transport,
                    decision,
                    reason,
                };
                self.decisions
                    .get(&labels)
                    .map_or(0, |counter| counter.get())
            };
            Transport::ALL.iter().map(one).sum::<u64>()
        };
        let refused = Reason::all().map(|reason| (reason.as_str(), count("deny", reason.as_str())));
        let refused = refused.filter(|(_, count)| *count > 0);
        let refused = refused.map(|(reason, count)| (reason.to_owned(), count));
        (count("permit", ""), refused.collect())
    }

    pub(super) fn finished(&self, transport: &'static str, finish: Finish) {
        let labels = FinishLabels {
            transport,
            finish: finish.as_str(),
            reason: finish.reason().map_or("", DenyReason::as_str),
        };
        self.finishes.get_or_create(&labels).inc();
    }
}
