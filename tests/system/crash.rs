//! `kill -9` in the middle of answers: nothing that was recorded is lost, nothing asked is forgotten.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::support::{
    Daemon, Exchange, Issuer, Message, Mosquitto, Publish, Setup, Subscriber, chat, claims, send,
};

const ROUNDS: u64 = 20;
const ANSWER: Duration = Duration::from_secs(120);
const REQUESTS: &str = "slm/edge-1/v1/chat/completions";
const REPLIES: &str = "slm/edge-1/reply/device-1";

#[test]
fn kill_9_in_the_middle_of_twenty_prompts() {
    let issuer = Issuer::new("ES256", "crash-1");
    let broker = Mosquitto::start();
    let mut daemon = Daemon::start(Setup::new().issuer(&issuer).broker(&broker));
    let answers = broker.subscribe(&format!("{REPLIES}/#"));
    until_connected(&daemon);

    let mut acknowledged: Vec<String> = Vec::new();
    for round in 0..ROUNDS {
        let token = issuer.token(claims());
        let correlation = format!("crash-{round}");
        publish(&broker, &token, &correlation);
        let mut stream = stream(&daemon, &token, round);
        let request_id = stream.header("x-request-id").map(str::to_owned);
        let request_id = request_id.expect("every answer names its request");
        let first = stream.event().expect("the stream is whole so far");
        assert!(first.is_some(), "an answer of 64 tokens has begun");
        thread::sleep(moment(round));
        let seen = daemon.audit(0);
        daemon.kill9();
        drop(stream);

        daemon.restart();
        let kept = daemon.audit(0);
        keeps(&kept, &acknowledged, "an earlier round's record");
        keeps(&kept, &seen, "a record that was read before the kill");
        let recorded = accesses(&kept);
        assert!(
            recorded.contains_key(&request_id),
            "round {round}: a streamed answer without a record of its access"
        );
        acknowledged = kept;
        answered(&answers, &correlation);
    }
}

fn publish(broker: &Mosquitto, token: &str, correlation: &str) {
    broker.publish(&Publish {
        topic: REQUESTS,
        payload: &chat("Write about the sea, at some length.", 48, false),
        response_topic: Some(&format!("{REPLIES}/{correlation}")),
        correlation: Some(correlation),
        token: Some(token),
        ..Publish::default()
    });
}

fn stream(daemon: &Daemon, token: &str, round: u64) -> Exchange {
    let body = chat(
        &format!("Tell story number {round} of the lighthouse."),
        64,
        true,
    );
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str())];
    let path = "/v1/chat/completions";
    let stream = send(&daemon.socket(), "POST", path, &headers, &body).expect("the socket serves");
    assert_eq!(stream.status, 200);
    stream
}

/// A different moment each round, from the first token to the middle of the answer.
fn moment(round: u64) -> Duration {
    Duration::from_millis(round * 7919 % 400)
}

fn until_connected(daemon: &Daemon) {
    crate::support::within(Duration::from_secs(30), "the broker connection", || {
        (daemon.status()["mqtt"]["connected"] == true).then_some(())
    });
}

/// Records are append-only: what was there is there still, byte for byte and in its place.
#[track_caller]
fn keeps(kept: &[String], before: &[String], what: &str) {
    for (index, record) in before.iter().enumerate() {
        assert_eq!(kept.get(index), Some(record), "lost or changed: {what}");
    }
}

/// Permitted accesses by request id.
fn accesses(records: &[String]) -> BTreeMap<String, Value> {
    let parsed = records.iter().map(|line| {
        let record: Value = serde_json::from_str(line).expect("a record is JSON");
        record
    });
    parsed
        .filter(|record| record["event"] == "access" && record["decision"] == "permit")
        .map(|record| {
            let id = record["request_id"].as_str().expect("a request has an id");
            (id.to_owned(), record)
        })
        .collect()
}

/// The prompt ends in an answer, or in the word that it was tried twice.
fn answered(answers: &Subscriber, correlation: &str) {
    loop {
        let Some(message) = answers.next(ANSWER) else {
            panic!("{correlation} was never answered");
        };
        let ours = message.correlation.as_deref() == Some(correlation);
        if !ours || message.user("final") != Some("true") {
            continue;
        }
        match message.user("status") {
            Some("200") => assert!(!text(&message).is_empty(), "{correlation}: an empty answer"),
            _ => assert_eq!(message.json()["error"]["code"], "attempts_exhausted"),
        }
        return;
    }
}

fn text(message: &Message) -> String {
    let content = &message.json()["choices"][0]["message"]["content"];
    content.as_str().unwrap_or_default().to_owned()
}
