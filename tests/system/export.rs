//! Audit records on their way out: to a real rsyslog over TLS and to a real journal, which are killed,
//! stopped and strangers.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::newcomer::has_namespaces;
use crate::support::{Ca, Daemon, Issuer, Journal, Received, Rsyslog, Setup, chat, claims, within};

/// Pauses after failures, and the end of a connection.
const PATIENCE: Duration = Duration::from_secs(120);

/// A daemon whose log grows as fast as keys are pinned.
fn start(issuer: &Issuer, settings: &str) -> Daemon {
    let fast = "[admission]\noperations_per_minute = 100000\n";
    Daemon::start(Setup::new().issuer(issuer).with(fast).with(settings))
}

/// Two records each.
fn pin(daemon: &Daemon, issuer: &Issuer, times: usize) {
    for _ in 0..times {
        let pinned = daemon.admin_http("PUT", "/keys/dev", &issuer.jwks());
        assert_eq!(pinned.status, 200, "{}", pinned.body);
    }
}

fn export(daemon: &Daemon) -> Value {
    daemon.status()["audit"]["exports"][0].clone()
}

fn next(daemon: &Daemon) -> u64 {
    let next = &daemon.status()["audit"]["next_index"];
    next.as_u64().expect("the log has an end")
}

fn index_of(json: &str) -> u64 {
    let record: Value = serde_json::from_str(json).unwrap_or_else(|e| panic!("{e}: {json}"));
    record["index"].as_u64().unwrap_or_else(|| panic!("{json}"))
}

/// By their index, the first time that they came. Each is in order and has come with one text only.
fn first_told(received: &[Received]) -> BTreeMap<u64, String> {
    let (mut told, mut last) = (BTreeMap::new(), None);
    for message in received {
        let index = index_of(&message.message);
        let known = told.entry(index).or_insert_with(|| {
            assert!(last < Some(index), "{index} after {last:?}");
            last = Some(index);
            message.message.clone()
        });
        assert_eq!(*known, message.message, "{index} came with two texts");
    }
    told
}

/// Waits until all records that there are now have come, and compares them.
fn until_all_have_come(daemon: &Daemon, collector: &Rsyslog) {
    let end = next(daemon);
    within(PATIENCE, "all records", || {
        let received = collector.received("edge-1");
        received
            .iter()
            .any(|m| index_of(&m.message) + 1 >= end)
            .then_some(())
    });
    let told = first_told(&collector.received("edge-1"));
    let records = daemon.audit(0);
    assert!(records.len() as u64 >= end);
    for record in records.iter().filter(|record| index_of(record) < end) {
        assert_eq!(told.get(&index_of(record)), Some(record));
    }
}

#[test]
fn a_collector_has_each_record_whoever_is_killed() {
    let (ca, issuer) = (Ca::new("logs"), Issuer::new("ES256", "key-1"));
    let mut collector = Rsyslog::start(&ca);
    let own = ca.issue("edge-1");
    let mut daemon = start(&issuer, &collector.settings(&ca, Some(&own)));
    pin(&daemon, &issuer, 10);
    until_all_have_come(&daemon, &collector);

    // One that reads no more delays nobody, and loses what it hasn't read when it is killed.
    collector.stop();
    pin(&daemon, &issuer, 40);
    let token = issuer.token(claims());
    let body = chat("Say one word, whoever listens.", 1, false);
    assert_eq!(daemon.chat(&token, &body).status, 200);
    collector.kill9();
    within(PATIENCE, "what is wrong", || {
        export(&daemon)["problem"].as_str().map(str::to_owned)
    });
    collector.launch();
    until_all_have_come(&daemon, &collector);

    pin(&daemon, &issuer, 10);
    daemon.kill9();
    daemon.restart();
    pin(&daemon, &issuer, 10);
    until_all_have_come(&daemon, &collector);

    // Who has ended in order tells nothing twice.
    daemon.terminate();
    let before = collector.received("edge-1");
    daemon.restart();
    until_all_have_come(&daemon, &collector);
    let after = collector.received("edge-1").split_off(before.len());
    let known = before.iter().map(|m| index_of(&m.message)).max();
    let began = after.iter().map(|m| index_of(&m.message)).min();
    assert!(began > known, "{began:?} after {known:?}");
    assert_eq!(export(&daemon)["problem"], Value::Null);
    assert_eq!(export(&daemon)["missing"], 0);
    files_records_by_what_they_say(&collector);
}

fn files_records_by_what_they_say(collector: &Rsyslog) {
    let received = collector.received("edge-1");
    let first = |name: &str| {
        let found = received.iter().find(|message| message.name == name);
        found.unwrap_or_else(|| panic!("no {name}")).clone()
    };
    for (name, severity) in [("start", 5), ("keys_pin", 5), ("access", 6), ("finish", 6)] {
        let message = first(name);
        assert_eq!(message.priority, 13 * 8 + severity, "{message:?}");
        assert_eq!((&*message.host, &*message.app), ("edge-1", "slmd"));
        let record: Value = serde_json::from_str(&message.message).expect("JSON");
        let index = record["index"].as_u64().expect("an index");
        let kept = u8::from(record["synchronised"] == true);
        assert_eq!(
            message.data,
            format!(
                "[timeQuality tzKnown=\"1\" isSynced=\"{kept}\"][meta sequenceId=\"{}\"]",
                index + 1
            )
        );
        assert!(
            message.time.ends_with('Z') && message.time.contains('T'),
            "{message:?}"
        );
    }
}

/// A status' problem, and that the metric counts it.
fn refused_for(daemon: &Daemon, reason: &str) -> String {
    let problem = within(PATIENCE, "a refusal", || {
        export(daemon)["problem"].as_str().map(str::to_owned)
    });
    let metrics = daemon.admin_http("GET", "/metrics", "").body;
    let counted = |line: &str| {
        line.starts_with("slmd_audit_export_failures_total")
            && line.contains("to=\"syslog\"")
            && line.contains(&format!("reason={reason:?}"))
            && !line.ends_with(" 0")
    };
    assert!(
        metrics.lines().any(counted),
        "{reason}: {problem}\n{metrics}"
    );
    problem
}

#[test]
fn a_stranger_gets_no_record() {
    let (ca, stranger) = (Ca::new("logs"), Ca::new("stranger"));
    let issuer = Issuer::new("ES256", "key-1");
    let collector = Rsyslog::start(&stranger);
    let daemon = start(&issuer, &collector.settings(&ca, None));
    let problem = refused_for(&daemon, "tls");
    assert!(problem.contains("UnknownIssuer"), "{problem}");
    let page = daemon.slmd(&["status"]);
    let page = String::from_utf8_lossy(&page.stdout).into_owned();
    // Wherever its lines end.
    let page = page.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in ["the log collector takes no audit records", "[audit.syslog]"] {
        assert!(page.contains(part), "{page}");
    }
    assert!(collector.received("edge-1").is_empty());
}

/// It is turned away after the handshake, when the first records are on their way.
#[test]
fn a_device_without_a_certificate_has_confirmed_nothing() {
    let (ca, issuer) = (Ca::new("logs"), Issuer::new("ES256", "key-1"));
    let collector = Rsyslog::start(&ca);
    let daemon = start(&issuer, &collector.settings(&ca, None));
    within(PATIENCE, "a refusal", || {
        export(&daemon)["problem"].as_str().map(str::to_owned)
    });
    assert_eq!(export(&daemon)["confirmed_index"], 0);
    assert!(collector.received("edge-1").is_empty());
}

/// The records that the journal has, by their index: each with its bytes, and its members as fields.
fn journalled(journal: &Journal) -> BTreeMap<u64, String> {
    let entries = journal.search("slmd-audit", &[]).into_iter();
    let records = entries.map(|entry| {
        let record = entry["SLMD_RECORD"].as_str().expect("a record is text");
        let said: Value = serde_json::from_str(record).expect("JSON");
        assert_eq!(entry["SLMD_EVENT"], said["event"], "{entry}");
        assert_eq!(entry["_TRANSPORT"], "journal", "{entry}");
        if let Some(reason) = said["reason"].as_str() {
            assert_eq!(entry["SLMD_REASON"], reason, "{entry}");
        }
        (index_of(record), record.to_owned())
    });
    records.collect()
}

fn until_all_are_journalled(daemon: &Daemon, journal: &Journal) {
    let end = next(daemon);
    let found = within(PATIENCE, "all records", || {
        let found = journalled(journal);
        found.contains_key(&(end - 1)).then_some(found)
    });
    for record in daemon.audit(0) {
        let index = index_of(&record);
        if index < end {
            assert_eq!(found.get(&index), Some(&record));
        }
    }
}

#[test]
fn a_journal_has_each_record_also_when_it_was_killed() {
    if !has_namespaces("to have a journal of its own") {
        return;
    }
    let issuer = Issuer::new("ES256", "key-1");
    let journal = Journal::new();
    let settings = "[admission]\noperations_per_minute = 100000\n[audit]\njournald = true\n";
    let setup = journal.serving(Setup::new().issuer(&issuer).with(settings));
    let daemon = Daemon::start(setup);
    pin(&daemon, &issuer, 3);
    assert_eq!(
        daemon
            .chat("no token", &chat("Say nothing.", 1, false))
            .status,
        401
    );
    until_all_are_journalled(&daemon, &journal);
    // A person finds a refusal by its reason.
    let by_reason = journal.search("slmd-audit", &["SLMD_DECISION=deny"]);
    assert_eq!(by_reason.len(), 1, "{by_reason:?}");
    assert_eq!(by_reason[0]["SYSLOG_IDENTIFIER"], "slmd-audit");

    journal.kill();
    pin(&daemon, &issuer, 3);
    within(PATIENCE, "what is wrong", || {
        export(&daemon)["problem"].as_str().map(str::to_owned)
    });
    let _again = journal.start_again(daemon.pid());
    pin(&daemon, &issuer, 1);
    until_all_are_journalled(&daemon, &journal);
    within(PATIENCE, "nothing wrong", || {
        export(&daemon)["problem"].is_null().then_some(())
    });
}
