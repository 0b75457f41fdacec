//! Which records a filter shows, and that a reader shows those and no others.

use super::filter::Filter;
use super::matcher::{Fit, Matcher};
use super::reader::{MAX_LAST, Reader, Start, Step, Wanted};
use super::tests::{START, access, later, open, open_in, settings};
use super::*;
use crate::prompt::{Finish, RequestId, Usage};
use crate::reason::{DenyReason, Reason};
use crate::store::Store;

pub(super) fn filter(pairs: &[(&str, &str)]) -> Filter {
    let mut filter = Filter::default();
    for (name, value) in pairs {
        filter.set(name, value).unwrap();
    }
    // What travels says the same.
    let mut travelled = Filter::default();
    for (name, value) in filter.pairs() {
        travelled.set(name, &value).unwrap();
    }
    assert_eq!(travelled, filter);
    filter
}

fn line(index: u64, event: Event) -> Line {
    let record = Record {
        version: 1,
        index,
        time: later(index),
        synchronised: true,
        boot_id: "b".to_owned(),
        event,
    };
    let json = serde_json::to_vec(&record).unwrap();
    Line { index, json }
}

/// Whether each of the events is shown.
fn shown(pairs: &[(&str, &str)], events: &[Event]) -> Vec<bool> {
    let mut matcher = Matcher::new(filter(pairs));
    let lines = events.iter().zip(0..);
    let lines = lines.map(|(event, index)| line(index, event.clone()));
    lines
        .map(|line| matcher.judge(&line) == Fit::Shown)
        .collect()
}

pub(super) fn of(client: &str, subject: &str) -> Access {
    let mut access = access(Verdict::Permit);
    access.client = Some(client.to_owned());
    access.subject = Some(subject.to_owned());
    access
}

fn event(access: &Access) -> Event {
    Event::Access(Box::new(access.clone()))
}

pub(super) fn finish(access: &Access, finish: Finish) -> Event {
    Event::Finish(Box::new(Finished {
        request_id: access.request_id.own(),
        principal: access.tag(),
        realm: access.realm.clone(),
        endpoint: access.endpoint.clone(),
        access_index: None,
        finish,
        usage: Usage {
            prompt_tokens: 1,
            completion_tokens: 2,
        },
        answer_hash: "0".repeat(64),
        queue_ms: 0,
        first_token_ms: None,
        total_ms: 1,
        text: None,
    }))
}

fn refused(mut access: Access, reason: DenyReason) -> Access {
    access.decision = Verdict::Deny;
    access.reason = Some(Reason::Denied(reason));
    access
}

fn change(uid: Option<u32>) -> Event {
    let pid = None;
    let admin = |uid| Origin::Admin { uid, gid: 0, pid };
    Event::Change {
        origin: uid.map_or(Origin::Daemon, admin),
        what: Change::AskedReload.into(),
        detail: serde_json::Value::Null,
    }
}

#[test]
fn who_decision_and_request_must_all_match_and_finishes_follow() {
    let (mut a, b) = (of("app", "alice"), of("app", "bob"));
    a.username = Some("a.liddell".to_owned());
    a.request_id = RequestId::beside(Some("mine"));
    let late = refused(of("web", "alice"), DenyReason::Expired);
    let events = [
        event(&a),
        event(&b),
        event(&late),
        finish(&b, Finish::Stop),
        finish(&a, Finish::Stop),
    ];
    let short = &a.request_id.as_str()[..12];
    for (pairs, expected) in [
        (&[][..], [true; 5]),
        (&[("client", "app")], [true, true, false, true, true]),
        (&[("client", "ap")], [false; 5]),
        (&[("client", "ap…")], [true, true, false, true, true]),
        (&[("user", "alice")], [true, false, true, false, true]),
        (&[("user", "a.liddell")], [true, false, false, false, true]),
        (&[("user", "bob"), ("client", "web")], [false; 5]),
        (&[("decision", "permit")], [true, true, false, true, true]),
        (
            &[("decision", "refuse")],
            [false, false, true, false, false],
        ),
        (&[("decision", "deny")], [false, false, true, false, false]),
        (
            &[("decision", "expired")],
            [false, false, true, false, false],
        ),
        (&[("decision", "revoked")], [false; 5]),
        (&[("request", "mine")], [true, false, false, false, true]),
        (&[("request", short)], [true, false, false, false, true]),
        (&[("request", "req_")], [false; 5]),
        (&[("uid", "1000")], [true; 5]),
        (&[("realm", "dev")], [true; 5]),
        (&[("realm", "prod")], [false; 5]),
        (
            &[("endpoint", "s…"), ("user", "bob")],
            [false, true, false, true, false],
        ),
        (&[("event", "finish")], [false, false, false, true, true]),
        (
            &[("event", "finish"), ("client", "app"), ("user", "bob")],
            [false, false, false, true, false],
        ),
        (
            &[("where", "client=app")],
            [true, true, false, false, false],
        ),
        (
            &[("where", "prompt_tokens=31")],
            [true, true, true, false, false],
        ),
        (
            &[("where", "completion_tokens=2")],
            [false, false, false, true, true],
        ),
        (
            &[("where", "origin.uid=1000"), ("where", "subject=bo…")],
            [false, true, false, false, false],
        ),
        (&[("where", "no.such=1")], [false; 5]),
        (&[("where", "origin=1")], [false; 5]),
        (
            &[("until", "2027-01-15T08:00:02.000Z")],
            [true, true, false, false, false],
        ),
        (
            &[("user", "bob"), ("uid", "7")],
            [false, true, false, true, false],
        ),
    ] {
        assert_eq!(shown(pairs, &events), expected, "{pairs:?}");
    }
}

/// What was permitted and taken back later has the reason in its finish alone.
#[test]
fn a_permission_that_was_taken_back_is_found_by_its_reason() {
    let (a, b) = (of("app", "alice"), of("app", "bob"));
    let taken = |access: &Access| finish(access, Finish::Revoked(DenyReason::KeyUnknown));
    let events = [event(&a), event(&b), taken(&a), taken(&b)];
    let asked = [("decision", "key_unknown"), ("user", "alice")];
    assert_eq!(shown(&asked, &events), [false, false, true, false]);
}

#[test]
fn what_is_nobodys_request_is_shown_where_it_may_be_meant() {
    let mut summary = Summary::of(&of("app", "alice"), later(0));
    summary.username = Some("a.liddell".to_owned());
    let events = [
        Event::AccessesSummary(Box::new(summary)),
        Event::RefusalsSummary {
            transport: "tcp".to_owned(),
            reason: Reason::Denied(DenyReason::Expired),
            count: 7,
            since: later(0),
        },
        change(None),
        change(Some(0)),
        Event::Truncated {
            first_index: 0,
            removed: 1,
            removed_in_all: None,
            losses: Vec::new(),
            of_others: 0,
        },
    ];
    for (pairs, expected) in [
        (&[][..], [true; 5]),
        (
            &[("since", "2027-01-15T08:00:03.000Z")],
            [false, false, false, true, true],
        ),
        (&[("client", "app")], [true, false, false, false, false]),
        (&[("user", "a.liddell")], [true, false, false, false, false]),
        (
            &[("user", "root"), ("uid", "0")],
            [false, false, false, true, false],
        ),
        (
            &[("decision", "refuse")],
            [false, true, false, false, false],
        ),
        (
            &[("decision", "expired")],
            [false, true, false, false, false],
        ),
        (
            &[("decision", "permit")],
            [true, false, false, false, false],
        ),
        (
            &[("event", "truncated")],
            [false, false, false, false, true],
        ),
        (&[("realm", "dev")], [true, false, false, false, false]),
        (
            &[("where", "what=reload")],
            [false, false, true, true, false],
        ),
        (&[("request", "req_1")], [false; 5]),
        (&[("uid", "0"), ("decision", "permit")], [false; 5]),
    ] {
        assert_eq!(shown(pairs, &events), expected, "{pairs:?}");
    }
}

#[test]
fn a_name_that_records_have_cut_is_found_by_the_whole() {
    let (long, other) = ("n".repeat(1000), format!("{}m", "n".repeat(999)));
    let mut cut = of(&long, "alice");
    cut.bound();
    assert!(cut.client.as_ref().unwrap().len() < 300);
    assert_eq!(shown(&[("client", &long)], &[event(&cut)]), [true]);
    assert_eq!(shown(&[("client", &other)], &[event(&cut)]), [false]);
    assert_eq!(
        Filter::default().set("client", &"n".repeat(17 << 10)),
        Err(Unfit::TooLong)
    );
    assert_eq!(Filter::default().set("client", ""), Err(Unfit::Empty));
}

#[test]
fn a_decision_that_there_isnt_is_told_with_the_nearest() {
    let said = |text: &str| Filter::default().set("decision", text).unwrap_err();
    assert_eq!(
        said("expird"),
        Unfit::Misspelt("expird".to_owned(), "expired")
    );
    assert_eq!(said("allow"), Unfit::Unknown("allow".to_owned()));
    let long = said(&"x".repeat(1000)).to_string();
    assert!(long.len() < 200, "{long}");
}

/// Those of a crash leave room for those that come.
#[test]
fn what_never_finishes_is_forgotten_in_time() {
    let mut matcher = Matcher::new(filter(&[("client", "app")]));
    let first = of("app", "alice");
    let _ = matcher.judge(&line(0, event(&first)));
    for index in 1..=4096 {
        let _ = matcher.judge(&line(index, event(&of("app", "alice"))));
    }
    assert_eq!(
        matcher.judge(&line(5000, finish(&first, Finish::Stop))),
        Fit::Hidden
    );
}

/// Reads until the end, or until it would wait.
fn read(log: &Log, start: Start, pairs: &[(&str, &str)], follow: bool) -> (Vec<u64>, u64) {
    let wanted = Wanted {
        start,
        before: log.next_index(),
        follow,
        limit: u64::MAX,
        filter: filter(pairs),
    };
    let mut reader = Reader::new(log.clone(), wanted);
    (drain(&mut reader), reader.left_out())
}

fn drain(reader: &mut Reader) -> Vec<u64> {
    let mut indexes = Vec::new();
    loop {
        match reader.step().unwrap() {
            Step::Lines(lines) => indexes.extend(lines.iter().map(|line| line.index)),
            Step::Searching => {}
            Step::Wait(_) | Step::End => return indexes,
        }
    }
}

/// A log of 600 prompts of ten clients in turn, each with its finish right after it.
pub(super) fn crowded(folder: &tempfile::TempDir) -> Log {
    let log = open(folder, settings());
    for n in 0..600 {
        let access = of(&format!("c{}", n % 10), "alice");
        log.append_read(access.clone(), START).unwrap();
        let Event::Finish(finished) = finish(&access, Finish::Stop) else {
            panic!("a finish");
        };
        log.finish(*finished, START).unwrap();
    }
    log
}

#[test]
fn the_last_are_counted_among_those_that_match() {
    let folder = tempfile::tempdir().unwrap();
    let log = crowded(&folder);
    let of_c3 = &[("client", "c3")][..];
    // The last prompt of c3 is the 594th.
    let (indexes, _) = read(&log, Start::Last(3), of_c3, false);
    assert_eq!(indexes, [1167, 1186, 1187]);
    assert_eq!(read(&log, Start::Last(0), of_c3, false).0, [0; 0]);
    assert_eq!(read(&log, Start::Last(MAX_LAST), of_c3, false).0.len(), 120);
    let (all, _) = read(&log, Start::Last(3), &[], false);
    assert_eq!(all, [1197, 1198, 1199]);
    // A finish is found though its access stands before the beginning.
    let (from, _) = read(&log, Start::At(1187), of_c3, false);
    assert_eq!(from, [1187]);
    assert_eq!(read(&log, Start::At(1198), &[], false).0, [1198, 1199]);
    let limited = Wanted {
        start: Start::At(0),
        before: 1000,
        follow: false,
        limit: 5,
        filter: filter(of_c3),
    };
    let limited = drain(&mut Reader::new(log, limited));
    assert_eq!(limited, [6, 7, 26, 27, 46]);
}

#[test]
fn who_follows_sees_what_comes_and_its_finish() {
    let folder = tempfile::tempdir().unwrap();
    let log = crowded(&folder);
    let running = of("c3", "alice");
    log.append_read(running.clone(), START).unwrap();
    let wanted = Wanted {
        start: Start::Last(1),
        before: log.next_index(),
        follow: true,
        limit: u64::MAX,
        filter: filter(&[("client", "c3")]),
    };
    let mut reader = Reader::new(log.clone(), wanted);
    assert_eq!(drain(&mut reader), [1200]);
    log.append_read(of("c4", "alice"), START).unwrap();
    let Event::Finish(finished) = finish(&running, Finish::Stop) else {
        panic!("a finish");
    };
    log.finish(*finished, START).unwrap();
    assert_eq!(drain(&mut reader), [1202]);
    assert_eq!(reader.step().unwrap(), Step::Wait(1203));
}

/// Between them stand records that this release can't read.
#[test]
fn what_nobody_can_judge_is_counted_where_it_could_be_among_those_shown() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("db")).unwrap();
    let tree = store.tree("audit").unwrap();
    let newer = |index: u64| {
        let time = later(index).0;
        format!(r#"{{"version":9,"index":{index},"time":{time},"event":"rollout"}}"#).into_bytes()
    };
    for index in 0..6 {
        let json = match index % 2 {
            0 => newer(index),
            _ => line(index, event(&of("app", "alice"))).json,
        };
        let key = index.to_be_bytes();
        store
            .write(|writer| writer.insert(&tree, &key, &json))
            .unwrap();
    }
    let key = 6_u64.to_be_bytes();
    store
        .write(|writer| writer.insert(&tree, &key, b"{}"))
        .unwrap();
    let log = open_in(&store, &folder, settings());
    let app = ("client", "app");
    assert_eq!(
        read(&log, Start::Last(9), &[app], false),
        (vec![1, 3, 5], 4)
    );
    assert_eq!(read(&log, Start::Last(2), &[app], false), (vec![3, 5], 2));
    assert_eq!(read(&log, Start::Last(0), &[app], false), (vec![], 0));
    assert_eq!(read(&log, Start::At(2), &[app], false), (vec![3, 5], 3));
    let since = ("since", &*later(3).to_string());
    assert_eq!(
        read(&log, Start::Last(9), &[app, since], false),
        (vec![3, 5], 2)
    );
    // A time alone is theirs, too, where they have one.
    assert_eq!(
        read(&log, Start::Last(9), &[since], false),
        (vec![3, 4, 5, 6], 0)
    );
    assert_eq!(read(&log, Start::Last(2), &[], false), (vec![6, 7], 0));
}
