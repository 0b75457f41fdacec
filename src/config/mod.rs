//! Raw TOML → the typed settings that each module owns. All errors at once, with line and column.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{admission, audit, auth, engine, identity, transport};

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
}

/// A realm without its keys, which are pinned in the store.
#[derive(Debug, Clone)]
pub struct RealmConfig {
    pub name: String,
    pub issuer: String,
    pub policy: auth::Policy,
    pub endpoints: Vec<auth::Endpoint>,
}

/// One thing that is wrong, `line:column: key: what` .
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub line: usize,
    pub column: usize,
    pub key: String,
    pub message: String,
}

impl Config {
    pub fn parse(_text: &str) -> Result<Config, Vec<Problem>> {
        todo!()
    }
    pub fn load(_path: &Path) -> Result<Config, Vec<Problem>> {
        todo!()
    }
}
