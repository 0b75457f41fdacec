//! One flooder at a time, of each kind that shares something with others: it spends its own part,
//! is told so, and the others get their turns.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    Daemon, Exchange, Issuer, Response, Setup, chat, claims, exchange, free_port, within,
};

const PATIENCE: Duration = Duration::from_secs(120);
/// Between two requests of a flooding client's connection that was refused: enough of them come to keep
/// everything full, and the machine has time for its work.
const PACE: Duration = Duration::from_millis(20);

fn start(change: impl FnOnce(Setup) -> Setup) -> (Daemon, Issuer) {
    let issuer = Issuer::new("ES256", "fair-1");
    let daemon = Daemon::start(change(Setup::new().issuer(&issuer)));
    (daemon, issuer)
}

fn token_of(issuer: &Issuer, subject: &str) -> String {
    let mut claims = claims();
    claims["sub"] = subject.into();
    issuer.token(claims)
}

fn message(response: &Response) -> String {
    let json = response.json();
    let message = json["error"]["message"].as_str().unwrap_or_default();
    message.to_owned()
}

/// Whose answers ended, in their order.
fn finished(daemon: &Daemon) -> Vec<String> {
    let records: Vec<Value> = daemon
        .audit(0)
        .iter()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let of = |kind: &'static str| records.iter().filter(move |r| r["event"] == kind);
    let subject = |finish: &Value| {
        let access = of("access").find(|access| access["request_id"] == finish["request_id"]);
        let access = access.expect("a finish has its access");
        access["subject"].as_str().unwrap_or_default().to_owned()
    };
    of("finish").map(subject).collect()
}

#[test]
fn one_principals_flood_leaves_others_their_places_and_turns() {
    let (daemon, issuer) = start(|setup| setup.with("[engine]\nqueue = 8\n"));
    let (flooder, other) = (token_of(&issuer, "flooder"), token_of(&issuer, "other"));
    let (done, refusals) = (AtomicBool::new(false), AtomicUsize::new(0));
    let flood = || {
        let body = chat("Tell me all about rivers and lakes.", 16, false);
        let mut told = None;
        while !done.load(Ordering::Relaxed) {
            let response = daemon.chat(&flooder, &body);
            if response.status != 200 {
                refusals.fetch_add(1, Ordering::Relaxed);
                told = Some(response);
                thread::sleep(PACE);
            }
        }
        told
    };
    let (answers, told) = thread::scope(|scope| {
        let flooders: Vec<_> = (0..12).map(|_| scope.spawn(flood)).collect();
        within(PATIENCE, "a flood that is refused", || {
            (refusals.load(Ordering::Relaxed) > 12).then_some(())
        });
        let body = chat("Say one word, any word.", 1, false);
        let answers: Vec<u16> = (0..20).map(|_| daemon.chat(&other, &body).status).collect();
        done.store(true, Ordering::Relaxed);
        let told = flooders
            .into_iter()
            .filter_map(|f| f.join().expect("no panic"));
        (answers, told.collect::<Vec<Response>>())
    });
    assert_eq!(answers, [200; 20]);
    for response in &told {
        let told = message(response);
        assert_eq!(response.status, 503, "{told}");
        assert!(told.contains("requests of this principal"), "{told}");
        assert!(response.header("retry-after").is_some(), "{response:?}");
    }
    let turns = finished(&daemon);
    let between = turns.split(|subject| subject == "other").map(<[_]>::len);
    let between: Vec<usize> = between.collect();
    assert_eq!(between.len(), 21, "{turns:?}");
    assert!(
        between[1..20].iter().all(|turns| *turns <= 2),
        "{between:?}"
    );
    assert!(
        between[1..20].iter().any(|turns| *turns > 0),
        "no flood: {between:?}"
    );
}

#[test]
fn an_answer_is_cut_to_what_its_principal_may_use_a_minute() {
    let (daemon, issuer) = start(|setup| setup.realm("tokens_per_minute = 80"));
    let ask = |subject: &str, words: &str, asked: Value| {
        let mut body: Value = serde_json::from_str(&chat(words, 1, false)).expect("JSON");
        body["max_completion_tokens"] = asked;
        daemon.chat(&token_of(&issuer, subject), &body.to_string())
    };
    let story = "Write a very long story about the sea and the old fishermen.";
    for (subject, asked) in [("a", json!(null)), ("b", json!(1200))] {
        let answer = ask(subject, story, asked);
        assert_eq!(answer.status, 200, "{}", answer.body);
        let json = answer.json();
        assert_eq!(json["choices"][0]["finish_reason"], "length", "{json}");
        assert_eq!(json["usage"]["total_tokens"], 80, "{json}");
        let next = ask(subject, story, json!(1));
        assert_eq!(next.status, 429, "{}", next.body);
        assert_eq!(next.json()["error"]["code"], "quota_exceeded");
        assert!(next.header("retry-after").is_some(), "{next:?}");
    }
    let refused = ask("c", &"word ".repeat(100), json!(1));
    assert_eq!(refused.status, 400, "{}", refused.body);
    assert_eq!(refused.json()["error"]["code"], "context_length_exceeded");
    let told = message(&refused);
    assert!(
        told.contains("limit a minute is 80 tokens; the prompt has 1"),
        "{told}"
    );
    // Nothing was charged for it.
    let short = ask("c", "Say one word, any word.", json!(1));
    assert_eq!(short.status, 200, "{}", short.body);
}

/// Opens connections, half of them with the beginning of a request, and keeps them.
const HOARD: &str = "\
import socket, sys
target, held = sys.argv[1], []
for number in range(int(sys.argv[2])):
    if target.isdigit():
        held.append(socket.create_connection(('127.0.0.1', int(target))))
    else:
        held.append(socket.socket(socket.AF_UNIX))
        held[-1].connect(target)
    if number % 2:
        held[-1].send(b'POST /v1/chat/completions HTTP/1.1\\r\\nHost: localhost\\r\\n')
print('held', flush=True)
sys.stdin.read()
";

/// A process of another user with open connections; ended when dropped.
struct Hoard(Child);

impl Hoard {
    fn start(user: u32, target: &str) -> Hoard {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &user.to_string(), "--regid", "nogroup"]);
        // The socket is its group's, root's here.
        command.args(["--groups", "root"]);
        command.args(["/usr/bin/python3", "-c", HOARD, target, "20"]);
        let process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut process = process.expect("util-linux is there");
        let mut said = String::new();
        let output = process.stdout.take().expect("piped above");
        BufReader::new(output)
            .read_line(&mut said)
            .expect("a pipe can be read");
        assert_eq!(said, "held\n", "another user needs root");
        Hoard(process)
    }
}

impl Drop for Hoard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn users_who_hoard_connections_leave_seats_for_others() {
    let port = free_port();
    let (daemon, issuer) = start(|setup| {
        setup.with(&format!(
            "[http]\nlisten = \"127.0.0.1:{port}\"\nmax_connections = 16\n\
             max_connections_per_uid = 8\n"
        ))
    });
    let socket = daemon.socket();
    let folder = socket.parent().expect("a file is in a folder");
    fs::set_permissions(folder, fs::Permissions::from_mode(0o711)).expect("it is the test's");
    let bearer = format!("Bearer {}", token_of(&issuer, "other"));
    let body = chat("Say one word, any word.", 1, false);

    let socket = socket.display().to_string();
    let hoards = [65_534, 65_533].map(|user| Hoard::start(user, &socket));
    let answer = daemon.chat(&bearer["Bearer ".len()..], &body);
    assert_eq!(answer.status, 200, "{}", answer.body);
    drop(hoards);

    // Over TCP all users of the machine have one share, but who waits makes room.
    let hoard = Hoard::start(65_534, &port.to_string());
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("the port is open");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("a timeout can be set");
    let headers = [("authorization", bearer.as_str())];
    let answer = exchange(stream, "POST", "/v1/chat/completions", &headers, &body);
    let answer = answer.and_then(Exchange::finish).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.body);
    drop(hoard);
}
