//! A broker that is late, restarts, forgets, or serves another client with our name.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::{CONNECT, LONG, STATUS, Scene, answer, answers_to, until_connected, until_up};
use crate::support::{Daemon, Issuer, Mosquitto, Setup, chat, claims, free_port, within};

#[test]
fn a_broker_that_comes_late_is_served() {
    let issuer = Issuer::new("ES256", "late-1");
    let port = free_port();
    let daemon = Daemon::start(Setup::new().issuer(&issuer).broker_port(port));
    let pid = daemon.pid();
    // Ready without it, and saying so.
    let status = daemon.status();
    assert_eq!(status["mqtt"]["connected"], false);
    assert!(status["mqtt"]["problem"].is_string(), "{status}");
    let body = chat("Say one word, any word.", 4, false);
    assert_eq!(daemon.chat(&issuer.token(claims()), &body).status, 200);

    let broker = Mosquitto::start_on(port);
    until_up(&broker);
    let answers = broker.subscribe("slm/edge-1/reply/#");
    let scene = Scene {
        issuer,
        broker,
        daemon,
        answers,
    };
    scene.ask("late", &body);
    assert_eq!(scene.answer("late").status, 200);
    assert_eq!(scene.daemon.pid(), pid);
    assert!(scene.daemon.status()["mqtt"]["problem"].is_null());
}

#[test]
fn a_restart_that_keeps_the_session_loses_and_repeats_nothing() {
    let mut scene = Scene::start("[mqtt]\nreconnect_min = \"5s\"\nreconnect_max = \"6s\"");
    let names = ["kept-0", "kept-1", "kept-2"];
    scene.ask(names[0], &chat(LONG, 200, true));
    scene.until_text(names[0]);
    for name in &names[1..] {
        scene.ask(name, &chat(LONG, 16, false));
    }
    scene.broker.restart();
    // Before the daemon is back, for it pauses longer than a subscription takes.
    scene.answers = scene.broker.subscribe("slm/edge-1/reply/#");
    let seen = answers_to(&scene.answers, names.len());
    assert!(seen.values().all(|s| *s == [200]), "{seen:?}");
    assert!(scene.answers.next(Duration::from_secs(2)).is_none());
    assert_eq!(scene.accesses("chat").len(), names.len(), "each ran once");
    until_connected(&scene.daemon);
    // Nothing holds the window.
    for round in 0..10 {
        let name = format!("after-{round}");
        scene.ask(&name, &chat("Say one word, any word.", 1, false));
        assert_eq!(scene.answer(&name).status, 200);
    }
}

#[test]
fn a_restart_that_loses_the_session_still_gets_the_answer() {
    let mut scene = Scene::start("[mqtt]\nreconnect_min = \"5s\"\nreconnect_max = \"6s\"");
    scene.ask("lost", &chat(LONG, 200, true));
    scene.until_text("lost");
    scene.broker.restart_empty();
    scene.answers = scene.broker.subscribe("slm/edge-1/reply/#");
    let seen = answers_to(&scene.answers, 1);
    assert_eq!(seen["lost"], [200]);
    until_connected(&scene.daemon);
    // Subscribed anew, and ready for as many as ever.
    for round in 0..10 {
        let name = format!("after-{round}");
        scene.ask(&name, &chat("Say one word, any word.", 1, false));
        assert_eq!(scene.answer(&name).status, 200);
    }
    assert_eq!(scene.accesses("chat").len(), 11);
}

/// A cloned card: mosquitto 2.0.11 closes the older connection without a word.
#[test]
fn another_client_with_our_id_is_reported_and_survived() {
    let scene = Scene::start("");
    let reported = |status: &Value| {
        let problem = status["mqtt"]["problem"].as_str();
        problem.is_some_and(|problem| problem.contains("cloned card"))
    };
    let mut rounds = 0;
    while !reported(&scene.daemon.status()) {
        rounds += 1;
        assert!(rounds <= 6, "{}", scene.daemon.status());
        let mut twin = twin(scene.broker.port());
        within(CONNECT, "the daemon to be thrown out", || {
            (scene.daemon.status()["mqtt"]["connected"] == false).then_some(())
        });
        twin.kill().expect("our own child can be killed");
        twin.wait().expect("our own child can be waited for");
        until_connected(&scene.daemon);
    }
    assert!(rounds >= 3, "one lost connection is no sign of a clone");
    assert!(reported(&scene.daemon.status()), "it stays in sight");
    let record = within(CONNECT, "the audit record", || {
        let told = |r: &Value| r.to_string().contains("mqtt_unstable");
        scene.audit().into_iter().find(told)
    });
    assert!(record.to_string().contains("slmd-edge-1"), "{record}");

    until_up(&scene.broker);
    scene.ask("survived", &chat("Say one word, any word.", 4, false));
    assert_eq!(answer(&scene.answers, "survived").status, 200);
}

#[test]
fn a_broker_without_retained_messages_still_serves() {
    let issuer = Issuer::new("ES256", "unretained-1");
    let broker = Mosquitto::start_with("retain_available false");
    let daemon = Daemon::start(Setup::new().issuer(&issuer).broker(&broker));
    until_connected(&daemon);
    let answers = broker.subscribe("slm/edge-1/reply/#");
    let scene = Scene {
        issuer,
        broker,
        daemon,
        answers,
    };
    scene.ask("unretained", &chat("Say one word, any word.", 4, false));
    assert_eq!(scene.answer("unretained").status, 200);
    let status = scene.daemon.status();
    assert!(status["mqtt"]["problem"].is_null(), "{status}");
}

#[test]
fn a_broker_that_takes_only_qos_0_is_named() {
    let issuer = Issuer::new("ES256", "qos-1");
    let broker = Mosquitto::start_with("max_qos 0");
    let daemon = Daemon::start(Setup::new().issuer(&issuer).broker(&broker));
    within(CONNECT, "the true reason", || {
        let status = daemon.status();
        let problem = status["mqtt"]["problem"].as_str()?;
        let named = problem.contains("only QoS 0") && !problem.contains("cloned");
        named.then_some(())
    });
}

#[test]
fn the_status_topic_tells_up_and_down() {
    let mut scene = Scene::start("");
    let up = until_up(&scene.broker);
    assert!(up["time"].is_string() && up["version"].is_string(), "{up}");

    let watcher = scene.broker.subscribe(STATUS);
    assert_eq!(watcher.next(CONNECT).expect("it is retained").json(), up);
    scene.daemon.kill9();
    let will = watcher.next(CONNECT).expect("the broker publishes it");
    assert_eq!(will.json(), serde_json::json!({"status": "down"}));
    scene.daemon.restart();
    let up = watcher.next(CONNECT).expect("it is said at each start");
    assert_eq!(up.json()["status"], "up");
    scene.daemon.terminate();
    let down = watcher.next(CONNECT).expect("it is said in time").json();
    assert_eq!(down["status"], "down");
    assert!(down["time"].is_string(), "an orderly stop knows when");
    assert!(watcher.next(Duration::from_secs(1)).is_none(), "no will");
    let late = scene.broker.subscribe(STATUS);
    assert_eq!(late.next(CONNECT).expect("it is retained").json(), down);
}

fn twin(port: u16) -> Child {
    Command::new("mosquitto_sub")
        .args(["-V", "5", "-i", "slmd-edge-1", "-t", "nothing"])
        .args(["-p", &port.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("mosquitto's clients are installed")
}
