//! Logs and metrics: set-up only; each module owns its own metrics.
pub use prometheus_client::registry::Registry;
