//! `slmd config`: check the file, show what is in force.

use clap::Subcommand;
use serde_json::json;

use super::exit::{Done, Failure};
use super::{Global, output};
use crate::config::Config;

/// Check and show the configuration.
#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check the whole file and tell every mistake at once, as line:column: key: what.
    #[command(
        after_help = "Examples:\n  slmd config check\n  slmd --config ./slmd.toml config check --no-machine"
    )]
    Check {
        /// Check the text alone, not this machine's files, groups and CPU: for CI and other machines.
        #[arg(long)]
        no_machine: bool,
    },
    /// Show the effective configuration with every default filled in; secrets are not shown.
    #[command(
        after_help = "Examples:\n  slmd config show\n  slmd config show --json | jq .http.socket"
    )]
    Show,
    /// Print the commented file: every setting with its default.
    #[command(after_help = "Examples:\n  slmd config defaults > slmd.toml")]
    Defaults,
}

impl ConfigCommand {
    pub(super) fn execute(&self, global: &Global) -> Done {
        match self {
            ConfigCommand::Check { no_machine: true } => {
                checked(global, &global.told(Config::load_text(&global.config))?)
            }
            ConfigCommand::Check { no_machine: false } => checked(global, &global.load()?),
            ConfigCommand::Show if global.json => output::show(global, &global.load()?.show()),
            ConfigCommand::Show => {
                let text = toml::to_string(&global.load()?.show()).map_err(Failure::failed)?;
                output::line(text.trim_end())
            }
            ConfigCommand::Defaults => output::line(Config::commented().trim_end()),
        }
    }
}

fn checked(global: &Global, config: &Config) -> Done {
    if global.json {
        let warnings: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
        return output::show(global, &json!({"ok": true, "warnings": warnings}));
    }
    let file = global.config.display();
    let realms = config.realms.len();
    output::line(&format!("{file} is sound ({realms} realm(s))"))
}
