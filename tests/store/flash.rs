//! What the worst client of each path has written a minute, held to ARCHITECTURE.md's table.
//!
//! Each path is driven by the default settings as fast as it goes, on a clock that the test holds.

use std::collections::BTreeMap;
use std::time::Duration;

use slmd::for_tests::audit::{
    Access, COUNTED_FOR, Change, Event, Finished, Log, Tag, Verdict, What,
};
use slmd::for_tests::config::Config;
use slmd::for_tests::identity::random;
use slmd::for_tests::prompt::{Finish, Origin, RequestId, Sampling, Usage};
use slmd::for_tests::reason::Reason;
use slmd::for_tests::store::Store;
use slmd::for_tests::time::Timestamp;

const START: Timestamp = Timestamp(1_800_000_000_000);
const MINUTE: Duration = Duration::from_secs(60);
/// As fast as it goes: the model list was read so many times a second.
const A_SECOND: u64 = 7000;

/// What a record takes beside its JSON: its key, and a permit's salt with its own.
const BESIDE: usize = 8 + 24;

struct World {
    config: Config,
    log: Log,
    _folder: tempfile::TempDir,
}

impl World {
    fn new() -> World {
        let shipped = include_str!("../../systemd/slmd.toml");
        let config = Config::parse(shipped).expect("the shipped configuration is sound");
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("db")).unwrap();
        let log = crate::log::open(&store, folder.path(), config.audit.clone());
        log.tick(START, false).unwrap();
        World {
            config,
            log,
            _folder: folder,
        }
    }

    /// KiB that `work` has the log take, with all that was only counted.
    fn kib(&self, end: Timestamp, work: impl FnOnce(&Log)) -> f64 {
        let mut from = self.log.next_index();
        work(&self.log);
        self.log.close(end).unwrap();
        let mut bytes = 0;
        loop {
            let page = self.log.read(from, usize::MAX).unwrap();
            let Some(last) = page.last() else {
                return bytes as f64 / 1024.0;
            };
            from = last.index + 1;
            bytes += page
                .iter()
                .map(|line| line.json.len() + BESIDE)
                .sum::<usize>();
        }
    }
}

fn at(time: Duration) -> Timestamp {
    START.saturating_add(time)
}

/// All that a record can hold: names as Keycloak makes them, and what a client chooses itself as
/// long as it may be.
fn access(decision: Verdict, action: &str) -> Access {
    let text = |text: &str| Some(text.to_owned());
    Access {
        request_id: RequestId::beside(Some(&"\"".repeat(RequestId::MAX_CLIENT))),
        origin: Origin::Mqtt {
            topic: "\"".repeat(1 << 15),
        },
        action: action.to_owned(),
        decision,
        reason: None,
        detail: (decision == Verdict::Deny).then(|| "\"".repeat(256)),
        realm: text("production"),
        endpoint: text("smollm2-135m"),
        issuer: text("https://keycloak.example/realms/production"),
        subject: text("6b5e4a9c-3f43-4a5c-8a2f-0d5e6f7a8b9c"),
        username: None,
        client: text("slmd-technician"),
        token_id: text("trrtcc:6f0c9f6e-6f0e-4a7e-9b0f-0c4f0e6f0c9f"),
        dpop: true,
        local_peer: false,
        scope: text("fine-tune"),
        prompt_hash: Some("0".repeat(64)),
        model_digest: Some("0".repeat(64)),
        kernels: text("neon-dotprod"),
        sampling: Some(Sampling {
            seed: Some(u64::MAX),
            ..Sampling::default()
        }),
        prompt_tokens: Some(2048),
        prompt_time: None,
        attempt: Some(2),
        text: None,
    }
}

/// Of what has no prompt.
fn bare(decision: Verdict, action: &str) -> Access {
    Access {
        prompt_hash: None,
        model_digest: None,
        kernels: None,
        sampling: None,
        prompt_tokens: None,
        prompt_time: None,
        attempt: None,
        ..access(decision, action)
    }
}

fn finished() -> Finished {
    Finished {
        request_id: RequestId::random(),
        principal: Some(Tag::of("issuer", "subject", "client")),
        realm: Some("production".to_owned()),
        endpoint: Some("smollm2-135m".to_owned()),
        access_index: Some(u64::MAX),
        finish: Finish::Cancelled,
        usage: Usage {
            prompt_tokens: 2048,
            completion_tokens: 2048,
        },
        answer_hash: "0".repeat(64),
        queue_ms: 600_000,
        first_token_ms: Some(600_000),
        total_ms: 600_000,
        text: None,
    }
}

fn admin() -> Origin {
    Origin::Admin {
        uid: u32::MAX,
        gid: u32::MAX,
        pid: Some(i32::MAX),
    }
}

fn prompts(world: &World) -> f64 {
    let rate = world.config.admission.prompts_per_minute;
    world.kib(at(MINUTE), |log| {
        for _ in 0..rate {
            let permit = access(Verdict::Permit, "chat");
            log.append_permit(permit, random(), START).unwrap();
            log.finish(finished(), START).unwrap();
        }
    })
}

fn cancels(world: &World) -> f64 {
    let rate = world.config.admission.operations_per_minute;
    world.kib(at(MINUTE), |log| {
        for _ in 0..rate {
            let cancel = bare(Verdict::Permit, "cancel");
            log.append_read(cancel, START).unwrap();
        }
    })
}

/// Both kinds that a token allows, for a whole window: in the mean.
fn reads(world: &World) -> f64 {
    let times = A_SECOND * COUNTED_FOR.as_secs();
    let kib = world.kib(at(COUNTED_FOR), |log| {
        for action in ["list_models", "read_metrics"] {
            let mut read = bare(Verdict::Permit, action);
            assert!(!log.count_read(&read, START));
            log.append_read(read.clone(), START).unwrap();
            log.begin_counting(&read, START);
            for n in 0..times / 100 {
                read.token_id = Some(format!("trrtcc:6f0c9f6e-6f0e-4a7e-9b0f-{n:012}"));
                assert!(log.count_read(&read, START));
            }
        }
    });
    kib * MINUTE.as_secs_f64() / COUNTED_FOR.as_secs_f64()
}

/// All kinds, as reads.
fn repeats(world: &World) -> f64 {
    let kinds = [
        "chat again",
        "chat joined",
        "completion again",
        "completion joined",
    ];
    let kib = world.kib(at(COUNTED_FOR), |log| {
        for n in 0..A_SECOND * COUNTED_FOR.as_secs() / 100 {
            let mut repeat = bare(Verdict::Permit, kinds[n as usize % kinds.len()]);
            repeat.detail = Some(format!("the answer of {}", RequestId::random()));
            repeat.token_id = Some(format!("trrtcc:6f0c9f6e-6f0e-4a7e-9b0f-{n:012}"));
            log.repeat(repeat, START).unwrap();
        }
    });
    kib * MINUTE.as_secs_f64() / COUNTED_FOR.as_secs_f64()
}

fn refusals(world: &World, verified: bool) -> f64 {
    let reasons: Vec<Reason> = Reason::all().collect();
    world.kib(at(MINUTE), |log| {
        for n in 0..A_SECOND * 10 {
            let mut refusal = bare(Verdict::Deny, "chat");
            refusal.reason = Some(reasons[n as usize % reasons.len()]);
            if !verified {
                (refusal.realm, refusal.endpoint, refusal.token_id) = (None, None, None);
                (refusal.issuer, refusal.subject, refusal.client) = (None, None, None);
            }
            log.refuse(&refusal, START);
        }
    })
}

fn looks(world: &World) -> f64 {
    let kib = world.kib(at(COUNTED_FOR), |log| {
        for what in [
            Change::AskedStatus,
            Change::AskedMetrics,
            Change::AskedKeys,
            Change::AskedAudit,
        ] {
            for _ in 0..A_SECOND {
                log.look(admin(), &what.into(), START).unwrap();
            }
        }
    });
    kib * MINUTE.as_secs_f64() / COUNTED_FOR.as_secs_f64()
}

fn changes(world: &World) -> f64 {
    let rate = world.config.admission.operations_per_minute;
    world.kib(at(MINUTE), |log| {
        for _ in 0..rate {
            let what = What {
                change: Change::AskedPinHeld,
                realm: Some("\"".repeat(64)),
            };
            // The use, and what came of it: as `keys pin` tells of a whole set.
            log.change(admin(), what, serde_json::Value::Null, START)
                .unwrap();
            let thumbprints = vec!["0".repeat(43); 8];
            let detail = serde_json::json!({"realm": "production", "added": thumbprints});
            log.change(Origin::Daemon, Change::KeysPinned, detail, START)
                .unwrap();
        }
    })
}

/// The table's first column, and the KiB a minute that it gives.
fn table() -> BTreeMap<String, f64> {
    let text = include_str!("../../ARCHITECTURE.md");
    let (_, section) = text
        .split_once("### What the worst client has written")
        .expect("the section is there");
    let rows = section
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'));
    rows.skip(2)
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let kib = cells[3].parse().expect("a number of KiB");
            (cells[1].to_owned(), kib)
        })
        .collect()
}

#[test]
fn no_client_has_more_written_than_the_table_says() {
    let world = World::new();
    let measured = [
        ("prompts of a principal", prompts(&world)),
        ("cancels of a principal", cancels(&world)),
        ("reads of a principal", reads(&world)),
        ("repeats of a principal", repeats(&world)),
        ("refusals of a principal", refusals(&world, true)),
        ("refusals of who isn't verified", refusals(&world, false)),
        ("looks of an administrator", looks(&world)),
        ("changes of an administrator", changes(&world)),
    ];
    let table = table();
    for (path, kib) in measured {
        let most = table.get(path).unwrap_or_else(|| panic!("no row {path:?}"));
        println!("{path}: {kib:.1} KiB of {most}");
        assert!(kib <= *most, "{path}: {kib:.1} KiB a minute, {most} said");
        assert!(
            kib > most / 2.0,
            "{path}: {kib:.1} KiB a minute, {most} said"
        );
    }
    for line in world.log.read(0, usize::MAX).unwrap() {
        let event = line.record().unwrap().event;
        assert!(
            !matches!(event, Event::Truncated { .. }),
            "no more than fits"
        );
    }
}
