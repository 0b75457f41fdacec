//! `slmd run`: the daemon in the foreground.

use super::Global;
use super::exit::{Done, Failure};
use crate::{daemon, telemetry};

pub(super) fn run(global: &Global) -> Done {
    let config = global.load()?;
    telemetry::init_logs(&config.log).map_err(Failure::failed)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let source = std::path::absolute(&global.config)?;
    runtime
        .block_on(daemon::run(config, Some(source)))
        .map_err(Failure::failed)
}
