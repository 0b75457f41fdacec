//! `slmd run`: the daemon in the foreground.

use clap::Args;

use super::exit::{Done, Exit, Failure};
use super::{Global, told};
use crate::config::Config;
use crate::{daemon, telemetry};

/// Run the daemon in the foreground (systemd does this).
///
/// SLMD_LOG in the environment goes before the setting `log`: SLMD_LOG=debug slmd run
#[derive(Debug, Args)]
pub(super) struct Run {}

impl Run {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let config = Config::load(&global.config);
        if let Ok(config) = &config {
            begin_logs(config)?;
        }
        let config = told(&global.config, config)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        let source = std::path::absolute(&global.config)?;
        runtime
            .block_on(daemon::run(config, Some(source)))
            .map_err(Failure::failed)
    }
}

fn begin_logs(config: &Config) -> Done {
    let other = telemetry::filter_of_environment();
    let other = other.map_err(|wrong| Failure::new(Exit::BadConfig, wrong))?;
    let filter = other.as_ref().unwrap_or(&config.log);
    telemetry::init_logs(filter, config.log_format).map_err(Failure::failed)
}
