//! The device's side of a fleet: what its managers have signed becomes what is in force.
//!
//! [`Follower`] asks each [`mirror`] in turn, lets [`trust`](crate::trust) say what of it is proven, and
//! makes a [`Signed`] of the newest. That it counts, and what it comes to, is
//! [`authority`](crate::authority)'s to say; [`Vault`] keeps it.

mod follow;
pub mod mirror;
mod signed;
mod vault;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

pub use self::follow::{Follower, Lane, MirrorReport};
pub use self::signed::{Signed, Unread, Wanted};
pub use self::vault::{FOLDER, Vault};

/// What of the fleet is followed, and where from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub name: String,
    pub mirrors: Vec<Place>,
    /// At the broker, with its password; the same as for prompts where it is unset.
    pub username: Option<String>,
    pub password_file: Option<PathBuf>,
    /// The CA to trust for `https://` mirrors.
    pub ca_file: Option<PathBuf>,
    pub interval: Duration,
    pub require_listed_models: bool,
}

/// Where a mirror is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The configured broker.
    Mqtt,
    Https(String),
    Folder(PathBuf),
}

/// As the configuration has it.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Mqtt => f.write_str("mqtt"),
            Place::Https(url) => f.write_str(url),
            Place::Folder(path) => path.display().fmt(f),
        }
    }
}

/// The signed files that are trusted, byte by byte, and what was ever revoked and still is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// By file name, without versions; `root.json` is always there.
    pub metadata: BTreeMap<String, Vec<u8>>,
    /// By path.
    pub targets: BTreeMap<String, Vec<u8>>,
    /// By realm, as deny files.
    pub denied: BTreeMap<String, Vec<u8>>,
    /// What else lies there: of a newer release, or damaged. It is there to be noticed, and isn't
    /// written again.
    pub strange: BTreeSet<String>,
}

impl Held {
    /// The beginning: a root that a person has pinned.
    pub fn rooted(root: &[u8]) -> Held {
        Held {
            metadata: [(ROOT.to_owned(), root.to_vec())].into(),
            ..Held::default()
        }
    }

    pub fn root(&self) -> &[u8] {
        self.metadata.get(ROOT).map_or(&[], Vec::as_slice)
    }
}

const ROOT: &str = "root.json";
