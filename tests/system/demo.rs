//! `slmd demo` itself: what it shows, and that nothing stays behind.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::{assert_nothing_stays, exit, root, run, signal, target, within};

const PATIENCE: Duration = Duration::from_secs(300);
const ANSWER: &str = "The capital of Japan is Tokyo.";
const LAST_LINE: &str = "Running until Ctrl-C.";

/// Its folder for temporary files is the test's, which finds everything that it leaves.
fn demo(temporary: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slmd"));
    command.arg("demo").env("TMPDIR", temporary);
    // A token or a socket of the caller's must not lead the demo elsewhere.
    command
        .env("SLMD_CONFIG", "/nonexistent/slmd.toml")
        .env("SLMD_SOCKET", "/nonexistent/slmd.sock")
        .env("SLMD_TOKEN", "nonsense");
    command
}

#[test]
fn twice_in_a_row_it_shows_everything_and_leaves_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let bundle = target().join("models/smollm2-135m-instruct");
    let mut by_default = demo(temporary.path());
    by_default.current_dir(root());
    let mut named = demo(temporary.path());
    named.current_dir(elsewhere.path());
    named.arg("--model").arg(bundle);
    for command in [&mut by_default, &mut named] {
        let output = run(command, b"", PATIENCE);
        let shown = String::from_utf8(output.stdout).unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}\n{shown}");
        assert_shown(&shown);
        assert_nothing_stays(temporary.path());
    }
}

#[track_caller]
fn assert_shown(shown: &str) {
    let count = |text: &str| shown.matches(text).count();
    assert_eq!(count(&format!("A: {ANSWER}\n")), 2, "{shown}");
    assert_eq!(count("refused (401)"), 1, "{shown}");
    let audited = |what: &str, from: &str| {
        let is_it = |line: &&str| line.contains(what) && line.contains(from);
        shown.lines().filter(is_it).count()
    };
    for transport in ["socket", "mqtt"] {
        let asked = format!(" demo-device chat demo/slm-chat {transport} ");
        assert_eq!(audited(" permit ", &asked), 1, "{shown}");
    }
    assert_eq!(audited(" refuse ", " token_missing "), 1, "{shown}");
    assert_eq!(audited(" finish ", " tokens "), 2, "{shown}");
}

#[test]
fn without_a_model_it_says_how_to_get_one() {
    let temporary = tempfile::tempdir().unwrap();
    let mut command = demo(temporary.path());
    let none = temporary.path().join("none");
    let output = run(command.arg("--model").arg(none), b"", PATIENCE);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("slmd model import"), "{said}");
    assert_nothing_stays(temporary.path());
}

#[test]
fn kept_running_it_can_be_asked() {
    let temporary = tempfile::tempdir().unwrap();
    let mut command = demo(temporary.path());
    command.arg("--keep").current_dir(root());
    let recording = Recording::new();
    command.env("PATH", recording.path());
    // A group of its own, as a shell gives it.
    command.process_group(0);
    let mut kept = Kept::new(&mut command);
    let exports = kept.exports();
    let names: Vec<&str> = exports.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["SLMD_CONFIG", "SLMD_SOCKET", "SLMD_TOKEN_FILE"]);

    let slmd = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slmd"));
        command.args(args).env_remove("SLMD_TOKEN");
        command.envs(exports.iter().map(|(name, value)| (name, value)));
        let output = run(&mut command, b"", PATIENCE);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    };
    let answer = slmd(&["ask", "--seed", "0", "What is the capital of Japan?"]);
    assert_eq!(answer.trim(), ANSWER);
    let status = slmd(&["status"]);
    assert!(status.starts_with("ready"), "{status}");
    assert!(status.contains(": connected\n"), "{status}");

    // What it says to type for MQTT, as it stands.
    let shown = kept.shown.join("\n");
    let (_, typed) = shown.split_once("mosquitto_sub").expect("it shows one");
    let typed = typed.split_once('\n').expect("a line").1;
    let mut shell = Command::new("bash");
    shell.args([
        "-euo",
        "pipefail",
        "-c",
        typed.split("\n\n").next().expect("text"),
    ]);
    shell.envs(exports.iter().map(|(name, value)| (name, value)));
    shell.env("PATH", recording.path());
    let output = run(&mut shell, b"", PATIENCE);
    assert!(output.status.success(), "{output:?}: {typed}");
    within(PATIENCE, "the permit", || {
        let records = slmd(&["audit", "tail"]);
        // The demo's own was the first.
        (records.matches("chat demo/slm-chat mqtt").count() == 2).then_some(())
    });

    signal(&kept.process, libc::SIGINT);
    let status = exit(&mut kept.process, PATIENCE).expect("it ends when asked");
    assert_eq!(status.code(), Some(0));
    assert_nothing_stays(temporary.path());
    // Three messages: the demo's mark and question, and ours.
    let arguments = recording.arguments();
    assert_eq!(arguments.lines().count(), 3, "{arguments}");
    let token = arguments.contains("Bearer") || arguments.contains("eyJ");
    assert!(!token, "whoever lists processes has the token: {arguments}");
}

/// mosquitto_pub, which notes what every user of the machine could have seen of it.
struct Recording(tempfile::TempDir);

impl Recording {
    fn new() -> Recording {
        let recording = Recording(tempfile::tempdir().expect("a temporary folder"));
        let script = format!(
            "#!/bin/sh\necho \"$*\" | tr '\\n' ' ' >>{0}\necho >>{0}\n\
             PATH=${{PATH#*:}} exec mosquitto_pub \"$@\"\n",
            recording.0.path().join("arguments").display()
        );
        let path = recording.0.path().join("mosquitto_pub");
        fs::write(&path, script).expect("a temporary file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
        recording
    }

    /// With this one before the machine's.
    fn path(&self) -> String {
        let path = std::env::var("PATH").expect("PATH is set");
        format!("{}:{path}", self.0.path().display())
    }

    fn arguments(&self) -> String {
        fs::read_to_string(self.0.path().join("arguments")).expect("it was run")
    }
}

#[test]
fn interrupted_in_the_middle_it_leaves_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    let mut command = demo(temporary.path());
    command.current_dir(root()).process_group(0);
    let mut demo = Kept::new(&mut command);
    demo.until(|line| line.contains("A question over the local socket"));
    signal(&demo.process, libc::SIGINT);
    let status = exit(&mut demo.process, PATIENCE).expect("it ends when asked");
    assert_eq!(status.code(), Some(130));
    assert_nothing_stays(temporary.path());
}

/// A demo in the background. Dropping it asks it to end, so that it takes its processes along.
struct Kept {
    process: Child,
    /// The lines that were read last.
    shown: Vec<String>,
}

impl Kept {
    fn new(command: &mut Command) -> Kept {
        let process = command.stdout(Stdio::piped()).spawn();
        Kept {
            process: process.expect("the demo's binary is there"),
            shown: Vec::new(),
        }
    }

    /// Reads lines up to the one that `last` knows. Bounded: the demo's own waits are.
    fn until(&mut self, last: impl Fn(&str) -> bool) -> Vec<String> {
        let output = self.process.stdout.as_mut().expect("piped above");
        let mut lines = Vec::new();
        for line in BufReader::new(output.by_ref()).lines() {
            let line = line.expect("the test's own files and processes work");
            let is_last = last(&line);
            lines.push(line);
            if is_last {
                return lines;
            }
        }
        panic!("it has ended: {}", lines.join("\n"));
    }

    fn exports(&mut self) -> Vec<(String, String)> {
        self.shown = self.until(|line| line == LAST_LINE);
        let exports = self
            .shown
            .iter()
            .filter_map(|line| line.trim().strip_prefix("export ")?.split_once('='));
        exports
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) {
            signal(&self.process, libc::SIGTERM);
            let _ = exit(&mut self.process, PATIENCE);
        }
    }
}
