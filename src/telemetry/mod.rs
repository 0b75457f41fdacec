//! Logs and metrics: set-up only. Each module owns its own metrics and registers them here.

use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::encoding::text::encode;
pub use prometheus_client::registry::Registry;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// The filter that can't be understood, and why.
#[derive(Debug, thiserror::Error)]
#[error(
    "log filter {filter:?}: {why}; write \"info\" or \"warn,slmd::auth=debug\" (levels: off, error, \
    warn, info, debug, trace)"
)]
pub struct FilterError {
    filter: String,
    why: String,
}

/// Checks a log filter without setting it. A word that is no level would be the name of a module,
/// and silence for all others.
pub fn check_filter(filter: &str) -> Result<(), FilterError> {
    let wrong = |why: String| FilterError {
        filter: filter.to_owned(),
        why,
    };
    let says_level = |part: &&str| part.contains('=') || part.parse::<LevelFilter>().is_ok();
    if let Some(word) = filter
        .split(',')
        .map(str::trim)
        .find(|part| !says_level(part))
    {
        return Err(wrong(format!("{word:?} is no level")));
    }
    EnvFilter::try_new(filter)
        .map(drop)
        .map_err(|error| wrong(error.to_string()))
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
        let registry = self.0.lock();
        let mut text = String::new();
        // Writing to a `String` can't fail.
        let _ = encode(&mut text, &registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::check_filter;

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        for good in [
            "info",
            "WARN",
            "off",
            "warn,slmd::auth=debug",
            "error,[request{id=1}]=trace",
        ] {
            assert!(check_filter(good).is_ok(), "{good}");
        }
        for bad in [
            "loud",
            "infos",
            "slmd",
            "info,slmd",
            "slmd=loud",
            "info, slmd=warn",
        ] {
            let said = check_filter(bad).unwrap_err().to_string();
            assert!(said.contains("warn,slmd::auth=debug"), "{bad}: {said}");
        }
    }
}
