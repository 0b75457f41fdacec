//! Traces, by a real OpenTelemetry Collector: what a request's spans tell over both transports, who
//! decides whether there are any, and what a collector that isn't there costs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::{
    Ca, Collector, Daemon, Issuer, Mosquitto, Publish, Response, Setup, Span, chat, claims, http,
    root, run, within,
};

const PATIENCE: Duration = Duration::from_secs(120);
const CHAT: &str = "/v1/chat/completions";
const REQUESTS: &str = "slm/edge-1/v1/chat/completions";
const REPLIES: &str = "slm/edge-1/reply/device-1";
const CALLER: &str = "b7ad6b7169203331";
/// Kinds of spans.
const INTERNAL: u64 = 1;
const SERVER: u64 = 2;
const CONSUMER: u64 = 5;

/// A caller's span in a trace that ends so; recorded where the flags say so.
fn parent(trace: u32, flags: &str) -> (String, String) {
    let trace = format!("0af7651916cd43dd8448eb21{trace:08x}");
    let text = format!("00-{trace}-{CALLER}-{flags}");
    (trace, text)
}

fn post(daemon: &Daemon, token: &str, body: &str, more: &[(&str, &str)]) -> Response {
    let bearer = format!("Bearer {token}");
    let headers = [&[("authorization", bearer.as_str())], more].concat();
    http(&daemon.socket(), "POST", CHAT, &headers, body)
}

#[track_caller]
fn of<'s>(spans: &'s [Span], name: &str) -> &'s Span {
    let mut named = spans.iter().filter(|span| span.name == name);
    match (named.next(), named.next()) {
        (Some(span), None) => span,
        _ => panic!("not one {name} in {spans:#?}"),
    }
}

fn record(daemon: &Daemon, is: impl Fn(&Value) -> bool) -> Value {
    let lines = daemon.audit(0).into_iter();
    let mut records = lines.map(|line| serde_json::from_str::<Value>(&line).expect("JSON"));
    records
        .rfind(|record| record["event"] == "access" && is(record))
        .expect("it is on record")
}

/// The steps are the request's own, each begins when the one before has ended, and none is outside.
#[track_caller]
fn in_order(spans: &[Span], own: &Span, steps: &[&str]) {
    let mut before = own.began;
    for name in steps {
        let step = of(spans, name);
        assert_eq!((&step.parent, step.kind), (&own.id, INTERNAL), "{step:#?}");
        assert!(
            before <= step.began && step.began <= step.ended,
            "{name}: {spans:#?}"
        );
        before = step.ended;
    }
    assert!(before <= own.ended, "{spans:#?}");
    assert_eq!(spans.len(), 1 + steps.len(), "{spans:#?}");
}

#[test]
fn a_prompts_spans_tell_where_its_time_went() {
    let (issuer, broker, collector) = (
        Issuer::new("ES256", "key-1"),
        Mosquitto::start(),
        Collector::start(),
    );
    let setup = Setup::new().issuer(&issuer).broker(&broker);
    let daemon = Daemon::start(setup.with(&collector.setting()));
    // A token's life may be too short for all of it on a busy machine.
    let token = || issuer.token(claims());

    over_http(&daemon, &collector, &token());
    over_mqtt(&daemon, &collector, &broker, &token());
    who_decides(&daemon, &collector, &token());
    refused(&daemon, &collector, &token());
}

fn over_http(daemon: &Daemon, collector: &Collector, token: &str) {
    for (number, stream) in [(1, false), (2, true)] {
        let (trace, text) = parent(number, "01");
        let headers = [
            ("traceparent", text.as_str()),
            ("tracestate", "rojo=00f067aa0ba902b7"),
        ];
        let body = chat("Say one word, of which the traces know nothing.", 4, stream);
        assert_eq!(post(daemon, token, &body, &headers).status, 200);
        let spans = collector.trace(&trace);
        let own = of(&spans, "POST /v1/chat/completions");
        assert_eq!((own.parent.as_str(), own.kind), (CALLER, SERVER));
        assert!(
            spans
                .iter()
                .all(|span| span.state == "rojo=00f067aa0ba902b7" && !span.failed)
        );
        let steps = [
            "decision", "prepare", "record", "queue", "prefill", "decode",
        ];
        in_order(&spans, own, &steps);

        let access = record(daemon, |record| record["trace_id"] == trace.as_str());
        for (key, value) in [
            ("http.request.method", "POST"),
            ("http.route", CHAT),
            ("url.path", CHAT),
            ("network.transport", "unix"),
            ("server.address", "edge-1"),
            (
                "slmd.request_id",
                access["request_id"].as_str().expect("an id"),
            ),
            ("slmd.action", "chat"),
            ("slmd.decision", "permit"),
            ("slmd.realm", "dev"),
            ("slmd.endpoint", "slm"),
            ("gen_ai.operation.name", "chat"),
            ("gen_ai.provider.name", "slmd"),
            ("gen_ai.request.model", "smollm2-135m-instruct"),
        ] {
            assert_eq!(own.text(key), Some(value), "{key}");
        }
        assert_eq!(own.number("http.response.status_code"), Some(200));
        assert_eq!(own.number("gen_ai.request.max_tokens"), Some(4));
        assert_eq!(own.list("gen_ai.response.finish_reasons"), ["length"]);
        let input = access["prompt_tokens"].as_u64();
        let (prefill, decode) = (of(&spans, "prefill"), of(&spans, "decode"));
        for (span, key, tokens) in [
            (own, "gen_ai.usage.input_tokens", input),
            (prefill, "gen_ai.usage.input_tokens", input),
            (own, "gen_ai.usage.output_tokens", Some(4)),
            (decode, "gen_ai.usage.output_tokens", Some(4)),
        ] {
            assert_eq!(span.number(key), tokens, "{key}");
        }
        assert_eq!(
            prefill.text("gen_ai.request.model"),
            Some("smollm2-135m-instruct")
        );
        assert_eq!(decode.list("gen_ai.response.finish_reasons"), ["length"]);
        assert_eq!(of(&spans, "decision").text("slmd.decision"), Some("permit"));
        assert_eq!(own.text("error.type"), None);
        assert_eq!(own.of_resource("service.name"), Some("slmd"));
        assert_eq!(own.of_resource("service.instance.id"), Some("edge-1"));

        // The log leads there too.
        let id = access["request_id"].as_str().expect("an id");
        let begins = format!("request{{request_id={id} trace_id={trace}}}: ");
        let log = daemon.log();
        let line = log.lines().find(|line| line.contains(&begins));
        assert!(
            line.is_some_and(|line| line.contains("answered")),
            "{begins}"
        );
        // And so does the trace's id.
        let found = daemon.slmd(&["audit", "tail", "--request", trace.as_str(), "--json"]);
        assert!(
            String::from_utf8_lossy(&found.stdout).contains(id),
            "{found:?}"
        );
    }
}

fn over_mqtt(daemon: &Daemon, collector: &Collector, broker: &Mosquitto, token: &str) {
    let answers = broker.subscribe("slm/edge-1/reply/#");
    let (trace, text) = parent(3, "01");
    let (stranger, strangers) = parent(4, "01");
    let body = chat("Say one word over the broker, unknown to traces.", 4, false);
    for (token, text) in [(Some(token), &text), (None, &strangers)] {
        broker.publish(&Publish {
            topic: REQUESTS,
            payload: &body,
            // Each on one of its own: where an answer is awaited, no stranger is told anything.
            response_topic: Some(&format!("{REPLIES}/{}", &text[..35])),
            correlation: Some(text),
            token,
            user: Some(("traceparent", text)),
            ..Publish::default()
        });
        let answer = answers.next(PATIENCE).expect("an answer");
        let status = if token.is_some() { "200" } else { "401" };
        assert_eq!(answer.user("status"), Some(status), "{answer:?}");
    }
    let spans = collector.trace(&trace);
    let own = of(&spans, &format!("process {REQUESTS}"));
    assert_eq!((own.parent.as_str(), own.kind), (CALLER, CONSUMER));
    let steps = [
        "decision", "wait", "prepare", "record", "queue", "prefill", "decode",
    ];
    in_order(&spans, own, &steps);
    let access = record(daemon, |record| record["trace_id"] == trace.as_str());
    for (key, value) in [
        ("messaging.system", "mqtt"),
        ("messaging.operation.name", "process"),
        ("messaging.operation.type", "process"),
        ("messaging.destination.name", REQUESTS),
        (
            "slmd.request_id",
            access["request_id"].as_str().expect("an id"),
        ),
        ("gen_ai.operation.name", "chat"),
    ] {
        assert_eq!(own.text(key), Some(value), "{key}");
    }
    let size = u64::try_from(body.len()).expect("a size");
    assert_eq!(own.number("messaging.message.body.size"), Some(size));

    let spans = collector.trace(&stranger);
    let own = of(&spans, &format!("process {REQUESTS}"));
    in_order(&spans, own, &["decision"]);
    for span in [own, of(&spans, "decision")] {
        assert_eq!(span.text("slmd.decision"), Some("deny"));
        assert_eq!(span.text("error.type"), Some("token_missing"));
        assert_eq!(span.text("slmd.realm"), None);
    }
    assert_eq!(
        record(daemon, |record| record["trace_id"] == stranger.as_str())["decision"],
        "deny"
    );
}

/// A caller's word on whether it is recorded; the ratio where there is no caller, or none to the letter.
fn who_decides(daemon: &Daemon, collector: &Collector, token: &str) {
    let body = chat("Say one word, whoever decides on its traces.", 2, false);
    let (unsampled, text) = parent(5, "00");
    assert_eq!(
        post(daemon, token, &body, &[("traceparent", &text)]).status,
        200
    );
    // It is known to the audit all the same.
    record(daemon, |record| record["trace_id"] == unsampled.as_str());
    let (wrong, text) = parent(6, "0X");
    assert_eq!(
        post(daemon, token, &body, &[("traceparent", &text)]).status,
        200
    );
    let ours = record(daemon, |_| true);
    let spans = collector.request(ours["request_id"].as_str().expect("an id"));
    let own = of(&spans, "POST /v1/chat/completions");
    assert_eq!((own.parent.as_str(), own.state.as_str()), ("", ""));
    assert_eq!(ours["trace_id"], own.trace.as_str());
    // What was asked before has been sent before.
    let traces = collector.spans().into_iter().map(|span| span.trace);
    let never = |trace: &String| *trace == unsampled || *trace == wrong;
    assert_eq!(traces.filter(never).count(), 0);
}

/// Refusals have spans, probes haven't; nothing is said of what a client made up.
fn refused(daemon: &Daemon, collector: &Collector, token: &str) {
    let secret = "Bearer-of-a-secret-in-a-path";
    let body = chat("Say one word that is refused, and not to traces.", 2, false);
    let live = http(&daemon.socket(), "GET", "/livez", &[], "");
    assert_eq!(live.status, 200);
    let (nowhere, text) = parent(7, "01");
    let path = format!("/v1/{secret}");
    let headers = [("traceparent", text.as_str())];
    assert_eq!(
        http(&daemon.socket(), "BREW", &path, &headers, "").status,
        404
    );
    let (broken, text) = parent(8, "01");
    assert_eq!(
        post(daemon, token, "{", &[("traceparent", &text)]).status,
        400
    );
    let (model, text) = parent(9, "01");
    let headers = [
        ("traceparent", text.as_str()),
        ("authorization", &format!("Bearer {token}")),
    ];
    let path = format!("/v1/models/{secret}");
    assert_eq!(
        http(&daemon.socket(), "GET", &path, &headers, "").status,
        404
    );
    let (denied, text) = parent(10, "01");
    assert_eq!(
        post(daemon, "no.token.atall", &body, &[("traceparent", &text)]).status,
        401
    );
    for (trace, name, status, reason) in [
        (&nowhere, "HTTP", 404, Some("not_found")),
        (
            &broken,
            "POST /v1/chat/completions",
            400,
            Some("bad_request"),
        ),
        (&model, "GET /v1/models/{id}", 404, None),
        (
            &denied,
            "POST /v1/chat/completions",
            401,
            Some("token_malformed"),
        ),
    ] {
        let spans = collector.trace(trace);
        let own = of(&spans, name);
        assert_eq!(
            own.number("http.response.status_code"),
            Some(status),
            "{own:#?}"
        );
        assert_eq!(own.text("error.type"), reason, "{own:#?}");
        assert!(!own.failed, "it isn't ours to mend: {own:#?}");
        let steps: &[&str] = if status == 401 || reason.is_none() {
            &["decision"]
        } else {
            &[]
        };
        in_order(&spans, own, steps);
        assert!(!format!("{spans:?}").contains(secret), "{spans:#?}");
    }
    let all = collector.spans();
    assert!(
        all.iter().all(|span| !span.name.contains("livez")),
        "{all:#?}"
    );
    // Nobody is named.
    let known = [
        "sub", "enduser", "user", "azp", "client", "token", "prompt", "content",
    ];
    let named = |key: &&str| key.split(['.', '_']).any(|part| known.contains(&part));
    assert_eq!(all.iter().flat_map(Span::keys).find(named), None);
}

/// A collector with a certificate of its own CA's that wants a token, and isn't there at first.
#[test]
fn a_collector_that_is_away_costs_nothing_and_comes_back() {
    let (issuer, ca) = (Issuer::new("ES256", "key-1"), Ca::new("Collectors"));
    let token = "a-token-for-the-collector-alone";
    let mut collector = Collector::guarded(&ca.issue("collector"), token);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let headers = folder.path().join("headers");
    let write = |text: &str| {
        fs::write(&headers, text).expect("a temporary file");
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(&headers, mode).expect("it is ours");
    };
    write(&format!("Authorization: Bearer {token}\n"));
    let setting = format!(
        "[telemetry]\notlp_endpoint = \"https://localhost:{}\"\nca_file = {:?}\nheaders_file = {:?}\n",
        collector.port(),
        ca.file(),
        headers,
    );
    let daemon = Daemon::start(Setup::new().issuer(&issuer).with(&setting));
    let good = issuer.token(claims());
    let body = chat("Say one word while nobody takes the traces.", 2, false);
    assert_eq!(post(&daemon, &good, &body, &[]).status, 200);
    let first = record(&daemon, |_| true);
    within(PATIENCE, "the log to tell of it", || {
        daemon
            .log()
            .contains("the collector takes no traces")
            .then_some(())
    });
    assert_eq!(post(&daemon, &good, &body, &[]).status, 200);
    assert_eq!(outcome(&daemon, "exported"), 0);

    collector.spawn();
    let second = record(&daemon, |_| true);
    for access in [&first, &second] {
        let id = access["request_id"].as_str().expect("an id");
        assert_eq!(collector.request(id).len(), 7, "whole");
    }
    within(PATIENCE, "the log to tell of it", || {
        daemon
            .log()
            .contains("the collector takes traces again")
            .then_some(())
    });
    assert_eq!(outcome(&daemon, "exported"), 14);

    // Whom the collector doesn't know, it refuses for good; the file is read again each time.
    write("authorization: Bearer of-somebody-else\n");
    assert_eq!(post(&daemon, &good, &body, &[]).status, 200);
    within(PATIENCE, "a refusal", || {
        (outcome(&daemon, "rejected") == 7).then_some(())
    });
    write(&format!("authorization: Bearer {token}\n"));
    assert_eq!(post(&daemon, &good, &body, &[]).status, 200);
    let third = record(&daemon, |_| true);
    collector.request(third["request_id"].as_str().expect("an id"));
    assert!(!daemon.log().contains(token));
}

/// Spans that came to this.
fn outcome(daemon: &Daemon, name: &str) -> u64 {
    let text = http(
        &daemon.socket(),
        "GET",
        "/metrics",
        &[("accept", "text/plain")],
        "",
    )
    .body;
    let begins = format!("slmd_trace_spans_total{{outcome=\"{name}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&begins));
    value
        .unwrap_or_else(|| panic!("{text}"))
        .parse()
        .expect("a number")
}

/// The last spans are sent before the daemon ends; without the setting there is neither a thread nor
/// a metric.
#[test]
fn nobody_is_told_unless_somebody_asks_and_the_last_word_is_sent() {
    let issuer = Issuer::new("ES256", "key-1");
    let token = issuer.token(claims());
    let body = chat("Say one word that goes nowhere, as always.", 2, false);
    let (trace, text) = parent(11, "01");
    let headers = [("traceparent", text.as_str())];
    let daemon = Daemon::start(Setup::new().issuer(&issuer));
    assert_eq!(post(&daemon, &token, &body, &headers).status, 200);
    assert_eq!(
        threads(&daemon)
            .iter()
            .filter(|name| *name == "traces")
            .count(),
        0
    );
    let text = http(&daemon.socket(), "GET", "/metrics", &[], "").body;
    assert!(!text.contains("slmd_trace"), "{text}");
    // Its caller's trace leads to it all the same.
    record(&daemon, |record| record["trace_id"] == trace.as_str());
    drop(daemon);

    let collector = Collector::start();
    let setting = collector.setting() + "trace_ratio = 0\n";
    let mut daemon = Daemon::start(Setup::new().issuer(&issuer).with(&setting));
    assert_eq!(
        threads(&daemon)
            .iter()
            .filter(|name| *name == "traces")
            .count(),
        1
    );
    assert_eq!(post(&daemon, &token, &body, &[]).status, 200);
    assert_eq!(record(&daemon, |_| true).get("trace_id"), None);
    assert_eq!(post(&daemon, &token, &body, &headers).status, 200);
    assert!(daemon.terminate().success());
    assert_eq!(collector.trace(&trace).len(), 7);
    assert!(collector.spans().iter().all(|span| span.trace == trace));
}

fn threads(daemon: &Daemon) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("it runs");
    let name = |task: std::io::Result<fs::DirEntry>| {
        let name = fs::read_to_string(task.ok()?.path().join("comm")).ok()?;
        Some(name.trim().to_owned())
    };
    tasks.filter_map(name).collect()
}

/// What `deploy/monitoring` says is what a collector takes.
#[test]
fn the_shipped_configuration_is_a_collectors() {
    let file = root().join("deploy/monitoring/collector.yaml");
    let mut command: Command = Collector::program();
    command.arg("validate").arg("--config").arg(file);
    let output = run(&mut command, b"", PATIENCE);
    assert!(output.status.success(), "{output:?}");
}
