//! `kill -9` in the middle of answers: nothing that was recorded is lost, nothing asked is forgotten.

mod flood;

use std::time::Duration;

use serde_json::Value;
use slmd::for_tests::time::instant;

use crate::support::{
    Daemon, Exchange, Issuer, Message, Mosquitto, Publish, Setup, Subscriber, chat, claims, send,
    within,
};

/// Kills in the usual count, and with `SLMD_TEST_MORE`.
const ROUNDS: (u64, u64) = (20, 1000);
/// Every so many rounds the daemon is killed once more while it starts.
const START_UP: u64 = 5;
/// Long enough that no answer ends before the kill that follows its first fragment.
const LONG: u32 = 240;
const SHORT: u32 = 16;

const ANSWER: Duration = Duration::from_secs(120);
const REQUESTS: &str = "slm/edge-1/v1/chat/completions";
const REPLIES: &str = "slm/edge-1/reply/device-1";

#[test]
fn kill_9_loses_no_record_and_no_prompt() {
    let rounds = match std::env::var_os("SLMD_TEST_MORE") {
        Some(_) => ROUNDS.1,
        None => ROUNDS.0,
    };
    let mut scene = Scene::new("crash-1");
    let mut cut = 0;
    for round in 0..rounds {
        let asked = scene.ask(round);
        // Alternately what runs is a prompt that came by the broker, and one by the socket with
        // the broker's waiting in the queue.
        let was_cut = if round % 2 == 0 {
            scene.kill_while_the_broker_is_answered(&asked)
        } else {
            scene.kill_while_the_socket_is_answered(&asked, round)
        };
        cut += u64::from(was_cut);
        let start_up = round % START_UP == START_UP - 1;
        if start_up {
            scene.kill_while_starting(round / START_UP);
        }
        scene.restart();
        let attempts = scene.settle(&asked);
        assert!(start_up || attempts == 2, "{asked:?}: {attempts} attempts");
    }
    println!("{cut} of {rounds} kills fell into an answer");
    assert!(cut * 4 >= rounds * 3, "only {cut} of {rounds} kills did");
}

#[test]
fn a_prompt_that_is_killed_twice_is_given_up_once() {
    let mut scene = Scene::new("crash-2");
    let asked = scene.ask(0);
    scene.publish(&asked, &chat(SEA, LONG, true));
    let first = scene.fragment(&asked);
    scene.daemon.kill9();
    scene.restart();
    let second = scene.fragment(&asked);
    assert_ne!(first.user("request-id"), second.user("request-id"));
    scene.daemon.kill9();
    scene.restart();

    let last = scene.last(&asked);
    assert_eq!(last.user("status"), Some("422"));
    assert_eq!(last.json()["error"]["code"], "attempts_exhausted");
    let records = scene.records();
    assert_eq!(attempts(&records, &asked), [1, 2]);
    let denied = records.iter().filter(|record| {
        record["decision"] == "deny" && record["token_id"] == asked.token_id.as_str()
    });
    let reasons: Vec<&Value> = denied.map(|record| &record["reason"]).collect();
    assert_eq!(reasons, ["attempts_exhausted"]);
    for begun in permits(&records, &asked) {
        assert!(finish_of(&records, &begun["request_id"]).is_none());
    }

    // It was acknowledged: it comes no more, and the next prompt is answered.
    let next = scene.ask(1);
    scene.publish(&next, &chat(SEA, SHORT, false));
    assert_eq!(scene.last(&next).user("status"), Some("200"));
    scene.daemon.restart();
    until_connected(&scene.daemon);
    let again = scene.answers.next(Duration::from_secs(1));
    assert!(again.is_none(), "answered once more: {again:?}");
}

const SEA: &str = "Write a long story about a sailor who crosses the sea.";

/// A daemon with its broker, and what has been read of its audit log.
struct Scene {
    issuer: Issuer,
    broker: Mosquitto,
    daemon: Daemon,
    answers: Subscriber,
    /// What a start takes.
    start: Duration,
    seen: Seen,
}

/// The audit log as it was read. Records are append-only: what was there is there, byte for byte.
#[derive(Default)]
struct Seen {
    lines: Vec<String>,
    /// What is before was compared often enough.
    from: usize,
}

impl Seen {
    /// Reads it again, up to where it ends now.
    fn look(&mut self, daemon: &Daemon) {
        let now = daemon.audit(self.from as u64);
        let known = &self.lines[self.from..];
        for (index, record) in (self.from..).zip(known) {
            let there = now.get(index - self.from);
            assert_eq!(there, Some(record), "lost or changed: {index}");
        }
        for line in now.into_iter().skip(known.len()) {
            let record = parse(&line);
            let index = self.lines.len();
            assert_eq!(record["index"], index, "an index is missing or twice");
            let what = record["what"].as_str().unwrap_or_default();
            let mended = ["store_recovered", "keys_restored", "audit_epoch_begun"];
            assert!(!mended.contains(&what), "a kill damaged the store: {line}");
            self.lines.push(line);
        }
    }

    fn records(&self) -> Vec<Value> {
        self.lines.iter().map(|line| parse(line)).collect()
    }
}

/// A prompt on its way through the broker. Its token is its own, so the audit tells it by that.
#[derive(Debug)]
struct Asked {
    correlation: String,
    token_id: String,
    token: String,
}

impl Scene {
    fn new(kid: &str) -> Scene {
        let issuer = Issuer::new("ES256", kid);
        let broker = Mosquitto::start();
        let daemon = Daemon::start(Setup::new().issuer(&issuer).broker(&broker));
        let answers = broker.subscribe(&format!("{REPLIES}/#"));
        until_connected(&daemon);
        Scene {
            issuer,
            broker,
            daemon,
            answers,
            start: Duration::from_secs(1),
            seen: Seen::default(),
        }
    }

    fn ask(&self, round: u64) -> Asked {
        let claims = claims();
        Asked {
            correlation: format!("crash-{round}"),
            token_id: claims["jti"].as_str().expect("a token's id").to_owned(),
            token: self.issuer.token(claims),
        }
    }

    fn publish(&self, asked: &Asked, body: &str) {
        self.broker.publish(&Publish {
            topic: REQUESTS,
            payload: body,
            response_topic: Some(&format!("{REPLIES}/{}", asked.correlation)),
            correlation: Some(&asked.correlation),
            token: Some(&asked.token),
            ..Publish::default()
        });
    }

    /// Says whether the answer was cut.
    fn kill_while_the_broker_is_answered(&mut self, asked: &Asked) -> bool {
        self.publish(asked, &chat(SEA, LONG, true));
        self.fragment(asked);
        self.look();
        let (begun, finished) = self.progress(&asked.token_id);
        assert_eq!(begun, 1, "an answer has begun without a record");
        self.daemon.kill9();
        !finished
    }

    fn kill_while_the_socket_is_answered(&mut self, asked: &Asked, round: u64) -> bool {
        let streamed = self.ask(round);
        let mut stream = self.stream(&streamed);
        assert!(
            stream
                .event()
                .expect("the stream is whole so far")
                .is_some()
        );
        self.publish(asked, &chat(SEA, SHORT, false));
        within(ANSWER, "the record of a queued prompt", || {
            self.look();
            (self.progress(&asked.token_id).0 == 1).then_some(())
        });
        let (begun, _) = self.progress(&streamed.token_id);
        assert_eq!(begun, 1, "an answer has begun without a record");
        self.daemon.kill9();
        !ended(stream)
    }

    /// At moments spread over what a start takes.
    fn kill_while_starting(&mut self, number: u64) {
        let part = u32::try_from(number * 37 % 100).expect("below 100");
        self.daemon.start_and_kill9(self.start * part / 100);
    }

    /// Starts the daemon; what was read of its log before is there still.
    fn restart(&mut self) {
        let begun = instant();
        self.daemon.restart();
        self.start = begun.elapsed();
        self.look();
    }

    fn look(&mut self) {
        self.seen.look(&self.daemon);
    }

    fn records(&mut self) -> Vec<Value> {
        self.look();
        self.seen.records()
    }

    /// How many attempts with this token are on record, and whether the last has finished.
    fn progress(&self, token_id: &str) -> (usize, bool) {
        let records = self.seen.records();
        let permits = permits_of(&records, token_id);
        let last = permits.last();
        let finish = last.and_then(|permit| finish_of(&records, &permit["request_id"]));
        (permits.len(), finish.is_some())
    }

    fn stream(&self, asked: &Asked) -> Exchange {
        let body = chat("Tell a long story about a lighthouse.", LONG, true);
        let bearer = format!("Bearer {}", asked.token);
        let headers = [("authorization", bearer.as_str())];
        let path = "/v1/chat/completions";
        let stream = send(&self.daemon.socket(), "POST", path, &headers, &body);
        let stream = stream.expect("the socket serves");
        assert_eq!(stream.status, 200);
        stream
    }

    /// The prompt's first message, which is not its last.
    fn fragment(&self, asked: &Asked) -> Message {
        let fragment = self.message(asked, |message| message.user("seq") == Some("0"));
        assert_eq!(fragment.user("final"), Some("false"), "{fragment:?}");
        assert_eq!(fragment.user("status"), Some("200"), "{fragment:?}");
        fragment
    }

    /// The prompt's last message.
    fn last(&self, asked: &Asked) -> Message {
        self.message(asked, |message| message.user("final") == Some("true"))
    }

    fn message(&self, asked: &Asked, is_it: impl Fn(&Message) -> bool) -> Message {
        loop {
            let Some(message) = self.answers.next(ANSWER) else {
                panic!("{} was never answered", asked.correlation);
            };
            let ours = message.correlation.as_deref() == Some(&asked.correlation);
            if ours && is_it(&message) {
                return message;
            }
        }
    }

    /// The prompt is answered, or given up after two attempts, and the audit says the same;
    /// returns the attempts.
    fn settle(&mut self, asked: &Asked) -> usize {
        let last = self.last(asked);
        if last.user("status") == Some("200") {
            // The finish is written when the last fragment is on its way.
            within(Duration::from_secs(10), "the record of the finish", || {
                self.look();
                self.progress(&asked.token_id).1.then_some(())
            });
        }
        let records = self.records();
        let attempts = attempts(&records, asked);
        let counted: Vec<u64> = (1..=attempts.len() as u64).collect();
        assert_eq!(attempts, counted, "{asked:?}");
        assert!(attempts.len() <= 2, "{asked:?}: {attempts:?}");
        let permits = permits(&records, asked);
        let ids: Vec<&Value> = permits.iter().map(|permit| &permit["request_id"]).collect();
        if last.user("status") == Some("200") {
            assert_eq!(
                ids.last().and_then(|id| id.as_str()),
                last.user("request-id")
            );
            assert!(!last.payload.is_empty());
        } else {
            assert_eq!(last.json()["error"]["code"], "attempts_exhausted");
            assert_eq!(attempts, [1, 2]);
            assert!(ids.iter().all(|id| finish_of(&records, id).is_none()));
        }
        attempts.len()
    }
}

fn until_connected(daemon: &Daemon) {
    within(Duration::from_secs(30), "the broker connection", || {
        (daemon.status()["mqtt"]["connected"] == true).then_some(())
    });
}

/// Whether a stream comes to the end that every whole one has.
fn ended(mut stream: Exchange) -> bool {
    while let Ok(Some(event)) = stream.event() {
        if event == "[DONE]" {
            return true;
        }
    }
    false
}

fn attempts(records: &[Value], asked: &Asked) -> Vec<u64> {
    let permits = permits(records, asked);
    let attempts = permits.iter().map(|permit| permit["attempt"].as_u64());
    attempts.map(|attempt| attempt.unwrap_or(0)).collect()
}

fn permits<'a>(records: &'a [Value], asked: &Asked) -> Vec<&'a Value> {
    permits_of(records, &asked.token_id)
}

fn permits_of<'a>(records: &'a [Value], token_id: &str) -> Vec<&'a Value> {
    let permits = records.iter().filter(|record| {
        record["event"] == "access"
            && record["decision"] == "permit"
            && record["token_id"] == token_id
    });
    permits.collect()
}

fn finish_of<'a>(records: &'a [Value], request_id: &Value) -> Option<&'a Value> {
    records
        .iter()
        .find(|record| record["event"] == "finish" && record["request_id"] == *request_id)
}

fn parse(line: &str) -> Value {
    serde_json::from_str(line).expect("a record is JSON")
}
