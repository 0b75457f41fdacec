//! `slmd status` and `slmd reload`.

use clap::Args;
use ureq::http::Method;

use super::exit::Done;
use super::{Global, output};

/// Show the daemon's health: readiness, realms and their keys, queue, broker, audit.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  slmd status\n  slmd status --json | jq .ready")]
pub(super) struct Status {}

/// Check the configuration whole and put it in force; a broken file changes nothing.
#[derive(Debug, Args)]
#[command(
    after_help = "Prints which sections need a restart.\n\nExamples:\n  slmd config check && slmd reload"
)]
pub(super) struct Reload {}

impl Status {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let status = global.admin()?.get("/status")?.json()?;
        output::show(global, &status)
    }
}

impl Reload {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let admin = global.admin()?;
        let reloaded = admin.send(Method::POST, "/reload", None, Vec::new())?;
        output::show(global, &reloaded.json()?)
    }
}
