//! Opening a log as the daemon does, in a process of its own, so that its memory can be told.

use std::fs;
use std::path::Path;
use std::process::Command;

use slmd::for_tests::audit::TREES;
use slmd::for_tests::store::Store;
use slmd::for_tests::time::instant;

use crate::records;

/// Set in the child: the state folder.
pub const FOLDER: &str = "SLMD_BENCH_OPEN";

/// Milliseconds, KiB beyond what the process had before, and the log's end.
pub struct Opened {
    pub ms: f64,
    pub kib: u64,
    pub next: u64,
}

pub fn child(folder: &Path) {
    let before = memory("VmRSS:");
    let start = instant();
    let store = Store::open_sparing(&folder.join("db"), &TREES).expect("the store opens");
    assert!(store.recovery().is_none(), "{:?}", store.recovery());
    let log = records::open(&store, folder);
    let ms = start.elapsed().as_secs_f64() * 1000.0;
    let kib = memory("VmHWM:").saturating_sub(before);
    println!("{ms} {kib} {}", log.next_index());
}

/// As the child tells it.
pub fn in_child(folder: &Path) -> Opened {
    let this = std::env::current_exe().expect("this program is there");
    let told = Command::new(this).env(FOLDER, folder).output();
    let told = told.expect("it starts");
    let error = String::from_utf8_lossy(&told.stderr);
    assert!(told.status.success(), "{error}");
    let text = String::from_utf8(told.stdout).expect("text");
    let numbers: Vec<&str> = text.split_whitespace().collect();
    let [ms, kib, next] = numbers[..] else {
        panic!("no three numbers: {text}");
    };
    Opened {
        ms: ms.parse().expect("a number"),
        kib: kib.parse().expect("a number"),
        next: next.parse().expect("a number"),
    }
}

/// KiB, of /proc/self/status.
fn memory(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|n| n.parse().ok()).expect("a number")
}
