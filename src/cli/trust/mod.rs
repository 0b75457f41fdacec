//! `slmd trust`: the fleet whose signed keys, revocations and policy this device follows.

mod pin;
mod show;

use clap::Subcommand;

use super::Global;
use super::exit::Done;

pub(super) use show::asked;

/// Pin and show the root of the fleet that this device follows.
#[derive(Debug, Subcommand)]
pub(super) enum Trust {
    Pin(pin::Pin),
    /// Show what of the fleet is trusted: root, versions, when it ends, and how each mirror did.
    #[command(
        after_help = "Examples:\n  slmd trust show\n  slmd trust show --json | jq .fleet.timestamp"
    )]
    Show,
}

impl Trust {
    pub(super) fn execute(&self, global: &Global) -> Done {
        match self {
            Trust::Pin(pin) => pin.execute(global),
            Trust::Show => show::execute(global),
        }
    }
}
