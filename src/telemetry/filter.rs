//! Which log lines are wanted: the setting `log`, or the environment's `SLMD_LOG` in its place.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Goes before the setting; empty is as good as unset.
const VARIABLE: &str = "SLMD_LOG";

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

/// The environment's filter, if it has one.
pub fn filter_of_environment() -> Result<Option<String>, String> {
    let Some(filter) = std::env::var_os(VARIABLE).filter(|filter| !filter.is_empty()) else {
        return Ok(None);
    };
    let filter = filter.to_string_lossy().into_owned();
    match check_filter(&filter) {
        Ok(()) => Ok(Some(filter)),
        Err(error) => Err(format!("{VARIABLE} in the environment: {error}")),
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
