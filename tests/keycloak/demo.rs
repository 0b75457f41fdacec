//! `make demo-keycloak` as a newcomer runs it: with a Keycloak, a broker and a Prometheus of its own,
//! none of which stays.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::{assert_nothing_stays, exit, root, run, signal, target};

/// A minute on two free cores.
const PATIENCE: Duration = Duration::from_secs(1200);
const ANSWER: &str = "    The capital of Japan is Tokyo.\n";

fn demo(temporary: &Path) -> Command {
    let mut command = Command::new(root().join("deploy/demo/run"));
    command.arg(env!("CARGO_BIN_EXE_slmd"));
    command.arg(target().join("models/smollm2-135m-instruct"));
    command.current_dir(root()).env("TMPDIR", temporary);
    // Nothing of the caller's may lead it elsewhere.
    command.env("SLMD_CONFIG", "/nonexistent/slmd.toml");
    command.env("SLMD_TOKEN", "nonsense").env_remove("KEEP");
    // A group of its own, as a shell gives it.
    command.process_group(0);
    command
}

#[test]
fn it_shows_what_each_may_with_everything_real_and_leaves_nothing() {
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let output = run(&mut demo(temporary.path()), b"", PATIENCE);
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{shown}");
    // The device over both transports, the technician, and the device while Keycloak hangs.
    assert_eq!(shown.matches(ANSWER).count(), 4, "{shown}");
    for row in [
        "device-1       read       answered                         refused (403) scope_missing",
        "shift-planner  write      refused (403) scope_missing",
        "prometheus     audit      refused (403) scope_missing      answered",
        "visitor        no role    refused (401) audience_mismatch",
        "nobody         no token   refused (401) token_missing",
    ] {
        assert!(shown.contains(row), "{row}: {shown}");
    }
    for words in [
        "(or open https://localhost:",
        "works offline until",
        "access (audience_mismatch)",
        "refused (401): revoked",
        "curl: (28) ",
        " permit ada ",
        " deny revoked\n",
        "proven: the record is leaf ",
        "it proves nothing: ",
        "audit     ",
        "make demo-keycloak KEEP=1",
    ] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    assert!(!shown.contains("eyJ"), "a token is shown: {shown}");
    assert!(shown.contains("\nAll of it is gone again."), "{shown}");
    assert_nothing_stays(temporary.path());
}

#[test]
fn interrupted_while_keycloak_starts_it_leaves_nothing() {
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let mut demo = Begun::new(&mut demo(temporary.path()));
    demo.until(|line| line.trim_start().starts_with("Prometheus"));
    assert_eq!(demo.interrupted(), Some(130));
    assert_nothing_stays(temporary.path());
}

#[test]
fn what_is_missing_is_named_with_the_command_that_brings_it() {
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let python = std::fs::canonicalize("/usr/bin/env").expect("every machine has it");
    let mut command = demo(temporary.path());
    // Where only Python is, itself and no wrapper.
    let mut which = Command::new("python3");
    which.args(["-c", "import sys; print(sys.executable)"]);
    let which = run(&mut which, b"", PATIENCE);
    let program = String::from_utf8(which.stdout).expect("a path");
    let bin = temporary.path().join("bin");
    std::fs::create_dir(&bin).expect("a temporary folder");
    std::os::unix::fs::symlink(program.trim(), bin.join("python3")).expect("a link can be made");
    std::os::unix::fs::symlink(python, bin.join("env")).expect("a link can be made");
    command.env("PATH", &bin);
    let output = run(&mut command, b"", PATIENCE);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let line = "run: apt-get install bash curl default-jre-headless maven";
    assert!(said.contains(line), "{said}");
}

/// Takes the time of a whole tour once more.
#[test]
fn kept_running_it_can_be_asked_until_ctrl_c() {
    if std::env::var_os("SLMD_TEST_MORE").is_none() {
        return;
    }
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let mut kept = Begun::new(demo(temporary.path()).env("KEEP", "1"));
    let shown = kept
        .until(|line| line == "Running until Ctrl-C.")
        .join("\n");
    let (_, typed) = shown
        .split_once("into another terminal:\n")
        .expect("it says how");
    let typed: Vec<&str> = typed
        .lines()
        .take_while(|line| !line.contains("--watch"))
        .collect();
    let mut shell = Command::new("bash");
    shell.args(["-euo", "pipefail", "-c", &typed.join("\n")]);
    let output = run(&mut shell, b"", PATIENCE);
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    assert!(answer.contains("London"), "{answer}");
    assert_eq!(kept.interrupted(), Some(0));
    assert_nothing_stays(temporary.path());
}

/// A demo in the background. Dropping it asks it to end, so that it takes its processes along.
struct Begun(Child);

impl Begun {
    fn new(command: &mut Command) -> Begun {
        Begun(
            command
                .stdout(Stdio::piped())
                .spawn()
                .expect("the demo is there"),
        )
    }

    /// Reads lines up to the one that `last` knows. Bounded: the demo's own waits are.
    fn until(&mut self, last: impl Fn(&str) -> bool) -> Vec<String> {
        let output = self.0.stdout.as_mut().expect("piped above");
        let mut lines = Vec::new();
        for line in BufReader::new(output.by_ref()).lines() {
            let line = line.expect("text");
            let is_last = last(&line);
            lines.push(line);
            if is_last {
                return lines;
            }
        }
        panic!("it has ended: {}", lines.join("\n"));
    }

    fn interrupted(&mut self) -> Option<i32> {
        signal(&self.0, libc::SIGINT);
        exit(&mut self.0, PATIENCE)
            .expect("it ends when asked")
            .code()
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            signal(&self.0, libc::SIGTERM);
            let _ = exit(&mut self.0, PATIENCE);
        }
    }
}
