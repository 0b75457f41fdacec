//! What the device signs: answers, which its clients can tell from a broker's, and its reports.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use slmd::for_tests::identity::PublicKey;
use slmd::for_tests::trust::{Enrolled, Report, ReportError, verify};

use super::devices::program;
use super::{ANSWER, REQUESTS, Scene};
use crate::support::{
    Daemon, Issuer, Mosquitto, Publish, Setup, Subscriber, chat, root, run, secrets, target,
};

const QUESTION: &str = "Which three fruits do you like the most, and why?";
const SIGNED: &str = "[mqtt]\nsign_answers = true\n";
const REPORTS: &str = "slm/edge-1/trust";
/// Two reports are no closer to each other than ten seconds.
const REPORT: Duration = Duration::from_secs(30);

/// The device's public key, as its owner would give it to others.
fn device_key(daemon: &Daemon) -> String {
    let output = daemon.slmd(&["device", "id", "--json"]);
    assert!(output.status.success(), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    said["x"].as_str().expect("a key").to_owned()
}

/// A client that asks at this broker, by the key if there is one.
fn ask(client: &str, folder: &Path, scene: &Scene, port: u16, key: Option<&str>) -> Output {
    secrets::prompt(QUESTION);
    let mut command = program(client, folder);
    if let Some(key) = key {
        command.args(["--device-key", key]);
    }
    command.arg(format!("mqtt://localhost:{port}"));
    command.args(["edge-1", "device-1", QUESTION]);
    command.env("SLMD_TOKEN", scene.token());
    run(&mut command, b"", ANSWER)
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

/// A broker of the devices' that does what it likes.
struct Between {
    broker: Mosquitto,
    process: Child,
    stdout: BufReader<ChildStdout>,
}

impl Between {
    fn start(slmd: &Mosquitto) -> Between {
        let broker = Mosquitto::start();
        let mut process = Command::new(target().join("venv/bin/python"))
            .arg(root().join("tests/clients/between.py"))
            .args([broker.port().to_string(), slmd.port().to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the Python clients are installed; run `make venv`");
        let mut stdout = BufReader::new(process.stdout.take().expect("piped above"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("it prints a line");
        assert_eq!(line, "ready\n");
        Between {
            broker,
            process,
            stdout,
        }
    }

    /// How many messages it has made up, by their fault.
    fn faults(mut self) -> Value {
        let mut said = String::new();
        self.stdout.read_to_string(&mut said).expect("text");
        let status = self.process.wait().expect("our own child");
        assert!(status.success(), "{said}");
        serde_json::from_str(&said).expect("JSON")
    }
}

#[test]
fn a_client_takes_what_the_device_has_signed_and_nothing_else() {
    let scene = Scene::start(SIGNED);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (own, key) = (scene.broker.port(), device_key(&scene.daemon));
    let mut answers = Vec::new();
    for client in ["device.py", "device.mjs"] {
        let honest = ask(client, folder.path(), &scene, own, Some(&key));
        assert!(honest.status.success(), "{client}: {honest:?}");
        assert_eq!(text(&honest.stderr), "", "{client}");
        answers.push(text(&honest.stdout).to_owned());
        assert!(answers[0].len() > 10 && answers[0] == answers[answers.len() - 1]);

        let between = Between::start(&scene.broker);
        let port = between.broker.port();
        let deceived = ask(client, folder.path(), &scene, port, Some(&key));
        assert!(deceived.status.success(), "{client}: {deceived:?}");
        assert_eq!(text(&deceived.stdout), answers[0], "{client}");
        let faults = between.faults();
        let all = faults.as_object().expect("an object");
        assert_eq!(all.len(), 8, "{faults}");
        let count: u64 = all.values().filter_map(Value::as_u64).sum();
        let dropped = text(&deceived.stderr).lines();
        let dropped = dropped.filter(|line| line.starts_with("dropped: "));
        assert_eq!(dropped.count() as u64, count, "{client}: {faults}");
    }
    // What is done to them works, where nobody looks.
    let between = Between::start(&scene.broker);
    let port = between.broker.port();
    let deceived = ask("device.py", folder.path(), &scene, port, None);
    assert!(text(&deceived.stdout).contains("Forged."), "{deceived:?}");
    between.faults();
}

/// Refusals are signed, also to who has shown no token; answers that are told again, as another
/// telling; and without the setting nothing is.
#[test]
fn each_message_is_signed_where_that_is_wished() {
    let scene = Scene::start(SIGNED);
    let signature = |answers: &Subscriber| {
        let message = answers.next(ANSWER).expect("an answer in time");
        let signature = message.user("signature").map(str::to_owned);
        (signature, message.user("status").map(str::to_owned))
    };
    let body = chat(QUESTION, 4, false);
    scene.ask("twice", &body);
    let (first, status) = signature(&scene.answers);
    assert_eq!(status.as_deref(), Some("200"));
    scene.ask("twice", &body);
    let (again, _) = signature(&scene.answers);
    assert!(first.is_some() && again.is_some() && first != again);
    scene.broker.publish(&Publish {
        topic: REQUESTS,
        payload: &body,
        response_topic: Some("slm/edge-1/reply/device-1/nobody"),
        correlation: Some("nobody"),
        ..Publish::default()
    });
    let (refusal, status) = signature(&scene.answers);
    assert_eq!(status.as_deref(), Some("401"));
    assert!(refusal.is_some());

    let plain = Scene::start("");
    plain.ask("plain", &body);
    assert_eq!(signature(&plain.answers).0, None);
}

struct Manager {
    key: PublicKey,
    reports: Subscriber,
}

impl Manager {
    fn next(&self, counter: u64) -> Result<Report, ReportError> {
        let message = self.reports.next(REPORT).expect("a report in time");
        let enrolled = Enrolled {
            device: "edge-1",
            key: &self.key,
            counter,
        };
        verify(message.payload.as_bytes(), &enrolled)
    }
}

#[test]
fn the_device_reports_what_is_in_force() {
    let broker = Mosquitto::start();
    let (first, second) = (
        Issuer::new("ES256", "first"),
        Issuer::new("RS256", "second"),
    );
    let setup = Setup::new().issuer(&first).broker(&broker);
    let mut daemon = Daemon::start(setup.with("[mqtt]\nreport = true\n"));
    let key = PublicKey::parse(&device_key(&daemon)).expect("a key");
    let reports = broker.subscribe(REPORTS);
    let manager = Manager { key, reports };
    let kids = |report: &Report| report.realms["dev"].kids.clone();
    // The first may be from before the keys were pinned.
    let mut report = manager.next(1).expect("a report");
    while kids(&report).is_empty() {
        report = manager.next(report.counter + 1).expect("a later one");
    }
    assert_eq!(kids(&report), ["first"]);
    assert_eq!(report.realms["dev"].keys[0].len(), 43);
    assert!(report.realms["dev"].confirmed.is_some());
    let model = &report.models["smollm2-135m-instruct"];
    assert_eq!(model.len(), "sha256:".len() + 64);
    assert!(report.fleet.is_none() && report.error.is_none());

    let pinned = daemon.admin_http("PUT", "/keys/dev", &second.jwks());
    assert_eq!(pinned.status, 200, "{}", pinned.body);
    let later = manager.next(report.counter + 1).expect("a later one");
    assert_eq!(kids(&later), ["second"]);
    daemon.kill9();
    daemon.restart();
    let restarted = manager.next(later.counter + 1).expect("a later one");
    assert_eq!(kids(&restarted), ["second"]);

    // For who comes now, the last one is there; an older one is no news to it.
    let newcomer = Manager {
        key: manager.key.clone(),
        reports: broker.subscribe(REPORTS),
    };
    assert_eq!(newcomer.next(restarted.counter), Ok(restarted.clone()));
    let late = Manager {
        key: manager.key,
        reports: broker.subscribe(REPORTS),
    };
    let refused = late.next(restarted.counter + 1);
    assert!(matches!(refused, Err(ReportError::OldCounter(..))));
}
