//! A log as a newer release leaves it, and an older one after it: it starts, goes on, keeps, shows and
//! counts what it can't read, and vouches for all of it.

use std::fs;

use serde_json::Value;

use crate::support::{Daemon, Issuer, Setup, claims, http, log_of, store_of, verified};

/// What this release doesn't know: an event, a reason, a change, another form of record; and members,
/// which it passes over.
const UNREAD: [&str; 4] = [
    r#""event":"rollout","model":"another","of":["x",{"y":1}]"#,
    r#""event":"access","request_id":"req_0","origin":{"transport":"socket","uid":0,"gid":0,"pid":null},"action":"chat","decision":"deny","reason":"tomorrows""#,
    r#""event":"change","origin":{"transport":"daemon"},"what":"tomorrows","detail":{}"#,
    "",
];
const READ: [&str; 2] = [
    r#""event":"change","origin":{"transport":"daemon"},"what":"start","detail":{},"place":"attic""#,
    r#""event":"access","request_id":"req_1","origin":{"transport":"daemon"},"action":"chat","decision":"deny","reason":"expired","place":"attic""#,
];

fn line(index: u64, members: &str) -> String {
    if members.is_empty() {
        return format!(r#"{{"version":9,"at":[{index}],"another":"form"}}"#);
    }
    let time = slmd::for_tests::time::now().0;
    format!(
        r#"{{"version":9,"index":{index},"time":{time},"synchronised":true,"boot_id":"b",{members}}}"#
    )
}

/// Adds records at the end of a stopped daemon's log; `orderly`: as a release that was ended signs them,
/// else as one that was killed leaves them. The tree is the same with every release.
fn append(daemon: &Daemon, orderly: bool) -> Vec<(u64, String)> {
    let state = daemon.state_dir();
    let store = store_of(&state);
    let records = store.tree("audit").expect("a tree");
    let last = records.last().expect("readable").expect("a record");
    let next = u64::from_be_bytes(last[..].try_into().expect("an index")) + 1;
    let members = UNREAD.iter().chain(&READ);
    let lines: Vec<(u64, String)> = (next..)
        .zip(members)
        .map(|(i, m)| (i, line(i, m)))
        .collect();
    for (index, line) in &lines {
        let written = records.insert(&index.to_be_bytes(), line.as_bytes());
        written.expect("there is room");
    }
    if orderly {
        let closed = log_of(&store, &state).close(slmd::for_tests::time::now());
        closed.expect("there is room");
    }
    store.sync().expect("there is room");
    lines
}

#[test]
fn an_older_release_goes_on_with_a_newer_ones_log() {
    let issuer = Issuer::new("ES256", "a");
    let mut daemon = Daemon::start(Setup::new().issuer(&issuer));
    let signed = daemon.admin_http("POST", "/audit/checkpoint", "");
    let folder = tempfile::tempdir().expect("a folder");
    let kept = folder.path().join("checkpoint");
    fs::write(&kept, &signed.body).expect("a temporary file");
    let (mut lines, mut unread) = (Vec::new(), 0);
    for orderly in [true, false] {
        daemon.terminate();
        lines.extend(append(&daemon, orderly));
        unread += UNREAD.len();
        verified(&daemon.state_dir(), &kept);
        daemon.restart();

        let log = daemon.audit(0);
        for (index, line) in &lines {
            assert_eq!(&log[usize::try_from(*index).expect("small")], line);
        }
        let metrics = daemon.admin_http("GET", "/metrics", "").body;
        let counted = format!("slmd_audit_records_unread {unread}");
        assert!(metrics.contains(&counted), "{metrics}");
        assert_shown(&daemon, &lines);
        assert_goes_on(&daemon, &issuer, log.len());
    }
    daemon.terminate();
    // What the newer release signed is in what this one has signed since.
    let report = verified(&daemon.state_dir(), &kept);
    assert_eq!(report["unsigned"], 0, "{report}");
    assert_eq!(report["base"], 0, "{report}");
}

/// People see each record; a search says how many it couldn't judge.
fn assert_shown(daemon: &Daemon, lines: &[(u64, String)]) {
    let tail = daemon.slmd(&["audit", "tail", "-n", "1000", "--json"]);
    let shown = String::from_utf8_lossy(&tail.stdout);
    assert!(tail.status.success(), "{tail:?}");
    for (_, line) in lines {
        assert!(shown.lines().any(|shown| shown == line), "{line}: {shown}");
    }
    for args in [&["audit", "tail", "-n", "1000"][..], &["status"]] {
        let output = daemon.slmd(args);
        assert!(output.status.success(), "{output:?}");
    }
    let search = daemon.slmd(&["audit", "search", "--decision", "expired"]);
    let said = String::from_utf8_lossy(&search.stderr);
    assert!(said.contains("of a newer release left out"), "{search:?}");
    let (index, _) = &lines[0];
    let show = daemon.slmd(&["audit", "show", &index.to_string()]);
    assert!(show.status.success(), "{show:?}");
    let said = String::from_utf8_lossy(&show.stdout);
    assert!(said.contains("rollout"), "{said}");
}

fn assert_goes_on(daemon: &Daemon, issuer: &Issuer, after: usize) {
    let mut claims = claims();
    claims["sub"] = format!("reader-{after}").into();
    let bearer = format!("Bearer {}", issuer.token(claims));
    let headers = [("authorization", bearer.as_str())];
    let list = http(&daemon.socket(), "GET", "/v1/models", &headers, "");
    assert_eq!(list.status, 200, "{list:?}");
    let log = daemon.audit(after as u64);
    let own = log.iter().any(|line| {
        let record: Value = serde_json::from_str(line).expect("a record is JSON");
        record["subject"] == format!("reader-{after}") && record["decision"] == "permit"
    });
    assert!(own, "{log:?}");
}
