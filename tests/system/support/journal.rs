//! A real journal (systemd-journald) for one daemon, by `tests/machine/journal`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::daemon::Setup;
use super::root;
use super::wait::run;

const PATIENCE: Duration = Duration::from_secs(60);

pub struct Journal {
    place: TempDir,
}

impl Journal {
    pub fn new() -> Journal {
        let place = tempfile::tempdir().expect("a temporary folder");
        let journal = Journal { place };
        fs::create_dir(journal.folder()).expect("it is ours");
        journal
    }

    fn folder(&self) -> PathBuf {
        self.place.path().join("journal")
    }

    /// With the daemon and its journal in a namespace of their own. Commands that the daemon's
    /// [`binary`](super::Daemon::binary) runs would have one of their own, too.
    pub fn serving(&self, setup: Setup) -> Setup {
        let runner = root().join("tests/machine/journal");
        let binary = Path::new(env!("CARGO_BIN_EXE_slmd"));
        setup.program(&[&runner, &self.folder(), binary])
    }

    /// The entries of `identifier` that match, as a person would ask for them.
    pub fn search(&self, identifier: &str, matches: &[&str]) -> Vec<Value> {
        let mut folders = fs::read_dir(self.folder()).expect("it is ours");
        let Some(folder) = folders.next() else {
            return Vec::new();
        };
        let mut command = Command::new("journalctl");
        command.args(["--all", "--output", "json", "--directory"]);
        command
            .arg(folder.expect("it is ours").path())
            .args(matches);
        let output = run(&mut command, b"", PATIENCE);
        let text = String::from_utf8(output.stdout).expect("JSON is text");
        let entries = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"));
        let own = |entry: &Value| entry["SYSLOG_IDENTIFIER"] == identifier;
        entries.filter(own).collect()
    }

    pub fn kill(&self) {
        let pid = fs::read_to_string(self.folder().with_extension("pid")).expect("its pid");
        let mut kill = Command::new("kill");
        let output = run(kill.args(["-KILL", pid.trim()]), b"", PATIENCE);
        assert!(output.status.success(), "{output:?}");
    }

    /// Starts it again after a kill, where the daemon `pid` is. It ends with the daemon's test.
    pub fn start_again(&self, pid: u32) -> Again {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &pid.to_string()]);
        command.args([
            "setpriv",
            "--pdeathsig",
            "KILL",
            "/lib/systemd/systemd-journald",
        ]);
        let null = std::process::Stdio::null;
        let child = command.stdin(null()).stdout(null()).stderr(null()).spawn();
        Again(child.expect("util-linux has nsenter"))
    }
}

/// Ends with this.
pub struct Again(std::process::Child);

impl Drop for Again {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
