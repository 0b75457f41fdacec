//! A fleet's folder, the commands that work on it, and python-tuf as its device.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{python, run};

pub const PASSPHRASE: &str = "correct horse battery staple";
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Fleet {
    temp: TempDir,
}

impl Fleet {
    /// A new one, `plant`, whose first metadata is published in its own folder.
    pub fn new() -> Fleet {
        let fleet = Fleet::empty();
        fleet.ok(&["init", "plant"]);
        fleet
    }

    /// Nothing but the file with the passphrase.
    pub fn empty() -> Fleet {
        let temp = tempfile::tempdir().expect("a temporary folder");
        let fleet = Fleet { temp };
        fleet.secret("passphrase", PASSPHRASE);
        fleet
    }

    /// Where the commands run; the fleet is in `fleet` beneath.
    pub fn place(&self) -> &Path {
        self.temp.path()
    }

    pub fn folder(&self) -> PathBuf {
        self.place().join("fleet")
    }

    pub fn file(&self, name: &str, text: &str) -> String {
        let file = self.place().join(name);
        fs::write(&file, text).expect("a temporary file");
        file.display().to_string()
    }

    /// One that only we may read.
    pub fn secret(&self, name: &str, text: &str) -> String {
        use std::os::unix::fs::PermissionsExt;
        let file = self.file(name, text);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("it is ours");
        file
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slmd"));
        command
            .arg("fleet")
            .args(arguments)
            .current_dir(self.place());
        let takes = [
            "init",
            "key",
            "sign",
            "timestamp",
            "publish",
            "revoke",
            "lift",
            "audit",
        ];
        let asks = takes.contains(&arguments[0]) && arguments[1..].first() != Some(&"list");
        if asks
            && !arguments
                .iter()
                .any(|word| word.starts_with("--passphrase-file"))
        {
            command.args(["--passphrase-file", "passphrase"]);
        }
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        run(&mut self.command(arguments), b"", PATIENCE)
    }

    /// What it says when it does as told.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let text = self.ok(&[arguments, &["--json"]].concat());
        serde_json::from_str(&text).expect("JSON, as was asked for")
    }

    /// What it complains about.
    #[track_caller]
    pub fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{arguments:?} was done");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// What it shows before it complains.
    #[track_caller]
    pub fn refused_table(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{arguments:?} was content");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn sign(&self, names: &[&str]) {
        for name in names {
            self.ok(&["sign", "--key", name, "--yes"]);
        }
    }

    /// Two sign, and it is published in the fleet's own folder.
    pub fn publish(&self) {
        self.sign(&["offline-1", "offline-2"]);
        self.ok(&["publish"]);
    }

    /// What python-tuf trusts of `mirror`, going on from what it has in `cache`.
    #[track_caller]
    pub fn read(&self, cache: &str, mirror: &Path, targets: &[&str]) -> Value {
        let cache = self.place().join(cache);
        fs::create_dir_all(&cache).expect("a temporary folder");
        let root = self.folder().join("metadata/1.root.json");
        let paths = [&cache, mirror, &root].map(|path| path.display().to_string());
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let output = python("tuf_reader.py", &[&paths, targets].concat(), &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        serde_json::from_slice(&output.stdout).expect("the reader prints JSON")
    }
}

/// A realm's key set with Ed25519 keys of these `kid`s.
pub fn jwks(kids: &[&str]) -> String {
    let x = [
        "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        "PUAXw-hDiVqStwqnTRt-vJyYLM8uxJaMwM1V8Sr0Zgw",
    ];
    let key = |kid: &&str| {
        let x = x[usize::from(kid.as_bytes()[0] - b'a')];
        serde_json::json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": kid,
            "x": x, "x5c": ["MIIB"]})
    };
    let keys: Vec<Value> = kids.iter().map(key).collect();
    serde_json::json!({ "keys": keys }).to_string()
}
