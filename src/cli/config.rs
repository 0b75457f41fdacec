//! `slmd config`: check the file, show what is in force.

use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::exit::{Done, Exit, Failure};
use super::{Global, offline, output, told};
use crate::config::{Config, DEFAULT_PATH};

/// Check and show the configuration.
#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check the whole file and tell every mistake at once, as line:column: key: what.
    ///
    /// A file is checked as a text, which may be for another machine. With --here this machine is
    /// looked at too, as the daemon's user would find it: files, folders, models, ports, groups, the
    /// CPU. The installed file is always checked so, also before each start of the service. What a
    /// database holds and the hashes of a model aren't looked at: `slmd run` and `slmd model verify`
    /// do that.
    #[command(after_help = "\
With --json: a list of {line, column, key, message}, of what is wrong where the exit code is 5, and
of what is usable, but not well, where it is 0. Line 0 is the file as a whole.

Examples:
  slmd config check
  slmd config check ./slmd.toml
  slmd config check ./slmd.toml --here")]
    Check {
        /// The file (default: the one of --config).
        file: Option<PathBuf>,
        /// Look at this machine too.
        #[arg(long)]
        here: bool,
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
            ConfigCommand::Check { file, here } => {
                let file = file.as_deref().unwrap_or(&global.config);
                let here = *here || file == Path::new(DEFAULT_PATH);
                check(global, file, here)
            }
            ConfigCommand::Show if global.json => output::show(global, &global.load()?.show()),
            ConfigCommand::Show => {
                let text = toml::to_string(&global.load()?.show()).map_err(Failure::failed)?;
                output::line(text.trim_end())
            }
            ConfigCommand::Defaults => output::line(Config::commented().trim_end()),
        }
    }
}

fn check(global: &Global, file: &Path, here: bool) -> Done {
    let config = match here {
        true => {
            as_the_daemon(file)?;
            Config::load_to_start(file)
        }
        false => Config::load_text(file),
    };
    if global.json {
        let told = match &config {
            Ok(config) => &config.warnings,
            Err(problems) => problems,
        };
        output::show(global, told)?;
        return config.map(drop).map_err(|_| Failure::told(Exit::BadConfig));
    }
    let config = told(file, config)?;
    let realms = match config.realms.len() {
        1 => "1 realm".to_owned(),
        count => format!("{count} realms"),
    };
    let of = if here { "sound here" } else { "sound" };
    output::line(&format!("{} is {of} ({realms})", file.display()))
}

/// Root takes on the user whose the state folder is: what root can read the daemon may not.
fn as_the_daemon(file: &Path) -> Done {
    match Config::load(file) {
        Ok(config) if config.state_dir.exists() => Ok(offline::become_owner(&config.state_dir)?),
        _ => Ok(()),
    }
}
