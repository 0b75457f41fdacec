//! Many requests at the same moment: all are answered or told when to come again, and the
//! connection stands. mosquitto 2.0.11 exceeds the Receive Maximum when PUBACKs come in a row.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::{LONG, REPLIES, REQUESTS, Scene, until_connected};
use crate::support::{
    Message, Mosquitto, Publish, Setup, chat, claims, exit, root, secrets, target, within,
};

/// What fits the queue and the room before it, whatever the machine's speed.
const FITS: usize = 64;
/// Full sizes with `SLMD_TEST_MORE`.
const FEW: &[(usize, u8)] = &[(1, 1), (10, 2), (12, 1), (40, 1)];
pub(super) const MORE: &[(usize, u8)] = &[
    (1, 2),
    (10, 1),
    (12, 2),
    (40, 2),
    (100, 1),
    (100, 2),
    (500, 1),
    (500, 2),
];

#[test]
fn all_of_a_burst_are_told_and_the_connection_stands() {
    let scene = Scene::start("");
    let more = std::env::var_os("SLMD_TEST_MORE").is_some();
    let sizes = FEW.iter().chain(MORE.iter().filter(|_| more));
    for &(count, qos) in sizes {
        let told = Burst::start(&scene, qos, count).told();
        once(&told, count);
        let answered = told.values().filter(|statuses| **statuses == [200]).count();
        assert!(answered >= count.min(FITS), "{answered} of {count}");
    }
    let mqtt = &scene.daemon.status()["mqtt"];
    assert_eq!(mqtt["connected"], true, "{mqtt}");
    assert_eq!(mqtt["reconnects"], 0, "{mqtt}");
    assert!(mqtt["problem"].is_null(), "{mqtt}");
}

#[test]
fn a_burst_is_answered_by_a_daemon_that_comes_back() {
    let mut scene = Scene::start("");
    for (count, orderly) in [(12, true), (40, false)] {
        match orderly {
            true => assert!(scene.daemon.terminate().success()),
            false => scene.daemon.kill9(),
        }
        let mut burst = Burst::start(&scene, 1, count);
        burst.until_published();
        scene.daemon.restart();
        once(&burst.told(), count);
        let mqtt = &scene.daemon.status()["mqtt"];
        assert_eq!(mqtt["reconnects"], 0, "{mqtt}");
    }
}

#[test]
fn a_burst_outlives_restarts_of_both_sides() {
    let mut scene = Scene::start("");
    let count = 24;
    let mut burst = Burst::start(&scene, 2, count);
    burst.until_published();
    scene.broker.restart();
    until_connected(&scene.daemon);
    scene.daemon.restart();
    scene.broker.restart();
    let told = burst.told();
    // At least once: what was answered and not yet acknowledged is told again.
    assert_eq!(told.len(), count);
    assert!(
        told.values().flatten().all(|status| *status == 200),
        "{told:?}"
    );
    until_connected(&scene.daemon);
    let after = Burst::start(&scene, 1, 12).told();
    once(&after, 12);
}

/// One after the other in the window, the head of which takes its time.
#[test]
fn a_long_answer_at_the_head_holds_up_nobody_for_good() {
    let scene = Scene::start("");
    scene.ask("head", &chat(LONG, 100, true));
    scene.until_text("head");
    let told = Burst::start(&scene, 1, 20).told();
    once(&told, 20);
    assert!(told.values().all(|statuses| *statuses == [200]), "{told:?}");
    assert_eq!(scene.daemon.status()["mqtt"]["reconnects"], 0);
}

/// However many of one principal's requests are here or at the broker, another's has its turn after
/// two of them at most, and the one that runs.
#[test]
fn one_principals_backlog_delays_no_other() {
    let scene = Scene::start("");
    let mut backlog = Burst::start(&scene, 1, 200);
    backlog.until_published();
    let mut other = claims();
    other["sub"] = "other".into();
    let body = chat("Say one word, any word.", 1, false);
    scene.publish(&scene.issuer.token(other), "other", &body, None);
    let audit = within(super::ANSWER, "the other's answer", || {
        let audit = scene.audit();
        let own = audit.iter().find(|r| r["subject"] == "other")?["request_id"].clone();
        let is_finish = |r: &&Value| r["event"] == "finish" && r["request_id"] == own;
        audit.iter().any(|r| is_finish(&r)).then_some(audit)
    });
    // It was read with all of the backlog before it, some of which had been answered by then.
    let refused = audit.iter().rposition(|r| r["reason"] == "overloaded");
    let after = &audit[refused.expect("a backlog that doesn't fit")..];
    let finished = after.iter().filter(|r| r["event"] == "finish").count();
    assert!(finished <= 1 + 3, "{finished} answers");
}

/// A broker that can't deliver as fast as it is fed drops packets, acknowledgements too, and sends
/// them again only on a new connection (mosquitto's `max_queued_messages`).
#[test]
fn a_flood_that_makes_the_broker_drop_packets_is_survived() {
    let scene = Scene::beside(
        Mosquitto::start_with("max_queued_messages 20\n"),
        Setup::new(),
        "",
    );
    let lines = format!("{}\n", chat("Hi", 1, false)).repeat(200_000);
    let lines_file = scene.broker.folder().join("lines");
    std::fs::write(&lines_file, lines).expect("a temporary file");
    let flood = || {
        let input = std::fs::File::open(&lines_file).expect("written above");
        Command::new("mosquitto_pub")
            .args(["-V", "5", "-q", "0", "-l", "-t", REQUESTS, "-p"])
            .arg(scene.broker.port().to_string())
            .args([
                "-D",
                "publish",
                "response-topic",
                "slm/edge-1/reply/flooder/1",
            ])
            .stdin(input)
            .spawn()
            .expect("mosquitto's clients are installed by `make setup`")
    };
    let mut flooders: Vec<Child> = (0..3).map(|_| flood()).collect();
    for n in 0..20 {
        scene.ask(&format!("during-{n}"), &chat("Hi", 1, false));
    }
    for flooder in &mut flooders {
        assert!(exit(flooder, super::ANSWER).is_some(), "the flood ends");
    }
    assert!(
        scene.broker.log().contains("dropped"),
        "the flood was no flood"
    );
    let is_after = |m: &Message| {
        m.correlation
            .as_deref()
            .is_some_and(|c| c.starts_with("after"))
    };
    let served = |n: i32| {
        scene.ask(&format!("after-{n}"), &chat("Hi", 1, false));
        let pause = Duration::from_secs(2);
        let mut told = std::iter::from_fn(|| scene.answers.next(pause));
        told.any(|m| is_after(&m) && m.user("status") == Some("200"))
    };
    assert!((0..40).any(served), "nobody is served after the flood");
}

/// QoS 0 promises nothing, but what was begun isn't given up for strangers.
#[test]
fn a_flood_without_tokens_ends_no_running_prompt() {
    let scene = Scene::start("");
    scene.broker.publish(&Publish {
        topic: REQUESTS,
        payload: &chat(LONG, 120, true),
        response_topic: Some(&format!("{REPLIES}/running")),
        correlation: Some("running"),
        token: Some(&scene.token()),
        at_most_once: true,
        ..Publish::default()
    });
    scene.until_text("running");
    let mut flood = Burst::of(scene.broker.port(), "", 0, 2000, "flooder");
    flood.until_published();
    let mut last = scene
        .answers
        .next(super::ANSWER)
        .expect("an answer in time");
    while last.correlation.as_deref() != Some("running") || last.user("final") != Some("true") {
        last = scene
            .answers
            .next(super::ANSWER)
            .expect("an answer in time");
    }
    assert_eq!(last.user("status"), Some("200"));
}

/// A device whose token has expired is told so, whatever others send.
#[test]
fn a_flood_without_tokens_silences_no_refusal_of_a_signed_token() {
    let scene = Scene::start("");
    let mut flood = Burst::of(scene.broker.port(), "", 1, 300, "flooder");
    flood.until_published();
    let expired = scene.expired();
    for n in 0..10 {
        scene.publish(
            &expired,
            &format!("expired-{n}"),
            &chat("Hi", 1, false),
            None,
        );
    }
    for n in 0..10 {
        let name = format!("expired-{n}");
        let mut told = scene
            .answers
            .next(super::ANSWER)
            .expect("a refusal in time");
        while told.topic.starts_with("slm/edge-1/reply/flooder") {
            told = scene
                .answers
                .next(super::ANSWER)
                .expect("a refusal in time");
        }
        assert_eq!(told.correlation.as_deref(), Some(&*name));
        assert_eq!(told.user("status"), Some("401"));
        assert_eq!(told.json()["error"]["code"], "expired");
    }
    let is_expired = |r: &&Value| r["reason"] == "expired";
    let audit = scene.audit();
    let known = audit.iter().filter(is_expired);
    assert!(
        known.clone().all(|r| r["client"] == "device-1"),
        "{audit:?}"
    );
    assert_eq!(known.count(), 10, "and the log names it");
    drop(flood);
    scene.ask("after", &chat("Say one word, any word.", 1, false));
    let mut rest = scene
        .answers
        .next(super::ANSWER)
        .expect("an answer in time");
    while rest.correlation.as_deref() != Some("after") {
        rest = scene
            .answers
            .next(super::ANSWER)
            .expect("an answer in time");
    }
    assert_eq!(rest.user("status"), Some("200"));
}

/// Each was told exactly once, and that it succeeded or when to come again.
#[track_caller]
fn once(told: &Told, count: usize) {
    assert_eq!(told.len(), count);
    for (name, statuses) in told {
        assert!(matches!(statuses[..], [200 | 503]), "{name}: {statuses:?}");
    }
}

pub(super) type Told = BTreeMap<String, Vec<u16>>;

/// `mqtt_burst.py` on its way.
pub(super) struct Burst {
    process: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
    published: bool,
}

#[derive(Deserialize)]
struct Said {
    told: Told,
    hopeless: usize,
}

impl Burst {
    fn start(scene: &Scene, qos: u8, count: usize) -> Burst {
        Burst::of(scene.broker.port(), &scene.token(), qos, count, "device-1")
    }

    pub(super) fn of(port: u16, token: &str, qos: u8, count: usize, client: &str) -> Burst {
        let mut process = Command::new(target().join("venv/bin/python"))
            .arg(root().join("tests/clients/mqtt_burst.py"))
            .args([port.to_string(), qos.to_string()])
            .args([&count.to_string(), client])
            .env("SLMD_TOKEN", token)
            .env("SLMD_TEST_NOTES", secrets::notes())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the Python clients are installed by `make venv`");
        let stdout = process.stdout.take().expect("piped above");
        Burst {
            process,
            lines: BufReader::new(stdout).lines(),
            published: false,
        }
    }

    /// Waits until the broker has all of them.
    pub(super) fn until_published(&mut self) {
        if !std::mem::replace(&mut self.published, true) {
            assert_eq!(self.line(), "published");
        }
    }

    /// What each was told, once all were.
    pub(super) fn told(mut self) -> Told {
        self.until_published();
        let said: Said = serde_json::from_str(&self.line()).expect("the script prints JSON");
        let ended = exit(&mut self.process, super::CONNECT).expect("it ends with its last line");
        assert!(ended.success(), "{ended}");
        let silent = said.told.values().filter(|statuses| statuses.is_empty());
        assert_eq!(silent.count(), 0, "were told nothing: {:?}", said.told);
        assert_eq!(said.hopeless, 0, "a 503 says when to come again");
        said.told
    }

    fn line(&mut self) -> String {
        let line = self.lines.next().expect("the script goes on");
        line.expect("the script prints text")
    }
}

impl Drop for Burst {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
