//! Refusals that can't be told to whoever asked: status, log and audit have them.

use std::process::Command;
use std::time::Duration;

use super::{CANCELS, CONNECT, REPLIES, REQUESTS, Scene};
use crate::support::{Publish, chat, run, within};

/// Waits until so many are counted, and compares the last.
#[track_caller]
fn untold(scene: &Scene, count: u64, reason: &str, why: &str) {
    let untold = within(CONNECT, "a refusal that can't be told", || {
        let untold = scene.daemon.status()["mqtt"]["untold"].clone();
        (untold["count"] == count).then_some(untold)
    });
    let last = untold["last"].as_str().expect("a text");
    assert!(last.starts_with(reason) && last.contains(why), "{last}");
}

#[test]
fn a_refusal_that_cannot_be_told_is_seen_by_somebody() {
    let scene = Scene::start("");
    let (token, expired) = (scene.token(), scene.expired());
    let body = chat("Say something that nobody hears.", 8, false);
    assert!(scene.daemon.status()["mqtt"].get("untold").is_none());
    let request = Publish {
        topic: REQUESTS,
        payload: &body,
        correlation: Some("silence"),
        token: Some(&token),
        ..Publish::default()
    };
    scene.broker.publish(&request);
    untold(&scene, 1, "reply_topic_rejected", "no Response Topic");
    for (at, topic) in ["elsewhere/1", "slm/edge-1/status"].into_iter().enumerate() {
        scene.broker.publish(&Publish {
            response_topic: Some(topic),
            ..request
        });
        untold(
            &scene,
            2 + at as u64,
            "reply_topic_rejected",
            "its Response Topic",
        );
    }
    // A client of 3.1.1 on MQTT 5's topic, whose token is in its body.
    let signed = body.replacen('{', &format!(r#"{{"authorization":"Bearer {token}","#), 1);
    crate::support::secrets::body(signed.as_bytes());
    let mut old = Command::new("mosquitto_pub");
    let port = scene.broker.port().to_string();
    old.args(["-V", "311", "-q", "1", "-s", "-t", REQUESTS, "-p", &port]);
    assert!(run(&mut old, signed.as_bytes(), CONNECT).status.success());
    untold(&scene, 4, "reply_topic_rejected", "MQTT 3.1.1 publishes on");
    scene.broker.publish(&Publish {
        response_topic: Some("elsewhere/1"),
        token: None,
        user: Some(("authorization", &token)),
        ..request
    });
    untold(&scene, 5, "token_missing", "its Response Topic");
    let empty_level = format!("{REQUESTS}//7");
    scene.broker.publish(&Publish {
        topic: &empty_level,
        ..request
    });
    untold(
        &scene,
        6,
        "not_found",
        "no request can be answered from this topic",
    );
    let cancel = Publish {
        topic: CANCELS,
        payload: "{}",
        ..request
    };
    scene.broker.publish(&Publish {
        correlation: None,
        ..cancel
    });
    untold(&scene, 7, "bad_request", "a cancel isn't answered");
    scene.broker.publish(&Publish {
        token: Some(&expired),
        ..cancel
    });
    untold(&scene, 8, "expired", "a cancel isn't answered");

    let said = |args: &[&str]| String::from_utf8(scene.daemon.slmd(args).stdout).expect("text");
    let status = said(&["status"]);
    assert!(
        status.contains("8 refusals that couldn't be told, the last"),
        "{status}"
    );
    let audit = said(&["audit", "tail", "-n", "50"]);
    for words in [
        ": the request has no Response Topic",
        ": it doesn't match the appliance's `reply_to`",
        ": `authorization` has one word; it takes `Bearer`",
        " not_found req_",
        ": a cancel needs the request's Correlation Data",
    ] {
        assert!(audit.contains(words), "{words}: {audit}");
    }
    // A line for each cause, however many there are.
    let log = scene.daemon.log();
    assert_eq!(log.matches("a refusal can't be told").count(), 4, "{log}");
    assert!(scene.answers.next(Duration::from_secs(1)).is_none());
}

#[test]
fn a_token_without_its_scheme_is_told_what_is_wrong() {
    let scene = Scene::start("");
    let token = scene.token();
    let body = chat("Say something that nobody hears.", 8, false);
    scene.broker.publish(&Publish {
        topic: REQUESTS,
        payload: &body,
        response_topic: Some(&format!("{REPLIES}/bare")),
        correlation: Some("bare"),
        user: Some(("authorization", &token)),
        ..Publish::default()
    });
    let told = scene.answer("bare");
    assert_eq!((told.status, told.code()), (401, Some("token_missing")));
    let wrong = "`authorization` has one word; it takes `Bearer`, a space and the token";
    let message = told.body["error"]["message"].to_string();
    assert!(message.contains(wrong), "{message}");

    let signed = body.replacen('{', &format!(r#"{{"authorization":"{token}","#), 1);
    scene.broker.publish(&Publish {
        topic: &format!("{REQUESTS}/device-1/bare"),
        payload: &signed,
        ..Publish::default()
    });
    let told = scene.answers.next(CONNECT).expect("a refusal in time");
    assert_eq!(told.topic, format!("{REPLIES}/bare/rejected"));
    let message = told.json()["body"]["error"]["message"].to_string();
    assert!(message.contains(wrong), "{message}");
}
