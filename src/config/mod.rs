//! Raw TOML → the typed settings that each module owns. All errors at once, with line and column.
//!
//! [`schema`] declares each setting once; what a declaration gives is in [`table`]. [`read`] goes
//! over the parsed file and collects problems, [`value`] knows the [`kind`]s of values, [`machine`]
//! looks at what only this machine can tell, [`commented`] writes the file that is shipped.

mod commented;
mod export;
mod fleet;
mod jwks;
mod kind;
mod machine;
mod read;
mod realm;
mod schema;
#[cfg(test)]
mod schema_tests;
mod table;
#[cfg(test)]
mod tests;
mod traces;
mod value;
mod witness;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use toml::de::DeTable;

use self::machine::Look;
use self::read::{Problems, Section, place};
use self::table::Table;
pub use self::table::{Given, Line, Row};
use crate::authority::RealmConfig;
use crate::files::{self, Care};
use crate::identity::host_name;
use crate::telemetry::{LogFormat, TraceSettings};
use crate::{admission, audit, engine, identity, transport};

/// Where the configuration lies unless told otherwise.
pub const DEFAULT_PATH: &str = "/etc/slmd/slmd.toml";

/// No sound configuration comes near; a wrong file (a disk image) must not fill the memory.
const MAX_BYTES: u64 = 1 << 20;

/// Metrics have series for each of them, and somebody has to keep those.
pub const MAX_REALMS: usize = 32;
pub const MAX_MODELS: usize = 16;
pub const MAX_MIRRORS: usize = 16;

/// The whole configuration, checked. Holding one proves that its parts fit together.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub identity: identity::Identity,
    pub state_dir: PathBuf,
    /// Folder of bundles.
    pub models_dir: PathBuf,
    pub drain_deadline: Duration,
    pub log: String,
    pub log_format: LogFormat,
    pub http: transport::http::Settings,
    pub mqtt: Option<transport::mqtt::Settings>,
    pub fleet: Option<crate::fleet::Settings>,
    pub engine: engine::Settings,
    pub admission: admission::Settings,
    pub audit: audit::Settings,
    pub telemetry: TraceSettings,
    pub realms: Vec<RealmConfig>,
    pub login: Login,
    /// What is usable, but not well.
    pub warnings: Vec<Problem>,
}

/// Defaults of `slmd login`; the daemon itself doesn't use them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Login {
    pub issuer: Option<String>,
    pub client_id: Option<String>,
    /// The CA that Keycloak's certificate is checked against.
    pub ca_file: Option<PathBuf>,
}

/// One thing that is wrong, `line:column: key: what`. Line 0: the file as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub line: usize,
    pub column: usize,
    pub key: String,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "{}:{}: ", self.line, self.column)?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

impl Config {
    /// Checks the text, and nothing of the machine.
    pub fn parse(text: &str) -> Result<Config, Vec<Problem>> {
        parse(text, Look::Text)
    }

    /// Reads and checks a file for this machine, where nobody but its owner may change it.
    pub fn load(path: &Path) -> Result<Config, Vec<Problem>> {
        parse(&read_bounded(path, Some(Care::Trusted))?, Look::Kept)
    }

    /// Moreover looks for all that would keep the daemon from starting or working, as the user who
    /// is to start it.
    pub fn load_to_start(path: &Path) -> Result<Config, Vec<Problem>> {
        parse(&read_bounded(path, Some(Care::Trusted))?, Look::Start)
    }

    /// Reads and checks a file that may be for another machine.
    pub fn load_text(path: &Path) -> Result<Config, Vec<Problem>> {
        Config::parse(&read_bounded(path, None)?)
    }

    /// The effective configuration with every default filled in, as it would be read again.
    /// Secrets live in files of their own and only these files' names are shown.
    #[must_use]
    pub fn show(&self) -> serde_json::Value {
        Table::show(self).into()
    }

    /// Takes from `running` what can't change while it runs; returns the settings that wait for a
    /// restart.
    pub fn keep_until_restart(&mut self, running: &Config) -> Vec<String> {
        let mut waiting = self.keep(running);
        if self.models() != running.models() {
            waiting.push("realm.endpoint.model".to_owned());
        }
        waiting
    }

    /// Whether endpoints answer only with bundles that the fleet's list names.
    #[must_use]
    pub fn listed_models_only(&self) -> bool {
        let fleet = self.fleet.as_ref();
        fleet.is_some_and(|fleet| fleet.require_listed_models)
    }

    /// The models that the endpoints name.
    #[must_use]
    pub fn models(&self) -> BTreeSet<&str> {
        let endpoints = self.realms.iter().flat_map(|realm| &realm.endpoints);
        endpoints.map(|endpoint| endpoint.model.as_str()).collect()
    }

    /// A file with every setting, its documentation, and its default or an example.
    #[must_use]
    pub fn commented() -> String {
        commented::commented()
    }

    /// The tables and settings of that file, for who presents them otherwise.
    #[must_use]
    pub fn documented() -> Vec<Row> {
        commented::rows()
    }
}

/// All problems of the text, and those that the machine has with it.
fn parse(text: &str, look: Look) -> Result<Config, Vec<Problem>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        // What a broken file means can't be told; only its syntax is reported.
        let mut problems: Vec<_> = errors.iter().map(|error| syntax(text, error)).collect();
        problems.sort_by_key(|problem| (problem.line, problem.column));
        return Err(problems);
    }
    let (problems, warnings) = (Problems::new(text), Problems::new(text));
    let host = match look {
        Look::Text => "localhost".to_owned(),
        Look::Kept | Look::Start => host_name().unwrap_or_default(),
    };
    let root = Some(table.get_ref());
    let mut config = Section::root(root, &problems, &host, |root| Config::read(root, &[]));
    if look > Look::Text {
        problems.look(look, &warnings);
        config.realms.iter_mut().for_each(machine::resolve_groups);
        config.warnings = warnings.into_sorted();
    }
    match problems.into_sorted() {
        problems if problems.is_empty() => Ok(config),
        problems => Err(problems),
    }
}

fn syntax(text: &str, error: &toml::de::Error) -> Problem {
    let (line, column) = place(text, error.span().map_or(0, |span| span.start));
    Problem {
        line,
        column,
        key: "TOML".to_owned(),
        message: error.message().to_owned(),
    }
}

fn read_bounded(path: &Path, care: Option<Care>) -> Result<String, Vec<Problem>> {
    let read = || -> std::io::Result<String> {
        let bytes = match care {
            Some(care) => files::read(path, MAX_BYTES, care)?,
            None => files::bounded(std::fs::File::open(path)?, MAX_BYTES)?,
        };
        String::from_utf8(bytes).map_err(|_| std::io::Error::other("it isn't UTF-8"))
    };
    read().map_err(|error| {
        let message =
            format!("can't be read: {error}; check the path and its permissions, or give --config");
        vec![Problem {
            line: 0,
            column: 0,
            key: String::new(),
            message,
        }]
    })
}
