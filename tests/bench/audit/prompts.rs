//! What the audit is of a prompt: of the time to its first token, and of what is written to the disk.
//! The whole daemon with its model.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::Duration;

use serde_json::json;
use slmd::for_tests::time::instant;

use crate::disk::Disk;
use crate::support::{
    Collector, Daemon, Issuer, Mosquitto, Publish, Setup, Span, chat, claims, send, within,
};
use crate::{full_or, median};

const PATIENCE: Duration = Duration::from_secs(600);
const REPLIES: &str = "slm/edge-1/reply/device-1";
const SETTINGS: &str = "log = \"info\"\n[admission]\nprompts_per_minute = 100000\n";
/// The public key of age's own example.
const RECIPIENT: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
/// What finishes ride on.
const TICK: Duration = Duration::from_secs(2);

fn setup(issuer: &Issuer) -> Setup {
    let limits = "tokens_per_minute = 100000000";
    Setup::new().issuer(issuer).with(SETTINGS).realm(limits)
}

/// Good for the whole run.
fn token(issuer: &Issuer, subject: usize) -> String {
    let mut claims = claims();
    claims["sub"] = json!(format!("6b5e4a9c-3f43-4a5c-8a2f-{subject:012}"));
    claims["exp"] = json!(claims["iat"].as_u64().unwrap_or_default() + 3000);
    issuer.token(claims)
}

/// Two daemons, one of which keeps texts, asked in turns by one client.
pub fn first_token() {
    let (issuer, collector) = (Issuer::new("ES256", "key-1"), Collector::start());
    let start = |kept: &str| {
        let endpoint =
            format!("[[endpoint]]\nclient_id = \"slm\"\nmodel = \"smollm2-135m-instruct\"\n{kept}");
        let setup = setup(&issuer).with(&collector.setting()).realm(&endpoint);
        Daemon::start(setup)
    };
    let daemons = [
        start(""),
        start(&format!("text_recipients = [{RECIPIENT:?}]\n")),
    ];
    let token = token(&issuer, 0);
    let (rounds, mut times) = (full_or(60, 1), [Vec::new(), Vec::new()]);
    // The first of each pays for what later ones find.
    for round in 0..=rounds {
        for (which, daemon) in daemons.iter().enumerate() {
            let trace = trace(which, round);
            let took = until_first_token(daemon, &token, &trace);
            if round > 0 {
                times[which].push(took);
            }
        }
    }
    let last = |which| collector.trace(&trace(which, rounds));
    drop((last(0), last(1)));
    let mut traces: BTreeMap<String, Vec<Span>> = BTreeMap::new();
    for span in collector.spans() {
        traces.entry(span.trace.clone()).or_default().push(span);
    }
    for (which, how) in ["texts aren't kept", "texts are kept, encrypted"]
        .iter()
        .enumerate()
    {
        let each = (1..=rounds).map(|round| Told::of(&traces[&trace(which, round)]));
        let each: Vec<Told> = each.collect();
        let of = |what: fn(&Told) -> f64| median(each.iter().map(what).collect());
        println!(
            "share of the audit in the time to the first token, {how}: {:.2}% (must 2, aim 1): record \
             {:.3} ms, prepare {:.3} ms, in all {:.1} ms",
            of(|told| told.record / told.all * 100.0),
            of(|told| told.record),
            of(|told| told.prepare),
            of(|told| told.all),
        );
    }
    let [off, on] = times.map(median);
    println!(
        "time to the first token, as the client sees it: {off:.2} ms, with encrypted texts {on:.2} ms, \
         {:+.2}%",
        (on / off - 1.0) * 100.0
    );
}

/// Of one prompt, by its spans; milliseconds. What is first told to a client is the end of `prefill`.
struct Told {
    record: f64,
    prepare: f64,
    all: f64,
}

impl Told {
    fn of(spans: &[Span]) -> Told {
        let named = |name: &str| {
            let found = spans.iter().find(|span| span.name == name);
            found.unwrap_or_else(|| panic!("no {name} in {spans:#?}"))
        };
        let ms = |from: u64, to: u64| (to - from) as f64 / 1e6;
        let whole = |name: &str| ms(named(name).began, named(name).ended);
        let own = named("POST /v1/chat/completions");
        Told {
            record: whole("record"),
            prepare: whole("prepare"),
            all: ms(own.began, named("prefill").ended),
        }
    }
}

fn trace(which: usize, round: u64) -> String {
    format!("0af7651916cd43dd8448eb2{which}{round:08x}")
}

fn until_first_token(daemon: &Daemon, token: &str, trace: &str) -> f64 {
    let bearer = format!("Bearer {token}");
    let parent = format!("00-{trace}-b7ad6b7169203331-01");
    let headers = [("authorization", &*bearer), ("traceparent", &*parent)];
    let body = chat("Say yes.", 2, true);
    let start = instant();
    let path = "/v1/chat/completions";
    let answer = send(&daemon.socket(), "POST", path, &headers, &body);
    let mut answer = answer.expect("the daemon runs");
    assert_eq!(answer.status, 200);
    loop {
        let event = answer.event().expect("it goes on").expect("a first token");
        let event: serde_json::Value = serde_json::from_str(&event).expect("JSON");
        let content = event["choices"][0]["delta"]["content"].as_str();
        if content.is_some_and(|content| !content.is_empty()) {
            break;
        }
    }
    let took = start.elapsed().as_secs_f64() * 1000.0;
    answer.finish().expect("its end");
    took
}

pub fn writes() {
    let issuer = Issuer::new("ES256", "key-1");
    let (disk, broker) = (Disk::new(), Mosquitto::start());
    let state = format!("state_dir = {:?}\n", disk.path().join("state"));
    let daemon = Daemon::start(setup(&issuer).broker(&broker).with(&state));
    within(PATIENCE, "the broker", || {
        (daemon.status()["mqtt"]["connected"] == true).then_some(())
    });
    let tokens: Vec<String> = (0..8).map(|subject| token(&issuer, subject)).collect();
    // Warms, and grows the database's file for the first time.
    over_http(&daemon, &tokens[..1], 1);

    let (many, each) = (full_or(8, 1) as usize, full_or(200, 1));
    for at_once in [1, many] {
        let asks = || over_http(&daemon, &tokens[..at_once], each / at_once as u64);
        said(
            &disk,
            &daemon,
            &format!("HTTP, {at_once} at once"),
            each,
            asks,
        );
    }
    for at_once in [1, many] {
        let asks = || over_mqtt(&broker, &tokens[..at_once], each / at_once as u64);
        said(
            &disk,
            &daemon,
            &format!("MQTT, {at_once} at once"),
            each,
            asks,
        );
    }
    let idle = full_or(60, 1);
    let before = disk.written();
    thread::sleep(Duration::from_secs(idle));
    let rate = (disk.written() - before) / idle;
    println!("bytes written while nothing is asked: {rate} a second");
}

/// What so many prompts have written, with their finishes and checkpoints.
fn said(disk: &Disk, daemon: &Daemon, how: &str, prompts: u64, asks: impl FnOnce()) {
    let (before, own) = (disk.written(), written_by(daemon));
    asks();
    thread::sleep(TICK);
    let (written, own) = (disk.written() - before, written_by(daemon) - own);
    println!(
        "bytes written for a prompt, {how}: {:.1} KiB at the block layer, {:.1} KiB by the daemon; aim 12",
        written as f64 / 1024.0 / prompts as f64,
        own as f64 / 1024.0 / prompts as f64,
    );
}

/// proc(5), /proc/pid/io.
fn written_by(daemon: &Daemon) -> u64 {
    let io = fs::read_to_string(format!("/proc/{}/io", daemon.pid()));
    let io = io.expect("the daemon runs");
    let line = io.lines().find_map(|l| l.strip_prefix("write_bytes: "));
    line.and_then(|n| n.parse().ok()).expect("a number")
}

/// Each by a principal and a connection of its own, one after the other.
fn over_http(daemon: &Daemon, tokens: &[String], each: u64) {
    let body = chat("Say yes.", 1, false);
    thread::scope(|scope| {
        for token in tokens {
            scope.spawn(|| {
                for _ in 0..each {
                    let answer = daemon.chat(token, &body);
                    assert_eq!(answer.status, 200, "{}", answer.body);
                }
            });
        }
    });
}

/// So many at once, then the next ones.
fn over_mqtt(broker: &Mosquitto, tokens: &[String], each: u64) {
    let replies = broker.subscribe(REPLIES);
    for round in 0..each {
        for (number, token) in tokens.iter().enumerate() {
            broker.publish(&Publish {
                topic: "slm/edge-1/v1/chat/completions",
                payload: &chat("Say yes.", 1, false),
                response_topic: Some(REPLIES),
                correlation: Some(&format!("{round}-{number}-{}", tokens.len())),
                token: Some(token),
                ..Publish::default()
            });
        }
        for _ in tokens {
            let answer = replies.next(PATIENCE).expect("an answer");
            assert_eq!(answer.user("status"), Some("200"), "{answer:?}");
        }
    }
}
