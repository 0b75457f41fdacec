//! The state folder against sudden death: a child process that appends permits is killed at
//! random moments, and nothing that it acknowledged is lost. And against a full disk.

#![expect(clippy::unwrap_used, reason = "what tests share is test code too")]

#[path = "store/flash.rs"]
mod flash;
#[path = "store/log.rs"]
mod log;

use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use slmd::for_tests::audit::{Change, Event, Log};
use slmd::for_tests::identity::random;
use slmd::for_tests::prompt::{Origin, RequestId};
use slmd::for_tests::store::Store;

use self::log::{permit, settings};

/// Set in the child: the folder that it writes to.
const FOLDER: &str = "SLMD_CRASH_FOLDER";

const ROUNDS: usize = 20;
/// How long a child may take to write its first record.
const PATIENCE: Duration = Duration::from_secs(60);

/// Permits with their inbox entries, from two threads, until somebody kills the process.
/// Does nothing when run as a test by itself.
#[test]
fn child() {
    let Ok(folder) = std::env::var(FOLDER) else {
        return;
    };
    let folder = Path::new(&folder);
    let store = Store::open(&folder.join("db")).unwrap();
    let log = log::open(&store, folder, settings());
    let inbox = store.tree("inbox").unwrap();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let id = RequestId::random();
                    let now = slmd::for_tests::time::now();
                    let index = store.commit(|| {
                        let index = log.append_permit(permit(&id), random(), now)?;
                        inbox.insert(id.as_str().as_bytes(), &vec![index as u8; 9000])?;
                        Ok::<_, slmd::for_tests::audit::AuditError>(index)
                    });
                    println!("ack {} {id}", index.unwrap());
                }
            });
        }
    });
}

#[test]
fn nothing_acknowledged_is_lost_by_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged: Vec<(u64, String)> = Vec::new();
    for round in 0..ROUNDS {
        let before = acknowledged.len();
        acknowledged.extend(run_and_kill(folder.path(), round));
        check(folder.path(), &acknowledged, round);
        // The first kills fall into the start; later ones must see work.
        let worked = acknowledged.len() > before;
        assert!(worked || round < ROUNDS / 4, "round {round} wrote nothing");
    }
    println!("{} acknowledged, none lost", acknowledged.len());
    assert!(acknowledged.len() > ROUNDS);
}

/// Starts the child, kills it after a while that differs every time; what it acknowledged.
fn run_and_kill(folder: &Path, round: usize) -> Vec<(u64, String)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let (wrote, written) = mpsc::channel();
    let reader = thread::spawn(move || {
        let lines = output.lines().map_while(Result::ok);
        let acks = lines.filter_map(|line| {
            let (index, id) = line.strip_prefix("ack ")?.split_once(' ')?;
            // The kill can cut the last line short.
            let whole = id.len() == "req_".len() + 32;
            let _ = wrote.send(());
            whole.then(|| Some((index.parse().ok()?, id.to_owned())))?
        });
        acks.collect::<Vec<_>>()
    });
    if round >= ROUNDS / 4 {
        written.recv_timeout(PATIENCE).unwrap();
    }
    thread::sleep(Duration::from_millis(random::<1>()[0].into()));
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

/// Opens what the child left: everything acknowledged is there, and no index is missing.
fn check(folder: &Path, acknowledged: &[(u64, String)], round: usize) {
    let store = Store::open(&folder.join("db")).unwrap();
    assert!(
        store.recovery().is_none(),
        "round {round}: {:?}",
        store.recovery()
    );
    let log = log::open(&store, folder, settings());
    let (inbox, salts) = (
        store.tree("inbox").unwrap(),
        store.tree("audit_salts").unwrap(),
    );
    let mut ids = Vec::new();
    while let Some(last) = log.read(ids.len() as u64, 256).unwrap().last() {
        for record in log.read(ids.len() as u64, 256).unwrap() {
            assert_eq!(record.index, ids.len() as u64, "round {round}");
            let Some(Event::Access(access)) = record.record().map(|record| record.event) else {
                panic!("round {round}: {record:?}");
            };
            ids.push(access.request_id);
        }
        assert_eq!(last.index + 1, ids.len() as u64);
    }
    assert_eq!(log.next_index(), ids.len() as u64);
    for (index, id) in acknowledged {
        assert_eq!(ids[*index as usize].as_str(), id, "round {round}");
        let entry = inbox.get(id.as_bytes()).unwrap();
        assert_eq!(entry, Some(vec![*index as u8; 9000]), "round {round}");
        let salt = salts.get(&index.to_be_bytes()).unwrap();
        assert!(salt.is_some(), "round {round}");
    }
}

/// A small disk of memory, gone when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// Needs root, as the build and its containers have it; fails rather than skips without.
    fn new(mib: u32) -> SmallDisk {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={mib}m");
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "slmd-test"])
            .arg(folder.path())
            .status()
            .unwrap();
        assert!(done.success(), "mounting a tmpfs needs root");
        SmallDisk(folder)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let umount = Command::new("umount").arg("-l").arg(self.0.path()).status();
        assert!(umount.is_ok_and(|status| status.success()));
    }
}

/// Records that were appended, not yet synced, and lost with the store's handle are written again
/// when there is room, under the same indexes.
#[test]
fn what_a_full_disk_swallowed_is_written_again() {
    swallowed_and_written_again(|_, _| {});
}

/// As it goes where nobody asks for anything meanwhile.
#[test]
fn what_a_full_disk_swallowed_outlives_the_housekeeping() {
    swallowed_and_written_again(|store, log| {
        store.check().unwrap();
        log.tick(slmd::for_tests::time::now(), true).unwrap();
    });
}

#[test]
fn a_read_is_not_counted_while_the_disk_is_full() {
    let disk = SmallDisk::new(8);
    let store = Store::open(&disk.0.path().join("db")).unwrap();
    let log = log::open(&store, disk.0.path(), settings());
    let (read, now) = (permit(&RequestId::random()), slmd::for_tests::time::now());
    store.commit(|| log.append_read(read.clone(), now)).unwrap();
    log.begin_counting(&read, now);
    assert!(log.count_read(&read, now));
    let ballast = disk.0.path().join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    assert!(store.check().is_err());
    assert!(!log.count_read(&read, now) && !log.is_counting(&read, now));
    // An administrator sees that it is full.
    let root = Origin::Socket {
        uid: 0,
        gid: 0,
        pid: None,
    };
    let _ = log.look(root.clone(), &Change::AskedStatus.into(), now);
    log.look(root, &Change::AskedStatus.into(), now).unwrap();
    drop(file);
    std::fs::remove_file(&ballast).unwrap();
    thread::sleep(Duration::from_millis(1100));
    store.check().unwrap();
    assert!(log.count_read(&read, now));
}

/// `first` is done when there is room again.
fn swallowed_and_written_again(first: impl Fn(&Store, &Log)) {
    let disk = SmallDisk::new(8);
    let ballast = disk.0.path().join("ballast");
    std::fs::write(&ballast, vec![1; 3 * 1024 * 1024]).unwrap();
    let store = Store::open(&disk.0.path().join("db")).unwrap();
    let log = log::open(&store, disk.0.path(), settings());
    let mut ids = Vec::new();
    let append = |ids: &mut Vec<RequestId>| {
        let id = RequestId::random();
        let appended = log.append_permit(permit(&id), random(), slmd::for_tests::time::now());
        // Where what failed is the tile or the head after it, the record is taken all the same.
        let taken = log.next_index() > ids.len() as u64;
        assert!(taken || appended.is_err());
        if taken {
            ids.push(id);
        }
        appended.map(|index| assert_eq!(index + 1, ids.len() as u64))
    };
    while append(&mut ids).is_ok() {
        assert!(ids.len() < 100_000, "the disk never fills");
    }
    let swallowed = ids.len();
    std::fs::remove_file(&ballast).unwrap();
    // Longer than between two tries to open the store again.
    thread::sleep(Duration::from_millis(1100));
    first(&store, &log);
    append(&mut ids).unwrap();
    store.sync().unwrap();
    drop((log, store));

    let store = Store::open(&disk.0.path().join("db")).unwrap();
    assert!(store.recovery().is_none());
    let log = log::open(&store, disk.0.path(), settings());
    assert_eq!(log.next_index(), swallowed as u64 + 1);
    let salts = store.tree("audit_salts").unwrap();
    let mut index = 0;
    while index < log.next_index() {
        for record in log.read(index, 256).unwrap() {
            let Some(Event::Access(access)) = record.record().map(|record| record.event) else {
                panic!("another record at {index}");
            };
            assert_eq!(access.request_id, ids[index as usize], "record {index}");
            assert!(
                salts.get(&index.to_be_bytes()).unwrap().is_some(),
                "salt {index}"
            );
            index += 1;
        }
    }
}
