//! What a daemon costs that nobody asks anything: the whole of it with its model, connected to a
//! broker, with 256 deliveries remembered.
//!
//! Prints CPU time and wake-ups of all its threads over a minute, and of those of each name.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::Duration;

use support::{Daemon, Issuer, Mosquitto, Publish, Setup, chat, claims, within};

#[path = "../system/support/mod.rs"]
#[allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "the system tests' toolbox: it may panic, and exports nothing"
)]
mod support;

const DELIVERIES: usize = 256;
const MINUTE: Duration = Duration::from_secs(60);
/// Until what the last request has left to do is done.
const SETTLE: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(60);
const REPLIES: &str = "slm/edge-1/reply/device-1";

/// Nanoseconds on a CPU, and how often it has slept.
#[derive(Debug, Clone, Copy, Default)]
struct Spent {
    nanoseconds: u64,
    sleeps: u64,
}

fn main() {
    let (broker, issuer) = (Mosquitto::start(), Issuer::new("ES256", "key-1"));
    let settings = "log = \"info\"\n[admission]\nprompts_per_minute = 10000";
    let setup = Setup::new().issuer(&issuer).broker(&broker).with(settings);
    let daemon = Daemon::start(setup);
    within(PATIENCE, "the broker", || {
        (daemon.status()["mqtt"]["connected"] == true).then_some(())
    });
    remember(&broker, &issuer);
    thread::sleep(SETTLE);
    let before = threads(daemon.pid());
    thread::sleep(MINUTE);
    let after = threads(daemon.pid());
    let mut names: BTreeMap<&str, Spent> = BTreeMap::new();
    for (id, (name, now)) in &after {
        let then = before.get(id).map_or(Spent::default(), |(_, then)| *then);
        let sum = names.entry(name).or_default();
        sum.nanoseconds += now.nanoseconds - then.nanoseconds;
        sum.sleeps += now.sleeps - then.sleeps;
    }
    let all = names.values().fold(Spent::default(), |sum, each| Spent {
        nanoseconds: sum.nanoseconds + each.nanoseconds,
        sleeps: sum.sleeps + each.sleeps,
    });
    println!(
        "idle with {DELIVERIES} deliveries remembered: {}",
        said(all)
    );
    for (name, spent) in names {
        println!("  {name:<16} {}", said(spent));
    }
}

/// Asks so often, and takes each answer.
fn remember(broker: &Mosquitto, issuer: &Issuer) {
    let replies = broker.subscribe(REPLIES);
    let token = issuer.token(claims());
    for number in 0..DELIVERIES {
        broker.publish(&Publish {
            topic: "slm/edge-1/v1/chat/completions",
            payload: &chat("Say yes.", 1, false),
            response_topic: Some(REPLIES),
            correlation: Some(&number.to_string()),
            token: Some(&token),
            ..Publish::default()
        });
        let answer = replies.next(PATIENCE).expect("an answer");
        assert_eq!(answer.user("status"), Some("200"), "{answer:?}");
    }
}

/// By id, with its name: what each thread has spent so far (proc(5)).
fn threads(process: u32) -> BTreeMap<String, (String, Spent)> {
    let folder = fs::read_dir(format!("/proc/{process}/task")).expect("the daemon runs");
    // A thread may have ended since it was listed.
    let read = |path: &std::path::Path, name: &str| fs::read_to_string(path.join(name)).ok();
    let threads = folder.filter_map(|entry| {
        let path = entry.expect("the daemon runs").path();
        let spent = Spent {
            nanoseconds: first_number(&read(&path, "schedstat")?),
            sleeps: read(&path, "status")?
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
                .map(first_number)?,
        };
        let name = read(&path, "comm")?.trim().to_owned();
        Some((path.display().to_string(), (name, spent)))
    });
    threads.collect()
}

fn first_number(text: &str) -> u64 {
    let word = text.split_whitespace().next();
    word.and_then(|word| word.parse().ok()).expect("a number")
}

fn said(spent: Spent) -> String {
    let percent = spent.nanoseconds as f64 / MINUTE.as_nanos() as f64 * 100.0;
    let wakes = spent.sleeps as f64 / MINUTE.as_secs_f64();
    format!("{percent:.3}% of a core, {wakes:.1} wake-ups a second")
}
