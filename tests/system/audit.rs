//! The audit log as an operator searches it: by time, client, user, decision and request, of the
//! running daemon and of its state when none runs.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Daemon, Issuer, Setup, chat, claims, exit, http, run, signal, within};

const PATIENCE: Duration = Duration::from_secs(60);
const USAGE: i32 = 2;

/// A daemon that two clients have used.
struct Scene {
    issuer: Issuer,
    daemon: Daemon,
}

impl Scene {
    fn start() -> Scene {
        let issuer = Issuer::new("ES256", "key-1");
        let setup = Setup::new().issuer(&issuer);
        let daemon = Daemon::start(setup.realm("record_username = true"));
        Scene { issuer, daemon }
    }

    fn token(&self, client: &str, name: &str, more: &Value) -> String {
        let mut claims = claims();
        claims["azp"] = client.into();
        claims["sub"] = format!("sub-of-{name}").into();
        claims["preferred_username"] = name.into();
        for (name, value) in more.as_object().expect("claims") {
            claims[name] = value.clone();
        }
        self.issuer.token(claims)
    }

    /// A prompt over HTTP; the id that the client gave it.
    fn ask(&self, token: &str, id: &str, status: u16) {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str()), ("x-request-id", id)];
        let body = chat("Name a number.", 1, false);
        let socket = self.daemon.socket();
        let answer = http(&socket, "POST", "/v1/chat/completions", &headers, &body);
        assert_eq!(answer.status, status, "{answer:?}");
    }

    fn tail(&self, args: &[&str]) -> Output {
        let args: Vec<&str> = ["audit", "tail"].iter().chain(args).copied().collect();
        self.daemon.slmd(&args)
    }

    fn records(&self, args: &[&str]) -> Vec<Value> {
        let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
        let output = self.tail(&args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        text(&output.stdout).lines().map(record).collect()
    }

    /// Of the records that are shown: the event, and the id that the client gave the request.
    fn shown(&self, args: &[&str]) -> Vec<String> {
        let all = self.records(&["-n", "1000"]);
        let of = |id: &Value| all.iter().find(|record| record["request_id"] == *id);
        let told = |record: Value| {
            let access = of(&record["request_id"]).expect("an access before its finish");
            format!("{} {}", record["event"], access["client_request_id"]).replace('"', "")
        };
        self.records(args).into_iter().map(told).collect()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn record(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))
}

/// The same of a daemon and of its state alone.
fn assert_found(scene: &Scene) {
    for (args, expected) in [
        (
            &["--client", "web-app"][..],
            &["access a-1", "finish a-1", "access a-2", "finish a-2"][..],
        ),
        (&["--client", "web-app", "-n", "1"], &["finish a-2"]),
        (
            &["--user", "alice", "-n", "3"],
            &["finish a-1", "access a-2", "finish a-2"],
        ),
        (
            &["--user", "sub-of-bob"],
            &["access b-1", "finish b-1", "access b-2"],
        ),
        (
            &["--user", "bob", "--decision", "permit"],
            &["access b-1", "finish b-1"],
        ),
        (&["--decision", "expired"], &["access b-2"]),
        (
            &["--decision", "refuse", "--since", "1h"],
            &["access b-2", "access n-1"],
        ),
        (&["--client", "web-app", "--user", "bob"], &[]),
        (&["--request", "a-2"], &["access a-2", "finish a-2"]),
        (&["--since", "2999-01-01"], &[]),
        (
            &["--client", "web-…", "-n", "2"],
            &["access a-2", "finish a-2"],
        ),
    ] {
        assert_eq!(scene.shown(args), expected, "{args:?}");
    }
}

#[test]
fn the_log_is_searched_with_and_without_a_daemon() {
    let mut scene = Scene::start();
    let none = json!({});
    let alice = scene.token("web-app", "alice", &none);
    let bob = scene.token("device-1", "bob", &none);
    scene.ask(&alice, "a-1", 200);
    scene.ask(&bob, "b-1", 200);
    scene.ask(&alice, "a-2", 200);
    let old = json!({"iat": 1_000_000_000, "exp": 1_000_000_300});
    scene.ask(&scene.token("device-1", "bob", &old), "b-2", 401);
    scene.ask("no.to.ken", "n-1", 401);
    assert_found(&scene);

    // What is wrong is said before anything is asked.
    for (args, words) in [
        (&["--decision", "expird"], "did you mean expired?"),
        (&["--since", "yesterday"], "write how long ago"),
        (&["--client", ""], "names nothing"),
    ] {
        let output = scene.tail(args);
        assert_eq!(output.status.code(), Some(USAGE), "{args:?}");
        let said = text(&output.stderr);
        assert!(said.contains(words), "{args:?}: {said}");
    }
    let page = scene.daemon.admin_http("GET", "/audit?clinet=web-app", "");
    assert_eq!(page.status, 400, "{page:?}");
    assert!(page.body.contains("did you mean `client`?"), "{page:?}");

    // People see who it was, and the lines of a request by what they show of its id.
    let lines = text(&scene.tail(&["--user", "alice", "-n", "2"]).stdout);
    assert!(lines.contains(" alice sub-of-alice web-app "), "{lines}");
    assert!(
        lines.lines().all(|line| line.chars().count() <= 100),
        "{lines}"
    );
    let id = lines
        .split_whitespace()
        .find(|word| word.starts_with("req_"));
    assert_eq!(
        scene.shown(&["--request", id.expect("an id")]),
        ["access a-2", "finish a-2"]
    );

    scene.daemon.terminate();
    assert_found(&scene);
}

#[test]
fn who_follows_sees_what_matches_and_ends_cleanly() {
    let scene = Scene::start();
    let none = json!({});
    let alice = scene.token("web-app", "alice", &none);
    let bob = scene.token("device-1", "bob", &none);
    let mut follow = scene.daemon.binary();
    follow.args([
        "audit", "tail", "-f", "-n", "1", "--json", "--client", "web-app",
    ]);
    scene.ask(&alice, "a-1", 200);
    let mut child = follow.stdout(Stdio::piped()).spawn().expect("slmd runs");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut next = || record(&lines.next().expect("a line").expect("text"));
    assert_eq!(next()["event"], "finish");
    scene.ask(&bob, "b-1", 200);
    scene.ask(&alice, "a-2", 200);
    let (access, finish) = (next(), next());
    assert_eq!(access["client_request_id"], "a-2");
    assert_eq!(finish["event"], "finish");
    assert_eq!(finish["request_id"], access["request_id"]);
    signal(&child, libc::SIGINT);
    exit(&mut child, PATIENCE).expect("Ctrl-C ends it");

    // A reader that has enough, with a daemon that has more to say.
    let mut shell = Command::new("bash");
    shell.args([
        "-o",
        "pipefail",
        "-c",
        "\"$0\" --config \"$1\" audit tail -f | head -n 1",
    ]);
    shell
        .arg(env!("CARGO_BIN_EXE_slmd"))
        .arg(scene.daemon.config_path());
    let mut head = shell
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("bash runs");
    let status = within(PATIENCE, "the pipe's end", || {
        scene.ask(&bob, "b-2", 200);
        head.try_wait().expect("our own child")
    });
    assert!(status.success(), "{status}");
}

/// Colour is for people: on a terminal, unless they don't want it.
#[test]
fn a_terminal_has_colours_and_a_pipe_has_none() {
    let scene = Scene::start();
    scene.ask("no.to.ken", "n-1", 401);
    let on_terminal = |args: &[&str], no_colour: bool| {
        let mut words = vec![env!("CARGO_BIN_EXE_slmd"), "--config"];
        let config = scene.daemon.config_path();
        words.push(config.to_str().expect("a plain path"));
        words.extend(args);
        // util-linux's script gives the command a pseudo-terminal.
        let mut script = Command::new("script");
        script.args(["-q", "-e", "-c", &words.join(" "), "/dev/null"]);
        script.env("TERM", "xterm").env_remove("NO_COLOR");
        if no_colour {
            script.env("NO_COLOR", "1");
        }
        let output = run(&mut script, b"", PATIENCE);
        assert!(output.status.success(), "{output:?}");
        text(&output.stdout)
    };
    for (args, painted) in [
        (&["status"][..], "\u{1b}[32mready\u{1b}[0m"),
        (&["keys", "list"], "\u{1b}[1mrealm dev:\u{1b}[0m"),
        (&["audit", "tail"], "\u{1b}[31mrefuse\u{1b}[0m"),
    ] {
        let seen = on_terminal(args, false);
        assert!(seen.contains(painted), "{args:?}: {seen:?}");
        let plain = on_terminal(args, true);
        assert!(!plain.contains("\u{1b}["), "{args:?}: {plain:?}");
        let piped = text(&scene.daemon.slmd(args).stdout);
        assert!(!piped.contains('\u{1b}'), "{args:?}: {piped:?}");
    }
}
