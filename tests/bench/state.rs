//! Durable permits a second, and what one costs the flash.
//!
//! Prints one line a figure. The state lies in the build folder: it must be on the disk that is
//! to be measured, not in memory.

#[path = "../store/log.rs"]
mod log;

use std::path::Path;
use std::thread;
use std::time::Duration;

use slmd::for_tests::audit::{Log, Settings};
use slmd::for_tests::identity::random;
use slmd::for_tests::prompt::RequestId;
use slmd::for_tests::store::Store;
use slmd::for_tests::time::{instant, now};

use self::log::permit;

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
                        let append =
                            || log.append_permit(permit(&RequestId::random()), random(), now());
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
        ..log::settings()
    };
    log::open(store, folder, settings)
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
