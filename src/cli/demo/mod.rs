//! demo

use clap::Args;

use super::Global;
use super::exit::Done;

/// Show everything once, in a throw-away folder.
#[derive(Debug, Args)]
pub(super) struct Demo {}

impl Demo {
    pub(super) fn execute(&self, _: &Global) -> Done {
        Ok(())
    }
}
