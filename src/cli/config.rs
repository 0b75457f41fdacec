//! `slmd config`: check the file, show what is in force.

use clap::Subcommand;
use serde_json::json;

use super::exit::{Done, Failure};
use super::{Global, output};

/// Check and show the configuration.
#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check the whole file and tell every mistake at once, as line:column: key: what.
    #[command(
        after_help = "Examples:\n  slmd config check\n  slmd --config ./slmd.toml config check"
    )]
    Check,
    /// Show the effective configuration with every default filled in; secrets are not shown.
    #[command(
        after_help = "Examples:\n  slmd config show\n  slmd config show --json | jq .http.socket"
    )]
    Show,
}

impl ConfigCommand {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let config = global.load()?;
        match self {
            ConfigCommand::Check if global.json => {
                let warnings: Vec<String> =
                    config.warnings.iter().map(ToString::to_string).collect();
                output::show(global, &json!({"ok": true, "warnings": warnings}))
            }
            ConfigCommand::Check => {
                let file = global.config.display();
                let realms = config.realms.len();
                output::line(&format!("{file} is sound ({realms} realm(s))"))
            }
            ConfigCommand::Show if global.json => output::show(global, &config.show()),
            ConfigCommand::Show => {
                let text = toml::to_string(&config.show()).map_err(Failure::failed)?;
                output::line(text.trim_end())
            }
        }
    }
}
