//! What `deploy/mqtt` says to device makers is what the code knows and does: the AsyncAPI document
//! beside the table of operations, the reasons, and what really goes over a broker; README.md's table
//! and quick start.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use slmd::for_tests::prompt::Dialect;
use slmd::for_tests::reason::{Reason, Refusal};

use super::{ANSWER, LONG, REPLIES, REQUESTS, Scene, succeeded, text};
use crate::support::{
    Holder, Message, Publish, Subscriber, chat, message_hash, root, run, secrets, within,
};

/// Reasons that no message over MQTT is refused with: HTTP's alone, and a stop, after which the
/// broker sends the request again.
const ELSEWHERE: [&str; 9] = [
    "host_rejected",
    "origin_rejected",
    "not_found",
    "method_not_allowed",
    "head_too_large",
    "request_timeout",
    "too_many_connections",
    "peer_not_allowed",
    "draining",
];

fn reasons() -> impl Iterator<Item = Reason> {
    for name in ELSEWHERE {
        assert!(Reason::parse(name).is_some(), "there is no {name}");
    }
    Reason::all().filter(|reason| !ELSEWHERE.contains(&reason.as_str()))
}

type ByStatus = BTreeMap<String, BTreeSet<String>>;

fn by_status() -> ByStatus {
    let mut all = ByStatus::new();
    for reason in reasons() {
        let of = all.entry(reason.status().to_string()).or_default();
        of.insert(reason.as_str().to_owned());
    }
    all
}

fn file(name: &str) -> String {
    let path = root().join("deploy/mqtt").join(name);
    fs::read_to_string(path).expect("it is there")
}

/// Has the document judged, and messages by it: the document, and for each message which it is.
fn judge(messages: &[Value]) -> (Value, Vec<BTreeSet<String>>) {
    let lines: Vec<String> = messages.iter().map(Value::to_string).collect();
    let mut node = Command::new("node");
    node.arg(root().join("tests/clients/asyncapi.mjs"));
    node.arg(root().join("deploy/mqtt/asyncapi.yaml"));
    let output = run(&mut node, lines.join("\n").as_bytes(), ANSWER);
    succeeded(&output);
    let said: Value = serde_json::from_slice(&output.stdout).expect("the script prints JSON");
    let judged = said["messages"].as_array().expect("a list");
    assert_eq!(judged.len(), messages.len());
    let names = judged.iter().zip(messages).map(|(judged, message)| {
        let names: Option<_> = serde_json::from_value(judged["is"].clone()).ok();
        names.unwrap_or_else(|| panic!("{message} is none of the document's: {judged}"))
    });
    (said["document"].clone(), names.collect())
}

fn keys(value: &Value) -> BTreeSet<String> {
    let members = value.as_object().expect("an object");
    members.keys().cloned().collect()
}

/// All reasons as they are written, each in the message of its status.
#[test]
fn the_asyncapi_document_has_the_codes_operations_and_reasons() {
    let refusals = reasons().map(|reason| {
        let status = reason.status();
        let mut headers = json!({
            "status": status.to_string(), "request-id": "r", "seq": "0", "final": "true",
        });
        if let Some(secs) = Refusal::new(reason).retry_after_secs() {
            headers["retry-after"] = secs.to_string().into();
        }
        let body = slmd::for_tests::wire::error(&Refusal::new(reason));
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        json!({"topic": format!("{REPLIES}/1"), "headers": headers, "payload": body})
    });
    let refusals: Vec<Value> = refusals.collect();
    let (document, names) = judge(&refusals);
    for (reason, is) in reasons().zip(names) {
        assert_eq!(
            is,
            [format!("refusal{}", reason.status())].into(),
            "{reason}"
        );
    }

    let codes = |status: &str| {
        let schema = &document["components"]["schemas"][format!("Error{status}")];
        let codes = &schema["allOf"][1]["properties"]["error"]["properties"]["code"]["enum"];
        serde_json::from_value(codes.clone()).expect("a list of names")
    };
    let messages = keys(&document["components"]["messages"]);
    let statuses = messages
        .iter()
        .filter_map(|name| name.strip_prefix("refusal"));
    let known: ByStatus = statuses.map(|s| (s.to_owned(), codes(s))).collect();
    assert_eq!(known, by_status());

    let channels = document["channels"].as_object().expect("an object");
    let address = |channel: &Value| channel["address"].as_str().expect("text").to_owned();
    let addresses: BTreeSet<String> = channels.values().map(address).collect();
    let mut expected: BTreeSet<String> = ["status", "nonce", "trust", "reply/{client}/{name}"]
        .map(|rest| format!("slm/{{device}}/{rest}"))
        .into();
    for branch in ["accepted", "rejected"] {
        expected.insert(format!("slm/{{device}}/reply/{{client}}/{{id}}/{branch}"));
    }
    for dialect in Dialect::ALL {
        let entry = dialect.entry();
        for (kind, rest) in [("", ""), ("Cancel", "/cancel"), ("Plain", "/{client}/{id}")] {
            let name = format!("{}{kind}", entry.name);
            let operation = &document["operations"][&name];
            assert_eq!(operation["action"], "receive", "{name}");
            let channel = operation["channel"]["$ref"].as_str().expect("a reference");
            let channel = channel.strip_prefix("#/channels/").expect("to a channel");
            let own = format!("slm/{{device}}{}{rest}", entry.path);
            assert_eq!(channels[channel]["address"], own, "{name}");
            expected.insert(own);
        }
    }
    assert_eq!(addresses, expected);
}

/// All that goes over the broker.
struct Tap {
    scene: Scene,
    holder: Holder,
    everything: Subscriber,
    heard: RefCell<Vec<Message>>,
}

impl Tap {
    fn next(&self) -> Message {
        let message = self.everything.next(ANSWER);
        let message = message.expect("an answer in time");
        self.heard.borrow_mut().push(message.clone());
        message
    }

    /// Waits for the end of an answer on this topic.
    fn ended(&self, topic: &str) -> Message {
        loop {
            let message = self.next();
            let plain = || message.json()["final"] == true;
            if message.topic.starts_with(topic)
                && (message.user("final") == Some("true") || plain())
            {
                return message;
            }
        }
    }

    /// Sends a request whose answer has this status.
    fn ask(&self, status: u16, publish: Publish<'_>) {
        let reply = format!("{REPLIES}/{}", self.heard.borrow().len());
        let token = self.scene.token();
        self.scene.broker.publish(&Publish {
            response_topic: publish.response_topic.or(Some(&reply)),
            token: publish.token.or(Some(&token)),
            ..publish
        });
        let last = self.ended(publish.response_topic.unwrap_or(&reply));
        assert_eq!(last.user("status"), Some(&*status.to_string()), "{last:?}");
    }

    fn ask_plainly(&self, id: &str, status: u16, body: &str) {
        let mut body: Value = serde_json::from_str(body).expect("JSON");
        body["authorization"] = format!("Bearer {}", self.scene.token()).into();
        self.scene.broker.publish(&Publish {
            topic: &format!("{REQUESTS}/device-1/{id}"),
            payload: &body.to_string(),
            ..Publish::default()
        });
        let last = self.ended(&format!("{REPLIES}/{id}/"));
        assert_eq!(last.json()["status"], status, "{last:?}");
    }

    /// With a proof that has no nonce.
    fn ask_without_a_nonce(&self, payload: &str) {
        let token = self.holder.token(&self.scene.issuer);
        let target = format!("mqtt://edge-1/{REQUESTS}");
        let mut says = self.holder.claims("PUBLISH", &target, &token);
        let reply = format!("{REPLIES}/nonce");
        says["msh"] = message_hash(REQUESTS, &reply, "", payload).into();
        let publish = Publish {
            topic: REQUESTS,
            payload,
            response_topic: Some(&reply),
            token: Some(&token),
            proof: Some(&self.holder.sign(&says)),
            ..Publish::default()
        };
        self.ask(401, publish);
    }

    /// One that is cancelled.
    fn ask_in_vain(&self) {
        let token = self.scene.token();
        self.scene.broker.publish(&Publish {
            topic: REQUESTS,
            payload: &chat(LONG, 1500, true),
            response_topic: Some(&format!("{REPLIES}/long")),
            correlation: Some("long"),
            token: Some(&token),
            ..Publish::default()
        });
        let begins =
            |message: &Message| message.topic.ends_with("/long") && !text(message).is_empty();
        while !begins(&self.next()) {}
        self.scene.cancel(&token, "long");
        let cancelled = self.ended(&format!("{REPLIES}/long"));
        assert_eq!(cancelled.user("status"), Some("499"));
    }

    fn use_up_the_quota(&self) {
        let token = self.scene.token();
        let short = chat("Say one word, any word.", 1, false);
        within(ANSWER, "the end of the quota", || {
            (self.scene.daemon.chat(&token, &short).status == 429).then_some(())
        });
    }

    /// As the document has them.
    fn messages(&self) -> Vec<Value> {
        let heard = self.heard.borrow();
        let messages = heard.iter().filter(|m| !m.topic.starts_with("subscribed/"));
        let messages = messages.map(|message| {
            // The report is no JSON.
            let payload = serde_json::from_str(&message.payload);
            let payload: Value = payload.unwrap_or_else(|_| message.payload.clone().into());
            let mut value = json!({"topic": message.topic, "payload": payload});
            if let Some(headers) = message.properties.get("user-properties") {
                value["headers"] = headers.clone();
            }
            value
        });
        messages.collect()
    }
}

fn on<'a>(topic: &'a str, payload: &'a str) -> Publish<'a> {
    Publish {
        topic,
        payload,
        ..Publish::default()
    }
}

fn ask_all(tap: &Tap) {
    let (whole, stream) = (chat(LONG, 8, false), chat(LONG, 8, true));
    let mut counted: Value = serde_json::from_str(&stream).expect("JSON");
    counted["stream_options"] = json!({"include_usage": true});
    let texts = json!({"prompt": "One, two, three,", "max_tokens": 4, "stream": true});
    tap.ask(200, on(REQUESTS, &whole));
    tap.ask(200, on(REQUESTS, &counted.to_string()));
    tap.ask(200, on("slm/edge-1/v1/completions", &texts.to_string()));
    tap.ask_plainly("1", 200, &stream);
    tap.ask_without_a_nonce(&whole);
    let malformed = Publish {
        token: Some("a.b.c"),
        ..on(REQUESTS, &whole)
    };
    tap.ask(401, malformed);
    let elsewhere = Publish {
        response_topic: Some("slm/edge-1/reply/device-2/1"),
        ..on(REQUESTS, &whole)
    };
    tap.ask(403, elsewhere);
    let unknown = whole.replace("slm", "gpt-4o");
    tap.ask(404, on(REQUESTS, &unknown));
    let endless = chat(LONG, 1500, false);
    let late = Publish {
        expiry: Some(1),
        ..on(REQUESTS, &endless)
    };
    tap.ask(504, late);
    tap.ask_in_vain();
    tap.use_up_the_quota();
    tap.ask(429, on(REQUESTS, &whole));
    tap.ask_plainly("2", 429, &whole);
}

#[test]
fn what_goes_over_a_broker_is_as_the_asyncapi_document_says() {
    let signs = "[mqtt]\nsign_answers = true\nreport = true\n";
    let scene = Scene::start(&format!("{signs}[admission]\nprompts_per_minute = 15\n"));
    let tap = Tap {
        everything: scene.broker.subscribe("#"),
        scene,
        holder: Holder::new(),
        heard: RefCell::default(),
    };
    ask_all(&tap);
    let messages = tap.messages();
    let (document, names) = judge(&messages);
    let seen: BTreeSet<&str> = names.iter().flatten().map(String::as_str).collect();
    let expected = "answer cancel chatPlainRequest chatRequest completionRequest nonce \
                    plainAccepted plainRejected refusal401 refusal403 refusal404 refusal429 \
                    refusal499 refusal504 report status";
    assert_eq!(seen, expected.split(' ').collect());

    let of = |part: &str, told: &str| -> BTreeSet<String> {
        let is_told = |is: &BTreeSet<String>| {
            let mut is = is.iter();
            is.any(|name| name.starts_with(told) && !name.ends_with("Request"))
        };
        let told = messages.iter().zip(&names).filter(|(_, is)| is_told(is));
        told.flat_map(|(message, _)| keys(&message[part])).collect()
    };
    let schema = |name: &str| keys(&document["components"]["schemas"][name]["properties"]);
    let headers: BTreeSet<String> = &of("headers", "answer") | &of("headers", "refusal");
    assert_eq!(headers, schema("AnswerHeaders"));
    let mut envelope = schema("Envelope");
    // Of a client that nobody knows.
    envelope.remove("verified");
    assert_eq!(of("payload", "plain"), envelope);
}

/// The rows that begin with a status.
#[test]
fn the_readme_says_what_each_reason_wants() {
    let readme = file("README.md");
    let rows = readme.lines().filter_map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [status, names, what] = cells[..] else {
            return None;
        };
        let is_refusal = status.parse::<u16>().is_ok_and(|status| status >= 400);
        assert!(!is_refusal || !what.is_empty(), "{line}");
        is_refusal.then(|| (status.to_owned(), names.to_owned()))
    });
    let mut told = ByStatus::new();
    for (status, names) in rows {
        let names = names.split('`').skip(1).step_by(2).map(str::to_owned);
        told.entry(status).or_default().extend(names);
    }
    assert_eq!(told, by_status());
}

#[test]
fn the_readmes_quick_start_works() {
    let scene = Scene::start("");
    let readme = file("README.md");
    let (_, block) = readme.split_once("```sh\n").expect("a block");
    let (script, _) = block.split_once("```").expect("its end");
    assert!(script.lines().count() <= 5, "{script}");
    let here = format!("-h localhost -p {}", scene.broker.port());
    let script = script.replace("-h localhost", &here);
    secrets::prompt("What is the capital city of France?");
    let mut shell = Command::new("bash");
    shell
        .args(["-euc", &script])
        .env("SLMD_TOKEN", scene.token());
    let output = run(&mut shell, b"", ANSWER);
    succeeded(&output);
    let said: Value = serde_json::from_slice(&output.stdout).expect("one answer");
    assert_eq!(
        (&said["status"], &said["final"]),
        (&json!(200), &json!(true))
    );
    let text = &said["body"]["choices"][0]["message"]["content"];
    assert!(
        text.as_str().is_some_and(|text| text.contains("Paris")),
        "{said}"
    );
}
