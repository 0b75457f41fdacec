//! The manager's look at ten thousand devices: `slmd fleet status`, as anybody runs it.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use slmd::for_tests::identity::PublicKey;
use slmd::for_tests::time::{Timestamp, instant, now};

use crate::managers::Fleet;
use crate::support::{Mosquitto, retain_all};

const DEVICES: usize = 10_000;
const ROUNDS: usize = 3;

pub fn measure() {
    let fleet = Fleet::new();
    let reports: Vec<(String, String)> = (0..DEVICES).map(|n| enroll(&fleet, n)).collect();
    let longest = reports.iter().map(|(_, report)| report.len()).max();
    println!(
        "fleet status of {DEVICES} devices, a report of {} bytes each:",
        longest.unwrap_or_default()
    );
    let folder = fleet.place().join("reports");
    fs::create_dir(&folder).expect("a temporary folder");
    for (device, report) in &reports {
        fs::write(folder.join(device), report).expect("a temporary file");
    }
    status(&fleet, "a folder", "reports");

    // As it is shipped: its bounds count.
    let broker = Mosquitto::start_with("max_queued_messages 1000\nmessage_size_limit 589824");
    let messages = reports.into_iter();
    let messages = messages.map(|(d, report)| (format!("slm/{d}/trust"), report.into_bytes()));
    retain_all(broker.port(), messages);
    let to = format!("mqtt://127.0.0.1:{}", broker.port());
    status(&fleet, "mosquitto", &to);
}

/// What `slmd fleet enroll` writes, and what the device says; a tenth is behind.
fn enroll(fleet: &Fleet, number: usize) -> (String, String) {
    let device = format!("edge-{number:05}");
    let key = Ed25519KeyPair::generate().expect("random numbers");
    let x = URL_SAFE_NO_PAD.encode(key.public_key().as_ref());
    let folder = fleet.folder().join("devices");
    fs::create_dir_all(&folder).expect("a temporary folder");
    let file = folder.join(format!("{device}.json"));
    fs::write(file, json!({ "x": x }).to_string()).expect("a temporary file");

    let kid = PublicKey::parse(&x).expect("it is a key");
    let kid = kid.thumbprint();
    let at = Timestamp::from_secs(now().as_secs() - 60).to_string();
    let version = u64::from(!number.is_multiple_of(10));
    let digest = format!("sha256:{}", "0".repeat(64));
    let report = json!({"version": 1, "device": device, "counter": 7, "time": at,
        "synchronised": true, "floor": at, "slmd": "0.1.0",
        "fleet": {"name": "plant", "root": 1, "timestamp": 1, "snapshot": 1,
            "targets": version, "revocation": version},
        "realms": {"prod": {"keys": [kid, kid], "kids": [kid, kid], "confirmed": at, "denied": 3}},
        "models": {"smollm2-135m-instruct": digest}});
    let header = json!({"alg": "EdDSA", "typ": "slmd-report+jwt", "kid": kid});
    let parts = [header, report].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    let input = parts.join(".");
    let signature = URL_SAFE_NO_PAD.encode(key.sign(input.as_bytes()));
    (device, format!("{input}.{signature}"))
}

fn status(fleet: &Fleet, name: &str, from: &str) {
    for form in ["table", "--json", "--prometheus"] {
        let mut words = vec!["status", "--from", from];
        words.extend((form != "table").then_some(form));
        let rounds = (0..ROUNDS).map(|_| timed(&mut fleet.command(&words)));
        let best = rounds.min_by(|one, other| one.time.cmp(&other.time));
        let best = best.expect("there are rounds");
        println!(
            "  from {name}, {form}: {:.2} s, peak {:.0} MiB, {} bytes printed{}",
            best.time.as_secs_f64(),
            best.peak as f64 / 1024.0,
            best.printed.len(),
            heard(&best.printed, form),
        );
    }
}

/// A figure of devices that weren't heard would be one of another kind.
fn heard(printed: &str, form: &str) -> String {
    let silent = match form {
        "table" => printed.matches("never heard").count(),
        "--json" => printed.matches("\"never\"").count(),
        _ => return String::new(),
    };
    match silent {
        0 => String::new(),
        // The table's last line has it, too.
        _ => format!("; NOT HEARD: {}", silent - usize::from(form == "table")),
    }
}

struct Timed {
    time: Duration,
    /// KiB.
    peak: u64,
    printed: String,
}

/// Its peak is what the kernel said last before it ended, at most a millisecond before.
fn timed(command: &mut Command) -> Timed {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let stdout = file.reopen().expect("it is there");
    let start = instant();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(stdout)
        .spawn()
        .expect("slmd runs");
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let ended = loop {
        if let Some(ended) = child.try_wait().expect("it is ours") {
            break ended;
        }
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        peak = peak.max(number.unwrap_or(0));
        std::thread::sleep(Duration::from_millis(1));
    };
    assert!(ended.success(), "{command:?}");
    Timed {
        time: start.elapsed(),
        peak,
        printed: fs::read_to_string(file.path()).expect("it was written"),
    }
}
