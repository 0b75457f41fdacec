//! What strangers cost a device who write beneath the fleet's topics: the whole daemon, connected to a
//! broker that lets anybody write.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::Duration;

use crate::support::fleet::TOPICS;
use crate::support::{Daemon, Fleet, Issuer, Mosquitto, Setup, retain_all};

const MESSAGES: usize = 1000;
const SIZE: usize = 4096;
const WINDOW: Duration = Duration::from_secs(30);
const SETTLE: Duration = Duration::from_secs(10);

pub fn measure() {
    let issuer = Issuer::new("ES256", "a");
    let (broker, mut fleet) = (Mosquitto::start(), Fleet::new());
    let followed = "log = \"info\"\n[fleet]\nname = \"plant\"\nmirrors = [\"mqtt\"]\n";
    let mut daemon = Daemon::start(Setup::new().broker(&broker).with(followed));
    fleet.keys(&issuer.jwks());
    fleet.broadcast(&broker);
    fleet.pin(&daemon);
    daemon.until_ready();
    thread::sleep(SETTLE);
    println!(
        "a device in {} s, with {MESSAGES} foreign retained messages of {SIZE} bytes:",
        WINDOW.as_secs()
    );
    let port = broker.port();
    spent(&daemon, "none of them", || {});
    let topic = |n: usize| match n % 2 {
        0 => format!("{TOPICS}/metadata/{n}.targets.json"),
        _ => format!("{TOPICS}/targets/realms/dev/{n:064x}.jwks.json"),
    };
    spent(&daemon, "each on a topic of its own", || {
        retain_all(port, (0..MESSAGES).map(|n| (topic(n), poison(n))));
    });
    spent(&daemon, "all on the timestamp's topic", || {
        let topic = format!("{TOPICS}/metadata/timestamp.json");
        retain_all(port, (0..MESSAGES).map(|n| (topic.clone(), poison(n))));
    });
}

/// No two are the same.
fn poison(number: usize) -> Vec<u8> {
    format!("{{\"{number}\":\"{}\"}}", "x".repeat(SIZE - 16)).into_bytes()
}

/// CPU of the window in which it happens, and what else of the daemon's metrics has changed.
fn spent(daemon: &Daemon, name: &str, happens: impl FnOnce()) {
    let (before, metrics) = (ticks(daemon), metrics(daemon));
    happens();
    thread::sleep(WINDOW);
    let used = ticks(daemon) - before;
    let now = self::metrics(daemon);
    let changed = now
        .iter()
        .filter(|(name, value)| metrics.get(*name) != Some(value));
    let changed: Vec<String> = changed
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    let trust = changed.iter().filter(|line| line.starts_with("slmd_trust"));
    let trust: Vec<&str> = trust.map(String::as_str).collect();
    let else_: Vec<&str> = changed
        .iter()
        .map(String::as_str)
        .filter(|line| !line.starts_with("slmd_trust"))
        .collect();
    println!("  {name}: {} ms of CPU", used * 10);
    println!("    changed of slmd_trust_*: {}", trust.join(", "));
    println!("    changed besides: {}", else_.join(", "));
}

/// Of all its threads, also those that have ended: hundredths of a second (proc(5), `stat`).
fn ticks(daemon: &Daemon) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).expect("it runs");
    let (_, after) = stat.rsplit_once(')').expect("the name is in parentheses");
    let fields: Vec<&str> = after.split_whitespace().collect();
    let number = |at: usize| fields[at].parse::<u64>().expect("a number");
    number(11) + number(12)
}

fn metrics(daemon: &Daemon) -> BTreeMap<String, String> {
    let text = daemon.admin_http("GET", "/metrics", "").body;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let lines = lines.filter_map(|line| line.rsplit_once(' '));
    lines
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}
