//! The log as its users see it.

use serde_json::json;
use tempfile::TempDir;

use super::record::{MAX_TOKEN_IDS, VERSION};
use super::*;
use crate::prompt::{Finish, RequestId, Sampling, Usage};
use crate::reason::{DenyReason, Reason};

pub(super) const SALT: [u8; 16] = [7; 16];
pub(super) const START: Timestamp = Timestamp(1_800_000_000_000);

pub(crate) fn settings() -> Settings {
    Settings {
        max_bytes: 64 * 1024 * 1024,
        retention: Duration::from_secs(90 * 86_400),
        refusals_per_minute: 3,
        origin: "slmd.internal".to_owned(),
        checkpoint_records: 1000,
        checkpoint_interval: Duration::from_secs(60),
        export: Default::default(),
        witnesses: Vec::new(),
    }
}

/// The largest record of an access, its summary or its finish, whatever its client sends.
const MAX_ENTRY: usize = 5 * 1024;

impl Log {
    pub(super) fn permit(
        &self,
        access: Access,
        salt: [u8; 16],
        now: Timestamp,
    ) -> Result<u64, AuditError> {
        let append = || self.append_permit(access, salt, now);
        self.0.store.commit(append)
    }
}

pub(super) fn open(folder: &TempDir, settings: Settings) -> Log {
    let store = Store::open(&folder.path().join("db")).unwrap();
    open_in(&store, folder, settings)
}

pub(crate) fn open_in(store: &Store, folder: &TempDir, settings: Settings) -> Log {
    open_at(store, folder, settings, Clocks::default())
}

pub(crate) fn open_at(store: &Store, folder: &TempDir, settings: Settings, clocks: Clocks) -> Log {
    let device = Device {
        identity: &Identity::new("edge-1").unwrap(),
        key: &Key::published(),
        folder: folder.path(),
    };
    Log::open(store, settings, device, clocks).unwrap()
}

pub(super) fn access(decision: Verdict) -> Access {
    let text = |text: &str| Some(text.to_owned());
    Access {
        request_id: RequestId::random(),
        origin: Origin::Socket {
            uid: 1000,
            gid: 1000,
            pid: Some(77),
        },
        action: "chat".into(),
        decision,
        reason: (decision == Verdict::Deny).then_some(Reason::Denied(DenyReason::Expired)),
        detail: None,
        realm: text("dev"),
        endpoint: text("slm"),
        issuer: text("https://keycloak.test/realms/dev"),
        subject: text("6b5e4a9c-3f43-4a5c-8a2f-0d5e6f7a8b9c"),
        username: None,
        client: text("device-1"),
        token_id: text("trrtcc:6f0c9f6e-6f0e-4a7e-9b0f-0c4f0e6f0c9f"),
        dpop: false,
        local_peer: false,
        scope: text("read"),
        prompt_hash: Some(prompt_commitment(&SALT, &[1, 2, 3])),
        model_digest: Some("0".repeat(64)),
        kernels: text("neon-dotprod"),
        sampling: Some(Sampling {
            temperature: 0.7,
            seed: Some(u64::MAX),
            ..Sampling::default()
        }),
        prompt_tokens: Some(31),
        prompt_time: None,
        attempt: None,
        text: None,
    }
}

pub(crate) fn finished() -> Finished {
    Finished {
        request_id: RequestId::random(),
        principal: access(Verdict::Permit).tag(),
        realm: Some("dev".to_owned()),
        endpoint: Some("slm".to_owned()),
        access_index: Some(7),
        finish: Finish::Length,
        usage: Usage {
            prompt_tokens: 31,
            completion_tokens: 12,
        },
        answer_hash: "1".repeat(64),
        queue_ms: 1,
        first_token_ms: None,
        total_ms: 900,
        text: None,
    }
}

pub(super) fn all(log: &Log) -> Vec<Record> {
    let (mut all, mut from) = (Vec::new(), 0);
    loop {
        let page = log.read(from, 100).unwrap();
        let Some(last) = page.last() else { return all };
        from = last.index + 1;
        all.extend(page.iter().filter_map(Line::record));
    }
}

pub(super) fn later(secs: u64) -> Timestamp {
    START.saturating_add(Duration::from_secs(secs))
}

#[test]
fn every_event_comes_back_as_it_went_in_and_indexes_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let (permitted, refused, done) = (access(Verdict::Permit), access(Verdict::Deny), finished());
    let detail = json!({ "b": 1, "a": ["x", null] });
    {
        let log = open(&folder, settings());
        assert_eq!(log.permit(permitted.clone(), SALT, START).unwrap(), 0);
        log.refuse(&refused, START);
        assert_eq!(log.finish(done.clone(), later(1)).unwrap(), 2);
        let admin = Origin::Admin {
            uid: 0,
            gid: 0,
            pid: None,
        };
        let index = log.change(admin, Change::KeysPinned, detail.clone(), later(2));
        assert_eq!(index.unwrap(), 3);
    }
    let log = open(&folder, settings());
    let records = all(&log);
    let events: Vec<&Event> = records.iter().map(|r| &r.event).collect();
    assert_eq!(*events[0], Event::Access(Box::new(permitted)));
    assert_eq!(*events[1], Event::Access(Box::new(refused)));
    assert_eq!(*events[2], Event::Finish(Box::new(done)));
    assert!(matches!(events[3], Event::Change { detail: d, .. } if *d == detail));
    assert_eq!(records[2].time, later(1));
    assert_eq!(log.permit(access(Verdict::Permit), SALT, START).unwrap(), 4);
}

#[test]
fn equal_records_are_equal_bytes() {
    let record = Record {
        version: VERSION,
        index: 5,
        time: START,
        synchronised: true,
        boot_id: "b".into(),
        event: Event::Truncated {
            first_index: 4,
            removed: 4,
            removed_in_all: Some(4),
            losses: Vec::new(),
            of_others: 0,
        },
    };
    assert_eq!(
        serde_json::to_string(&record).unwrap(),
        r#"{"version":1,"index":5,"time":1800000000000,"synchronised":true,"boot_id":"b","event":"truncated","first_index":4,"removed":4,"removed_in_all":4}"#
    );
}

/// A refusal where nobody was verified.
fn nobodys() -> Access {
    let mut access = access(Verdict::Deny);
    (access.issuer, access.subject, access.client) = (None, None, None);
    access
}

#[test]
fn a_flood_of_refusals_is_counted_once_a_minute() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(&folder, settings());
    log.tick(START, false).unwrap();
    for _ in 0..50 {
        log.refuse(&nobodys(), later(1));
    }
    let mut other = nobodys();
    other.reason = Some(Reason::Denied(DenyReason::Revoked));
    log.refuse(&other, later(1));
    log.tick(later(30), false).unwrap();
    assert_eq!(log.next_index(), 4);
    log.tick(later(61), false).unwrap();
    let records = all(&log);
    assert_eq!(records.len(), 5);
    let summary = Event::RefusalsSummary {
        transport: "socket".into(),
        reason: Reason::Denied(DenyReason::Expired),
        count: 47,
        since: later(1),
    };
    assert_eq!(records[4].event, summary);
    // A new minute, a new allowance; what is counted survives a clean stop.
    for _ in 0..4 {
        log.refuse(&nobodys(), later(62));
    }
    assert_eq!(log.next_index(), 8);
    log.close(later(63)).unwrap();
    assert!(matches!(
        all(&log)[8].event,
        Event::RefusalsSummary { count: 1, .. }
    ));
}

#[test]
fn a_verified_refusal_is_on_record_beside_a_flood_of_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(&folder, settings());
    log.tick(START, false).unwrap();
    let reasons: Vec<Reason> = Reason::all().collect();
    for (n, reason) in reasons.iter().copied().cycle().take(5000).enumerate() {
        let mut flood = match n % 2 {
            0 => nobodys(),
            _ => access(Verdict::Deny),
        };
        flood.reason = Some(reason);
        log.refuse(&flood, later(1));
    }
    let mut own = access(Verdict::Deny);
    own.subject = Some("somebody else".to_owned());
    assert_eq!(log.refuse(&own, later(1)), Noted::ByItself);
    let recorded = log.next_index();
    // Four times what one reason may have, the first of each reason, the principals' own.
    let most = 4 * 3 + reasons.len() as u64 + 2 * 3;
    assert!(recorded <= most, "{recorded} of {most}");
    let records = all(&log);
    let last = &records.last().unwrap().event;
    assert_eq!(*last, Event::Access(Box::new(own)));
    // Whose the counted ones were is told too.
    log.close(later(2)).unwrap();
    let summaries = all(&log).split_off(records.len());
    let counted = summaries.iter().map(|record| match &record.event {
        Event::AccessesSummary(summary) => {
            assert_eq!(summary.subject, access(Verdict::Deny).subject);
            assert_eq!(summary.decision, Verdict::Deny);
            summary.count
        }
        Event::RefusalsSummary { count, .. } => *count,
        other => panic!("{other:?}"),
    });
    assert_eq!(counted.sum::<u64>() + recorded, 5001);
}

#[test]
fn refusals_never_push_out_permits_and_the_newest_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let small = Settings {
        max_bytes: 0,
        refusals_per_minute: u32::MAX,
        ..settings()
    };
    let log = open(&folder, small);
    for _ in 0..20 {
        log.permit(access(Verdict::Permit), SALT, START).unwrap();
    }
    for n in 0..2000 {
        log.refuse(&nobodys(), later(n));
    }
    // Summaries are of the same share.
    for n in 0..2000 {
        let mut state = log.state();
        let summary = Event::RefusalsSummary {
            transport: "socket".into(),
            reason: Reason::Denied(DenyReason::Expired),
            count: n,
            since: START,
        };
        log.0.append(&mut state, summary, None, later(n)).unwrap();
    }
    let records = all(&log);
    let permits = records[..20].iter().map(|record| record.index);
    assert!(permits.eq(0..20), "no permit was removed");
    let bytes = |record: &Record| serde_json::to_vec(record).unwrap().len() as u64;
    let refusals = records.iter().filter(|record| {
        matches!(&record.event, Event::RefusalsSummary { .. })
            || matches!(&record.event, Event::Access(access) if access.decision == Verdict::Deny)
    });
    let taken: u64 = refusals.map(bytes).sum();
    assert!((15_000..=32 * 1024).contains(&taken), "{taken} bytes");
    let newest = records.iter().rev().find_map(|record| match record.event {
        Event::RefusalsSummary { count, .. } => Some(count),
        _ => None,
    });
    assert_eq!(newest, Some(1999));
}

#[test]
fn reads_are_counted_after_the_first_and_summed_up() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(&folder, settings());
    let read = |token: u64| {
        let mut access = access(Verdict::Permit);
        access.action = "list_models".into();
        access.token_id = Some(format!("token-{token}"));
        access
    };
    let look = |token, secs| {
        let read = read(token);
        let counted = log.count_read(&read, later(secs));
        if !counted {
            log.append_read(read.clone(), later(secs)).unwrap();
            log.begin_counting(&read, later(secs));
        }
        counted
    };
    assert!(!look(0, 0), "the first is on record by itself");
    for n in 0..20_000 {
        assert!(look(n % 10, 1 + n / 100));
    }
    log.tick(later(300), false).unwrap();
    assert_eq!(log.next_index(), 1);
    log.tick(later(600), false).unwrap();
    let records = all(&log);
    let Event::AccessesSummary(summary) = &records[1].event else {
        panic!("{:?}", records[1]);
    };
    assert_eq!((summary.count, summary.by_other_tokens), (20_000, 4000));
    assert_eq!((summary.first, summary.last), (later(1), later(200)));
    assert_eq!(summary.token_ids.len(), MAX_TOKEN_IDS);
    assert_eq!(summary.subject, access(Verdict::Permit).subject);
    assert_eq!(summary.action, "list_models");
    // Counting goes on until nobody looks; what is counted survives a clean stop.
    assert!(look(0, 1199));
    log.tick(later(1200), false).unwrap();
    log.tick(later(1800), false).unwrap();
    assert_eq!(log.next_index(), 3);
    assert!(!look(0, 1801), "a first again");
    assert!(look(0, 1802));
    log.close(later(1803)).unwrap();
    assert!(matches!(&all(&log)[4].event, Event::AccessesSummary(s) if s.count == 1));
    // What there is no room to count is recorded one by one.
    for n in 0..600 {
        let mut read = read(0);
        read.subject = Some(n.to_string());
        assert!(!log.count_read(&read, later(1804)));
        log.begin_counting(&read, later(1804));
    }
    let mut late = read(0);
    late.subject = Some("599".to_owned());
    assert!(!log.count_read(&late, later(1804)));
}

#[test]
fn an_administrators_looks_are_counted_and_changes_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(&folder, settings());
    let admin = || Origin::Admin {
        uid: 0,
        gid: 0,
        pid: None,
    };
    for n in 0..100 {
        log.look(admin(), &Change::AskedStatus.into(), later(n))
            .unwrap();
    }
    log.change(admin(), Change::AskedReload, json!(null), later(100))
        .unwrap();
    log.close(later(101)).unwrap();
    let records = all(&log);
    assert_eq!(records.len(), 3);
    assert!(
        matches!(&records[0].event, Event::Change { what, .. } if *what == Change::AskedStatus.into())
    );
    let Event::AccessesSummary(summary) = &records[2].event else {
        panic!("{:?}", records[2]);
    };
    assert_eq!((summary.uid, summary.count), (Some(0), 99));
}

#[test]
fn the_cap_holds_on_the_disk_and_removes_the_oldest() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("db")).unwrap();
    let small = Settings {
        max_bytes: 12 * 1024 * 1024,
        ..settings()
    };
    let log = open_in(&store, &folder, small.clone());
    let mut largest = 0;
    for n in 0..20_000 {
        let append = log.append_permit(access(Verdict::Permit), SALT, START);
        append.unwrap();
        if n % 100 == 0 {
            log.tick(later(n), false).unwrap();
            largest = largest.max(store.size_on_disk());
        }
    }
    assert!(largest <= small.max_bytes, "{largest} bytes on the disk");
    let records = all(&log);
    let is_permit = |record: &&Record| matches!(record.event, Event::Access(_));
    let permits: Vec<u64> = records.iter().filter(is_permit).map(|r| r.index).collect();
    let first = permits[0];
    assert!(first > 0);
    assert!(permits.len() > 1000, "{} permits are left", permits.len());
    // Only truncations lie between the newest.
    let since = records.iter().filter(|r| r.index >= first);
    assert!(since.map(|r| r.index).eq(first..log.next_index()));
    let last = records.iter().rev().find_map(|record| match &record.event {
        Event::Truncated { losses, .. } => Some(losses[0].clone()),
        _ => None,
    });
    let last = last.unwrap();
    assert!(last.to < first && last.from < last.to, "{last:?}");
    assert_eq!(last.subject, access(Verdict::Permit).subject);
    assert_eq!(log.salt(first - 1).unwrap(), None);
    assert_eq!(log.salt(log.next_index() - 2).unwrap(), Some(SALT));
    // The counters that were kept along the way are those of a fresh look.
    let kept = log.metrics().bytes.get();
    drop((log, store));
    assert_eq!(open(&folder, small).metrics().bytes.get(), kept);
}

#[test]
fn retention_needs_a_known_time() {
    let folder = tempfile::tempdir().unwrap();
    let short = Settings {
        retention: Duration::from_secs(3600),
        ..settings()
    };
    let log = open(&folder, short);
    // Whether this machine's clock is synchronised is not for the test to choose.
    let known = Clocks::default().synchronised();
    for n in 0..10 {
        log.permit(access(Verdict::Permit), SALT, later(n * 1000))
            .unwrap();
    }
    log.tick(later(1_000_000), false).unwrap();
    assert_eq!(all(&log).len(), 10);
    log.tick(later(7000), true).unwrap();
    let records = all(&log);
    if known {
        assert_eq!(records[0].index, 4);
        assert_eq!(
            records.last().unwrap().event,
            Event::Truncated {
                first_index: 4,
                removed: 4,
                removed_in_all: Some(4),
                losses: Vec::new(),
                of_others: 0,
            }
        );
    } else {
        assert_eq!(records.len(), 10);
    }
}

/// More of them than are removed in one go.
#[test]
fn a_long_run_of_unknown_times_doesnt_keep_retention_from_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let short = || Settings {
        retention: Duration::from_secs(3600),
        ..settings()
    };
    let log = open(&folder, short());
    let (old, fresh) = (trim::MOST as u64 + 1, trim::MOST as u64 + 2);
    let written = log.0.store.write(|writer| {
        for index in 0..=fresh {
            let record = Record {
                version: VERSION,
                index,
                time: if index == fresh { later(9000) } else { START },
                synchronised: index >= old,
                boot_id: String::new(),
                event: Event::Access(Box::new(access(Verdict::Deny))),
            };
            let json = serde_json::to_vec(&record).unwrap();
            writer.insert(&log.0.records, &index.to_be_bytes(), &json)?;
        }
        Ok::<_, AuditError>(())
    });
    written.unwrap();
    drop(log);
    let log = open(&folder, short());
    for _ in 0..2 {
        log.tick(later(9000), true).unwrap();
    }
    assert_eq!(all(&log)[0].index, fresh);
}

#[test]
fn too_large_a_record_is_refused_and_costs_no_index() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(&folder, settings());
    let detail = json!("x".repeat(MAX_RECORD));
    let refused = log.change(Origin::Daemon, Change::Start, detail, START);
    assert!(matches!(refused, Err(AuditError::TooLarge)));
    assert_eq!(log.next_index(), 0);
}

#[test]
fn whatever_a_client_chooses_its_records_are_small() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(&folder, settings());
    let long = || Some("\u{1}".repeat(60_000));
    let mut access = access(Verdict::Permit);
    access.request_id = RequestId::beside(Some(&"\"".repeat(RequestId::MAX_CLIENT)));
    access.origin = Origin::Mqtt {
        topic: long().unwrap(),
    };
    (access.endpoint, access.token_id, access.username) = (long(), long(), long());
    (access.issuer, access.subject, access.client) = (long(), long(), long());
    log.permit(access.clone(), SALT, START).unwrap();
    access.decision = Verdict::Deny;
    assert_eq!(log.refuse(&access, START), Noted::ByItself);
    access.decision = Verdict::Permit;
    log.begin_counting(&access, START);
    for n in 0..20 {
        access.token_id = Some(format!("{n}{}", long().unwrap()));
        assert!(log.count_read(&access, START));
    }
    log.close(START).unwrap();
    let records = all(&log);
    assert_eq!(records.len(), 3);
    for record in records {
        let size = serde_json::to_vec(&record).unwrap().len();
        assert!(size <= MAX_ENTRY, "{size} bytes: {record:?}");
    }
}

#[test]
fn a_commitment_binds_salt_and_order() {
    let commitment = prompt_commitment(&SALT, &[1, 2]);
    assert_eq!(commitment.len(), 64);
    assert_ne!(commitment, prompt_commitment(&SALT, &[2, 1]));
    assert_ne!(commitment, prompt_commitment(&[8; 16], &[1, 2]));
}

#[tokio::test]
async fn waiters_wake_for_their_record() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(&folder, settings());
    let waiter = tokio::spawn({
        let log = log.clone();
        async move { log.wait(1).await }
    });
    log.permit(access(Verdict::Permit), SALT, START).unwrap();
    tokio::task::yield_now().await;
    assert!(!waiter.is_finished());
    log.permit(access(Verdict::Permit), SALT, START).unwrap();
    waiter.await.unwrap();
}

#[test]
fn metrics_carry_the_promised_names() {
    let mut registry = crate::telemetry::Registry::default();
    let folder = tempfile::tempdir().unwrap();
    let log = open(&folder, settings());
    log.metrics().register(&mut registry);
    log.permit(access(Verdict::Permit), SALT, START).unwrap();
    let signed = log.sign_now(START).unwrap();
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let at = START.as_secs();
    for line in [
        "slmd_audit_records_total 1",
        "slmd_audit_refusals_summarised_total 0",
        "slmd_audit_reads_summarised_total 0",
        "slmd_audit_records_removed_total 0",
        "slmd_audit_records_unread 0",
        "slmd_audit_bytes ",
        "slmd_audit_fill_ratio 0.0000",
        &format!("slmd_audit_last_record_timestamp_seconds {at}\n"),
        &format!("slmd_audit_tree_size {}\n", signed.size),
        &format!("slmd_audit_checkpoint_size {}\n", signed.size),
        &format!("slmd_audit_checkpoint_timestamp_seconds {at}\n"),
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}
