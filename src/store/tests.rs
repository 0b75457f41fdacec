//! The store against what happens to it: restarts, leftovers, damage, a full disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A value that no compression or all-zero page could fake.
fn bytes(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|i| (i as u8).wrapping_mul(31) ^ seed)
        .collect()
}

fn sled_files(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder.join("sled")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let named = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with(prefix)
    };
    paths.filter(named).collect()
}

#[test]
fn what_was_synced_is_there_after_a_reopening() {
    let folder = folder();
    {
        let store = Store::open(folder.path()).unwrap();
        let tree = store.tree("t").unwrap();
        tree.insert(b"a", b"1").unwrap();
        tree.insert(b"b", b"").unwrap();
        tree.insert(b"c", b"3").unwrap();
        tree.remove(b"c").unwrap();
        store.sync().unwrap();
        assert!(store.recovery().is_none());
    }
    let tree = Store::open(folder.path()).unwrap().tree("t").unwrap();
    assert_eq!(tree.get(b"a").unwrap().unwrap(), b"1");
    assert_eq!(tree.get(b"c").unwrap(), None);
    assert_eq!(tree.len(), 2);
    let mode = fs::metadata(folder.path()).unwrap();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777,
        0o700
    );
}

#[test]
fn damage_in_a_spared_tree_shows_when_it_is_read_and_is_repaired_the_next_time() {
    let folder = folder();
    let open = || Store::open_sparing(folder.path(), &["large"]).unwrap();
    let store = open();
    let (large, small) = (store.tree("large").unwrap(), store.tree("small").unwrap());
    for n in 0..200_u8 {
        large.insert(&[n], &bytes(4000, n)).unwrap();
    }
    small.insert(b"a", b"1").unwrap();
    store.sync().unwrap();
    drop((large, small, store));
    // With a snapshot, what lies in the middle is read only when it is asked for.
    drop(open());
    let file = folder.path().join("sled/db");
    let mut found = fs::read(&file).unwrap();
    let needle = bytes(4000, 100);
    let mut at = found.windows(needle.len()).enumerate();
    let places: Vec<usize> = at
        .by_ref()
        .filter(|(_, w)| *w == needle)
        .map(|(n, _)| n)
        .collect();
    assert!(!places.is_empty());
    places.iter().for_each(|at| found[at + 9] ^= 1);
    fs::write(&file, found).unwrap();

    let store = open();
    assert!(store.recovery().is_none());
    let large = store.tree("large").unwrap();
    let read = large.range(&[], usize::MAX);
    assert!(matches!(read, Err(StoreError::Corrupt(_))), "{read:?}");
    assert_eq!(
        store.tree("small").unwrap().get(b"a").unwrap().unwrap(),
        b"1"
    );
    drop((large, store));
    let store = open();
    assert!(store.recovery().is_some());
    drop(store);
    assert!(open().recovery().is_none());
}

#[test]
fn a_second_process_would_find_it_locked() {
    let folder = folder();
    let store = Store::open(folder.path()).unwrap();
    assert!(matches!(
        Store::open(folder.path()),
        Err(StoreError::Locked)
    ));
    drop(store);
    Store::open(folder.path()).unwrap();
}

#[test]
fn large_values_never_become_unsynced_files() {
    let folder = folder();
    let store = Store::open(folder.path()).unwrap();
    let tree = store.tree("t").unwrap();
    for n in 0..60_u8 {
        tree.insert(&[n], &bytes(MAX_VALUE, n)).unwrap();
        // Values that aren't cut into parts share pages that grow by their number only.
        tree.insert(&[n, n], &bytes(5 * 1024, n)).unwrap();
    }
    store.sync().unwrap();
    let blobs = fs::read_dir(folder.path().join("sled/blobs")).unwrap();
    assert_eq!(blobs.count(), 0);
    let pairs = tree.range(&[3], 3).unwrap();
    assert_eq!(pairs[0], (vec![3], bytes(MAX_VALUE, 3)));
    assert_eq!(pairs[1], (vec![3, 3], bytes(5 * 1024, 3)));
    assert_eq!(pairs[2].0, [4]);

    let limit = tree.insert(b"x", &bytes(MAX_VALUE + 1, 0));
    assert!(matches!(
        limit,
        Err(StoreError::TooLarge { what: "value", .. })
    ));
    let limit = tree.insert(&bytes(MAX_KEY + 1, 0), b"");
    assert!(matches!(
        limit,
        Err(StoreError::TooLarge { what: "key", .. })
    ));
    tree.insert(b"x", b"a refusal breaks nothing").unwrap();
}

#[derive(Debug, Clone)]
enum Step {
    Insert(u8, usize),
    Remove(u8),
    Batch(Vec<(u8, Option<usize>)>),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let len = prop_oneof![0..200_usize, 5000..5300_usize, 20_000..MAX_VALUE];
    let batch = prop::collection::vec((0..8_u8, prop::option::of(len.clone())), 1..6);
    let step = prop_oneof![
        4 => (0..8_u8, len).prop_map(|(key, len)| Step::Insert(key, len)),
        2 => (0..8_u8).prop_map(Step::Remove),
        2 => batch.prop_map(Step::Batch),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// The store is an ordered map, and leaves no parts behind.
    #[test]
    fn behaves_like_a_map(steps in steps()) {
        let folder = folder();
        let mut store = Store::open(folder.path()).unwrap();
        let mut tree = store.tree("t").unwrap();
        let mut model = BTreeMap::new();
        for (n, step) in steps.into_iter().enumerate() {
            let value = |len| bytes(len, n as u8);
            match step {
                Step::Insert(key, len) => {
                    tree.insert(&[key], &value(len)).unwrap();
                    model.insert(vec![key], value(len));
                }
                Step::Remove(key) => {
                    tree.remove(&[key]).unwrap();
                    model.remove(&vec![key]);
                }
                Step::Batch(changes) => {
                    let mut batch = Batch::default();
                    for (key, len) in changes {
                        if let Some(len) = len {
                            batch.insert(&[key], &value(len));
                            model.insert(vec![key], value(len));
                        } else {
                            batch.remove(&[key]);
                            model.remove(&vec![key]);
                        }
                    }
                    tree.apply(batch).unwrap();
                }
                Step::Reopen => {
                    store.sync().unwrap();
                    drop((store, tree));
                    store = Store::open(folder.path()).unwrap();
                    tree = store.tree("t").unwrap();
                }
            }
            let all: Vec<_> = model.clone().into_iter().collect();
            prop_assert_eq!(tree.range(&[], 100).unwrap(), all);
        }
        let parts = store.tree("t/parts").unwrap();
        let long = model.values().filter(|v| v.len() > 5 * 1024);
        prop_assert_eq!(parts.len(), long.map(|v| v.len().div_ceil(5 * 1024)).sum::<usize>());
    }
}

#[test]
fn leftovers_of_a_crash_while_starting_do_not_matter() {
    let folder = folder();
    {
        let store = Store::open(folder.path()).unwrap();
        store.tree("t").unwrap().insert(b"a", b"1").unwrap();
        store.sync().unwrap();
    }
    fs::write(
        folder.path().join("sled/snap.FFFFFFFFFFFFFFFF.generating"),
        "",
    )
    .unwrap();
    let store = Store::open(folder.path()).unwrap();
    assert!(store.recovery().is_none());
    assert_eq!(store.tree("t").unwrap().get(b"a").unwrap().unwrap(), b"1");
}

#[test]
fn a_damaged_snapshot_of_a_young_store_costs_nothing() {
    let folder = folder();
    let store = Store::open(folder.path()).unwrap();
    let tree = store.tree("t").unwrap();
    for n in 0..500_u32 {
        tree.insert(&n.to_be_bytes(), &bytes(700, n as u8)).unwrap();
    }
    store.sync().unwrap();
    drop((store, tree));
    drop(Store::open(folder.path()).unwrap());
    let snapshots = sled_files(folder.path(), "snap.");
    assert!(!snapshots.is_empty());
    for snapshot in snapshots {
        fs::write(snapshot, [0; 100]).unwrap();
    }
    let store = Store::open(folder.path()).unwrap();
    let recovery = store.recovery().unwrap();
    assert_eq!(recovery.left, 500);
    assert!(recovery.kept.join("db").exists());
    let tree = store.tree("t").unwrap();
    for n in 0..500_u32 {
        let value = tree.get(&n.to_be_bytes()).unwrap();
        assert_eq!(value.unwrap(), bytes(700, n as u8));
    }
}

#[test]
fn a_damaged_database_is_set_aside_and_reported() {
    let folder = folder();
    for round in 1..=5 {
        let store = Store::open(folder.path()).unwrap();
        let name = format!("t{round}");
        let tree = store.tree(&name).unwrap();
        for n in 0..2000_u32 {
            tree.insert(&n.to_be_bytes(), &bytes(300, n as u8)).unwrap();
        }
        store.sync().unwrap();
        drop((store, tree));
        // A second start moves sled's snapshot past the part that is damaged here.
        drop(Store::open(folder.path()).unwrap());
        let db = folder.path().join("sled/db");
        let mut content = fs::read(&db).unwrap();
        let middle = content.len() / 4;
        content[middle..middle + 64 * 1024].fill(0x5a);
        fs::write(&db, content).unwrap();

        let store = Store::open(folder.path()).unwrap();
        let recovery = store.recovery().unwrap();
        assert!(recovery.kept.join("db").exists());
        assert!(recovery.left < round * 2000, "{} are left", recovery.left);
        let tree = store.tree(&name).unwrap();
        for (key, value) in tree.range(&[], usize::MAX).unwrap() {
            assert_eq!(value, bytes(300, key[3]), "what is left is right");
        }
        tree.insert(b"works", b"again").unwrap();
        store.sync().unwrap();
    }
    let names = fs::read_dir(folder.path()).unwrap();
    let names = names.map(|e| e.unwrap().file_name().into_string().unwrap());
    let damaged = names.filter(|name| name.starts_with("sled.damaged-"));
    assert_eq!(damaged.count(), 3, "what is kept is bounded");
}

#[test]
fn a_cut_off_database_opens() {
    let folder = folder();
    let store = Store::open(folder.path()).unwrap();
    let tree = store.tree("t").unwrap();
    for n in 0..5000_u32 {
        tree.insert(&n.to_be_bytes(), &bytes(600, n as u8)).unwrap();
    }
    store.sync().unwrap();
    drop((store, tree));
    drop(Store::open(folder.path()).unwrap());
    let db = fs::OpenOptions::new();
    let db = { db }
        .write(true)
        .open(folder.path().join("sled/db"))
        .unwrap();
    db.set_len(db.metadata().unwrap().len() / 2 + 77).unwrap();
    let store = Store::open(folder.path()).unwrap();
    assert!(store.recovery().unwrap().left < 5000);
    store.tree("t").unwrap().insert(b"works", b"").unwrap();
    store.sync().unwrap();
}

#[test]
fn garbage_instead_of_a_database_starts_anew() {
    let folder = folder();
    fs::create_dir_all(folder.path().join("sled/blobs")).unwrap();
    for name in ["conf", "db", "snap.0000000000000100"] {
        fs::write(folder.path().join("sled").join(name), bytes(700_000, 9)).unwrap();
    }
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(store.recovery().unwrap().left, 0);
    store.tree("t").unwrap().insert(b"works", b"").unwrap();
    store.sync().unwrap();
}

#[test]
fn concurrent_commits_share_a_sync() {
    let folder = folder();
    let store = Store::open(folder.path()).unwrap();
    let tree = store.tree("t").unwrap();
    let (threads, each) = (8_u64, 25_u64);
    let start = Barrier::new(threads as usize);
    thread::scope(|scope| {
        for thread in 0..threads {
            let (store, tree, start) = (&store, &tree, &start);
            scope.spawn(move || {
                start.wait();
                for n in 0..each {
                    let key = (thread * each + n).to_be_bytes();
                    store.commit(|| tree.insert(&key, b"x")).unwrap();
                }
            });
        }
    });
    assert_eq!(tree.len() as u64, threads * each);
    let syncs = store.syncs();
    assert!(syncs >= each, "{syncs} syncs: some commit wasn't synced");
    assert!(
        syncs <= threads * each / 2,
        "{syncs} syncs: none was shared"
    );
    let before = store.syncs();
    store.sync().unwrap();
    assert_eq!(store.syncs(), before, "nothing to sync");
}

/// A small disk of memory, gone when dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    /// Needs root, as the build and its containers have it; fails rather than skips without.
    fn new(mib: u32) -> SmallDisk {
        let folder = folder();
        let size = format!("size={mib}m");
        let done = std::process::Command::new("mount")
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
        let umount = std::process::Command::new("umount");
        let done = { umount }.arg("-l").arg(self.0.path()).status();
        assert!(done.is_ok_and(|status| status.success()));
    }
}

#[test]
fn a_full_disk_is_told_and_gotten_over() {
    let disk = SmallDisk::new(6);
    let ballast = disk.0.path().join("ballast");
    fs::write(&ballast, vec![1; 2 * 1024 * 1024]).unwrap();
    let store = Store::open(&disk.0.path().join("store")).unwrap();
    let tree = store.tree("t").unwrap();
    let mut acknowledged = 0_u32;
    let error = loop {
        let key = acknowledged.to_be_bytes();
        match store.commit(|| tree.insert(&key, &bytes(4000, acknowledged as u8))) {
            Ok(()) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 10_000, "the disk never fills");
    };
    assert!(matches!(error, StoreError::Full), "{error}");
    let again = store.commit(|| tree.insert(b"x", b"y"));
    assert!(matches!(again, Err(StoreError::Full)), "{again:?}");

    fs::remove_file(&ballast).unwrap();
    thread::sleep(RETRY + Duration::from_millis(100));
    store.commit(|| tree.insert(b"x", b"y")).unwrap();
    for n in 0..acknowledged {
        let value = tree.get(&n.to_be_bytes()).unwrap();
        assert_eq!(value.unwrap(), bytes(4000, n as u8), "record {n}");
    }
    drop((store, tree));
    let store = Store::open(&disk.0.path().join("store")).unwrap();
    assert!(store.recovery().is_none());
    assert_eq!(store.tree("t").unwrap().get(b"x").unwrap().unwrap(), b"y");
}
