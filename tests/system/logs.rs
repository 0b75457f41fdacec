//! Log lines for machines: JSON objects, and the fields of a real journal with none lost without it;
//! and whose word counts for what is logged.

use std::fs;
use std::process::Output;
use std::time::Duration;

use serde_json::Value;

use crate::badinput::BAD_CONFIG;
use crate::newcomer::has_namespaces;
use crate::support::{Daemon, Issuer, Journal, Setup, chat, claims, run, secrets, within};

const PATIENCE: Duration = Duration::from_secs(60);
const LEVELS: [&str; 5] = ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"];

fn start(setup: Setup) -> (Daemon, String) {
    let issuer = Issuer::new("ES256", "key-1");
    let daemon = Daemon::start(setup.issuer(&issuer));
    (daemon, issuer.token(claims()))
}

/// One answered question and one that is refused.
fn ask(daemon: &Daemon, token: &str) {
    let body = chat("Say one word, for the log to be longer.", 2, false);
    assert_eq!(daemon.chat(token, &body).status, 200);
    assert_eq!(daemon.chat("no token", &body).status, 401);
}

/// As the audit names it.
fn last_request(daemon: &Daemon) -> String {
    let last = daemon.audit(0).into_iter().rev().find_map(|line| {
        let record: Value = serde_json::from_str(&line).expect("a record");
        record["request_id"].as_str().map(str::to_owned)
    });
    last.expect("a request is on record")
}

/// Readiness is looked at once a second.
fn ready(daemon: &Daemon, words: &str) {
    let told = || daemon.log().contains(words).then_some(());
    within(PATIENCE, "readiness in the log", told);
}

/// Another start of the daemon's configuration, which can't succeed while it runs.
fn second(daemon: &Daemon) -> Output {
    let output = run(daemon.binary().arg("run"), b"", PATIENCE);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    output
}

#[track_caller]
fn assert_object(line: &str) -> Value {
    let object: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    let text = |name: &str| object[name].as_str().unwrap_or_else(|| panic!("{line}"));
    assert!(LEVELS.contains(&text("level")), "{line}");
    assert!(!text("target").is_empty(), "{line}");
    let (day, time) = text("timestamp").split_once('T').expect("RFC 3339");
    assert!(day.len() == 10 && time.ends_with('Z'), "{line}");
    text("message");
    let members = object.as_object().expect("an object").keys();
    let more: Vec<&String> = members.skip(4).collect();
    assert!(more.is_empty() || more == ["fields"], "{line}");
    object
}

#[test]
fn json_is_an_object_a_line() {
    let (mut daemon, token) = start(Setup::new().with("log_format = \"json\""));
    ask(&daemon, &token);
    let refused = last_request(&daemon);
    ready(&daemon, r#""message":"ready""#);
    let last = second(&daemon);
    daemon.terminate();
    let log = daemon.log();
    let lines: Vec<Value> = log.lines().map(assert_object).collect();
    let said = |message: &str| {
        let mut found = lines.iter().filter(|line| line["message"] == message);
        found.next_back().unwrap_or_else(|| panic!("{log}"))
    };
    assert_eq!(said("ready")["level"], "INFO");
    assert_eq!(said("ready")["target"], "slmd::daemon::health");
    assert!(said("ready").get("fields").is_none());
    assert_eq!(said("answered")["level"], "DEBUG");
    assert_eq!(said("answered")["fields"]["status"], 401);
    assert!(said("answered")["fields"]["route"].is_string());
    // Each line of a request says which it is of, as the audit does.
    assert_eq!(said("answered")["fields"]["request_id"], refused.as_str());

    // Why it didn't start is an object too.
    let stderr = String::from_utf8(last.stderr).expect("text");
    let objects: Vec<Value> = stderr.lines().map(assert_object).collect();
    let why = objects.last().expect("it says why");
    assert_eq!(why["level"], "ERROR");
    let message = why["message"].as_str().expect("a text");
    assert!(message.starts_with("slmd: state folder "), "{message}");
}

#[test]
fn the_environment_has_the_last_word() {
    let (daemon, token) = start(Setup::new().env("SLMD_LOG", "warn,slmd::daemon=info"));
    ask(&daemon, &token);
    ready(&daemon, " INFO slmd::daemon::health: ready");
    let log = daemon.log();
    let wanted = |line: &str| {
        [" INFO slmd::daemon", " WARN ", " ERROR "]
            .iter()
            .any(|w| line.contains(w))
    };
    assert!(log.lines().all(wanted), "{log}");

    let with = |filter: &str, arguments: &[&str]| {
        let mut command = daemon.binary();
        run(
            command.env("SLMD_LOG", filter).args(arguments),
            b"",
            PATIENCE,
        )
    };
    for (what, arguments) in [
        ("run", &["run"][..]),
        ("a check", &["config", "check", "--here"]),
    ] {
        let output = with("loud", arguments);
        assert_eq!(output.status.code(), Some(BAD_CONFIG), "{what}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        for part in ["SLMD_LOG", "\"loud\" is no level", "off, error, warn, info"] {
            assert!(said.contains(part), "{what}: {said}");
        }
    }
    // Nothing is as good as no variable.
    let empty = with("", &["config", "check"]);
    assert!(empty.status.success(), "{empty:?}");
}

/// The latest entry whose message begins so.
fn told(journal: &Journal, message: &str) -> Value {
    within(PATIENCE, message, || {
        let begins = |entry: &Value| {
            let text = entry["MESSAGE"].as_str();
            text.is_some_and(|text| text.starts_with(message))
        };
        journal.search("slmd", &[]).into_iter().rfind(begins)
    })
}

#[test]
fn a_journal_has_priorities_and_fields_and_nothing_is_lost_without_it() {
    if !has_namespaces("to have a journal of its own") {
        return;
    }
    let journal = Journal::new();
    let setup = journal.serving(Setup::new());
    let (daemon, token) = start(setup);
    ask(&daemon, &token);

    let ready = told(&journal, "ready");
    for (name, value) in [
        ("_TRANSPORT", "journal"),
        ("MESSAGE", "ready"),
        ("PRIORITY", "6"),
        ("TARGET", "slmd::daemon::health"),
        ("CODE_FILE", "src/daemon/health.rs"),
    ] {
        assert_eq!(ready[name], value, "{ready}");
    }
    let answered = told(&journal, "answered ");
    assert_eq!(answered["PRIORITY"], "7", "{answered}");
    assert_eq!(answered["SLMD_STATUS"], "401", "{answered}");
    assert_eq!(answered["SLMD_ROUTE"], "/v1/chat/completions", "{answered}");
    // A request's lines are found by its id.
    let id = last_request(&daemon);
    assert_eq!(answered["SLMD_REQUEST_ID"], id.as_str(), "{answered}");
    let found = journal.search("slmd", &[&format!("SLMD_REQUEST_ID={id}")]);
    let lines = found.iter().filter_map(|entry| entry["MESSAGE"].as_str());
    let said: Vec<&str> = lines.filter(|line| line.contains(&id)).collect();
    assert_eq!(said.len(), found.len(), "{found:?}");
    assert!(
        said.iter().any(|line| line.starts_with("answered ")),
        "{said:?}"
    );
    // Who reads messages only is told all of it.
    let message = answered["MESSAGE"].as_str().expect("a text");
    assert!(
        message.ends_with(" route=/v1/chat/completions status=401"),
        "{message}"
    );
    // Nothing is said twice.
    assert_eq!(daemon.log(), "");

    // What it holds is searched for secrets like all other logs.
    let entries = journal.search("slmd", &[]).into_iter();
    let lines: String = entries.map(|entry| format!("{entry}\n")).collect();
    let name = format!("journal-{}.log", daemon.pid());
    fs::write(secrets::folder().join(name), lines).expect("the build folder is writable");

    journal.kill();
    ask(&daemon, &token);
    let log = daemon.log();
    let lost = |line: &&str| line.starts_with("<7>answered ");
    assert_eq!(log.lines().filter(lost).count(), 2, "{log}");
    assert!(log.lines().all(|line| line.starts_with('<')), "{log}");
}
