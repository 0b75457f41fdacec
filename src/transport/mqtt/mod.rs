//! Prompts and answers over MQTT 5 and 3.1.1.

use std::time::Duration;

use crate::secret::Secret;

#[derive(Debug, Clone)]
pub struct Settings {
    /// `None` in the configuration: no MQTT at all.
    pub host: String,
    pub port: u16,
    /// Stable; default `slmd-{device}`.
    pub client_id: String,
    pub username: Option<String>,
    pub password: Option<Secret<String>>,
    pub keep_alive: Duration,
    pub session_expiry: Duration,
    pub receive_maximum: u16,
    pub max_body: usize,
    /// With `{device}` and `{azp}`; default `slm/{device}/reply/{azp}/#`.
    pub reply_to: String,
    /// At most one streamed message per interval.
    pub fragment_interval: Duration,
    pub reconnect_min: Duration,
    pub reconnect_max: Duration,
}

/// What status and readiness say of the broker connection.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct MqttStatus {
    pub connected: bool,
    /// Why not, or a denied subscription, or a takeover by another client with our id.
    pub problem: Option<String>,
    pub reconnects: u64,
}

/// Runs until `shutdown` ends; connects, reconnects, never gives up. CONTRACT:
/// `pub fn start(settings: Settings, identity: Identity, admission: Admission, shutdown: Shutdown,
/// audit: audit::Log, registry: &mut telemetry::Registry) -> Handle`, where `Handle::status()` gives a
/// [`MqttStatus`], `Handle::heartbeat()` a progress counter and `Handle::join().await` waits for the end.
pub struct Contract;
