//! The metrics in both of their formats, by Prometheus' own checker; and what they say of requests and
//! of the process.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Output};
use std::time::Duration;

use slmd::for_tests::time::now;

use crate::support::{
    Daemon, Issuer, Mosquitto, Response, Setup, chat, claims, http, prometheus, run, send, within,
};

const PATIENCE: Duration = Duration::from_secs(120);
const OPEN: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What `promtool check metrics` finds in a text.
fn promtool(text: &str) -> Output {
    let mut check = Command::new(prometheus::program("promtool"));
    run(check.args(["check", "metrics"]), text.as_bytes(), PATIENCE)
}

fn metrics(daemon: &Daemon, accept: &[(&str, &str)]) -> Response {
    let response = http(&daemon.socket(), "GET", "/metrics", accept, "");
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(response.header("vary"), Some("accept"), "{response:?}");
    response
}

fn text(daemon: &Daemon) -> String {
    metrics(daemon, &[("accept", "text/plain")]).body
}

/// The value of the one sample that begins so.
#[track_caller]
fn sample(text: &str, name: &str) -> f64 {
    let mut found = text.lines().filter_map(|line| line.strip_prefix(name));
    let value = found
        .next()
        .unwrap_or_else(|| panic!("no {name} in\n{text}"));
    value.trim().parse().expect("a number")
}

/// Names and labels, without values.
fn series(text: &str) -> BTreeSet<&str> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .filter_map(|line| Some(line.rsplit_once(' ')?.0))
        .collect()
}

/// A daemon of which every kind of metric has something to say.
fn busy() -> (Daemon, Mosquitto) {
    let issuer = Issuer::new("ES256", "key-1");
    let broker = Mosquitto::start();
    let daemon = Daemon::start(Setup::new().issuer(&issuer).broker(&broker));
    let token = issuer.token(claims());
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str())];
    let body = chat("Say one word to be counted, any word.", 4, false);
    assert_eq!(daemon.chat(&token, &body).status, 200);
    assert_eq!(daemon.chat("no token", &body).status, 401);
    let body = r#"{"model":"slm","prompt":"One, two, three, four,","max_tokens":4}"#;
    let answer = http(&daemon.socket(), "POST", "/v1/completions", &headers, body);
    assert_eq!(answer.status, 200, "{answer:?}");
    // Its client leaves.
    let body = chat("Tell a very long story of somebody who leaves.", 500, true);
    let path = "/v1/chat/completions";
    drop(send(&daemon.socket(), "POST", path, &headers, &body).expect("a socket"));
    within(PATIENCE, "the end of who left", || {
        text(&daemon)
            .contains("error_type=\"cancelled\"")
            .then_some(())
    });
    (daemon, broker)
}

#[test]
fn promtool_finds_nothing_to_say() {
    let (daemon, _broker) = busy();
    let plain = metrics(
        &daemon,
        &[("accept", "text/plain;version=0.0.4, */*;q=0.1")],
    );
    assert_eq!(plain.header("content-type"), Some(TEXT));
    let found = promtool(&plain.body);
    let said = (found.stdout.as_slice(), found.stderr.as_slice());
    assert!(found.status.success() && said == (b"", b""), "{found:?}");

    let open = metrics(&daemon, &[]);
    assert_eq!(open.header("content-type"), Some(OPEN));
    assert!(open.body.ends_with("# EOF\n"), "{}", open.body);
    assert_eq!(series(&open.body), series(&plain.body));
    // And it can: as Prometheus' format, the other one has counters of wrong names.
    let found = promtool(&open.body);
    assert!(!found.status.success(), "{found:?}");

    // An administrator chooses in the same way.
    let admin = http(
        &daemon.admin(),
        "GET",
        "/metrics",
        &[("accept", "text/plain")],
        "",
    );
    assert_eq!(admin.header("content-type"), Some(TEXT));
    let admin = http(&daemon.admin(), "GET", "/metrics", &[], "");
    assert_eq!(admin.header("content-type"), Some(OPEN));
}

#[test]
fn requests_and_process_are_told_by_their_usual_names() {
    let before = now().as_secs() as f64;
    let (daemon, _broker) = busy();
    let text = text(&daemon);
    let model = "smollm2-135m-instruct";
    let of = |operation: &str| {
        format!(
            "gen_ai_operation_name=\"{operation}\",gen_ai_provider_name=\"slmd\",\
             gen_ai_request_model=\"{model}\""
        )
    };
    let (chat, completion) = (of("chat"), of("text_completion"));
    let duration = "gen_ai_server_request_duration_seconds_count";
    let count = |labels: &str| sample(&text, &format!("{duration}{{{labels}}}"));
    assert_eq!(count(&chat), 1.0);
    assert_eq!(count(&completion), 1.0);
    assert_eq!(count(&format!("{chat},error_type=\"cancelled\"")), 1.0);
    let tokens = "gen_ai_client_token_usage_sum";
    let output = format!("{tokens}{{{completion},gen_ai_token_type=\"output\"}}");
    assert_eq!(sample(&text, &output), 4.0);

    let version = env!("CARGO_PKG_VERSION");
    let build = format!("slmd_build_info{{version=\"{version}\"}}");
    assert_eq!(sample(&text, &build), 1.0);

    let proc = |name: &str| format!("/proc/{}/{name}", daemon.pid());
    let status = fs::read_to_string(proc("status")).expect("a process has one");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.and_then(|kib| kib.split_whitespace().next());
    let resident: f64 = resident.expect("a size").parse().expect("a number");
    let told = sample(&text, "process_resident_memory_bytes ") / 1024.0;
    assert!(
        (0.5..2.0).contains(&(told / resident)),
        "{told} and {resident} KiB"
    );
    let limits = fs::read_to_string(proc("limits")).expect("a process has them");
    let most = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let most = most.and_then(|line| line.split_whitespace().next());
    let told = sample(&text, "process_max_fds ");
    assert_eq!(Some(told.to_string().as_str()), most);
    let open = sample(&text, "process_open_fds ");
    assert!((5.0..told).contains(&open), "{open}");
    assert!(sample(&text, "process_threads ") > 2.0);
    assert!(sample(&text, "process_cpu_seconds_total ") > 0.0);
    let started = sample(&text, "process_start_time_seconds ");
    let window = before - 2.0..now().as_secs() as f64 + 2.0;
    assert!(window.contains(&started), "{started} isn't in {window:?}");
    let again = sample(&self::text(&daemon), "process_start_time_seconds ");
    assert_eq!(started, again);
}
