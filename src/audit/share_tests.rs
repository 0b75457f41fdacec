//! Who loses what when the log is full, over all orders of what is recorded.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tempfile::TempDir;

use super::kept::OVERHEAD;
use super::owners::{Owner, STEP};
use super::record::Whose;
use super::*;
use crate::prompt::{Finish, RequestId, Usage};
use crate::reason::{DenyReason, Reason};

/// What a log with the least cap holds.
const BUDGET: u64 = 64 * 1024;

fn open(folder: &TempDir) -> Log {
    let settings = Settings {
        max_bytes: 0,
        refusals_per_minute: u32::MAX,
        ..tests::settings()
    };
    tests::open(folder, settings)
}

#[derive(Debug, Clone, Copy)]
enum What {
    Permit,
    Finish,
    Refusal,
    /// A refusal where nobody is verified.
    Nobodys,
    Change,
}

#[derive(Debug, Clone, Copy)]
struct Step {
    who: u8,
    what: What,
    padding: usize,
    times: usize,
}

fn step() -> impl Strategy<Value = Step> {
    let what = prop_oneof![
        5 => Just(What::Permit),
        4 => Just(What::Finish),
        3 => Just(What::Refusal),
        2 => Just(What::Nobodys),
        1 => Just(What::Change),
    ];
    // Now and then a flood.
    let times = prop_oneof![6 => 1..3usize, 1 => 20..200usize];
    (0..6u8, what, 0..250usize, times).prop_map(|(who, what, padding, times)| Step {
        who,
        what,
        padding,
        times,
    })
}

fn event(step: Step) -> Event {
    let subject = format!("subject-{}", step.who);
    let verified = !matches!(step.what, What::Nobodys);
    let text = |text: &str| verified.then(|| text.to_owned());
    let access = |decision: Verdict| {
        Event::Access(Box::new(Access {
            request_id: RequestId::random(),
            origin: Origin::Daemon,
            action: "chat".into(),
            decision,
            reason: (decision == Verdict::Deny).then_some(Reason::Denied(DenyReason::Expired)),
            detail: None,
            realm: None,
            endpoint: None,
            issuer: text("https://keycloak.test/realms/dev"),
            subject: text(&subject),
            username: None,
            client: text("device"),
            token_id: Some("x".repeat(step.padding)),
            dpop: false,
            local_peer: false,
            scope: None,
            prompt_hash: None,
            model_digest: None,
            kernels: None,
            sampling: None,
            prompt_tokens: None,
            prompt_time: None,
            attempt: None,
            text: None,
        }))
    };
    match step.what {
        What::Permit => access(Verdict::Permit),
        What::Refusal | What::Nobodys => access(Verdict::Deny),
        What::Finish => Event::Finish(Box::new(Finished {
            request_id: RequestId::random(),
            principal: Some(Tag::of(
                "https://keycloak.test/realms/dev",
                &subject,
                "device",
            )),
            realm: None,
            endpoint: None,
            access_index: None,
            finish: Finish::Stop,
            usage: Usage::default(),
            answer_hash: "0".repeat(step.padding),
            queue_ms: 0,
            first_token_ms: None,
            total_ms: 0,
            text: None,
        })),
        What::Change => Event::Change {
            origin: Origin::Daemon,
            what: Change::KeysRefreshed.into(),
            detail: "x".repeat(step.padding).into(),
        },
    }
}

/// What everybody has recorded so far, removed or not.
#[derive(Debug, Default)]
struct Recorded(BTreeMap<Owner, Vec<(u64, u64)>>);

impl Recorded {
    fn bytes(&self, owner: Owner) -> u64 {
        self.0[&owner].iter().map(|(_, bytes)| bytes).sum()
    }

    /// What nobody loses who has no more: an equal part, of the refusals' half for refusals.
    fn share(&self, owner: Owner) -> u64 {
        let refusals = |owner: &&Owner| matches!(owner, Owner::Refusals(_));
        // Truncations are one more.
        let all = self.0.len() as u64 + 1;
        let share = (BUDGET - BUDGET / STEP) / all;
        if !refusals(&&owner) {
            return share;
        }
        let half = BUDGET / 2;
        let kinds = self.0.keys().filter(refusals).count() as u64;
        share.min((half - half / STEP) / kinds)
    }
}

fn records(log: &Log) -> Vec<Record> {
    let (mut records, mut from) = (Vec::new(), 0);
    loop {
        let page = log.read(from, usize::MAX).unwrap();
        let Some(last) = page.last() else {
            return records;
        };
        from = last.index + 1;
        records.extend(page.iter().filter_map(Line::record));
    }
}

/// The log holds what it must, in order, and tells of what it lost.
fn check(log: &Log, recorded: &Recorded) -> Result<(), TestCaseError> {
    let records = records(log);
    let bytes = |record: &Record| serde_json::to_vec(record).unwrap().len() as u64 + OVERHEAD;
    let total: u64 = records.iter().map(bytes).sum();
    prop_assert!(total <= BUDGET, "{} bytes", total);
    prop_assert!(records.is_sorted_by(|a, b| a.index < b.index));
    prop_assert_eq!(records.last().map(|r| r.index + 1), Some(log.next_index()));
    let left: BTreeSet<u64> = records.iter().map(|record| record.index).collect();
    for (owner, own) in &recorded.0 {
        let lost = own
            .iter()
            .filter(|(index, _)| !left.contains(index))
            .count();
        prop_assert!(
            own[..lost].iter().all(|(index, _)| !left.contains(index)),
            "{:?} lost newer records before older ones",
            owner
        );
        let bytes = recorded.bytes(*owner);
        prop_assert!(
            lost == 0 || bytes > recorded.share(*owner),
            "{:?} lost {} of {} bytes",
            owner,
            lost,
            bytes
        );
    }
    told(log, &records, &left)
}

/// Every gap is some truncation's, unless truncations were lost too.
fn told(log: &Log, records: &[Record], left: &BTreeSet<u64>) -> Result<(), TestCaseError> {
    let losses: Vec<&Loss> = records
        .iter()
        .filter_map(|record| match &record.event {
            Event::Truncated { losses, .. } => Some(losses),
            _ => None,
        })
        .flatten()
        .collect();
    if losses.iter().any(|loss| loss.whose == Whose::Truncations) {
        return Ok(());
    }
    let told = |index: u64| {
        let mut losses = losses.iter();
        losses.any(|loss| (loss.from..=loss.to).contains(&index))
    };
    for index in (0..log.next_index()).filter(|index| !left.contains(index)) {
        prop_assert!(told(index), "nothing tells what became of {}", index);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is recorded in whatever order: the cap holds, nobody within an equal share loses
    /// anything, everybody loses the oldest first, gaps are told of, and a reopened log is the same.
    #[test]
    fn nobody_pushes_out_a_neighbours_records(steps in prop::collection::vec(step(), 1..60)) {
        let folder = tempfile::tempdir().unwrap();
        let mut log = open(&folder);
        let mut recorded = Recorded::default();
        for (n, step) in steps.iter().enumerate() {
            for _ in 0..step.times {
                let event = event(*step);
                let owner = Owner::of(&event);
                let before = log.0.state().owners.total();
                let removed = log.metrics().removed.get();
                let index = log.0.append(&mut log.state(), event, None, Timestamp(n as u64));
                let index = index.unwrap();
                let bytes = log.0.records.get(&index.to_be_bytes()).unwrap();
                let bytes = bytes.expect("what is appended is there").len() as u64 + OVERHEAD;
                if log.metrics().removed.get() == removed {
                    prop_assert_eq!(log.0.state().owners.total(), before + bytes);
                }
                recorded.0.entry(owner).or_default().push((index, bytes));
            }
            if step.times > 20 || n % 16 == 0 {
                check(&log, &recorded)?;
            }
        }
        check(&log, &recorded)?;
        let seen = |log: &Log| {
            let first = log.state().first;
            (first, log.next_index(), log.metrics().bytes.get(), records(log))
        };
        let kept = seen(&log);
        prop_assert_eq!(kept.0, kept.3[0].index);
        drop(log);
        log = open(&folder);
        prop_assert_eq!(seen(&log), kept);
    }
}

#[test]
fn the_last_records_are_found_over_gaps() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(&folder);
    let append = |who, what, times| {
        for _ in 0..times {
            let event = event(Step {
                who,
                what,
                padding: 100,
                times: 1,
            });
            log.0
                .append(&mut log.state(), event, None, Timestamp(1))
                .unwrap();
        }
    };
    for who in 0..6 {
        append(who, What::Permit, 10);
        append(6, What::Permit, 300);
    }
    let indexes: Vec<u64> = records(&log).iter().map(|record| record.index).collect();
    let next = log.next_index();
    assert!((indexes.len() as u64) < next / 4, "there are gaps");
    for count in [0, 1, 7, 61, indexes.len(), indexes.len() + 1, usize::MAX] {
        let from = log.last(count as u64, next).unwrap();
        let found = indexes.iter().filter(|index| **index >= from).count();
        assert_eq!(found, count.min(indexes.len()));
    }
    let before = indexes[indexes.len() / 2];
    let from = log.last(5, before).unwrap();
    assert_eq!(from, indexes[indexes.len() / 2 - 5]);
    assert_eq!(log.last(5, indexes[0]).unwrap(), indexes[0]);
}
