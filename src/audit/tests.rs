//! The log as its users see it.

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::prompt::{Finish, RequestId, Sampling, Usage};
use crate::reason::{DenyReason, Reason};

const SALT: [u8; 16] = [7; 16];
const START: Timestamp = Timestamp(1_800_000_000_000);

fn settings() -> Settings {
    Settings {
        max_bytes: 64 * 1024 * 1024,
        retention: Duration::from_secs(90 * 86_400),
        refusals_per_minute: 3,
    }
}

fn open(folder: &TempDir, settings: Settings) -> Log {
    let store = Store::open(folder.path()).unwrap();
    let identity = Identity::new("edge-1").unwrap();
    Log::open(&store, settings, &identity).unwrap()
}

fn access(decision: Verdict) -> Access {
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
        realm: text("dev"),
        endpoint: text("slm"),
        issuer: text("https://keycloak.test/realms/dev"),
        subject: text("6b5e4a9c-3f43-4a5c-8a2f-0d5e6f7a8b9c"),
        client: text("device-1"),
        token_id: text("trrtcc:6f0c9f6e-6f0e-4a7e-9b0f-0c4f0e6f0c9f"),
        dpop: false,
        local_peer: false,
        scope: text("read"),
        prompt_hash: Some(prompt_commitment(&SALT, &[1, 2, 3])),
        model_digest: Some("0".repeat(64)),
        sampling: Some(Sampling {
            temperature: 0.7,
            seed: Some(u64::MAX),
            ..Sampling::default()
        }),
        prompt_tokens: Some(31),
        prompt_time: None,
        attempt: None,
    }
}

fn finished() -> Finished {
    Finished {
        request_id: RequestId::random(),
        finish: Finish::Length,
        usage: Usage {
            prompt_tokens: 31,
            completion_tokens: 12,
        },
        answer_hash: "1".repeat(64),
        queue_ms: 1,
        first_token_ms: None,
        total_ms: 900,
    }
}

fn all(log: &Log) -> Vec<Record> {
    let (mut all, mut from) = (Vec::new(), 0);
    loop {
        let page = log.read(from, 100).unwrap();
        let Some(last) = page.last() else { return all };
        from = last.index + 1;
        all.extend(page);
    }
}

fn later(secs: u64) -> Timestamp {
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
        log.refuse(refused.clone(), START).unwrap();
        assert_eq!(log.finish(done.clone(), later(1)).unwrap(), 2);
        let admin = Origin::Admin {
            uid: 0,
            gid: 0,
            pid: None,
        };
        let index = log.change(admin, "keys_pinned", detail.clone(), later(2));
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
        index: 5,
        time: START,
        synchronised: true,
        boot_id: "b".into(),
        event: Event::Truncated {
            first_index: 4,
            removed: 4,
        },
    };
    assert_eq!(
        serde_json::to_string(&record).unwrap(),
        r#"{"index":5,"time":1800000000000,"synchronised":true,"boot_id":"b","event":"truncated","first_index":4,"removed":4}"#
    );
}

#[test]
fn a_flood_of_refusals_is_counted_once_a_minute() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(&folder, settings());
    log.tick(START).unwrap();
    for _ in 0..50 {
        log.refuse(access(Verdict::Deny), later(1)).unwrap();
    }
    let mut other = access(Verdict::Deny);
    other.reason = Some(Reason::Denied(DenyReason::Revoked));
    log.refuse(other, later(1)).unwrap();
    log.tick(later(30)).unwrap();
    assert_eq!(log.next_index(), 4);
    log.tick(later(61)).unwrap();
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
        log.refuse(access(Verdict::Deny), later(62)).unwrap();
    }
    assert_eq!(log.next_index(), 8);
    log.close(later(63)).unwrap();
    assert!(matches!(
        all(&log)[8].event,
        Event::RefusalsSummary { count: 1, .. }
    ));
}

#[test]
fn refusals_never_push_out_permits() {
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
    for _ in 0..2000 {
        log.refuse(access(Verdict::Deny), START).unwrap();
    }
    let records = all(&log);
    assert_eq!(records[0].index, 0, "nothing was removed");
    let refused = records.len() - 20;
    assert!((30..100).contains(&refused), "{refused} refusals recorded");
    assert_eq!(log.metrics().summarised.get(), 2000 - refused as u64);
}

#[test]
fn the_cap_holds_on_the_disk_and_removes_the_oldest() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let identity = Identity::new("edge-1").unwrap();
    let small = Settings {
        max_bytes: 12 * 1024 * 1024,
        ..settings()
    };
    let log = Log::open(&store, small.clone(), &identity).unwrap();
    let mut largest = 0;
    for n in 0..20_000 {
        let append = log.append_permit(access(Verdict::Permit), SALT, START);
        append.unwrap();
        if n % 100 == 0 {
            log.tick(later(n)).unwrap();
            largest = largest.max(store.size_on_disk());
        }
    }
    assert!(largest <= small.max_bytes, "{largest} bytes on the disk");
    let records = all(&log);
    let first = records[0].index;
    assert!(first > 0);
    assert!(records.len() > 1000, "{} records are left", records.len());
    for (at, record) in records.iter().enumerate() {
        assert_eq!(record.index, first + at as u64);
    }
    let truncated = |r: &&Record| matches!(r.event, Event::Truncated { .. });
    let last = records.iter().rfind(truncated).unwrap();
    assert!(matches!(last.event, Event::Truncated { first_index, .. } if first_index == first));
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
    let known = crate::time::synchronised();
    for n in 0..10 {
        log.permit(access(Verdict::Permit), SALT, later(n * 1000))
            .unwrap();
    }
    log.0.tick(later(1_000_000), false).unwrap();
    assert_eq!(all(&log).len(), 10);
    log.0.tick(later(7000), true).unwrap();
    let records = all(&log);
    if known {
        assert_eq!(records[0].index, 4);
        assert_eq!(
            records.last().unwrap().event,
            Event::Truncated {
                first_index: 4,
                removed: 4
            }
        );
    } else {
        assert_eq!(records.len(), 10);
    }
}

#[test]
fn too_large_a_record_is_refused_and_costs_no_index() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(&folder, settings());
    let mut access = access(Verdict::Permit);
    access.endpoint = Some("x".repeat(MAX_RECORD));
    let refused = log.permit(access.clone(), SALT, START);
    assert!(matches!(refused, Err(AuditError::TooLarge)));
    access.decision = Verdict::Deny;
    log.refuse(access, START).unwrap();
    assert_eq!(log.metrics().summarised.get(), 1);
    assert_eq!(log.next_index(), 0);
}

#[test]
fn an_erased_salt_leaves_the_record() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(&folder, settings());
    let index = log.permit(access(Verdict::Permit), SALT, START).unwrap();
    assert_eq!(log.salt(index).unwrap(), Some(SALT));
    log.erase_salt(index, Origin::Daemon, START).unwrap();
    assert_eq!(log.salt(index).unwrap(), None);
    assert_eq!(all(&log).len(), 2);
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
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in [
        "slmd_audit_records_total 1",
        "slmd_audit_refusals_summarised_total 0",
        "slmd_audit_bytes ",
        "slmd_audit_fill_ratio 0.0000",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}
