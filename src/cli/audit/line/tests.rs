//! Lines as people see them.

use serde_json::{Value, json};

use super::*;
use crate::time::Timestamp;

const PLAIN: Terminal = Terminal::plain(100);

fn at() -> String {
    local_second(Timestamp::from_secs(1_800_000_000))
}

/// The line of a record with these members, without its time.
fn shown(members: Value) -> String {
    let mut record = json!({
        "index": 30, "time": 1_800_000_000_000_u64, "synchronised": true, "boot_id": "b",
    });
    let (Value::Object(record), Value::Object(members)) = (&mut record, members) else {
        panic!("two objects");
    };
    record.extend(members);
    let line = serde_json::to_string(&record).unwrap();
    let told = describe(&line, PLAIN);
    let rest = told.strip_prefix(&format!("{}  ", at()));
    rest.unwrap_or_else(|| panic!("no time: {told}")).to_owned()
}

fn chat(more: Value) -> Value {
    let mut access = json!({
        "event": "access", "request_id": "req_0123456789abcdef0123456789abcdef",
        "origin": {"transport": "mqtt", "topic": "slm/edge-1/v1/chat/completions/device-1/me"},
        "action": "chat", "decision": "permit",
    });
    let (Value::Object(members), Value::Object(more)) = (&mut access, more) else {
        panic!("two objects");
    };
    members.extend(more);
    access
}

fn alice(more: Value) -> Value {
    let mut access = chat(json!({
        "realm": "dev", "endpoint": "slm", "issuer": "i", "client": "web-app",
        "subject": "6b5e4a9c-3f43-4a5c-8a2f-0d5e6f7a8b9c", "username": "alice",
    }));
    let (Value::Object(members), Value::Object(more)) = (&mut access, more) else {
        panic!("two objects");
    };
    members.extend(more);
    access
}

#[test]
fn a_record_is_a_line_of_about_100_columns() {
    for (record, expected) in [
        (
            alice(json!({"prompt_tokens": 31})),
            "permit alice 6b5e4a9c… web-app  chat dev/slm mqtt 31 tokens req_01234567…",
        ),
        (
            alice(json!({"decision": "deny", "reason": "audience_mismatch"})),
            "refuse alice 6b5e4a9c… web-app  chat dev/slm mqtt audience_mismatch req_01234567…",
        ),
        (
            chat(json!({
                "decision": "deny", "action": "unread", "reason": "reply_topic_rejected",
                "detail": "the request has no Response Topic", "client_request_id": "mine",
            })),
            "refuse …completions/device-1/me unread mqtt       reply_topic_rejected req_01234567…: \
             the request has no Response Topic",
        ),
        (
            json!({
                "event": "finish", "request_id": "req_0123456789abcdef0123456789abcdef",
                "finish": "stop", "prompt_tokens": 1, "completion_tokens": 34, "answer_hash": "0",
                "queue_ms": 1, "first_token_ms": 120, "total_ms": 812,
            }),
            "finish stop                     34 tokens         in 812 ms req_01234567…",
        ),
        (
            json!({
                "event": "finish", "request_id": "SAME", "finish": "revoked",
                "reason": "key_unknown", "prompt_tokens": 1, "completion_tokens": 1,
                "answer_hash": "0", "queue_ms": 1, "first_token_ms": null, "total_ms": 25_290,
            }),
            "finish revoked: key_unknown     1 token           in 25.2 s SAME",
        ),
        (
            json!({
                "event": "change", "what": "keys pin dev", "detail": null,
                "origin": {"transport": "admin", "uid": 0, "gid": 0, "pid": 1},
            }),
            "change uid:0                    keys pin dev",
        ),
        (
            json!({
                "event": "change", "what": "start", "detail": {"version": "1"},
                "origin": {"transport": "daemon"},
            }),
            "change the daemon               start             {\"version\":\"1\"}",
        ),
    ] {
        let line = shown(record);
        assert_eq!(line, expected);
        let detail = line.find(": the").unwrap_or(line.len());
        assert!(columns(&line[..detail]) + 21 <= 105, "{line}");
    }
}

#[test]
fn summaries_and_gaps_are_told_in_words() {
    let first = 1_800_000_000_000_u64;
    let at = at();
    for (record, expected) in [
        (
            json!({
                "event": "accesses_summary", "transport": "tcp", "action": "list_models",
                "decision": "permit", "realm": "dev", "issuer": "i", "subject": "s",
                "client": "c", "count": 7, "first": first, "last": first + 60_000,
            }),
            format!("permit s c                      list_models dev tcp 7 times more since {at}"),
        ),
        (
            json!({
                "event": "accesses_summary", "transport": "admin", "action": "status",
                "decision": "permit", "uid": 0, "count": 1, "first": first, "last": first,
            }),
            format!("permit uid:0                    status admin      1 time more since {at}"),
        ),
        (
            json!({
                "event": "refusals_summary", "transport": "mqtt", "reason": "expired",
                "count": 57, "since": first,
            }),
            format!(
                "refuse nobody known             over mqtt         expired, 57 times more since {at}"
            ),
        ),
        (
            json!({
                "event": "truncated", "first_index": 4, "removed": 9, "of_others": 2,
                "losses": [{
                    "whose": "principal", "principal": "00000000000000ff", "subject": "s",
                    "client": "c", "from": 5, "to": 20, "removed": 7,
                }],
            }),
            "log    the daemon                                 9 old records removed; the log \
             begins at 4; 7 of principal s c from 5 to 20; 2 of others"
                .to_owned(),
        ),
        (
            json!({"event": "truncated", "first_index": 4, "removed": 1}),
            "log    the daemon                                 1 old record removed; the log \
             begins at 4"
                .to_owned(),
        ),
    ] {
        assert_eq!(shown(record), expected);
    }
}

/// Whatever somebody is called: it stands where names stand, and moves no cursor.
#[test]
fn names_from_outside_stay_names() {
    let evil = "\u{1b}[2J\u{9b}31m\r\n\u{7}\u{202e}";
    let line = shown(alice(json!({
        "subject": evil, "username": "root permit", "client": format!("x{evil}"), "realm": evil,
        "endpoint": "\"", "action": evil, "detail": evil, "client_request_id": evil,
        "token_id": evil,
    })));
    let steers = |c: char| c.is_control() || c == '\u{202e}';
    assert!(!line.contains(steers), "{line:?}");
    assert!(line.starts_with("permit \"root permit\" "), "{line}");
    for event in [
        json!({"event": "change", "what": format!("keys pin {evil}"), "detail": {evil: evil},
            "origin": {"transport": "mqtt", "topic": evil}}),
        json!({"event": "accesses_summary", "transport": evil, "action": evil, "decision": "deny",
            "reason": "expired", "subject": evil, "count": 1, "first": 0, "last": 0}),
        json!({"event": "refusals_summary", "transport": evil, "reason": "expired", "count": 1,
            "since": 0}),
        json!({"event": "truncated", "first_index": 1, "removed": 1,
            "losses": [{"whose": "refusals", "subject": evil, "client": evil, "from": 0, "to": 1,
                "removed": 1}]}),
        chat(json!({"origin": {"transport": "mqtt", "topic": evil}})),
        // Of a newer release.
        json!({"event": evil, "name": evil}),
    ] {
        let told = describe(&json_of(event), PLAIN);
        assert!(!told.contains(steers), "{told:?}");
    }
}

fn json_of(mut record: Value) -> String {
    let head = json!({"index": 1, "time": 0, "synchronised": false, "boot_id": "b"});
    let (Value::Object(record), Value::Object(head)) = (&mut record, head) else {
        panic!("two objects");
    };
    record.extend(head);
    serde_json::to_string(record).unwrap()
}

#[test]
fn a_clock_that_nobody_keeps_is_doubted() {
    let change = json!({"event": "change", "what": "stop", "detail": null,
        "origin": {"transport": "daemon"}});
    let told = describe(&json_of(change), PLAIN);
    assert_eq!(told.chars().nth(19), Some('?'), "{told}");
}

/// So that what is read off a line can be given to a filter.
#[test]
fn long_names_are_cut_as_filters_take_them() {
    let line = shown(alice(
        json!({"client": "c".repeat(300), "subject": "s".repeat(17)}),
    ));
    let cut = |c: &str| format!("{}…", c.repeat(16));
    assert!(
        line.contains(&cut("c")) && line.contains(&cut("s")),
        "{line}"
    );
}
