//! MQTT end to end: a real broker, the real model, and clients that people use.
//!
//! Here are the scene that the other files share, and the answers; [`refusals`] is what isn't
//! answered, [`silence`] what can't be, [`bursts`] is many at once, [`hivemq`] a second kind of broker, [`broker`] one that comes
//! and goes, [`stops`] a daemon that does, [`repeats`] what is asked again,
//! [`signatures`] what the device signs.

mod broker;
mod bursts;
mod contract;
mod devices;
mod hivemq;
mod refusals;
mod repeats;
mod signatures;
mod silence;
mod stops;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::support::{
    Daemon, Issuer, Message, Mosquitto, Publish, Setup, Subscriber, chat, claims, python, within,
};

const REQUESTS: &str = "slm/edge-1/v1/chat/completions";
const CANCELS: &str = "slm/edge-1/v1/chat/completions/cancel";
const STATUS: &str = "slm/edge-1/status";
const REPLIES: &str = "slm/edge-1/reply/device-1";
/// The longest that an answer may take on a busy machine.
const ANSWER: Duration = Duration::from_secs(120);
const CONNECT: Duration = Duration::from_secs(30);
/// A prompt whose answer goes on for long.
const LONG: &str = "Write a very long story about the sea, the lighthouse and the old fishermen.";

#[test]
fn paho_asks_with_mqtt_5() {
    let scene = Scene::start("");
    let token = scene.token();
    let port = scene.broker.port().to_string();
    let output = python("mqtt_v5.py", &[&port], &[("SLMD_TOKEN", &token)]);
    succeeded(&output);
    let said: Value = serde_json::from_slice(&output.stdout).expect("the script prints JSON");
    assert!(said["usage"]["completion_tokens"].as_u64() > Some(0));
    let audit = scene.audit();
    let whole = |r: &&Value| r["event"] == "access" && r["client_request_id"] == "paho-whole-1";
    let whole: Vec<&Value> = audit.iter().filter(whole).collect();
    assert_eq!(whole.len(), 1);
    assert_eq!(whole[0]["decision"], "permit");
}

#[test]
fn paho_asks_with_mqtt_3_1_1() {
    let scene = Scene::start("");
    let port = scene.broker.port().to_string();
    let env = [
        ("SLMD_TOKEN", &*scene.token()),
        ("SLMD_EXPIRED_TOKEN", &*scene.expired()),
    ];
    succeeded(&python("mqtt_v311.py", &[&port], &env));
}

/// With no parameters but a seed: the defaults are those of HTTP.
#[test]
fn the_capital_of_japan() {
    let scene = Scene::start("");
    let body = r#"{"messages": [{"role": "user", "content": "What is the capital of Japan?"}],
        "seed": 0}"#;
    scene.ask("japan", body);
    let answer = scene.answer("japan");
    assert_eq!(answer.text, "The capital of Japan is Tokyo.");
    let permits = scene.audit().into_iter();
    let permits = permits.filter(|record| record["decision"] == "permit");
    let temperatures: Vec<Value> = permits
        .map(|record| record["sampling"]["temperature"].clone())
        .collect();
    assert_eq!(temperatures, [0.2]);
}

#[test]
fn message_expiry_is_the_deadline() {
    let scene = Scene::start("");
    let body = chat(LONG, 1500, false);
    scene.publish(&scene.token(), "late", &body, Some(1));
    let answer = scene.answer("late");
    assert_eq!(
        (answer.status, answer.code()),
        (504, Some("deadline_exceeded"))
    );
    assert_eq!(scene.finish(&answer.request_id), "deadline");
}

#[test]
fn cancel_ends_a_running_answer_of_the_same_principal_only() {
    let scene = Scene::start("");
    scene.ask("running", &chat(LONG, 1500, true));
    scene.until_text("running");

    let mut stranger = claims();
    stranger["sub"] = "somebody-else".into();
    scene.cancel(&scene.issuer.token(stranger), "running");
    scene.cancel(&scene.token(), "another");
    assert!(scene.goes_on("running"), "cancelled by who may not");
    scene.cancel(&scene.token(), "running");
    let answer = scene.answer("running");
    assert_eq!((answer.status, answer.code()), (499, Some("cancelled")));
    assert_eq!(scene.finish(&answer.request_id), "cancelled");
    let cancels = scene.accesses("cancel");
    assert_eq!(cancels.len(), 3, "every cancel is on record");
}

#[test]
fn a_text_completion_is_cancelled_on_its_own_topic() {
    let scene = Scene::start("");
    let texts = "slm/edge-1/v1/completions";
    let counting = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,";
    let body = serde_json::json!({
        "prompt": counting, "max_tokens": 1500, "temperature": 0, "stream": true,
    });
    let publish = |topic: &str, payload: &str| {
        scene.broker.publish(&Publish {
            topic,
            payload,
            response_topic: Some(&format!("{REPLIES}/text")),
            correlation: Some("text"),
            token: Some(&scene.token()),
            ..Publish::default()
        });
    };
    publish(texts, &body.to_string());
    let begun = scene.message("text").json();
    assert_eq!(begun["object"], "text_completion", "{begun}");
    publish(&format!("{texts}/cancel"), "{}");
    let answer = scene.answer("text");
    assert_eq!((answer.status, answer.code()), (499, Some("cancelled")));
    assert_eq!(scene.finish(&answer.request_id), "cancelled");
    assert_eq!(scene.accesses("cancel").len(), 1);
}

#[test]
fn cancel_ends_a_prompt_that_waits_for_a_place() {
    let scene = Scene::start("[engine]\nqueue = 1\n");
    scene.ask("running", &chat(LONG, 1500, true));
    scene.until_text("running");
    scene.ask("waiting", &chat(LONG, 1500, true));
    scene.cancel(&scene.token(), "waiting");
    let last = loop {
        let message = scene.answers.next(ANSWER).expect("an answer in time");
        if message.user("final") == Some("true") {
            break message;
        }
    };
    assert_eq!(last.correlation.as_deref(), Some("waiting"));
    assert_eq!(last.user("status"), Some("499"));
}

/// A broker, a daemon that is connected to it, and who listens for its answers.
struct Scene {
    issuer: Issuer,
    broker: Mosquitto,
    daemon: Daemon,
    answers: Subscriber,
}

/// All messages of an answer in one.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    request_id: String,
    text: String,
    /// The last message.
    body: Value,
}

impl Answer {
    fn code(&self) -> Option<&str> {
        self.body["error"]["code"].as_str()
    }
}

impl Scene {
    /// `toml` changes the configuration.
    fn start(toml: &str) -> Scene {
        Scene::of(Setup::new(), toml)
    }

    fn of(setup: Setup, toml: &str) -> Scene {
        Scene::beside(Mosquitto::start(), setup, toml)
    }

    fn beside(broker: Mosquitto, setup: Setup, toml: &str) -> Scene {
        let issuer = Issuer::new("ES256", "mqtt-1");
        let setup = setup.issuer(&issuer).broker(&broker).with(toml);
        let daemon = Daemon::start(setup);
        let answers = broker.subscribe("slm/edge-1/reply/#");
        until_up(&broker);
        Scene {
            issuer,
            broker,
            daemon,
            answers,
        }
    }

    fn token(&self) -> String {
        self.issuer.token(claims())
    }

    fn expired(&self) -> String {
        let now = slmd::for_tests::time::now().as_secs();
        let mut claims = claims();
        (claims["iat"], claims["exp"]) = ((now - 600).into(), (now - 300).into());
        self.issuer.token(claims)
    }

    fn ask(&self, correlation: &str, body: &str) {
        self.publish(&self.token(), correlation, body, None);
    }

    fn publish(&self, token: &str, correlation: &str, body: &str, expiry: Option<u32>) {
        self.broker.publish(&Publish {
            topic: REQUESTS,
            payload: body,
            response_topic: Some(&format!("{REPLIES}/{correlation}")),
            correlation: Some(correlation),
            token: Some(token),
            expiry,
            ..Publish::default()
        });
    }

    fn cancel(&self, token: &str, correlation: &str) {
        self.broker.publish(&Publish {
            topic: CANCELS,
            payload: "{}",
            correlation: Some(correlation),
            token: Some(token),
            ..Publish::default()
        });
    }

    /// The next answer, which must be to this request and no other.
    #[track_caller]
    fn answer(&self, correlation: &str) -> Answer {
        answer(&self.answers, correlation)
    }

    /// Waits for the first words of a streamed answer.
    #[track_caller]
    fn until_text(&self, correlation: &str) {
        while text(&self.message(correlation)).is_empty() {}
    }

    /// Whether ten more pieces come, none of them the last.
    #[track_caller]
    fn goes_on(&self, correlation: &str) -> bool {
        (0..10).all(|_| self.message(correlation).user("final") == Some("false"))
    }

    #[track_caller]
    fn message(&self, correlation: &str) -> Message {
        let message = self.answers.next(ANSWER).expect("an answer in time");
        assert_eq!(message.correlation.as_deref(), Some(correlation));
        message
    }

    fn audit(&self) -> Vec<Value> {
        let parse = |line: &String| serde_json::from_str(line).expect("a record is JSON");
        self.daemon.audit(0).iter().map(parse).collect()
    }

    /// Records of decisions on this action.
    fn accesses(&self, action: &str) -> Vec<Value> {
        let of = |r: &Value| r["event"] == "access" && r["action"] == action;
        self.audit().into_iter().filter(of).collect()
    }

    /// How a request ended, as the audit log has it.
    #[track_caller]
    fn finish(&self, request_id: &str) -> String {
        within(CONNECT, "the record of a finish", || {
            let finished = |r: &Value| r["event"] == "finish" && r["request_id"] == request_id;
            let record = self.audit().into_iter().find(finished)?;
            record["finish"].as_str().map(str::to_owned)
        })
    }
}

/// Waits until the daemon listens, and returns what it says.
pub fn until_up(broker: &Mosquitto) -> Value {
    let watcher = broker.subscribe(STATUS);
    loop {
        let status = watcher.next(ANSWER).expect("it is retained").json();
        if status["status"] == "up" {
            return status;
        }
    }
}

fn until_connected(daemon: &Daemon) {
    within(CONNECT, "the broker connection", || {
        (daemon.status()["mqtt"]["connected"] == true).then_some(())
    });
}

/// Reads one whole answer; what came of it before may have been read already.
#[track_caller]
fn answer(answers: &Subscriber, correlation: &str) -> Answer {
    let mut said = String::new();
    loop {
        let message = answers.next(ANSWER).expect("an answer in time");
        assert_eq!(message.correlation.as_deref(), Some(correlation));
        said.push_str(&text(&message));
        if message.user("final") == Some("true") {
            let user = |name| message.user(name).expect("answers have it").to_owned();
            return Answer {
                status: user("status").parse().expect("a number"),
                request_id: user("request-id"),
                text: said,
                body: message.json(),
            };
        }
    }
}

/// Reads answers to so many requests, in whatever order they come.
#[track_caller]
fn answers_to(answers: &Subscriber, count: usize) -> BTreeMap<String, Vec<u16>> {
    let mut seen: BTreeMap<String, Vec<u16>> = BTreeMap::new();
    while seen.len() < count {
        let message = answers.next(ANSWER).expect("an answer in time");
        if message.user("final") == Some("true") {
            let status = message.user("status").and_then(|s| s.parse().ok());
            let correlation = message.correlation.clone().expect("it is echoed");
            let status = status.expect("a number");
            seen.entry(correlation).or_default().push(status);
        }
    }
    seen
}

/// What a message adds to the answer, streamed or whole.
fn text(message: &Message) -> String {
    let choice = &message.json()["choices"][0];
    let part = |kind: &str| choice[kind]["content"].as_str().map(str::to_owned);
    part("delta")
        .or_else(|| part("message"))
        .unwrap_or_default()
}

#[track_caller]
fn succeeded(output: &std::process::Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}
