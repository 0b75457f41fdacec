//! What the HTTP sockets count.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::telemetry::Registry;

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    requests: Family<Labels, Counter>,
    pub(super) connections: Gauge,
    pub(super) given_up: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    route: &'static str,
    status: u16,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Metrics {
        let metrics = Metrics::default();
        let requests = "Requests on the HTTP sockets by route and status";
        registry.register("slmd_http_requests", requests, metrics.requests.clone());
        let connections = "Open connections on the HTTP sockets";
        registry.register(
            "slmd_http_connections",
            connections,
            metrics.connections.clone(),
        );
        registry.register(
            "slmd_http_connections_given_up",
            "Connections that waited and made room for others",
            metrics.given_up.clone(),
        );
        metrics
    }

    /// `route` is one of a closed set, so that no client can make labels.
    pub(super) fn answered(&self, route: &'static str, status: u16) {
        self.requests.get_or_create(&Labels { route, status }).inc();
    }
}
