//! A device's real token for a day, bound to its key: what a proof opens, and what it doesn't.

use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::appliance::{
    PATIENCE, answered, ask, ask_bound, body, hash, proof, refused, said, section, setup,
};
use crate::grants::realm;
use crate::proof::ProofKey;
use crate::support::{Daemon, Message, Mosquitto, Publish, Setup, Subscriber, run, secrets};

const REQUESTS: &str = "slm/edge-1/v1/chat/completions";

/// One request over MQTT with a bound token.
#[derive(Clone)]
pub struct Sent<'s> {
    token: &'s str,
    proof: String,
    reply: &'s str,
    correlation: &'s str,
    body: String,
}

/// A device with a key, a token and the daemon's nonce.
pub struct Device {
    pub key: ProofKey,
    pub token: String,
    pub nonce: String,
}

impl Device {
    pub fn sent<'s>(&'s self, reply: &'s str, correlation: &'s str, words: &str) -> Sent<'s> {
        let body = body(words);
        let parts = [REQUESTS, reply, correlation, &body];
        let length = |part: &str| u32::try_from(part.len()).expect("it is short");
        let framed = parts.map(|part| [&length(part).to_be_bytes(), part.as_bytes()].concat());
        let more = json!({
            "ath": hash(self.token.as_bytes()),
            "nonce": self.nonce,
            "msh": hash(&framed.concat()),
        });
        let target = format!("mqtt://edge-1/{REQUESTS}");
        Sent {
            token: &self.token,
            proof: self.key.proof("PUBLISH", &target, &more),
            reply,
            correlation,
            body,
        }
    }
}

pub fn publish(broker: &Mosquitto, sent: &Sent<'_>) {
    secrets::body(sent.body.as_bytes());
    let authorization = format!("DPoP {}", sent.token);
    let port = broker.port().to_string();
    let mut command = Command::new("mosquitto_pub");
    command.args(["-V", "5", "-q", "1", "-s", "-p", &port, "-t", REQUESTS]);
    for property in [
        &["response-topic", sent.reply][..],
        &["correlation-data", sent.correlation],
        &["content-type", "application/json"],
        &["user-property", "authorization", &authorization],
        &["user-property", "dpop", &sent.proof],
    ] {
        command.args(["-D", "publish"]).args(property);
    }
    let output = run(&mut command, sent.body.as_bytes(), PATIENCE);
    assert!(output.status.success(), "{}", said(&output));
}

#[track_caller]
pub fn answer(replies: &Subscriber, correlation: &str) -> Message {
    let message = replies.next(PATIENCE).expect("every request is answered");
    assert_eq!(message.correlation.as_deref(), Some(correlation));
    message
}

/// No refusal to a stranger goes where an answer was just told, until that is on record.
#[track_caller]
fn heard(broker: &Mosquitto, replies: &Subscriber, sent: &Sent) -> Message {
    let mut tries = (0..6).map(|_| {
        publish(broker, sent);
        replies.next(PATIENCE / 6)
    });
    tries.find_map(|message| message).expect("told in the end")
}

/// What the daemon has published last.
pub fn nonce(broker: &Mosquitto) -> String {
    let nonces = broker.subscribe("slm/edge-1/nonce");
    let message = nonces.next(PATIENCE).expect("a nonce is published");
    let nonce = message.json()["nonce"].as_str().map(str::to_owned);
    nonce.expect("a nonce")
}

#[track_caller]
fn told(message: &Message, status: &str, code: &str) {
    assert_eq!(message.user("status"), Some(status), "{message:?}");
    assert_eq!(message.json()["error"]["code"], code, "{message:?}");
}

#[test]
fn a_proof_opens_http_once_and_the_token_alone_nothing() {
    let realm = realm("staging");
    let daemon = Daemon::start(setup(&[&realm]));
    let (key, thief) = (ProofKey::new(), ProofKey::new());
    let token = realm.service("device-2", Some(&key)).access;
    let once = proof(&key, &token);
    let words = "Name a device that lives for a day.";
    answered(&ask_bound(&daemon, &token, &once, words));
    refused(
        &ask_bound(&daemon, &token, &once, words),
        401,
        "proof_replayed",
    );
    refused(&ask(&daemon, &token, words), 401, "proof_missing");
    for proof in [
        proof(&thief, &token),
        proof(&key, "another token"),
        key.proof(
            "POST",
            "http://edge-2/v1/chat/completions",
            &json!({"ath": hash(token.as_bytes())}),
        ),
        key.proof(
            "GET",
            crate::appliance::TARGET,
            &json!({"ath": hash(token.as_bytes())}),
        ),
    ] {
        refused(
            &ask_bound(&daemon, &token, &proof, words),
            401,
            "proof_invalid",
        );
    }
    answered(&ask_bound(&daemon, &token, &proof(&key, &token), words));

    // An unbound token isn't made better by a proof.
    let plain = realm.service("device-1", None).access;
    let response = ask_bound(&daemon, &plain, &proof(&key, &plain), words);
    refused(&response, 401, "proof_invalid");
}

#[test]
fn a_used_proof_stays_used_across_a_power_cut() {
    let realm = realm("staging");
    let mut daemon = Daemon::start(setup(&[&realm]));
    let key = ProofKey::new();
    let token = realm.service("device-2", Some(&key)).access;
    let once = proof(&key, &token);
    let words = "Name a device that forgets nothing.";
    answered(&ask_bound(&daemon, &token, &once, words));
    daemon.kill9();
    daemon.restart();
    refused(
        &ask_bound(&daemon, &token, &once, words),
        401,
        "proof_replayed",
    );
}

#[test]
fn a_proof_over_mqtt_is_for_one_message_of_one_device() {
    let realm = realm("staging");
    let broker = Mosquitto::start();
    let strict = section(&realm, "require_dpop = [\"mqtt\"]");
    let setup = Setup::new().with(&strict).keys("staging", &realm.jwks());
    let daemon = Daemon::start(setup.broker(&broker));
    let key = ProofKey::new();
    let device = Device {
        token: realm.service("device-2", Some(&key)).access,
        key,
        nonce: nonce(&broker),
    };
    let replies = broker.subscribe("slm/edge-1/reply/#");
    let own = "slm/edge-1/reply/device-2/1";
    let first = device.sent(own, "first", "Name a colour of the evening sky.");
    publish(&broker, &first);
    let answer_1 = answer(&replies, "first");
    assert_eq!(answer_1.user("status"), Some("200"), "{answer_1:?}");

    // Whoever listens at the broker has seen token and proof.
    let other_body = Sent {
        body: body("Name a colour that somebody else likes."),
        ..first.clone()
    };
    told(
        &heard(&broker, &replies, &other_body),
        "401",
        "proof_invalid",
    );
    let elsewhere = Sent {
        reply: "slm/edge-1/reply/device-1/1",
        ..first.clone()
    };
    publish(&broker, &elsewhere);
    let astray = answer(&replies, "first");
    assert_eq!(astray.topic, elsewhere.reply);
    told(&astray, "401", "proof_invalid");
    let stale = Device {
        nonce: "of-another-device".to_owned(),
        key: ProofKey::new(),
        token: device.token.clone(),
    };
    publish(
        &broker,
        &stale.sent(own, "stale", "Name a colour, please do."),
    );
    let stale = answer(&replies, "stale");
    assert_ne!(stale.user("status"), Some("200"), "{stale:?}");

    let plain = realm.service("device-1", None).access;
    for (token, code) in [(&device.token, "proof_missing"), (&plain, "dpop_required")] {
        broker.publish(&Publish {
            topic: REQUESTS,
            payload: &body("Name a colour without a proof."),
            response_topic: Some("slm/edge-1/reply/device-1/1"),
            correlation: Some(code),
            token: Some(token),
            ..Publish::default()
        });
        let message = answer(&replies, code);
        assert_eq!(message.json()["error"]["code"], code, "{message:?}");
    }
    // The transport that isn't named takes a bearer token still.
    answered(&ask(&daemon, &plain, "Name a colour over the socket."));
    // An exact repeat of a message is answered from the first run, not run again.
    publish(&broker, &first);
    if let Some(again) = replies.next(Duration::from_secs(10)) {
        let same = again.payload == answer_1.payload;
        assert!(same || again.user("status") == Some("401"), "{again:?}");
    }
    let records = daemon.audit(0);
    let runs = records
        .iter()
        .filter(|r| r.contains("\"chat\"") && r.contains("\"permit\""));
    assert_eq!(runs.count(), 2, "the socket's and the device's own");
}
