//! The command line: for people, and for scripts by `--json` and documented exit codes.
//!
//! A command speaks to the running daemon over its sockets ([`client`]); only when no daemon runs
//! do `keys` and `audit` open the state folder themselves ([`offline`]).

mod access;
mod ask;
mod audit;
mod client;
mod completions;
mod config;
#[cfg(feature = "demo")]
mod demo;
mod device;
mod endpoints;
mod exit;
mod fleet;
mod input;
mod keys;
mod login;
mod look;
mod man;
mod model;
mod model_bench;
mod model_folder;
mod offline;
mod output;
mod realm;
mod run;
mod sampling;
mod screen;
mod status;
mod terminal;
mod token;
mod trust;
mod trust_client;
mod waiting;
mod watch;
mod wipe;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use tracing::Level;

use crate::config::{Config, DEFAULT_PATH, Problem};
use crate::{process, telemetry};
use client::Client;
use exit::{Done, Exit, Failure};

#[cfg(feature = "demo")]
const DEMO: &str = "  slmd demo                     everything once, in a throw-away folder\n";
#[cfg(not(feature = "demo"))]
const DEMO: &str = "";

const EXAMPLES: &str = "  slmd config check             all mistakes of the configuration at once
  slmd keys pin prod jwks.json  trust a Keycloak realm's keys
  slmd login && slmd ask 'Why is the sky blue?'
  slmd audit tail -f            watch every decision

";

/// A small language model behind Keycloak tokens, decided offline.
#[derive(Debug, Parser)]
#[command(
    name = "slmd",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Where packages put it.
const ADMIN_SOCKET: &str = "/run/slmd/admin.sock";

/// Options of every command.
#[derive(Debug, Clone, Args)]
struct Global {
    /// The configuration file.
    #[arg(long, global = true, env = "SLMD_CONFIG", default_value = DEFAULT_PATH, value_name = "FILE")]
    config: PathBuf,
    /// Print JSON instead of text; errors too.
    #[arg(long, global = true)]
    json: bool,
    /// The daemon's admin socket (default: the configuration's).
    #[arg(long, global = true, env = "SLMD_ADMIN_SOCKET", value_name = "PATH")]
    admin_socket: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Run),
    Ask(Box<ask::Ask>),
    Endpoints(endpoints::Endpoints),
    Login(login::Login),
    Logout(login::Logout),
    Status(status::Status),
    #[command(subcommand)]
    Model(model::Model),
    #[command(subcommand)]
    Keys(keys::Keys),
    #[command(subcommand)]
    Trust(trust::Trust),
    #[command(subcommand)]
    Audit(audit::Audit),
    #[command(subcommand)]
    Fleet(fleet::Fleet),
    #[command(subcommand)]
    Device(device::Device),
    Wipe(wipe::Wipe),
    #[command(subcommand)]
    Config(config::ConfigCommand),
    Reload(status::Reload),
    Completions(completions::Completions),
    #[command(hide = true)]
    Man(man::Man),
    #[command(hide = true)]
    TrustClient(trust_client::TrustClient),
    #[cfg(feature = "demo")]
    Demo(demo::Demo),
}

/// What is parsed, helped with, completed and in the manual.
fn definition() -> clap::Command {
    Cli::command().after_help(format!("Examples:\n{DEMO}{EXAMPLES}{}", Exit::table()))
}

/// Parses the arguments, does what they say, and reports a failure.
pub fn main() -> ExitCode {
    process::keep_memory_private();
    let parsed = Cli::from_arg_matches(&definition().get_matches());
    let cli = parsed.unwrap_or_else(|error| error.exit());
    let as_json = cli.global.json;
    match cli.command.execute(&cli.global) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(as_json),
    }
}

impl Command {
    fn execute(self, global: &Global) -> Done {
        match self {
            Command::Run(command) => command.execute(global),
            Command::Ask(command) => command.execute(global),
            Command::Endpoints(command) => command.execute(global),
            Command::Login(command) => command.execute(global),
            Command::Logout(command) => command.execute(global),
            Command::Status(command) => command.execute(global),
            Command::Model(command) => command.execute(global),
            Command::Keys(command) => command.execute(global),
            Command::Trust(command) => command.execute(global),
            Command::Audit(command) => command.execute(global),
            Command::Fleet(command) => command.execute(global),
            Command::Device(command) => command.execute(global),
            Command::Wipe(command) => command.execute(global),
            Command::Config(command) => command.execute(global),
            Command::Reload(command) => command.execute(global),
            Command::Completions(command) => command.execute(),
            Command::Man(command) => command.execute(),
            Command::TrustClient(command) => command.execute(),
            #[cfg(feature = "demo")]
            Command::Demo(command) => command.execute(global),
        }
    }
}

/// Where the daemon listens.
struct Sockets {
    admin: PathBuf,
    public: PathBuf,
}

impl Global {
    /// The checked configuration, its warnings said on standard error.
    fn load(&self) -> Result<Config, Failure> {
        told(&self.config, Config::load(&self.config))
    }

    /// A client for the admin socket.
    fn admin(&self) -> Result<Client, Failure> {
        Ok(Client::new(self.sockets()?.admin))
    }

    /// By the options, the environment and the configuration. Who may look at a daemon needn't be
    /// able to read its configuration, and takes it to be where packages put it.
    fn sockets(&self) -> Result<Sockets, Failure> {
        let public = std::env::var_os("SLMD_SOCKET").map(PathBuf::from);
        if let (Some(admin), Some(public)) = (self.admin_socket.clone(), public.clone()) {
            return Ok(Sockets { admin, public });
        }
        let closed = std::fs::File::open(&self.config)
            .is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied);
        let of_file = match (closed, &self.admin_socket) {
            (true, _) => None,
            // The admin socket alone is enough for who may use it.
            (false, Some(_)) => Config::load(&self.config).ok(),
            (false, None) => Some(self.load()?),
        };
        let (default_admin, default_public) = match of_file {
            Some(config) => (config.http.admin_socket, config.http.socket),
            None => (ADMIN_SOCKET.into(), access::DEFAULT_SOCKET.into()),
        };
        Ok(Sockets {
            admin: self.admin_socket.clone().unwrap_or(default_admin),
            public: public.unwrap_or(default_public),
        })
    }
}

/// A file's configuration with its warnings said, or all that is wrong with it.
fn told(file: &Path, config: Result<Config, Vec<Problem>>) -> Result<Config, Failure> {
    let file = file.display();
    let config = config.map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(|p| at(&file, p)).collect();
        Failure::new(Exit::BadConfig, lines.join("\n      "))
    })?;
    for warning in &config.warnings {
        let warning = format!("slmd: warning: {}", at(&file, warning));
        telemetry::say(Level::WARN, &warning);
    }
    Ok(config)
}

/// `file:line:column: key: what`, which editors jump to.
fn at(file: &std::path::Display<'_>, problem: &Problem) -> String {
    let space = if problem.line > 0 { "" } else { " " };
    format!("{file}:{space}{problem}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn examples_stand_in_line_in_80_columns() {
        let examples = format!("{DEMO}{EXAMPLES}");
        for line in examples.trim_end().lines() {
            let in_line = line.starts_with("  slmd ") && line.len() <= 80;
            assert!(in_line, "{line:?}");
        }
    }

    #[test]
    fn a_token_is_no_argument() {
        let parsed = Cli::try_parse_from(["slmd", "ask", "--token", "abc", "hello"]);
        assert!(parsed.is_err());
    }

    #[test]
    fn help_lists_every_exit_code() {
        let table = Exit::table();
        for code in ["0", "1", "2", "3", "4", "5", "130"] {
            assert!(
                table.lines().any(|line| line.trim().starts_with(code)),
                "{code}"
            );
        }
    }
}
