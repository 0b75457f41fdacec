//! Durable permits a second, and what one costs the flash.
//!
//! Prints one line a figure. The state lies in the build folder: it must be on the disk that is
//! to be measured, not in memory.

use std::path::Path;
use std::thread;
use std::time::Duration;

use slmd::for_tests::audit::{Access, Device, Log, Settings, Verdict};
use slmd::for_tests::identity::{Identity, Key, random};
use slmd::for_tests::prompt::{Origin, RequestId};
use slmd::for_tests::store::Store;
use slmd::for_tests::time::{Clocks, instant, now};

const ROUND: Duration = Duration::from_secs(3);
const TARGET: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target");

fn main() {
    for threads in [1, 8] {
        let folder = tempfile::tempdir_in(TARGET).expect("the build folder is writable");
        let store = Store::open(&folder.path().join("db")).expect("a new store opens");
        let log = open(&store, folder.path());
        let (before, start) = (written(), instant());
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                let (log, store) = (log.clone(), store.clone());
                thread::spawn(move || {
                    while start.elapsed() < ROUND {
                        let append = || log.append_permit(permit(), random(), now());
                        store.commit(append).expect("a permit");
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().expect("no permit fails");
        }
        let seconds = start.elapsed().as_secs_f64();
        let (records, bytes) = (log.next_index(), written() - before);
        println!(
            "{threads} threads: {:.0} permits/s, {:.2} syncs and {} bytes written a permit of {} bytes",
            records as f64 / seconds,
            store.syncs() as f64 / records as f64,
            bytes / records,
            size(&log),
        );
    }
}

fn open(store: &Store, folder: &Path) -> Log {
    let settings = Settings {
        max_bytes: 1024 * 1024 * 1024,
        retention: Duration::from_secs(90 * 86_400),
        refusals_per_minute: 60,
        origin: "slmd.internal".to_owned(),
        checkpoint_records: 1000,
        checkpoint_interval: Duration::from_secs(60),
        export: Default::default(),
        witnesses: Vec::new(),
    };
    let device = Device {
        identity: &Identity::new("edge-1").expect("a good name"),
        key: &Key::open(folder).expect("a new key"),
        folder,
    };
    Log::open(store, settings, device, Clocks::default()).expect("a new log opens")
}

/// What this process had the kernel write to disks (proc(5), `/proc/pid/io`).
fn written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").expect("/proc is mounted");
    let line = io
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|n| n.parse().ok())
        .expect("a number of bytes")
}

/// A record's own JSON.
fn size(log: &Log) -> usize {
    log.read(0, 1).expect("the log is readable")[0].json.len()
}

fn permit() -> Access {
    let text = |text: &str| Some(text.to_owned());
    Access {
        request_id: RequestId::random(),
        origin: Origin::Mqtt {
            topic: "slm/edge-1/v1/chat/completions".into(),
        },
        action: "chat".into(),
        decision: Verdict::Permit,
        reason: None,
        detail: None,
        realm: text("dev"),
        endpoint: text("slm"),
        issuer: text("https://keycloak.test/realms/dev"),
        subject: text("6b5e4a9c-3f43-4a5c-8a2f-0d5e6f7a8b9c"),
        username: None,
        client: text("device-1"),
        token_id: text("trrtcc:6f0c9f6e-6f0e-4a7e-9b0f-0c4f0e6f0c9f"),
        scope: text("read"),
        prompt_hash: text(&"0".repeat(64)),
        model_digest: text(&"0".repeat(64)),
        kernels: text("neon-dotprod"),
        sampling: None,
        prompt_tokens: Some(31),
        prompt_time: None,
        attempt: None,
        text: None,
        dpop: false,
        local_peer: false,
    }
}
