//! HTTP over the Unix socket: bad input refused by name, answers whole and streamed, clients that
//! are slow or leave, bursts, and the official OpenAI client.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    Daemon, Holder, Issuer, Response, Setup, bound, chat, claims, free_port, http, python, run,
    send, within,
};

const CHAT: &str = "/v1/chat/completions";
const PATIENCE: Duration = Duration::from_secs(120);

fn start() -> (Daemon, Issuer) {
    start_with("")
}

fn start_with(toml: &str) -> (Daemon, Issuer) {
    let issuer = Issuer::new("ES256", "key-1");
    let daemon = Daemon::start(Setup::new().issuer(&issuer).with(toml));
    (daemon, issuer)
}

/// The claims with one member replaced.
fn claims_with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

#[track_caller]
fn assert_refused(response: &Response, status: u16, code: &str) {
    assert_eq!(response.status, status, "{response:?}");
    assert_eq!(response.json()["error"]["code"], code, "{response:?}");
    assert!(response.header("x-request-id").is_some(), "{response:?}");
}

/// The audit's events of one kind.
fn events(daemon: &Daemon, kind: &str) -> Vec<Value> {
    let lines = daemon.audit(0);
    let records = lines
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    records.filter(|record| record["event"] == kind).collect()
}

/// Sends raw bytes and reads until the server closes.
fn raw(daemon: &Daemon, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(daemon.socket()).expect("the socket is there");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("a timeout can be set");
    // The server may refuse and close before all is written.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).expect("UTF-8")
}

#[test]
fn tokens_that_do_not_allow_are_refused_by_name() {
    let (daemon, issuer) = start();
    let body = chat("What is the tallest mountain?", 4, false);

    let none = http(&daemon.socket(), "POST", CHAT, &[], &body);
    assert_refused(&none, 401, "token_missing");
    assert_eq!(
        none.header("www-authenticate"),
        Some(r#"Bearer realm="slmd""#)
    );

    let now = slmd::for_tests::time::now().as_secs();
    let mut expired = claims_with("iat", json!(now - 700));
    expired["exp"] = json!(now - 400);
    let foreign = claims_with("iss", json!("https://keycloak.test/realms/other"));
    let audience = claims_with("aud", json!(["account"]));
    let roleless = claims_with("resource_access", json!({}));
    for (claims, status, code) in [
        (expired, 401, "expired"),
        (foreign, 401, "issuer_unknown"),
        (audience, 401, "audience_mismatch"),
        (roleless, 403, "roles_missing"),
    ] {
        let response = daemon.chat(&issuer.token(claims), &body);
        assert_refused(&response, status, code);
        let challenge = response.header("www-authenticate").expect("a challenge");
        let error = if status == 401 {
            "invalid_token"
        } else {
            "insufficient_scope"
        };
        assert!(
            challenge.contains(&format!("error=\"{error}\"")),
            "{challenge}"
        );
    }
    assert_refused(&daemon.chat("not.a.token", &body), 401, "token_malformed");

    let refused: Vec<Value> = events(&daemon, "access");
    for code in [
        "token_missing",
        "expired",
        "issuer_unknown",
        "roles_missing",
    ] {
        assert!(
            refused.iter().any(|r| r["reason"] == code),
            "{code} isn't in the audit"
        );
    }
}

#[test]
fn bad_requests_are_refused_by_name() {
    let (daemon, issuer) = start();
    let token = issuer.token(claims());
    let mut unknown: Value = serde_json::from_str(&chat("hello there", 4, false)).expect("JSON");
    unknown["best_of"] = json!(3);
    let unknown = daemon.chat(&token, &unknown.to_string());
    assert_refused(&unknown, 400, "unsupported_parameter");
    assert_eq!(unknown.json()["error"]["param"], "best_of");
    assert_refused(&daemon.chat(&token, "{\"model\": "), 400, "bad_request");

    let bearer = format!("Bearer {token}");
    let text = [
        ("authorization", bearer.as_str()),
        ("content-type", "text/plain"),
    ];
    assert_refused(
        &http(&daemon.socket(), "POST", CHAT, &text, "{}"),
        415,
        "unsupported_media_type",
    );
    assert_refused(
        &http(&daemon.socket(), "GET", "/v2", &[], ""),
        404,
        "not_found",
    );
    let method = http(&daemon.socket(), "GET", CHAT, &[], "");
    assert_refused(&method, 405, "method_not_allowed");
    assert_eq!(method.header("allow"), Some("POST"));

    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: {bearer}\r\nContent-Type: application/json\r\n"
    );
    let large = raw(
        &daemon,
        format!("{head}Content-Length: 1000000\r\n\r\n").as_bytes(),
    );
    assert!(
        large.starts_with("HTTP/1.1 413") && large.contains("body_too_large"),
        "{large}"
    );
    let mut latin = format!("{head}Content-Length: 3\r\n\r\n").into_bytes();
    latin.extend_from_slice(b"\"\xe9\"");
    let latin = raw(&daemon, &latin);
    assert!(
        latin.starts_with("HTTP/1.1 400") && latin.contains("UTF-8"),
        "{latin}"
    );

    let long = daemon.chat(&token, &chat(&"over and over ".repeat(4000), 4, false));
    assert_refused(&long, 400, "context_length_exceeded");
    let message = long.json()["error"]["message"].to_string();
    assert!(message.contains("2048"), "no numbers in {message}");
}

/// curl's own view of an answer's head.
fn curl(daemon: &Daemon, path: &str, arguments: &[&str]) -> String {
    let mut command = Command::new("curl");
    let url = format!("http://edge-1{path}");
    command.args(["--silent", "--show-error", "--max-time", "60"]);
    command.arg("--unix-socket").arg(daemon.socket());
    command.args(arguments).arg(url);
    let output = run(&mut command, b"", PATIENCE);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "curl: {said}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn head_is_answered_as_get_is_without_the_body() {
    let (daemon, issuer) = start();
    let holder = Holder::new();
    let bearer = format!("Authorization: Bearer {}", issuer.token(claims()));
    let bound = issuer.token(bound(claims(), &holder.thumbprint()));
    let proof = holder.claims("HEAD", "http://edge-1/v1/models", &bound);
    let proof = format!("DPoP: {}", holder.sign(&proof));
    let bound = format!("Authorization: DPoP {bound}");
    for (path, headers) in [
        ("/livez", vec![]),
        ("/readyz", vec![]),
        ("/v1/models", vec!["-H", &bearer]),
        ("/v1/models/slm", vec!["-H", &bearer]),
        ("/v1/models", vec!["-H", &bound, "-H", &proof]),
    ] {
        let head = curl(&daemon, path, &[&["--head"], headers.as_slice()].concat());
        assert!(head.starts_with("HTTP/1.1 200 "), "{path}: {head}");
        let plain = if headers.is_empty() {
            vec![]
        } else {
            vec!["-H", &bearer]
        };
        let body = curl(&daemon, path, &plain);
        let length = format!("content-length: {}\r\n", body.len());
        assert!(!body.is_empty() && head.contains(&length), "{path}: {head}");
    }
    let refused = curl(&daemon, CHAT, &["--head"]);
    assert!(refused.starts_with("HTTP/1.1 405 "), "{refused}");
    assert!(refused.contains("allow: POST\r\n"), "{refused}");
    let refused = curl(&daemon, "/v1/models", &["--include", "--request", "DELETE"]);
    assert!(refused.contains("allow: GET, HEAD\r\n"), "{refused}");
}

#[test]
fn slow_clients_are_cut_off() {
    let (daemon, _) = start_with("[http]\nheader_timeout = \"1s\"\nbody_timeout = \"1s\"\n");
    assert_eq!(raw(&daemon, b"POST /v1/chat"), "");
    let slow = format!(
        "POST {CHAT} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{{"
    );
    let answer = raw(&daemon, slow.as_bytes());
    assert!(
        answer.starts_with("HTTP/1.1 408") && answer.contains("request_timeout"),
        "{answer}"
    );
}

/// What the HTTP library refuses by itself, before there is a request.
#[test]
fn a_head_that_cant_be_read_or_doesnt_come_is_on_record() {
    let (daemon, _) = start_with("[http]\nheader_timeout = \"1s\"\n");
    let status = |bytes: &[u8]| raw(&daemon, bytes).get(9..12).map(str::to_owned);
    // Who says nothing, or nothing after an answer, is idle; one that leaves is refused nothing.
    assert_eq!(status(b""), None);
    let answered = status(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(answered.as_deref(), Some("200"));
    let mut left = UnixStream::connect(daemon.socket()).expect("the socket is there");
    left.write_all(b"GET ").expect("it is open");
    drop(left);

    assert_eq!(status(b"what is this\r\n\r\n").as_deref(), Some("400"));
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(64 * 1024));
    assert_eq!(status(long.as_bytes()).as_deref(), Some("431"));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: x\r\n".repeat(65));
    assert_eq!(status(many.as_bytes()).as_deref(), Some("431"));
    assert_eq!(status(b"GET /livez HTTP/1.1\r\nHost"), None);
    let mut admin = UnixStream::connect(daemon.admin()).expect("the socket is there");
    admin.write_all(b"\0\r\n\r\n").expect("it is open");
    let _ = admin.read_to_end(&mut Vec::new());

    let by_socket = |reason: &str| ("socket".to_owned(), reason.to_owned());
    let all = [
        ("admin".to_owned(), "bad_request".to_owned()),
        by_socket("bad_request"),
        by_socket("head_too_large"),
        by_socket("head_too_large"),
        by_socket("request_timeout"),
    ];
    let refused = within(PATIENCE, "the records", || {
        let records = events(&daemon, "access").into_iter();
        let unread = records.filter(|record| record["action"] == "unread");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut refused: Vec<_> = unread
            .map(|record| {
                (
                    text(&record["origin"]["transport"]),
                    text(&record["reason"]),
                )
            })
            .collect();
        refused.sort();
        (refused.len() >= all.len()).then_some(refused)
    });
    assert_eq!(refused, all);
}

#[test]
fn answers_whole_and_streamed_agree() {
    let (daemon, issuer) = start();
    let token = issuer.token(claims());
    let question = "Name the first three planets.";
    let whole = daemon.chat(&token, &chat(question, 12, false));
    assert_eq!(whole.status, 200, "{}", whole.body);
    let whole = whole.json();

    let mut body: Value = serde_json::from_str(&chat(question, 12, true)).expect("JSON");
    body["stream_options"] = json!({"include_usage": true});
    body["user"] = json!("ann");
    let streamed = daemon.chat(&token, &body.to_string());
    assert_eq!(streamed.header("slmd-ignored-parameters"), Some("user"));
    let mut events = streamed.events();
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    let chunks: Vec<Value> = events
        .iter()
        .map(|event| serde_json::from_str(event).expect("JSON"))
        .collect();
    let text: String = chunks
        .iter()
        .filter_map(|c| c["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(whole["choices"][0]["message"]["content"], text.as_str());
    assert!(!text.is_empty());
    let usage = &chunks.last().expect("a usage chunk")["usage"];
    assert_eq!(whole["usage"], *usage);

    let bearer = format!("Bearer {token}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("x-request-id", "mine-1"),
    ];
    let models = http(&daemon.socket(), "GET", "/v1/models", &headers, "");
    assert_eq!(models.json()["data"][0]["id"], "slm");
    assert_eq!(models.header("x-request-id"), Some("mine-1"));
    let metrics = http(&daemon.socket(), "GET", "/metrics", &[], "").body;
    for name in ["slmd_http_requests_total", "decision"] {
        assert!(metrics.contains(name), "{name} isn't in the metrics");
    }
    assert_eq!(http(&daemon.socket(), "GET", "/livez", &[], "").status, 200);
    assert!(
        http(&daemon.socket(), "GET", "/readyz?verbose", &[], "")
            .json()
            .is_object()
    );
}

/// What clients send in ordinary use, and OpenAI's server takes.
#[test]
fn ordinary_oddities_are_taken() {
    let (daemon, issuer) = start();
    let token = issuer.token(claims());
    let turn = |role: &str, content: Value| json!({"role": role, "content": content});
    let ask = |messages: Value, more: Value| {
        let mut body = json!({"model": "slm", "messages": messages, "max_tokens": 4});
        for (name, value) in more.as_object().expect("an object") {
            body[name] = value.clone();
        }
        let response = daemon.chat(&token, &body.to_string());
        assert_eq!(response.status, 200, "{response:?}");
        let text = &response.json()["choices"][0]["message"]["content"];
        text.as_str().expect("an answer").to_owned()
    };
    let history = [
        turn("user", json!("A")),
        turn("assistant", Value::Null),
        turn("user", json!("B")),
    ];
    ask(json!(history), json!({}));
    let hello = json!([turn("user", json!("Hello"))]);
    let greedy = ask(hello.clone(), json!({"temperature": 0}));
    assert_eq!(ask(hello, json!({"temperature": 1, "top_p": 0})), greedy);
    // Four tokens end inside a character of four bytes.
    let crabs = json!([turn("user", json!("Repeat exactly: 🦀🦀🦀🦀🦀"))]);
    let cut = ask(crabs, json!({"temperature": 0}));
    assert!(!cut.contains('\u{fffd}'), "{cut:?}");
}

/// What can't be served says so in words that lead on.
#[test]
fn what_is_odd_about_a_request_is_named() {
    let (daemon, issuer) = start();
    let token = issuer.token(claims());
    let bearer = format!("Bearer {token}");
    let body = chat("Hello", 1, false);
    let post = |path: &str, more: &[(&str, &str)], body: &str| {
        let mut headers = vec![("authorization", bearer.as_str())];
        headers.extend(more);
        http(&daemon.socket(), "POST", path, &headers, body)
    };
    for (path, told) in [
        ("/chat/completions", CHAT),
        ("//v1/chat/completions", CHAT),
        ("/v1/v1/chat/completions", CHAT),
    ] {
        let response = post(path, &[], &body);
        assert_refused(&response, 404, "not_found");
        assert!(response.body.contains(told), "{path}: {response:?}");
    }
    let encoded = post(CHAT, &[("content-encoding", "gzip")], &body);
    assert_refused(&encoded, 415, "unsupported_media_type");
    let half = post(CHAT, &[], &body.replace("Hello", "\\ud83d"));
    assert_refused(&half, 400, "bad_request");
    assert!(half.body.contains("surrogate"), "{half:?}");
    for hosts in ["", "Host: a\r\nHost: a\r\n"] {
        let answer = raw(
            &daemon,
            format!("GET /v1/models HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n").as_bytes(),
        );
        assert!(answer.starts_with("HTTP/1.1 400 "), "{hosts:?}: {answer}");
    }
}

#[test]
fn a_leaving_client_frees_the_engine() {
    let (daemon, issuer) = start();
    let token = issuer.token(claims());
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str())];
    let body = chat("Write a very long story about the sea.", 1000, true);
    let mut exchange =
        send(&daemon.socket(), "POST", CHAT, &headers, &body).expect("an answer begins");
    for _ in 0..3 {
        exchange
            .event()
            .expect("an event")
            .expect("more of the answer");
    }
    drop(exchange);
    let next = daemon.chat(&token, &chat("What comes after Monday?", 4, false));
    assert_eq!(next.status, 200, "{}", next.body);
    within(PATIENCE, "a cancelled finish in the audit", || {
        let finished = events(&daemon, "finish");
        finished
            .iter()
            .any(|record| record["finish"] == "cancelled")
            .then_some(())
    });
}

#[test]
fn a_burst_beyond_the_queue_is_told_when_to_return() {
    let (daemon, issuer) = start_with("[engine]\nqueue = 1\n");
    let token = issuer.token(claims());
    let body = chat("Tell me all about rivers and lakes.", 64, false);
    let answers: Vec<Response> = thread::scope(|scope| {
        let ask = || daemon.chat(&token, &body);
        let threads: Vec<_> = (0..10).map(|_| scope.spawn(ask)).collect();
        threads
            .into_iter()
            .map(|t| t.join().expect("a client doesn't panic"))
            .collect()
    });
    let (served, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|r| r.status == 200);
    assert!(!served.is_empty() && !refused.is_empty(), "{answers:?}");
    for response in refused {
        assert!(matches!(response.status, 429 | 503), "{response:?}");
        let wait = response.header("retry-after").expect("a hint");
        assert!(
            wait.parse::<u64>().is_ok_and(|seconds| seconds > 0),
            "{wait}"
        );
    }
}

#[test]
fn the_official_openai_client_works_unchanged() {
    let (daemon, issuer) = start();
    let now = slmd::for_tests::time::now().as_secs();
    let mut expired = claims_with("iat", json!(now - 700));
    expired["exp"] = json!(now - 400);
    let socket = daemon.socket().display().to_string();
    let output = python(
        "openai_client.py",
        &[&socket],
        &[
            ("SLMD_TOKEN", &issuer.token(claims())),
            ("SLMD_EXPIRED_TOKEN", &issuer.token(expired)),
            (
                "SLMD_ROLELESS_TOKEN",
                &issuer.token(claims_with("resource_access", json!({}))),
            ),
        ],
    );
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

/// `curl -d` says that it sends a form. No browser comes to the Unix socket with a token.
#[test]
fn plain_curl_is_enough_on_the_socket_with_a_token() {
    let port = free_port();
    let (daemon, issuer) = start_with(&format!("[http]\nlisten = \"127.0.0.1:{port}\""));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let header = folder.path().join("header");
    let token = issuer.token(claims());
    fs::write(&header, format!("Authorization: Bearer {token}\n")).expect("a file can be written");
    let socket = daemon.socket().display().to_string();
    let on_socket = ["--unix-socket", &socket];
    let tcp = format!("http://127.0.0.1:{port}{CHAT}");
    let curl = |url: &str, more: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--write-out", "\n%{http_code}"]);
        curl.args(["-d", &chat("Hello", 1, false)]).args(more);
        curl.arg(url);
        let output = run(&mut curl, b"", PATIENCE);
        String::from_utf8(output.stdout).expect("an answer is text")
    };
    let with_token = ["-H", &format!("@{}", header.display())];
    let text = ["-H", "content-type: text/plain"];
    let local = "http://localhost/v1/chat/completions";
    for (url, more, status) in [
        (local, [on_socket, with_token].concat(), "200"),
        (local, on_socket.to_vec(), "415"),
        (local, [on_socket, with_token, text].concat(), "415"),
        (tcp.as_str(), with_token.to_vec(), "415"),
    ] {
        let answered = curl(url, &more);
        assert!(
            answered.ends_with(&format!("\n{status}")),
            "{more:?}: {answered}"
        );
    }
}
