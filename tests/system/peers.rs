//! Break-glass: processes of this machine that ask on the socket without a token, let in by their
//! groups alone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Daemon, Issuer, Setup, chat, claims, run, secrets};

const PATIENCE: Duration = Duration::from_secs(120);

/// A group of every Debian that nothing else here is in, and another.
const LISTED: &str = "games";
const OTHER: &str = "news";

/// `nobody`, in decimal as records have it.
const UID: u32 = 65_534;

const CLIENT: &str = "\
import http.client, socket, sys
class Local(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(sys.argv[1])
client = Local('localhost')
headers = {'content-type': 'application/json'}
if sys.argv[2:]:
    headers['authorization'] = 'Bearer ' + sys.argv[2]
client.request('POST', '/v1/chat/completions', sys.stdin.read(), headers)
answer = client.getresponse()
print(answer.status)
print(answer.read().decode())
";

/// Asks as a process of `nobody` with this primary group and another, and shows no token.
/// Returns status and body.
fn ask(daemon: &Daemon, (group, other): (&str, &str), words: &str) -> (u16, Value) {
    ask_with(daemon, (group, other), None, words)
}

fn ask_with(
    daemon: &Daemon,
    (group, other): (&str, &str),
    token: Option<&str>,
    words: &str,
) -> (u16, Value) {
    let body = chat(words, 2, false);
    secrets::body(body.as_bytes());
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &UID.to_string(), "--regid", group]);
    // The socket is its group's, root's here, as it is slmd's where a package made it.
    command.args(["--groups", &format!("root,{other}")]);
    // The system's Python: one of a user's own may lie where nobody else can go.
    command
        .args(["/usr/bin/python3", "-c", CLIENT])
        .arg(daemon.socket());
    command.args(token);
    let output = run(&mut command, body.as_bytes(), PATIENCE);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "another user needs root: {said}");
    let answer = String::from_utf8_lossy(&output.stdout);
    let (status, body) = answer.split_once('\n').expect("two lines");
    (
        status.parse().expect("a status"),
        serde_json::from_str(body).expect("JSON"),
    )
}

#[track_caller]
fn refused((status, body): &(u16, Value), expected: u16, code: &str) {
    let found = (*status, body["error"]["code"].as_str());
    assert_eq!(found, (expected, Some(code)), "{body}");
}

/// The accesses that the audit has of the socket's chats.
fn accesses(daemon: &Daemon) -> Vec<Value> {
    let records = daemon.audit(0);
    let records = records
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    records
        .filter(|record| record["action"] == "chat")
        .collect()
}

/// How many local peers the metrics count, and the log's warnings of them.
fn told(daemon: &Daemon) -> (String, usize) {
    let metrics = daemon.admin_http("GET", "/metrics", "").body;
    let counted = metrics
        .lines()
        .find_map(|line| line.strip_prefix("slmd_local_peer_permits_total "));
    let log = daemon.log();
    let warned = log.lines().filter(|line| {
        line.contains("WARN") && line.contains("a local peer was let in without a token")
    });
    (counted.expect("a counter").to_owned(), warned.count())
}

#[test]
fn a_local_group_is_let_in_only_where_it_is_listed_and_loudly() {
    let issuer = Issuer::new("ES256", "a");
    let daemon = Daemon::start(Setup::new().issuer(&issuer));
    let folder = daemon.socket();
    let folder = folder.parent().expect("a file is in a folder");
    fs::set_permissions(folder, fs::Permissions::from_mode(0o711)).expect("it is the test's");

    // Nobody is unless a realm says so.
    refused(
        &ask(&daemon, ("nogroup", LISTED), "Name a closed door."),
        401,
        "token_missing",
    );
    let file = daemon.config_path();
    let before = fs::read_to_string(&file).expect("the test wrote it");
    let after = format!("{before}\n[realm.local_groups]\n{LISTED} = [\"read\"]\n");
    fs::write(&file, after).expect("it is the test's");
    let reload = daemon.slmd(&["reload"]);
    assert!(reload.status.success(), "{reload:?}");

    for groups in [("nogroup", LISTED), (LISTED, "nogroup")] {
        let (status, body) = ask(&daemon, groups, "Name an open door.");
        assert_eq!(status, 200, "{body}");
    }
    for groups in [("nogroup", OTHER), (OTHER, "nogroup")] {
        let answer = ask(&daemon, groups, "Name a door of somebody else.");
        refused(&answer, 403, "peer_not_allowed");
    }
    assert_eq!(told(&daemon), ("2".to_owned(), 2));
    recorded(&accesses(&daemon));

    // A token that is shown is what counts.
    let (mut old, now) = (claims(), slmd::for_tests::time::now().as_secs());
    old["iat"] = (now - 900).into();
    old["exp"] = (now - 600).into();
    let old = issuer.token(&old);
    let answer = ask_with(&daemon, ("nogroup", LISTED), Some(&old), "Name an old key.");
    refused(&answer, 401, "expired");

    fs::write(&file, before).expect("it is the test's");
    let reload = daemon.slmd(&["reload"]);
    assert!(reload.status.success(), "{reload:?}");
    refused(
        &ask(&daemon, ("nogroup", LISTED), "Name a door that was shut."),
        401,
        "token_missing",
    );
}

/// One refusal, two permits, two refusals: each says who it was, the permits that no token was.
fn recorded(accesses: &[Value]) {
    let reasons: Vec<Option<&str>> = accesses.iter().map(|a| a["reason"].as_str()).collect();
    let not_allowed = Some("peer_not_allowed");
    assert_eq!(
        reasons,
        [Some("token_missing"), None, None, not_allowed, not_allowed]
    );
    for access in &accesses[1..] {
        assert_eq!(access["subject"], format!("uid:{UID}"), "{access}");
        assert_eq!(access["client"], "local", "{access}");
        assert_eq!(access["realm"], "dev", "{access}");
    }
    for access in &accesses[1..3] {
        assert_eq!(access["decision"], "permit", "{access}");
        assert_eq!(access["local_peer"], true, "{access}");
        assert_eq!(access["token_id"], Value::Null, "{access}");
    }
    let origins = accesses.iter().map(|access| access["origin"].to_string());
    for origin in origins {
        assert!(origin.contains(&format!("\"uid\":{UID}")), "{origin}");
    }
}
