//! Logs and metrics: set-up only. Each module owns its own metrics and registers them here.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::text::encode;
pub use prometheus_client::registry::Registry;
use tracing_subscriber::EnvFilter;

/// The filter that can't be understood, and why.
#[derive(Debug, thiserror::Error)]
#[error("log filter {filter:?}: {why}; write a level such as `info`, or `info,slmd::engine=debug`")]
pub struct FilterError {
    filter: String,
    why: String,
}

/// Checks a log filter without setting it.
pub fn check_filter(filter: &str) -> Result<(), FilterError> {
    EnvFilter::try_new(filter)
        .map(drop)
        .map_err(|error| FilterError {
            filter: filter.to_owned(),
            why: error.to_string(),
        })
}

/// Sends logs to standard error: plain lines, coloured on a terminal. Only the first call of a
/// process has an effect.
pub fn init_logs(filter: &str) -> Result<(), FilterError> {
    use std::io::IsTerminal;
    check_filter(filter)?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .finish();
    // A second daemon in one process (tests) keeps the first one's logs.
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(())
}

/// All metrics, readable as Prometheus text.
#[derive(Debug, Clone)]
pub struct Exposition(Arc<Mutex<Registry>>);

impl Exposition {
    pub fn new(registry: Registry) -> Exposition {
        Exposition(Arc::new(Mutex::new(registry)))
    }

    /// OpenMetrics text, which Prometheus reads.
    pub fn text(&self) -> String {
        let registry = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        // Writing to a `String` can't fail.
        let _ = encode(&mut text, &registry);
        text
    }
}
