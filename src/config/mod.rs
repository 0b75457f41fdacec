//! Raw TOML → the typed settings that each module owns. All errors at once, with line and column.
//!
//! [`read`] goes over the parsed file and collects problems, [`value`] knows the kinds of values,
//! [`sections`] and [`realm`] are the schema with its defaults, [`show`] writes it back.

mod group;
mod login;
mod read;
mod realm;
mod sections;
mod show;
#[cfg(test)]
mod tests;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeTable;

pub use self::login::Login;
use self::read::{Problems, Section, place};
use crate::files::{self, Care};
use crate::prompt::Scope;
use crate::{admission, audit, auth, engine, identity, keysync, transport};

/// Where the configuration lies unless told otherwise.
pub const DEFAULT_PATH: &str = "/etc/slmd/slmd.toml";

/// No sound configuration comes near; a wrong file (a disk image) must not fill the memory.
const MAX_BYTES: u64 = 1 << 20;

/// The whole configuration, checked. Holding one proves that every part is usable together.
#[derive(Debug, Clone)]
pub struct Config {
    pub identity: identity::Identity,
    pub state_dir: PathBuf,
    /// Folder of bundles.
    pub models_dir: PathBuf,
    pub drain_deadline: Duration,
    pub log: String,
    pub http: transport::http::Settings,
    pub mqtt: Option<transport::mqtt::Settings>,
    pub engine: engine::Settings,
    pub admission: admission::Settings,
    pub audit: audit::Settings,
    pub realms: Vec<RealmConfig>,
    pub login: Login,
    /// What is usable, but not well.
    pub warnings: Vec<Problem>,
}

/// A realm without its keys, which are pinned in the store.
#[derive(Debug, Clone)]
pub struct RealmConfig {
    pub name: String,
    pub issuer: String,
    pub policy: auth::Policy,
    pub endpoints: Vec<auth::Endpoint>,
    /// Where its keys are fetched from, where they are.
    pub jwks: Option<keysync::Source>,
    /// What is revoked before it expires.
    pub deny_file: Option<PathBuf>,
    /// Groups of this machine by name; the policy has their ids.
    pub local_groups: BTreeMap<String, Vec<Scope>>,
}

/// One thing that is wrong, `line:column: key: what`. Line 0: the file as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// Checks the whole text. Also reads the host name, and sees that the broker's password file can be read.
    pub fn parse(text: &str) -> Result<Config, Vec<Problem>> {
        let (table, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            // What a broken file means can't be told; only its syntax is reported.
            let mut problems: Vec<_> = errors.iter().map(|error| syntax(text, error)).collect();
            problems.sort_by_key(|problem| (problem.line, problem.column));
            return Err(problems);
        }
        let (problems, warnings) = (Problems::new(text), Problems::new(text));
        let config = Section::root(table.get_ref(), &problems, |root| {
            sections::config(root, &warnings)
        });
        let problems = problems.into_sorted();
        match config {
            Some(mut config) if problems.is_empty() => {
                config.warnings = warnings.into_sorted();
                Ok(config)
            }
            _ => Err(problems),
        }
    }

    /// Reads and checks a file, which nobody but its owner may change.
    pub fn load(path: &Path) -> Result<Config, Vec<Problem>> {
        let text = read_bounded(path).map_err(|message| {
            vec![Problem {
                line: 0,
                column: 0,
                key: String::new(),
                message,
            }]
        })?;
        Config::parse(&text)
    }

    /// The effective configuration with every default filled in, as it would be read again.
    /// Secrets live in files of their own and only these files' names are shown.
    #[must_use]
    pub fn show(&self) -> serde_json::Value {
        show::show(self)
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

fn read_bounded(path: &Path) -> Result<String, String> {
    let read = || -> std::io::Result<String> {
        let bytes = files::read(path, MAX_BYTES, Care::Trusted)?;
        String::from_utf8(bytes).map_err(|_| std::io::Error::other("it isn't UTF-8"))
    };
    read().map_err(|error| {
        format!("can't be read: {error}; check the path and its permissions, or give --config")
    })
}
