//! A log of a million records: what it takes on the disk, how it opens, how fast it is verified.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use slmd::for_tests::store::Store;
use slmd::for_tests::time::{instant, now};

use crate::support::{Daemon, Setup, run};
use crate::{folder, full_or, median, open, records};

/// Records that no head record speaks of yet, at most (`HEAD_EVERY` in src/audit/state.rs; a log of more
/// principals than this one has more).
const SINCE_HEAD: u64 = 254;
const LIMIT: Duration = Duration::from_secs(600);

pub fn measure() {
    let folder = folder();
    let count = full_or(1_000_000, 3000);
    let start = instant();
    let state = folder.path();
    {
        let store = Store::open(&state.join("db")).expect("a new store opens");
        let log = records::open(&store, state);
        records::fill(&log, count);
        log.close(now()).expect("room");
        sizes(&log, count, state);
    }
    let took = start.elapsed().as_secs_f64();
    println!("a log of {count} records, made in {took:.1} s");

    opens("ended in order", state);
    verifies(state, count);
    {
        let store = Store::open(&state.join("db")).expect("it opens");
        let log = records::open(&store, state);
        records::fill(&log, SINCE_HEAD);
        store.sync().expect("room");
        // Not closed: as after a power cut.
    }
    opens("cut off", state);
}

/// Of a permit, of a finish, and of the database for each of both.
fn sizes(log: &slmd::for_tests::audit::Log, count: u64, state: &Path) {
    let lines = log.read(count / 2, 256).expect("the log is readable");
    let mean = |event: &str| {
        let marked = format!("\"event\":\"{event}\"");
        let of = |json: &&[u8]| String::from_utf8_lossy(json).contains(&marked);
        let all: Vec<&[u8]> = lines.iter().map(|line| &line.json[..]).filter(of).collect();
        all.iter().map(|json| json.len()).sum::<usize>() / all.len().max(1)
    };
    let disk = disk_usage(&state.join("db"));
    println!(
        "bytes a record: permit {}, finish {}; the database takes {} each, {} MiB in all",
        mean("access"),
        mean("finish"),
        disk / count,
        disk >> 20,
    );
}

fn disk_usage(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).expect("the folder is there");
    let size = |entry: fs::DirEntry| match entry.file_type().expect("a type").is_dir() {
        true => disk_usage(&entry.path()),
        false => std::os::unix::fs::MetadataExt::blocks(&entry.metadata().expect("a file")) * 512,
    };
    entries.map(|entry| size(entry.expect("an entry"))).sum()
}

fn opens(how: &str, state: &Path) {
    let empty = folder();
    // The first makes it.
    open::in_child(empty.path());
    let rounds = full_or(5, 1);
    let of = |state: &Path| {
        let all: Vec<_> = (0..rounds).map(|_| open::in_child(state)).collect();
        let ms = median(all.iter().map(|opened| opened.ms).collect());
        let kib = median(all.iter().map(|opened| opened.kib as f64).collect());
        (ms, kib / 1024.0, all[0].next)
    };
    let (ms, mib, next) = of(state);
    let (empty_ms, empty_mib, _) = of(empty.path());
    println!(
        "open, {how}, {next} records: {ms:.0} ms (must 2000, aim 100), {mib:.1} MiB (must 64, aim 16); \
         an empty one {empty_ms:.0} ms, {empty_mib:.1} MiB"
    );
}

/// The whole command, from its start to its end: asking a daemon, and over a copy of a database that
/// nobody has open.
fn verifies(state: &Path, count: u64) {
    let rounds = full_or(3, 1);
    let said = |what: &str, rates: Vec<f64>| {
        let rate = median(rates);
        println!("{what}: {rate:.0} records/s; must 200000, aim 500000");
    };
    let still = |_| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slmd"));
        command.args(["audit", "verify", "--json", "--state"]);
        command.arg(state).env("TMPDIR", crate::support::target());
        rate(&mut command, count)
    };
    let still = (0..rounds).map(still).collect();
    said("slmd audit verify --state, copying included", still);
    // The database isn't to lose a record to the daemon's own cap.
    let settings =
        format!("state_dir = {state:?}\nlog = \"info\"\n[audit]\nmax_size = \"64 GiB\"\n");
    let mut daemon = Daemon::start(Setup::new().with(&settings));
    let asked = |_| {
        let mut command = daemon.binary();
        command.args(["audit", "verify", "--json"]);
        rate(&mut command, count)
    };
    let asked = (0..rounds).map(asked).collect();
    said("slmd audit verify, of a daemon that runs", asked);
    daemon.terminate();
}

/// Records a second, of a log that is sound.
fn rate(command: &mut Command, count: u64) -> f64 {
    let start = instant();
    let output = run(command, b"", LIMIT);
    let seconds = start.elapsed().as_secs_f64();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    let records = report["records"].as_u64().expect("a number");
    assert!(records >= count, "{report}");
    records as f64 / seconds
}
