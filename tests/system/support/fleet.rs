//! A fleet's managers, and what they publish, made with python-tuf.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::wait::run;
use super::{Daemon, Mosquitto, root, target};

/// The fleet's topics, `slm/trust/plant/…`.
pub const TOPICS: &str = "slm/trust/plant";

pub struct Fleet {
    folder: TempDir,
    process: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// What the broker has.
    told: BTreeMap<PathBuf, Vec<u8>>,
}

impl Fleet {
    /// With an empty deny-list for the realm `dev`, and nothing else.
    pub fn new() -> Fleet {
        let python = target().join("venv/bin/python");
        assert!(python.exists(), "python-tuf isn't there; run `make venv`");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut process = Command::new(python)
            .arg(root().join("tests/system/support/fleet.py"))
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python runs");
        let asks = process.stdin.take().expect("piped above");
        let answers = BufReader::new(process.stdout.take().expect("piped above"));
        let mut fleet = Fleet {
            folder,
            process,
            asks,
            answers,
            told: BTreeMap::new(),
        };
        fleet.answer();
        fleet
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("python answers");
        serde_json::from_str(&line).expect("the versions as JSON")
    }

    /// Publishes what `fleet.py` reads; returns the versions.
    pub fn publish(&mut self, asked: &Value) -> Value {
        writeln!(self.asks, "{asked}").expect("python reads");
        self.answer()
    }

    /// Publishes the realm's key set.
    pub fn keys(&mut self, jwks: &str) -> Value {
        self.publish(&json!({"targets": {"realms/dev/jwks.json": jwks}}))
    }

    pub fn revoke(&mut self, entries: &Value) -> Value {
        let list = json!({"version": 1, "revoked": entries}).to_string();
        self.publish(&json!({"revocation": {"realms/dev/deny.json": list}}))
    }

    /// The repository, as a mirror serves it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn root(&self) -> PathBuf {
        self.folder.path().join("metadata/1.root.json")
    }

    /// Has the daemon trust it.
    pub fn pin(&self, daemon: &Daemon) {
        let root = fs::read(self.root()).expect("a root");
        let fingerprint = fingerprint(&root);
        let path = self.root();
        let path = path.to_str().expect("UTF-8");
        let pinned = daemon.slmd(&["trust", "pin", path, "--fingerprint", &fingerprint]);
        assert!(pinned.status.success(), "{pinned:?}");
    }

    /// Copies what is published now.
    pub fn copy_to(&self, folder: &Path) {
        for (name, content) in files(self.folder.path()) {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a temporary folder");
            fs::write(path, content).expect("a temporary file");
        }
    }

    /// Gives the broker what it hasn't, the timestamp last.
    pub fn broadcast(&mut self, broker: &Mosquitto) {
        let timestamp = Path::new("metadata/timestamp.json");
        let mut files = files(self.folder.path());
        let last = files.remove(timestamp);
        let last = last.map(|content| (timestamp.to_owned(), content));
        for (name, content) in files.into_iter().chain(last) {
            if self.told.get(&name) != Some(&content) {
                let topic = format!("{TOPICS}/{}", name.display());
                retain(broker, &topic, &content);
                self.told.insert(name, content);
            }
        }
    }

    /// Has it give everything again: the broker was emptied.
    pub fn forget_told(&mut self) {
        self.told.clear();
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub fn fingerprint(root: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, root);
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// Publishes a retained message at QoS 1, and waits until the broker has it.
pub fn retain(broker: &Mosquitto, topic: &str, content: &[u8]) {
    let mut command = Command::new("mosquitto_pub");
    command.args(["-V", "5", "-q", "1", "-r", "-s", "-t", topic, "-p"]);
    command.arg(broker.port().to_string());
    let output = run(&mut command, content, Duration::from_secs(10));
    assert!(output.status.success(), "{output:?}");
}

/// By path in the repository.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).expect("beneath it").to_owned();
                found.insert(name, fs::read(&path).expect("a file"));
            }
        }
    }
    found
}
