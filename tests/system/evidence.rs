//! What the audit log tells afterwards, whatever clients do to it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Daemon, Issuer, Response, Setup, chat, claims, http, run};

/// The records as they are in the log.
fn records(daemon: &Daemon) -> Vec<Value> {
    let parse = |line: &String| serde_json::from_str(line).expect("a record is JSON");
    daemon.audit(0).iter().map(parse).collect()
}

/// A token of another principal.
fn token_of(issuer: &Issuer, subject: &str) -> String {
    let mut claims = claims();
    claims["sub"] = subject.into();
    issuer.token(claims)
}

#[test]
fn two_principals_with_one_request_id_are_told_apart_to_the_end() {
    let issuer = Issuer::new("ES256", "a");
    let daemon = Daemon::start(Setup::new().issuer(&issuer));
    let answers = ["alice", "bob"].map(|subject| {
        let bearer = format!("Bearer {}", token_of(&issuer, subject));
        let headers = [("authorization", &*bearer), ("x-request-id", "SAME")];
        let body = chat(&format!("Say hello to {subject}."), 2, false);
        let answer = http(
            &daemon.socket(),
            "POST",
            "/v1/chat/completions",
            &headers,
            &body,
        );
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("x-request-id"), Some("SAME"));
        answer.json()["id"].as_str().expect("an id").to_owned()
    });
    let records = records(&daemon);
    let ids = ["alice", "bob"].map(|subject| {
        let access = records
            .iter()
            .find(|r| r["event"] == "access" && r["subject"] == subject);
        let access = access.expect("the access is on record");
        assert_eq!(access["client_request_id"], "SAME", "{access}");
        let id = &access["request_id"];
        let of = |r: &&Value| r["event"] == "finish" && r["request_id"] == *id;
        assert_eq!(records.iter().filter(of).count(), 1, "{id}");
        id.as_str().expect("text").to_owned()
    });
    assert_ne!(ids[0], ids[1]);
    for (answer, id) in answers.iter().zip(&ids) {
        let own = id.strip_prefix("req_").expect("an id of ours");
        assert_eq!(answer.strip_prefix("chatcmpl-"), Some(own));
    }
}

/// Reads the model list over and over.
fn flood(daemon: &Daemon, token: &str, times: usize) -> Vec<Response> {
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", &*bearer)];
    let socket = daemon.socket();
    let ask = |_| http(&socket, "GET", "/v1/models", &headers, "");
    (0..times).map(ask).collect()
}

#[test]
fn a_reader_without_measure_is_told_so_and_pushes_nothing_out_of_the_log() {
    let issuer = Issuer::new("ES256", "a");
    let setup = Setup::new()
        .issuer(&issuer)
        .with("[admission]\noperations_per_minute = 20\n[audit]\nrefusals_per_minute = 5");
    let mut daemon = Daemon::start(setup);
    let quiet = token_of(&issuer, "quiet");
    let answer = daemon.chat(&quiet, &chat("Name a quiet place.", 2, false));
    assert_eq!(answer.status, 200, "{answer:?}");

    let answers = flood(&daemon, &token_of(&issuer, "flooder"), 300);
    let permitted = answers.iter().filter(|a| a.status == 200).count();
    assert!((20..200).contains(&permitted), "{permitted} permitted");
    for refused in answers.iter().filter(|answer| answer.status != 200) {
        assert_eq!(refused.status, 429, "{refused:?}");
        assert_eq!(refused.json()["error"]["code"], "rate_limit_exceeded");
        let wait = refused.header("retry-after").and_then(|s| s.parse().ok());
        assert!(wait.is_some_and(|secs: u64| secs <= 3), "{refused:?}");
    }
    // Nobody else has less for it, and its own prompts are another matter.
    assert!(flood(&daemon, &quiet, 5).iter().all(|a| a.status == 200));
    let answer = daemon.chat(
        &token_of(&issuer, "flooder"),
        &chat("Name a loud place.", 2, false),
    );
    assert_eq!(answer.status, 200, "{answer:?}");

    // What is counted is on record when the daemon has ended.
    daemon.restart();
    let records = records(&daemon);
    let of = |subject: &str| -> Vec<&Value> {
        let of = |r: &&Value| r["subject"] == subject && r["action"] == "list_models";
        records.iter().filter(of).collect()
    };
    let flooders = of("flooder");
    assert!(flooders.len() <= 2 + 5 * 4, "{} records", flooders.len());
    let told = |decision: &str| -> u64 {
        let told = flooders.iter().filter(|r| r["decision"] == decision);
        told.map(|r| r["count"].as_u64().unwrap_or(1)).sum()
    };
    assert_eq!(told("permit"), permitted as u64);
    assert_eq!(told("deny"), 300 - permitted as u64);
    assert_eq!(of("quiet").len(), 2, "the first, and a summary of four");
    let chats = |r: &&Value| r["subject"] == "quiet" && r["action"] == "chat";
    assert_eq!(records.iter().filter(chats).count(), 1);
}

/// Opens the admin socket so many times as another user.
const INTRUDER: &str = "\
import http.client, socket, sys
for _ in range(int(sys.argv[2])):
    client = http.client.HTTPConnection('localhost')
    client.sock = socket.socket(socket.AF_UNIX)
    client.sock.connect(sys.argv[1])
    client.request('POST', '/reload')
    print(client.getresponse().status)
";

#[test]
fn whoever_may_not_use_the_admin_socket_is_on_record() {
    let issuer = Issuer::new("ES256", "a");
    let setup = Setup::new()
        .issuer(&issuer)
        .with("[audit]\nrefusals_per_minute = 5");
    let mut daemon = Daemon::start(setup);
    let folder = daemon.admin();
    let folder = folder.parent().expect("a file is in a folder");
    // As somebody's chmod would leave it.
    for (path, mode) in [(folder, 0o711), (&*daemon.admin(), 0o666)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is the test's");
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "nogroup", "--clear-groups"]);
    command.args(["/usr/bin/python3", "-c", INTRUDER]);
    command.arg(daemon.admin()).arg("20");
    let output = run(&mut command, b"", Duration::from_secs(60));
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said, "403\n".repeat(20), "{output:?}");

    daemon.restart();
    let records = records(&daemon);
    let refused: Vec<&Value> = records
        .iter()
        .filter(|r| r["reason"] == "peer_not_allowed")
        .collect();
    let (ones, counted): (Vec<&Value>, Vec<&Value>) =
        refused.iter().partition(|r| r["event"] == "access");
    assert!((5..20).contains(&ones.len()), "{refused:?}");
    for one in &ones {
        assert_eq!(one["origin"]["transport"], "admin", "{one}");
        assert_eq!(one["origin"]["uid"], 65_534, "{one}");
        assert_eq!(
            (&one["action"], &one["decision"]),
            (&"reload".into(), &"deny".into())
        );
    }
    let counted: u64 = counted.iter().filter_map(|r| r["count"].as_u64()).sum();
    assert_eq!(counted + ones.len() as u64, 20);
    assert!(
        !records
            .iter()
            .any(|r| r["event"] == "change" && r["what"] == "reload")
    );
}
