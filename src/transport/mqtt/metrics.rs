//! What Prometheus sees of MQTT.

use std::sync::atomic::AtomicI64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::telemetry::Registry;

type Labels = Vec<(&'static str, String)>;

#[derive(Debug, Clone, Default)]
pub struct Metrics {
    connected: Gauge<i64, AtomicI64>,
    reconnects: Counter,
    requests: Family<Labels, Counter>,
    duplicates: Counter,
    excess: Counter,
    untold: Counter,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Metrics {
        let metrics = Metrics::default();
        registry.register(
            "slmd_mqtt_connected",
            "1 while a broker connection stands",
            metrics.connected.clone(),
        );
        registry.register(
            "slmd_mqtt_reconnects",
            "Connections made after the first",
            metrics.reconnects.clone(),
        );
        registry.register(
            "slmd_mqtt_requests",
            "Requests by the status of their answer",
            metrics.requests.clone(),
        );
        registry.register(
            "slmd_mqtt_duplicates",
            "Requests that came again and were not run again",
            metrics.duplicates.clone(),
        );
        registry.register(
            "slmd_mqtt_beyond_receive_maximum",
            "Requests that the broker sent beyond our Receive Maximum",
            metrics.excess.clone(),
        );
        registry.register(
            "slmd_mqtt_untold",
            "Refusals that couldn't be told to whoever asked",
            metrics.untold.clone(),
        );
        metrics
    }

    pub(super) fn connected(&self, connected: bool) {
        self.connected.set(i64::from(connected));
    }

    pub(super) fn reconnect(&self) {
        self.reconnects.inc();
    }

    pub(super) fn request(&self, status: u16) {
        let labels = vec![("status", status.to_string())];
        self.requests.get_or_create(&labels).inc();
    }

    pub(super) fn excess(&self) {
        self.excess.inc();
    }

    pub(super) fn untold(&self) {
        self.untold.inc();
    }

    pub(super) fn duplicate(&self) {
        self.duplicates.inc();
    }
}
