//! A daemon that stops in the middle of an answer, in order or not.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{LONG, Scene, text, until_connected};
use crate::support::chat;

#[test]
fn a_drain_finishes_what_runs() {
    let mut scene = Scene::start("drain_deadline = \"60s\"");
    scene.ask("drained", &chat(LONG, 150, true));
    scene.until_text("drained");
    assert!(scene.daemon.terminate().success());
    assert_eq!(scene.answer("drained").status, 200);
    // Acknowledged, so it doesn't come again.
    scene.daemon.restart();
    until_connected(&scene.daemon);
    scene.ask("next", &chat("Say one word, any word.", 4, false));
    assert_eq!(scene.answer("next").status, 200);
    assert_eq!(scene.accesses("chat").len(), 2);
}

/// Twice, for a third attempt would be refused.
#[test]
fn a_drain_that_ends_an_answer_is_no_attempt() {
    let mut scene = Scene::start("drain_deadline = \"100ms\"");
    scene.ask("again", &chat(LONG, 200, true));
    let mut runs = BTreeSet::new();
    for _ in 0..2 {
        until_next_run(&scene, "again", &mut runs);
        assert!(scene.daemon.terminate().success());
        scene.daemon.restart();
    }
    assert_eq!(scene.answer("again").status, 200);
    let runs = scene.accesses("chat");
    assert_eq!(runs.len(), 3);
    assert!(runs.iter().all(|r| r["attempt"] == 1), "{runs:?}");
    let shutdown = |r: &Value| r["event"] == "finish" && r["finish"] == "shutdown";
    assert_eq!(scene.audit().into_iter().filter(shutdown).count(), 2);
}

#[test]
fn a_request_that_dies_with_the_daemon_twice_is_given_up() {
    let mut scene = Scene::start("");
    scene.ask("deadly", &chat(LONG, 200, true));
    let mut runs = BTreeSet::new();
    for _ in 0..2 {
        until_next_run(&scene, "deadly", &mut runs);
        scene.daemon.kill9();
        scene.daemon.restart();
    }
    let answer = scene.answer("deadly");
    assert_eq!(
        (answer.status, answer.code()),
        (422, Some("attempts_exhausted"))
    );
    let attempts: Vec<Value> = scene.accesses("chat");
    let attempts: Vec<&Value> = attempts.iter().map(|r| &r["attempt"]).collect();
    assert_eq!(attempts[..2], [1, 2]);
    until_connected(&scene.daemon);
    scene.ask("next", &chat("Say one word, any word.", 4, false));
    assert_eq!(scene.answer("next").status, 200);
}

/// Waits for the first words of a run that isn't among `runs` yet. An earlier one may have left
/// some of its own on the way.
#[track_caller]
fn until_next_run(scene: &Scene, correlation: &str, runs: &mut BTreeSet<String>) {
    loop {
        let message = scene.message(correlation);
        let run = message.user("request-id").expect("answers have it");
        if !text(&message).is_empty() && runs.insert(run.to_owned()) {
            return;
        }
    }
}
