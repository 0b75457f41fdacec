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
    connections: Family<OfSocket, Gauge>,
    given_up: Family<OfSocket, Counter>,
}

/// Of one listening socket. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Connections {
    pub(super) open: Gauge,
    pub(super) given_up: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSocket {
    socket: &'static str,
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
        let connections = "Open connections of each HTTP socket";
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

    pub(super) fn connections(&self, socket: &'static str) -> Connections {
        let socket = OfSocket { socket };
        Connections {
            open: self.connections.get_or_create(&socket).clone(),
            given_up: self.given_up.get_or_create(&socket).clone(),
        }
    }

    /// `route` is one of a closed set, so that no client can make labels.
    pub(super) fn answered(&self, route: &'static str, status: u16) {
        self.requests.get_or_create(&Labels { route, status }).inc();
    }
}

/// Registers all series that there can be.
#[cfg(any(test, feature = "for-tests"))]
pub fn fill(registry: &mut Registry) {
    let metrics = Metrics::register(registry);
    for socket in ["unix", "tcp", "tls", "admin"] {
        metrics.connections(socket).open.inc();
    }
    let admin = crate::admin::Operation::ALL
        .iter()
        .map(|it| it.route().path);
    let routes = super::route::names().chain(admin).chain(["other"]);
    for route in routes {
        for reason in crate::reason::Reason::all() {
            metrics.answered(route, reason.status());
        }
        metrics.answered(route, 200);
    }
}
