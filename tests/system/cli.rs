//! The command line against the running daemon, and against its state folder when it is stopped.

use std::fs;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use crate::support::{Daemon, Issuer, Setup, claims, run, secrets};

const PATIENCE: Duration = Duration::from_secs(60);
const FAILED: i32 = 1;
const USAGE: i32 = 2;
const REFUSED: i32 = 3;
const UNREACHABLE: i32 = 4;
const BAD_CONFIG: i32 = 5;

fn bare(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slmd"));
    command
        .args(args)
        .output()
        .expect("the test's own files and processes work")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it ended by itself")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(output: &Output) -> Value {
    assert_eq!(code(output), 0, "{}", err(output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", out(output)))
}

fn started() -> (Issuer, Daemon) {
    let issuer = Issuer::new("ES256", "key-1");
    let daemon = Daemon::start(Setup::new().issuer(&issuer));
    (issuer, daemon)
}

#[test]
fn help_documents_the_exit_codes() {
    let help = out(&bare(&["--help"]));
    for expected in ["Examples:", "Exit codes:", "130"] {
        assert!(help.contains(expected), "{help}");
    }
    for command in [
        "ask",
        "endpoints",
        "login",
        "logout",
        "status",
        "model",
        "keys",
        "audit",
        "config",
        "reload",
        "demo",
    ] {
        assert_eq!(code(&bare(&[command, "--help"])), 0, "{command}");
    }
    assert_eq!(code(&bare(&["aks"])), USAGE);
    assert_eq!(
        code(&bare(&["--config", "/nonexistent", "config", "check"])),
        BAD_CONFIG
    );
    let nobody = ["ask", "--socket", "/nonexistent/slmd.sock", "hello"];
    assert_eq!(code(&bare(&nobody)), UNREACHABLE);
}

#[test]
fn every_mistake_of_a_file_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("slmd.toml");
    fs::write(&file, "drain_deadline = 5\n[http]\nsockett = \"/x\"\n").unwrap();
    let file = file.to_str().unwrap();
    let checked = bare(&["--config", file, "config", "check"]);
    assert_eq!(code(&checked), BAD_CONFIG);
    let said = err(&checked);
    for expected in [
        ":1:18: drain_deadline",
        ":3:1: http.sockett",
        "`socket`",
        "[[realm]]",
    ] {
        assert!(said.contains(expected), "{expected} in {said}");
    }
}

/// What only another machine can tell is no mistake of the file.
#[test]
fn a_file_for_another_machine_is_checked_without_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("slmd.toml");
    let text = "[[realm]]\nname = \"dev\"\nissuer = \"https://keycloak.test/realms/dev\"\n\
                [realm.local_groups]\nno-such-group = [\"read\"]\n\
                [[realm.endpoint]]\nclient_id = \"slm\"\nmodel = \"m\"\n";
    fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let here = bare(&["config", "check", "--here", file]);
    assert_eq!(code(&here), BAD_CONFIG);
    assert!(err(&here).contains("groupadd"), "{}", err(&here));
    let elsewhere = ["config", "check", file];
    assert_eq!(code(&bare(&elsewhere)), 0);
    fs::write(file, "drain_deadline = 5\n").unwrap();
    assert_eq!(code(&bare(&elsewhere)), BAD_CONFIG);

    let defaults = bare(&["--config", "/nonexistent", "config", "defaults"]);
    assert_eq!(out(&defaults), include_str!("../../systemd/slmd.toml"));
}

#[test]
fn asking_needs_a_token_and_streams_an_answer() {
    let (issuer, daemon) = started();
    let socket = daemon.socket();
    let mut ask = daemon.binary();
    ask.args(["ask", "--temperature", "0", "--max-tokens", "8", "--socket"]);
    let prompt = "What is the capital of France?";
    secrets::prompt(prompt);
    ask.arg(&socket).arg(prompt);
    ask.env_remove("SLMD_TOKEN").env_remove("SLMD_TOKEN_FILE");
    let refused = ask.output().unwrap();
    assert_eq!(code(&refused), REFUSED);
    assert!(err(&refused).contains("token_missing"), "{}", err(&refused));

    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    fs::write(&token, format!("{}\n", issuer.token(claims()))).unwrap();
    let answered = ask.env("SLMD_TOKEN_FILE", &token).output().unwrap();
    assert_eq!(code(&answered), 0, "{}", err(&answered));
    assert!(!out(&answered).trim().is_empty());

    let whole = json(&ask.arg("--json").output().unwrap());
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap();
    assert_eq!(out(&answered).trim(), text.trim());
}

/// What the daemon refuses by the head alone is told, though it closes before it has read the body.
#[test]
fn what_is_too_long_is_refused_in_words() {
    let (issuer, daemon) = started();
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    fs::write(&token, issuer.token(claims())).unwrap();
    let ask = || {
        let mut ask = daemon.binary();
        ask.arg("ask").arg("--socket").arg(daemon.socket());
        ask.arg("--token-file").arg(&token);
        ask
    };
    // One argument has at most 128 KiB (execve(2)).
    let words = "why ".repeat(25_000);
    let by_words = ask().args([&words; 3]).output().unwrap();
    let piped = run(&mut ask(), "why ".repeat(2_000_000).as_bytes(), PATIENCE);
    for refused in [by_words, piped] {
        assert_eq!(code(&refused), REFUSED, "{}", err(&refused));
        assert!(err(&refused).contains("(413)"), "{}", err(&refused));
    }
}

#[test]
fn models_are_listed_and_verified() {
    let (_, daemon) = started();
    let listed = json(&daemon.slmd(&["model", "list", "--json"]));
    let models = listed["models"].as_array().unwrap();
    let model = models.iter().find(|m| m["name"] == "smollm2-135m-instruct");
    assert_eq!(model.unwrap()["digest"].as_str().unwrap().len(), 64);
    let verified = daemon.slmd(&["model", "verify", "smollm2-135m-instruct", "--json"]);
    assert_eq!(json(&verified)["verified"], true);
    assert_eq!(code(&daemon.slmd(&["model", "verify", "none"])), FAILED);
}

#[test]
fn keys_and_audit_work_with_and_without_a_daemon() {
    let (issuer, mut daemon) = started();
    let kids = |daemon: &Daemon| -> Vec<Value> {
        let listed = json(&daemon.slmd(&["keys", "list", "--json"]));
        let keys = listed["realms"][0]["keys"].as_array().unwrap().clone();
        keys.iter().map(|key| key["kid"].clone()).collect()
    };
    assert_eq!(kids(&daemon), ["key-1"]);
    let other = Issuer::new("ES256", "key-2");
    let file = daemon.state_dir().with_file_name("jwks.json");
    fs::write(&file, other.jwks()).unwrap();
    let file = file.to_str().unwrap().to_owned();
    let unconfirmed = daemon.slmd(&["keys", "pin", "dev", &file]);
    assert_eq!(code(&unconfirmed), USAGE);
    assert_eq!(kids(&daemon), ["key-1"]);
    let pinned = daemon.slmd(&["keys", "pin", "--yes", "dev", &file]);
    assert_eq!(code(&pinned), 0, "{}", err(&pinned));
    assert_eq!(kids(&daemon), ["key-2"]);
    assert_ne!(
        code(&daemon.slmd(&["keys", "pin", "--yes", "none", &file])),
        0
    );

    daemon.terminate();
    assert_eq!(kids(&daemon), ["key-2"]);
    fs::write(&file, issuer.jwks()).unwrap();
    let pinned = daemon.slmd(&["keys", "pin", "--yes", "dev", &file]);
    assert_eq!(code(&pinned), 0, "{}", err(&pinned));
    let tail = out(&daemon.slmd(&["audit", "tail", "-n", "3", "--json"]));
    let last: Value = serde_json::from_str(tail.lines().last().unwrap()).unwrap();
    assert_eq!(last["what"], "keys_pinned", "{tail}");
    assert_eq!(last["origin"]["transport"], "admin", "{tail}");
    assert_eq!(code(&daemon.slmd(&["audit", "tail", "-f"])), UNREACHABLE);
    assert_eq!(code(&daemon.slmd(&["status"])), UNREACHABLE);

    daemon.restart();
    assert_eq!(kids(&daemon), ["key-1"]);
    let tail = daemon.slmd(&["audit", "tail", "-n", "2"]);
    assert_eq!(out(&tail).lines().count(), 2, "{}", out(&tail));
}

#[test]
fn a_reload_is_whole_or_nothing() {
    let (_, daemon) = started();
    assert_eq!(json(&daemon.slmd(&["status", "--json"]))["ready"], true);
    let file = daemon.config_path();
    let sound = fs::read_to_string(&file).unwrap();
    let issuer = "https://keycloak.test/realms/dev";
    let moved = "https://keycloak.test/realms/moved";
    let in_force = || json(&daemon.slmd(&["status", "--json"]))["realms"][0]["issuer"].clone();

    // The command reads its socket's path from the same file, so it must be named.
    let mut reload = daemon.binary();
    reload
        .arg("reload")
        .arg("--admin-socket")
        .arg(daemon.admin());
    let broken = sound.replace(issuer, moved) + "\n[nonsense]\n";
    fs::write(&file, broken).unwrap();
    let refused = reload.output().unwrap();
    assert_eq!(code(&refused), REFUSED);
    assert!(err(&refused).contains("nonsense"), "{}", err(&refused));
    fs::write(&file, &sound).unwrap();
    assert_eq!(in_force(), issuer);

    fs::write(&file, sound.replace(issuer, moved)).unwrap();
    let reloaded = reload.output().unwrap();
    assert_eq!(code(&reloaded), 0, "{}", err(&reloaded));
    assert_eq!(in_force(), moved);
}

#[test]
fn what_is_shown_is_a_configuration() {
    let (_, daemon) = started();
    let shown = daemon.slmd(&["config", "show"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shown.toml");
    fs::write(&file, &shown.stdout).unwrap();
    let again = bare(&["--config", file.to_str().unwrap(), "config", "show"]);
    assert_eq!(out(&again), out(&shown), "{}", err(&again));
    assert!(out(&shown).contains("retention = \"90d\""));
}
