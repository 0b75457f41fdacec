//! Decisions and finishes, counted by the names that replies and audit use.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
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
    /// Of clients' requests by reason; permits have an empty one.
    totals: Arc<Mutex<BTreeMap<&'static str, u64>>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    transport: &'static str,
    /// Empty where no token was verified.
    realm: String,
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
            "Requests permitted and refused, by transport, realm and reason",
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

    pub(super) fn decided(
        &self,
        transport: &'static str,
        realm: Option<&str>,
        decision: Result<(), Reason>,
    ) {
        let (decision, reason) = match decision {
            Ok(()) => ("permit", ""),
            Err(reason) => ("deny", reason.as_str()),
        };
        let labels = DecisionLabels {
            transport,
            realm: realm.unwrap_or_default().to_owned(),
            decision,
            reason,
        };
        self.decisions.get_or_create(&labels).inc();
        if Transport::ALL.iter().any(|it| it.as_str() == transport) {
            *self.totals.lock().entry(reason).or_default() += 1;
        }
    }

    /// Loud, because it is for emergencies.
    pub(super) fn permitted(&self, permitted: &Permitted) {
        let request = permitted.request();
        let grant = permitted.grant();
        self.decided(request.origin.transport(), Some(&grant.realm), Ok(()));
        if grant.local_peer {
            self.local_peers.inc();
            let (peer, scope) = (&grant.principal.subject, grant.scope.as_str());
            tracing::warn!(peer, scope, "a local peer was let in without a token");
        }
    }

    /// Since the start: how many were permitted, and refused by reason.
    pub(super) fn requests(&self) -> (u64, BTreeMap<String, u64>) {
        let mut refused = self.totals.lock().clone();
        let permitted = refused.remove("").unwrap_or(0);
        let named = |(reason, count): (&str, u64)| (reason.to_owned(), count);
        (permitted, refused.into_iter().map(named).collect())
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

/// Registers all series that there can be.
#[cfg(any(test, feature = "for-tests"))]
pub fn fill(registry: &mut Registry, realms: &[String]) {
    let metrics = Metrics::register(registry);
    let prompts = ["socket", "tcp", "mqtt"];
    let known = realms
        .iter()
        .flat_map(|realm| prompts.map(|from| (from, Some(realm.as_str()))));
    let unknown = prompts
        .into_iter()
        .chain(["admin"])
        .map(|from| (from, None));
    for (transport, realm) in known.chain(unknown) {
        metrics.decided(transport, realm, Ok(()));
        for reason in Reason::all() {
            metrics.decided(transport, realm, Err(reason));
        }
    }
    for transport in prompts {
        for finish in Finish::all() {
            metrics.finished(transport, finish);
        }
    }
}
