//! Pages show what may be seen and is asked for, each record once, with bounded work.

use std::collections::BTreeSet;

use serde_json::json;
use tempfile::TempDir;

use super::filter_tests::{crowded, filter, finish, of};
use super::record::Summary;
use super::tests::{START, later, open, open_in, settings};
use super::*;
use crate::prompt::{Finish, RequestId};
use crate::reason::{DenyReason, Reason};
use crate::store::Store;

fn asked(from: Option<u64>, limit: usize, order: Order, pairs: &[(&str, &str)]) -> Asked {
    let filter = filter(pairs);
    Asked {
        from,
        limit,
        order,
        filter,
    }
}

/// All pages, one after the other; `between` what happens meanwhile.
fn walk(log: &Log, view: &View, mut asked: Asked, between: impl Fn()) -> Vec<u64> {
    let mut indexes = Vec::new();
    loop {
        let page = log.page(view, &asked).unwrap();
        assert!(page.lines.len() <= asked.limit);
        indexes.extend(page.lines.iter().map(|line| line.index));
        between();
        if !page.more {
            return indexes;
        }
        asked.from = Some(page.next.unwrap());
    }
}

fn dev() -> View {
    View::Realm("dev".to_owned())
}

fn append(log: &Log, event: Event) -> u64 {
    log.0.append(&mut log.state(), event, None, START).unwrap()
}

fn access_of(realm: &str, client: &str) -> Access {
    let mut access = of(client, "alice");
    access.realm = Some(realm.to_owned());
    access
}

fn change(origin: Origin, what: impl Into<What>, detail: serde_json::Value) -> Event {
    let what = what.into();
    Event::Change {
        origin,
        what,
        detail,
    }
}

/// What there is to see in a log, each with whether an auditor of `dev` may.
fn everything() -> Vec<(Event, bool)> {
    let access = |access: &Access| Event::Access(Box::new(access.clone()));
    let (own, others) = (access_of("dev", "app"), access_of("prod", "app"));
    let admin = || Origin::Admin {
        uid: 0,
        gid: 0,
        pid: Some(7),
    };
    let refused = |mut access: Access| {
        access.request_id = RequestId::random();
        access.decision = Verdict::Deny;
        access.reason = Some(Reason::Denied(DenyReason::Expired));
        access
    };
    let mut nobody = refused(own.clone());
    (nobody.realm, nobody.issuer) = (None, None);
    let summary = |access: &Access| Event::AccessesSummary(Box::new(Summary::of(access, START)));
    let older = |access: &Access| {
        let Event::Finish(mut finished) = finish(access, Finish::Stop) else {
            panic!("a finish");
        };
        (finished.realm, finished.endpoint) = (None, None);
        Event::Finish(finished)
    };
    let (old, others_old) = (access_of("dev", "old"), access_of("prod", "old"));
    let asked_pin = What {
        change: Change::AskedPin,
        realm: Some("dev".to_owned()),
    };
    let of_dev = || json!({"realm": "dev"});
    vec![
        (access(&own), true),
        (access(&others), false),
        (finish(&others, Finish::Stop), false),
        (finish(&own, Finish::Stop), true),
        (access(&old), true),
        (access(&others_old), false),
        (older(&others_old), false),
        (older(&old), true),
        // Its access was never there: nobody can tell whose it is.
        (older(&access_of("dev", "gone")), false),
        (access(&refused(own.clone())), true),
        (access(&refused(others.clone())), false),
        (access(&nobody), false),
        (summary(&own), true),
        (summary(&others), false),
        (change(Origin::Daemon, Change::KeysPinned, of_dev()), true),
        (
            change(Origin::Daemon, Change::KeysPinned, json!({"realm": "prod"})),
            false,
        ),
        (change(admin(), Change::KeysPinned, of_dev()), false),
        (change(admin(), asked_pin, json!(null)), false),
        (
            change(
                Origin::Daemon,
                Change::TrustUpdated,
                json!({"realm": "dev", "keys": ["prod"]}),
            ),
            false,
        ),
        (change(Origin::Daemon, Change::Start, json!({})), false),
        (
            Event::RefusalsSummary {
                transport: "tcp".to_owned(),
                reason: Reason::Denied(DenyReason::Expired),
                count: 7,
                since: START,
            },
            false,
        ),
        (
            Event::Truncated {
                first_index: 0,
                removed: 1,
                removed_in_all: Some(1),
                losses: Vec::new(),
                of_others: 0,
            },
            false,
        ),
    ]
}

#[test]
fn an_auditor_sees_his_realm_alone_in_every_order_and_by_every_filter() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(&folder, settings());
    let all = everything();
    for (event, _) in &all {
        append(&log, event.clone());
    }
    let shown = all.iter().zip(0..).filter(|((_, shown), _)| *shown);
    let own: BTreeSet<u64> = shown.map(|(_, index)| index).collect();
    for order in [Order::OldestFirst, Order::NewestFirst] {
        for limit in [1, 2, 3, 256] {
            let mut seen = walk(&log, &dev(), asked(None, limit, order, &[]), || {});
            if order == Order::NewestFirst {
                seen.reverse();
            }
            assert_eq!(seen, own.iter().copied().collect::<Vec<_>>());
        }
        // Whatever is asked for, it is among these; and of a prompt both records are.
        for (pairs, least) in [
            (&[("client", "app")][..], 4),
            (&[("client", "old")], 2),
            (&[("realm", "prod")], 0),
            (&[("realm", "dev")], 5),
            (&[("endpoint", "slm")], 3),
            (&[("decision", "permit")], 5),
            (&[("decision", "expired")], 1),
            (&[("user", "alice")], 6),
            (&[("uid", "0")], 0),
            (&[("event", "finish")], 2),
            (&[("event", "change")], 1),
            (&[("event", "truncated")], 0),
            (&[("where", "detail.realm=prod")], 0),
            (&[("where", "detail.realm=dev")], 1),
            (&[("where", "realm=prod")], 0),
            (&[("where", "origin.uid=0")], 0),
            (&[("since", "2027-01-15T08:00:00.000Z")], own.len()),
            (&[("until", "2027-01-15T08:00:00.000Z")], 0),
        ] {
            let seen = walk(&log, &dev(), asked(None, 2, order, pairs), || {});
            assert!(seen.iter().all(|index| own.contains(index)), "{pairs:?}");
            assert!(seen.len() >= least, "{pairs:?}: {seen:?}");
        }
    }
    let whole = walk(
        &log,
        &View::Whole,
        asked(None, 7, Order::OldestFirst, &[]),
        || {},
    );
    assert!(whole.into_iter().eq(0..all.len() as u64));
}

#[test]
fn pages_give_each_record_once_while_new_ones_come() {
    let folder = tempfile::tempdir().unwrap();
    let log = crowded(&folder);
    let end = log.next_index();
    let more = || {
        append(&log, Event::Access(Box::new(access_of("prod", "c3"))));
    };
    for order in [Order::OldestFirst, Order::NewestFirst] {
        let last = log.next_index();
        let seen = walk(&log, &View::Whole, asked(None, 7, order, &[]), more);
        let distinct: BTreeSet<u64> = seen.iter().copied().collect();
        assert_eq!(distinct.len(), seen.len());
        assert!((0..last).all(|index| distinct.contains(&index)));
        let sorted = match order {
            Order::OldestFirst => seen.is_sorted(),
            Order::NewestFirst => seen.is_sorted_by(|a, b| a > b),
        };
        assert!(sorted);
    }
    // As one who reads all at once sees it: c3's prompts with their finishes.
    let of_c3 = asked(
        None,
        5,
        Order::OldestFirst,
        &[("client", "c3"), ("realm", "dev")],
    );
    let seen = walk(&log, &View::Whole, of_c3, || {});
    let expected = (0..end).filter(|index| index / 2 % 10 == 3);
    assert!(seen.into_iter().eq(expected));
}

#[test]
fn a_filter_that_matches_nothing_reads_a_part_and_says_where_to_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(&folder, settings());
    for _ in 0..2500 {
        append(&log, Event::Access(Box::new(access_of("dev", "app"))));
    }
    let none = [("client", "other")];
    let page = log
        .page(&dev(), &asked(None, 1, Order::OldestFirst, &none))
        .unwrap();
    assert_eq!(
        (page.lines.len(), page.more, page.next),
        (0, true, Some(2048))
    );
    let rest = asked(page.next, 1, Order::OldestFirst, &none);
    let page = log.page(&dev(), &rest).unwrap();
    assert_eq!((page.more, page.next), (false, Some(2500)));
    let page = log
        .page(&dev(), &asked(None, 1, Order::NewestFirst, &none))
        .unwrap();
    assert_eq!((page.more, page.next), (true, Some(451)));
    let rest = asked(page.next, 1, Order::NewestFirst, &none);
    let page = log.page(&dev(), &rest).unwrap();
    assert_eq!((page.more, page.next), (false, None));
}

#[test]
fn a_finish_is_found_by_where_its_access_stands() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(&folder, settings());
    let access = access_of("dev", "app");
    let at = append(&log, Event::Access(Box::new(access.clone())));
    for _ in 0..2000 {
        append(&log, Event::Access(Box::new(access_of("dev", "crowd"))));
    }
    let Event::Finish(mut finished) = finish(&access, Finish::Stop) else {
        panic!("a finish");
    };
    finished.access_index = Some(at);
    append(&log, Event::Finish(finished.clone()));
    // Of another request: an index that a lost log gave to another record.
    finished.request_id = RequestId::random();
    append(&log, Event::Finish(finished));
    for order in [Order::OldestFirst, Order::NewestFirst] {
        let mine = asked(Some(2001), 1, order, &[("client", "app")]);
        let page = log.page(&dev(), &mine).unwrap();
        let found: Vec<u64> = page.lines.iter().map(|line| line.index).collect();
        assert_eq!(found, [2001]);
    }
}

/// What a newer release wrote is nobody's who may not see all.
#[test]
fn what_cant_be_read_is_shown_to_the_whole_log_s_reader_alone() {
    let folder: TempDir = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let tree = store.tree("audit").unwrap();
    let newer = format!(
        r#"{{"version":9,"index":0,"time":{},"event":"rollout","realm":"dev"}}"#,
        later(0).0
    );
    let key = 0_u64.to_be_bytes();
    store
        .write(|writer| writer.insert(&tree, &key, newer.as_bytes()))
        .unwrap();
    let log = open_in(&store, &folder, settings());
    for (view, pairs, count) in [
        // Beside it the record that an epoch has begun.
        (View::Whole, &[][..], 2),
        (View::Whole, &[("where", "event=rollout")], 1),
        (View::Whole, &[("event", "access")], 0),
        (dev(), &[], 0),
        (dev(), &[("where", "event=rollout")], 0),
    ] {
        let page = log
            .page(&view, &asked(None, 9, Order::OldestFirst, pairs))
            .unwrap();
        assert_eq!(page.lines.len(), count, "{pairs:?}");
    }
}
