//! A rotation on its way to a fleet by one broker: what each device fetches, and how long it takes.
//!
//! The devices are lines to the broker and followers, all in this process: the production code from
//! the socket to what is proven. What a daemon does beyond that (its store, its audit record) one daemon
//! beside them does, whose answers show when the new key is in force.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use slmd::for_tests::fleet::{
    Broker, BrokerSettings, Follower, Held, Lane, MAX_PACKET, Place, Settings, Wanted,
};
use slmd::for_tests::shutdown::Shutdown;
use slmd::for_tests::time::{Clocks, Moment, instant, now};
use tokio::sync::mpsc;

use crate::managers::Fleet;
use crate::support::fleet::fingerprint;
use crate::support::{Daemon, Issuer, Mosquitto, Setup, claims, http, options, run, within};

const ROTATIONS: u64 = 3;
const PATIENCE: Duration = Duration::from_secs(60);
/// As the daemon's between two rounds.
const GAP: Duration = Duration::from_millis(250);
/// `$SYS` is told each second; the next root is known not to be there after two.
const SETTLE: Duration = Duration::from_secs(4);

/// A device has proven these targets.
struct Proven {
    heard: Instant,
    at: Instant,
    targets: u64,
}

/// All devices share this machine's cores here. Of RSA keys each tests the moduli, which takes tens of
/// milliseconds of a core: with those there are fewer.
pub fn measure() {
    rotations("ES256", 200);
    rotations("RS256", 20);
}

fn rotations(algorithm: &str, devices: usize) {
    let fleet = Fleet::new();
    let broker = Mosquitto::start_with("sys_interval 1");
    let to = format!("mqtt://127.0.0.1:{}", broker.port());
    let issuers: Vec<Issuer> = (0..=ROTATIONS)
        .map(|n| Issuer::new(algorithm, &format!("key-{n}")))
        .collect();
    publish(&fleet, &to, &issuers[..1]);
    let (runtime, shutdown) = (runtime(devices), Shutdown::default());
    let (sender, mut proven) = mpsc::unbounded_channel();
    let root = fs::read(fleet.folder().join("metadata/1.root.json")).expect("a root");
    for number in 0..devices {
        runtime.spawn(device(
            number,
            broker.port(),
            Held::rooted(&root),
            sender.clone(),
            shutdown.clone(),
        ));
    }
    let daemon = daemon(&fleet, &broker, &root);
    until(&mut proven, 2, devices);
    in_force(&daemon, &issuers[0]);

    let (mut lags, mut commands, mut forces) = (Vec::new(), Vec::new(), Vec::new());
    let (mut files, mut wire) = (0, 0);
    for number in 1..=ROTATIONS {
        let which = number as usize;
        let before = sizes(&fleet);
        stage(&fleet, &issuers[which - 1..=which]);
        thread::sleep(SETTLE);
        let sent = bytes(&broker);
        let begun = instant();
        fleet.ok(&["publish", "--to", &to]);
        in_force(&daemon, &issuers[which]);
        forces.push(begun.elapsed());
        let news = until(&mut proven, number + 2, devices);
        let first = news.iter().map(|one| one.heard).min().expect("devices");
        commands.push(first.duration_since(begun));
        lags.extend(news.iter().map(|one| one.at.duration_since(first)));
        thread::sleep(SETTLE);
        wire = (bytes(&broker) - sent) / (devices as u64 + 1);
        files = news_of(&before, &sizes(&fleet));
    }
    shutdown.end();
    runtime.shutdown_timeout(PATIENCE);
    lags.sort();
    commands.sort();
    forces.sort();
    println!("{ROTATIONS} rotations of one of two {algorithm} keys, {devices} devices:");
    println!("  new files for a device: {files} bytes; on the wire, both ways: {wire}");
    println!(
        "  from the first that heard of it to proven: p50 {}, p99 {}, last {}",
        ms(at(&lags, 50)),
        ms(at(&lags, 99)),
        ms(at(&lags, 100))
    );
    println!(
        "  from the start of slmd fleet publish to the first that heard: median {}; to an answer by the new key: median {}",
        ms(at(&commands, 50)),
        ms(at(&forces, 50))
    );
}

fn runtime(devices: usize) -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(devices + 8)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// As the daemon's rounds by the broker, but with nothing behind them.
async fn device(
    number: usize,
    port: u16,
    mut held: Held,
    proven: mpsc::UnboundedSender<Proven>,
    shutdown: Shutdown,
) {
    let settings = BrokerSettings {
        options: options(port, &format!("edge-{number}"), MAX_PACKET),
        reconnect_min: Duration::from_secs(1),
        reconnect_max: Duration::from_secs(2),
        prefix: "slm/trust/plant".to_owned(),
        watched: Vec::new(),
    };
    let broker = Broker::start(settings, shutdown.clone());
    let fleet = Settings {
        name: "plant".to_owned(),
        mirrors: vec![Place::Mqtt],
        username: None,
        password_file: None,
        ca_file: None,
        interval: Duration::from_secs(900),
        require_listed_models: false,
    };
    let follower = Follower::new(&fleet, Some(&broker)).expect("no files are needed");
    let follower = Arc::new(follower);
    let wanted = Wanted {
        realms: ["dev".to_owned()].into(),
        models: ["smollm2-135m-instruct".to_owned()].into(),
    };
    loop {
        tokio::select! {
            () = broker.news() => {}
            () = shutdown.ended() => return,
        }
        let heard = instant();
        let look = {
            let (follower, held, wanted) = (Arc::clone(&follower), held.clone(), wanted.clone());
            let now = Moment {
                known: now(),
                uptime: Clocks::default().uptime(),
            };
            move || follower.look(&held, &wanted, now, Lane::Broker)
        };
        let found = tokio::task::spawn_blocking(look).await.expect("no panic");
        if let Some(signed) = found.signed.filter(|signed| signed.held != held) {
            let targets = signed.versions.targets.unwrap_or_default();
            let at = instant();
            held = signed.held;
            let _ = proven.send(Proven { heard, at, targets });
        }
        tokio::time::sleep(GAP).await;
    }
}

fn daemon(fleet: &Fleet, broker: &Mosquitto, root: &[u8]) -> Daemon {
    let followed = "[fleet]\nname = \"plant\"\nmirrors = [\"mqtt\"]\n";
    let mut daemon = Daemon::start(Setup::new().broker(broker).with(followed));
    let path = fleet.folder().join("metadata/1.root.json");
    let path = path.to_str().expect("UTF-8");
    let pinned = daemon.slmd(&["trust", "pin", path, "--fingerprint", &fingerprint(root)]);
    assert!(pinned.status.success(), "{pinned:?}");
    daemon.until_ready();
    daemon
}

fn set(issuers: &[Issuer]) -> String {
    let keys: Vec<Value> = issuers.iter().map(Issuer::jwk).collect();
    json!({ "keys": keys }).to_string()
}

fn stage(fleet: &Fleet, issuers: &[Issuer]) {
    let set = fleet.file("set.json", &set(issuers));
    fleet.ok(&["rotate", "dev", "--jwks", &set]);
    fleet.sign(&["offline-1", "offline-2"]);
}

fn publish(fleet: &Fleet, to: &str, issuers: &[Issuer]) {
    stage(fleet, issuers);
    fleet.ok(&["publish", "--to", to]);
}

/// Waits until all devices have proven targets of that version.
fn until(
    proven: &mut mpsc::UnboundedReceiver<Proven>,
    targets: u64,
    devices: usize,
) -> Vec<Proven> {
    let mut found = Vec::new();
    within(PATIENCE, "all devices", || {
        while let Ok(one) = proven.try_recv() {
            if one.targets == targets {
                found.push(one);
            }
        }
        (found.len() >= devices).then_some(())
    });
    found
}

fn in_force(daemon: &Daemon, issuer: &Issuer) {
    let bearer = format!("Bearer {}", issuer.token(claims()));
    let headers = [("authorization", bearer.as_str())];
    within(PATIENCE, "the new key", || {
        let answer = http(&daemon.socket(), "GET", "/v1/models", &headers, "");
        (answer.status == 200).then_some(())
    });
}

/// Of what is published, by path.
fn sizes(fleet: &Fleet) -> BTreeMap<String, u64> {
    let find = Command::new("find")
        .args([
            "metadata",
            "targets",
            "-type",
            "f",
            "-printf",
            "%p %s %T@\\n",
        ])
        .current_dir(fleet.folder())
        .output()
        .expect("find runs");
    let text = String::from_utf8(find.stdout).expect("paths of ours");
    let line = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        // A file that was written anew is another one.
        let size = words[1].parse().expect("a number");
        (format!("{} {}", words[0], words[2]), size)
    };
    text.lines().map(line).collect()
}

fn news_of(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> u64 {
    let new = after.iter().filter(|(path, _)| !before.contains_key(*path));
    new.map(|(_, size)| size).sum()
}

/// What the broker has sent and received since it started.
fn bytes(broker: &Mosquitto) -> u64 {
    let told = |what: &str| -> u64 {
        let mut command = Command::new("mosquitto_sub");
        command.args(["-p", &broker.port().to_string(), "-C", "1"]);
        command.args(["-t", &format!("$SYS/broker/bytes/{what}")]);
        let output = run(&mut command, b"", PATIENCE);
        let text = String::from_utf8(output.stdout).expect("a number");
        text.trim().parse().expect("a number")
    };
    told("sent") + told("received")
}

fn at(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

fn ms(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}
