//! The repositories, mirrors that serve them, and what a device does with one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use serde::Deserialize;
use slmd::for_tests::time::Timestamp;
use slmd::for_tests::trust::{Client, Limits, Mirror, MirrorError, TrustError};
use tempfile::TempDir;

pub const JWKS: &str = "realms/dev/jwks.json";
pub const DENY: &str = "realms/dev/deny.json";

/// Made once for all tests of this process.
static MADE: LazyLock<TempDir> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join("target/venv/bin/python");
    assert!(
        python.exists(),
        "python-tuf isn't installed; run `make venv`"
    );
    let folder = tempfile::tempdir().expect("a temporary folder");
    let script = root.join("tests/trust/repositories.py");
    let made = Command::new(python).arg(script).arg(folder.path()).status();
    assert!(made.expect("python runs").success(), "no repositories");
    folder
});

/// A repository's folder: `root.json`, and the states of its mirror by number.
pub fn repository(name: &str) -> PathBuf {
    MADE.path().join(name)
}

pub fn state(repository: &str, number: u32) -> PathBuf {
    self::repository(repository).join(number.to_string())
}

/// An attack, as `repositories.py` tells of it.
#[derive(Debug, Deserialize)]
pub struct Case {
    pub name: String,
    /// [`TrustError::name`].
    pub reason: String,
    /// When the sound state is seen, and when the attack, in seconds.
    pub start: u64,
    pub now: u64,
    /// What of the attacker's metadata is proven before something isn't.
    pub raises: Vec<String>,
}

pub fn cases() -> Vec<Case> {
    let text = fs::read(MADE.path().join("cases.json")).expect("it was made");
    serde_json::from_slice(&text).expect("a list of cases")
}

/// When the repositories were made.
pub fn start() -> Timestamp {
    Timestamp::from_secs(cases()[0].start)
}

pub fn client(repository: &str) -> Client {
    let root = fs::read(self::repository(repository).join("root.json")).expect("it was made");
    Client::new(&root, Limits::FLEET).expect("a sound root")
}

/// All files of one state, by their paths.
#[derive(Debug, Clone)]
pub struct Files(pub BTreeMap<String, Vec<u8>>);

impl Files {
    pub fn of(folder: &Path) -> Files {
        let mut files = BTreeMap::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(next).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path
                        .strip_prefix(folder)
                        .expect("inside")
                        .display()
                        .to_string();
                    files.insert(name, fs::read(path).expect("a file"));
                }
            }
        }
        Files(files)
    }

    fn get(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, MirrorError> {
        match self.0.get(name) {
            Some(bytes) if bytes.len() as u64 > limit => Err(MirrorError::TooLarge(limit)),
            found => Ok(found.cloned()),
        }
    }
}

impl Mirror for Files {
    fn metadata(&mut self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, MirrorError> {
        self.get(&format!("metadata/{name}"), limit)
    }

    fn target(&mut self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, MirrorError> {
        self.get(&format!("targets/{path}"), limit)
    }
}

/// Looks for newer metadata, and fetches both of a realm's targets: the key set, the deny-list.
pub fn update(
    client: &mut Client,
    mirror: &mut dyn Mirror,
    now: Timestamp,
) -> Result<[Vec<u8>; 2], TrustError> {
    client.refresh(mirror, now)?;
    let mut fetched = |path: &str| {
        let found = client.find(mirror, path, now)?;
        client.fetch(mirror, &found.expect("it is listed"))
    };
    Ok([fetched(JWKS)?, fetched(DENY)?])
}

/// As after a restart of the device.
pub fn restarted(client: &Client) -> Client {
    let kept = client.kept();
    let again = Client::new(&kept["root.json"], Limits::FLEET);
    again.expect("a kept root").with_kept(kept)
}
