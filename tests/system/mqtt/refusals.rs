//! What isn't answered, and where that is told.

use std::time::Duration;

use serde_json::Value;

use super::{ANSWER, Answer, LONG, REPLIES, REQUESTS, Scene, answer};
use crate::support::{Publish, chat, claims, within};

/// Long enough for an answer that must not come.
const SILENCE: Duration = Duration::from_secs(2);

/// Without a token that verifies, nobody may have the appliance publish on topics of their choice.
#[test]
fn unverified_tokens_are_told_beneath_reply_only() {
    let scene = Scene::start("");
    let elsewhere = scene.broker.subscribe("elsewhere/#");
    let expired = scene.expired();
    let body = chat("Say something that nobody hears.", 8, false);
    for (token, code) in [(None, "token_missing"), (Some(&*expired), "expired")] {
        let ask = |topic: &str| {
            scene.broker.publish(&Publish {
                topic: REQUESTS,
                payload: &body,
                response_topic: Some(topic),
                correlation: Some(code),
                token,
                ..Publish::default()
            });
        };
        ask("elsewhere/1");
        ask("slm/edge-2/reply/device-1/1");
        ask(&format!("{REPLIES}/1"));
        let told = scene.answer(code);
        assert_eq!((told.status, told.code()), (401, Some(code)));
    }
    assert!(elsewhere.next(SILENCE).is_none());
    refused(&scene, "token_missing", 3);
    refused(&scene, "expired", 3);
    acknowledged(&scene);
}

/// Response Topic and Correlation Data are known to whoever may read along, and anybody who may
/// publish can name them.
#[test]
fn nobody_ends_anothers_request_in_its_inbox() {
    let scene = Scene::start("");
    scene.ask("victim", &chat(LONG, 600, true));
    scene.until_text("victim");
    let mut other = claims();
    other["azp"] = "device-2".into();
    let (others, expired) = (scene.issuer.token(other), scene.expired());
    let body = chat("Say something that nobody hears.", 8, false);
    let forge = |topic: &str, reply: &str, token: Option<&str>, payload: &str| {
        scene.broker.publish(&Publish {
            topic,
            payload,
            response_topic: Some(&format!("{REPLIES}/{reply}")),
            correlation: Some("victim"),
            token,
            ..Publish::default()
        });
    };
    forge(REQUESTS, "victim", None, &body);
    forge(REQUESTS, "victim", Some(&others), &body);
    forge(REQUESTS, "victim", Some(&expired), &body);
    forge(REQUESTS, "victim", None, "{");
    // Where its client may listen too.
    forge(REQUESTS, "elsewhere", None, &body);
    refused(&scene, "token_missing", 2);
    refused(&scene, "reply_topic_rejected", 1);
    refused(&scene, "expired", 1);
    refused(&scene, "bad_request", 1);
    assert!(scene.goes_on("victim"));
    scene.cancel(&scene.token(), "victim");
    assert_eq!(scene.answer("victim").status, 499, "its own end");
    // From now on a refusal ends nothing, and says whom it is for.
    forge(REQUESTS, "victim", None, &body);
    let told = scene.message("victim");
    assert_eq!(told.user("status"), Some("401"));
    assert_eq!(told.user("verified"), Some("false"));
    scene.ask("victim", "{");
    let told = scene.message("victim");
    assert_eq!(told.user("status"), Some("400"));
    assert_eq!(told.user("verified"), None, "its token is good");
}

/// It would come back with each piece of an answer.
#[test]
fn long_correlation_data_is_refused_and_not_echoed() {
    let scene = Scene::start("");
    let long = "c".repeat(60_000);
    scene.broker.publish(&Publish {
        topic: REQUESTS,
        payload: &chat("Say something that nobody hears.", 8, true),
        response_topic: Some(&format!("{REPLIES}/long")),
        correlation: Some(&long),
        token: Some(&scene.token()),
        ..Publish::default()
    });
    let told = scene.answers.next(ANSWER).expect("a refusal in time");
    assert_eq!(told.user("status"), Some("400"));
    assert_eq!(told.correlation, None);
    let said = told.json()["error"]["message"].to_string();
    assert!(said.contains("60000 bytes, of 256"), "{said}");
    assert!(scene.answers.next(SILENCE).is_none());
    acknowledged(&scene);
}

#[test]
fn answers_go_to_the_own_client_only() {
    let scene = Scene::start("");
    let everything = scene.broker.subscribe("#");
    let token = scene.token();
    let body = chat("Say something that nobody hears.", 8, false);
    let ask = |topic: Option<&str>| {
        scene.broker.publish(&Publish {
            topic: REQUESTS,
            payload: &body,
            response_topic: topic,
            correlation: Some("astray"),
            token: Some(&token),
            ..Publish::default()
        });
    };
    let told = |answer: Answer| {
        assert_eq!(
            (answer.status, answer.code()),
            (403, Some("reply_topic_rejected"))
        );
    };
    // Beneath `reply`, but another client's: its refusal is told there, its answer isn't.
    ask(Some("slm/edge-1/reply/device-2/1"));
    told(scene.answer("astray"));
    for topic in [
        None,
        Some("elsewhere/1"),
        Some(REQUESTS),
        Some("slm/edge-1/status"),
        Some("slm/edge-1/reply-to/1"),
    ] {
        ask(topic);
    }
    refused(&scene, "reply_topic_rejected", 6);
    while let Some(message) = everything.next(SILENCE) {
        let requests = message.topic == REQUESTS;
        let told = message.topic == "slm/edge-1/reply/device-2/1";
        // The next nonce comes when it is time.
        let nonce = message.topic == "slm/edge-1/nonce";
        let known = requests || told || nonce || message.retain;
        assert!(known, "published on {}", message.topic);
    }
    acknowledged(&scene);
}

/// MQTT forbids a wildcard in a Response Topic (MQTT 5 section 3.3.2.3.5): the broker may end the
/// sender's connection, or pass it on.
#[test]
fn wildcards_are_no_response_topic() {
    let scene = Scene::start("");
    let port = scene.broker.port().to_string();
    let token = scene.token();
    let output = crate::support::python("mqtt_wildcard.py", &[&port], &[("SLMD_TOKEN", &token)]);
    super::succeeded(&output);
    assert!(
        scene
            .accesses("chat")
            .iter()
            .all(|r| r["decision"] == "deny")
    );
    acknowledged(&scene);
}

#[test]
fn a_retained_request_is_not_run() {
    let scene = Scene::start("");
    let token = scene.token();
    scene.broker.publish(&Publish {
        topic: REQUESTS,
        payload: &chat("Say this again to everybody who comes.", 8, false),
        response_topic: Some(&format!("{REPLIES}/retained")),
        correlation: Some("retained"),
        token: Some(&token),
        retain: true,
        ..Publish::default()
    });
    let told = scene.answer("retained");
    assert_eq!((told.status, told.code()), (400, Some("retained_rejected")));
    assert!(scene.accesses("chat").is_empty());
    acknowledged(&scene);
}

/// The queue has few places, and the receive window as many: nothing that was refused takes one
/// for good.
#[track_caller]
fn acknowledged(scene: &Scene) {
    for round in 0..10 {
        let correlation = format!("after-{round}");
        scene.ask(&correlation, &chat("Say one word, any word.", 1, false));
        assert_eq!(answer(&scene.answers, &correlation).status, 200);
    }
}

#[track_caller]
fn refused(scene: &Scene, reason: &str, count: usize) {
    within(super::CONNECT, "the records of the refusals", || {
        let of = |r: &Value| r["event"] == "access" && r["reason"] == reason;
        (scene.audit().into_iter().filter(of).count() == count).then_some(())
    });
}
