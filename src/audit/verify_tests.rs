//! What was done to a stored log is found, and where.

use tempfile::TempDir;

use super::checkpoint::file;
use super::epoch::Epoch;
use super::tests::{SALT, START, access, later, open_in, settings};
use super::verify::{Damage, Finding, Report, Verifier};
use super::*;
use crate::store::Tree;

/// A log that is closed, and what is stored of it.
struct Stored {
    folder: TempDir,
    store: Store,
    records: Tree,
    tiles: Tree,
    heads: Tree,
    checkpoints: Tree,
}

impl Stored {
    /// With permits of three principals, in turn.
    fn new(settings: Settings, records: u64) -> Stored {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("db")).unwrap();
        let tree = |name| store.tree(name).unwrap();
        let stored = Stored {
            records: tree(TREES[0]),
            tiles: tree(TREES[2]),
            heads: tree("audit_head"),
            checkpoints: tree("audit_checkpoints"),
            folder,
            store,
        };
        let log = stored.open(settings);
        for n in 0..records {
            let mut access = access(Verdict::Permit);
            access.subject = Some((n % 3).to_string());
            log.append_permit(access, SALT, later(n)).unwrap();
        }
        log.close(START).unwrap();
        stored
    }

    fn open(&self, settings: Settings) -> Log {
        open_in(&self.store, &self.folder, settings)
    }

    fn verifier(&self, given: Option<Vec<u8>>) -> Verifier {
        let key = Key::published().public().clone();
        Verifier::of_store(&self.store, self.folder.path(), key, given).unwrap()
    }

    fn verify(&self) -> Report {
        self.verifier(None).run().unwrap()
    }

    /// What is found of a stored value when one byte of it is another; afterwards it is as it was.
    fn flipped(&self, tree: &Tree, key: &[u8], at: usize) -> Vec<Finding> {
        let sound = tree.get(key).unwrap().unwrap();
        let mut flipped = sound.clone();
        flipped[at] ^= 0x10;
        self.with(tree, key, Some(&flipped))
    }

    fn with(&self, tree: &Tree, key: &[u8], value: Option<&[u8]>) -> Vec<Finding> {
        let sound = tree.get(key).unwrap();
        put(tree, key, value);
        let found = self.verify().findings;
        put(tree, key, sound.as_deref());
        found
    }
}

fn put(tree: &Tree, key: &[u8], value: Option<&[u8]>) {
    match value {
        Some(value) => tree.insert(key, value).unwrap(),
        None => tree.remove(key).unwrap(),
    }
}

fn at(findings: &[Finding], index: u64) -> bool {
    let is_there = |finding: &Finding| {
        let (from, to) = (finding.from.unwrap_or(0), finding.to.unwrap_or(0));
        (from..=to).contains(&index)
    };
    !findings.is_empty() && findings.iter().any(is_there)
}

/// Few in the usual tests, and with `SLMD_TEST_MORE` as many as it says.
fn times(few: u64, many: u64) -> u64 {
    match std::env::var_os("SLMD_TEST_MORE") {
        Some(_) => many,
        None => few,
    }
}

/// Spread over what there is.
fn some(count: u64, of: u64) -> impl Iterator<Item = u64> {
    (0..count).map(move |n| (n * 7919 + n * n * 31) % of)
}

#[test]
fn a_sound_log_is_sound_over_a_store_and_while_it_is_open() {
    let stored = Stored::new(settings(), 700);
    let report = stored.verify();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.records, report.removed), (700, 0));
    assert_eq!((report.epoch, report.base, report.next), (1, 0, 700));
    assert_eq!((report.signed.unwrap().size, report.unsigned), (700, 0));
    let log = stored.open(settings());
    let more = || {
        log.append_permit(access(Verdict::Permit), SALT, START)
            .unwrap()
    };
    more();
    let mut verifier = log.verifier(None).unwrap();
    let report = loop {
        // It goes on meanwhile.
        more();
        if let Some(report) = verifier.step().unwrap() {
            break report;
        }
    };
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.records, report.unsigned), (701, 1));
}

#[test]
fn a_byte_of_anything_is_found_with_its_place() {
    let count = times(1000, 10_000);
    let stored = Stored::new(settings(), count);
    for index in some(times(40, 2000), count) {
        let key = index.to_be_bytes();
        let size = stored.records.get(&key).unwrap().unwrap().len();
        let found = stored.flipped(&stored.records, &key, index as usize % size);
        assert!(at(&found, index), "{index}: {found:?}");
        let own = found
            .iter()
            .filter(|found| found.what == Damage::RecordChanged);
        assert!(
            own.clone().count() == 1 && at(&found[..1], index),
            "{found:?}"
        );
    }
    for key in stored.tiles.keys(&[], 999).unwrap() {
        let size = stored.tiles.get(&key).unwrap().unwrap().len();
        for byte in some(times(12, 200), size as u64) {
            let found = stored.flipped(&stored.tiles, &key, byte as usize);
            let places = found.iter().filter(|found| found.from.is_some());
            assert!(places.count() > 0, "{key:?} {byte}: {found:?}");
        }
    }
    for (tree, key) in [
        (&stored.heads, &0_u16.to_be_bytes()[..]),
        (&stored.checkpoints, b"last"),
        (&stored.checkpoints, b"epoch"),
    ] {
        for byte in 0..tree.get(key).unwrap().unwrap().len() {
            let found = stored.flipped(tree, key, byte);
            assert!(!found.is_empty(), "{key:?} {byte}");
        }
    }
    let beside = file(stored.folder.path());
    let sound = std::fs::read(&beside).unwrap();
    for byte in 0..sound.len() {
        let mut flipped = sound.clone();
        flipped[byte] ^= 0x10;
        std::fs::write(&beside, flipped).unwrap();
        let found = stored.verify().findings;
        let expected = Damage::CheckpointDamaged("beside the store".to_owned());
        assert_eq!(found, [Finding::of_all(expected)], "{byte}");
    }
    std::fs::write(&beside, sound).unwrap();
    assert!(stored.verify().is_sound());
}

#[test]
fn what_was_taken_out_exchanged_or_dropped_is_found() {
    let stored = Stored::new(settings(), 1000);
    let get = |index: u64| stored.records.get(&index.to_be_bytes()).unwrap().unwrap();
    for index in [0_u64, 255, 256, 700, 767, 768, 998, 999] {
        let found = stored.with(&stored.records, &index.to_be_bytes(), None);
        assert!(at(&found, index), "{index}: {found:?}");
    }
    for (one, other) in [(3_u64, 4_u64), (3, 900), (990, 991)] {
        let (first, second) = (get(one), get(other));
        stored.records.insert(&one.to_be_bytes(), &second).unwrap();
        let found = stored.with(&stored.records, &other.to_be_bytes(), Some(&first));
        stored.records.insert(&one.to_be_bytes(), &first).unwrap();
        for (index, told) in [(one, other), (other, one)] {
            let elsewhere = Finding::of(Damage::RecordElsewhere(told), index, index + 1);
            let changed = Finding::of(Damage::RecordChanged, index, index + 1);
            assert!(
                found.contains(&elsewhere) && found.contains(&changed),
                "{found:?}"
            );
        }
    }
    // A tail, with everything that tells of it in the store.
    let heads = stored.heads.range(&[], 9).unwrap();
    put(&stored.heads, &heads[0].0, None);
    for index in 900..1000_u64 {
        stored.records.remove(&index.to_be_bytes()).unwrap();
    }
    let found = stored.verify().findings;
    let tail = |place: &str| Finding::of(Damage::TailMissing(place.to_owned()), 900, 1000);
    for place in ["in the store", "beside the store"] {
        assert!(found.contains(&tail(place)), "{found:?}");
    }
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn a_tile_that_is_cut_is_told_by_its_number() {
    let stored = Stored::new(settings(), 1000);
    let first = &stored.tiles.keys(&[], 1).unwrap()[0];
    let tile = stored.tiles.get(first).unwrap().unwrap();
    let found = stored.with(&stored.tiles, first, Some(&tile[1..]));
    let damaged = Finding::of(Damage::TileDamaged(0, 0), 0, 256);
    assert!(found.contains(&damaged), "{found:?}");
    // One that is gone is made again from its records, and the root is what was signed.
    assert_eq!(stored.with(&stored.tiles, first, None), []);
}

#[test]
fn a_head_of_another_log_is_told() {
    let stored = Stored::new(settings(), 10);
    let (key, head) = stored.heads.range(&[], 1).unwrap().remove(0);
    let mut other = head::Head::decode(&head).unwrap();
    other.epoch += 1;
    let found = stored.with(&stored.heads, &key, Some(&other.encode()));
    assert_eq!(found, [Finding::of_all(Damage::HeadWrong)]);
}

#[test]
fn an_epoch_that_the_store_has_no_word_of_is_told() {
    let stored = Stored::new(settings(), 10);
    let found = stored.with(&stored.checkpoints, b"epoch", None);
    let epoch = Finding::of_all(Damage::EpochDamaged);
    assert!(found.contains(&epoch), "{found:?}");
}

#[test]
fn a_tail_that_nothing_but_the_head_tells_of_is_found() {
    let stored = Stored::new(settings(), 1000);
    put(&stored.checkpoints, b"last", None);
    std::fs::remove_file(file(stored.folder.path())).unwrap();
    for index in 900..1000_u64 {
        stored.records.remove(&index.to_be_bytes()).unwrap();
    }
    let found = stored.verify().findings;
    let gone = Finding::of(Damage::RecordsMissing, 900, 1000);
    assert!(found.contains(&gone), "{found:?}");
}

#[test]
fn a_log_that_was_written_anew_is_seen_by_a_checkpoint_that_was_kept() {
    let stored = Stored::new(settings(), 300);
    let kept = stored.checkpoints.get(b"last").unwrap().unwrap();
    // By who has the device's key: all of it is another log.
    let other = Stored::new(settings(), 300);
    let report = other.verifier(Some(kept)).run().unwrap();
    let anew = Damage::OtherHistory("that was given".to_owned());
    assert_eq!(report.findings, [Finding::of(anew, 0, 300)]);
    let theirs =
        b"x/1\n9\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n\xe2\x80\x94 x/1 AAAAAAA=\n";
    let report = other.verifier(Some(theirs.to_vec())).run().unwrap();
    let damaged = Damage::CheckpointDamaged("that was given".to_owned());
    assert_eq!(report.findings, [Finding::of_all(damaged)]);
}

#[test]
fn removals_are_no_damage_and_hide_none() {
    let small = || Settings {
        max_bytes: 0,
        ..settings()
    };
    let stored = Stored::new(small(), 1500);
    let report = stored.verify();
    assert!(report.is_sound(), "{report:?}");
    assert!(report.removed > 1000 && report.records < 200, "{report:?}");
    assert_eq!(report.removed + report.records, report.next);
    let left = stored.records.keys(&[], 999).unwrap();
    for key in left.iter().rev().skip(1).step_by(7) {
        let index = kept::index_of(key).unwrap();
        let found = stored.with(&stored.records, key, None);
        assert!(at(&found, index), "{index}: {found:?}");
        let found = stored.flipped(&stored.records, key, 40);
        assert!(at(&found, index), "{index}: {found:?}");
    }
    for key in stored.tiles.keys(&[], 99).unwrap() {
        let size = stored.tiles.get(&key).unwrap().unwrap().len();
        for byte in some(60, size as u64) {
            let found = stored.flipped(&stored.tiles, &key, byte as usize);
            assert!(!found.is_empty(), "{key:?} {byte}");
        }
    }
    // While it goes on.
    let log = stored.open(small());
    let mut verifier = log.verifier(None).unwrap();
    let report = loop {
        for _ in 0..40 {
            let append = log.append_permit(access(Verdict::Permit), SALT, START);
            append.unwrap();
        }
        if let Some(report) = verifier.step().unwrap() {
            break report;
        }
    };
    assert!(report.is_sound(), "{report:?}");
}

#[test]
fn earlier_epochs_are_looked_at_as_far_as_they_can_be() {
    let stored = Stored::new(settings(), 300);
    stored.heads.remove(&0_u16.to_be_bytes()).unwrap();
    stored.records.remove(&7_u64.to_be_bytes()).unwrap();
    let log = stored.open(settings());
    let first = log.line(300).unwrap().unwrap();
    let mut expected = Epoch::new(2, 300);
    let leaf = crate::tlog::tree::leaf_hash(&first.json);
    let pushed = stored
        .store
        .write(|w| expected.push(&stored.tiles, w, leaf));
    pushed.unwrap();
    assert_eq!(log.state().epoch, expected);
    let report = stored.verify();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.before_epoch, report.records), (299, 1));
    assert!(
        report.signed.is_none() && report.remarks.len() == 3,
        "{report:?}"
    );
    log.close(START).unwrap();
    let report = stored.verify();
    assert_eq!(
        report.signed.as_ref().map(|signed| signed.size),
        Some(1),
        "{report:?}"
    );
    let early = stored.records.get(&5_u64.to_be_bytes()).unwrap().unwrap();
    let found = stored.with(&stored.records, &9_u64.to_be_bytes(), Some(&early));
    assert_eq!(found, [Finding::of(Damage::RecordElsewhere(5), 9, 10)]);
    // The epoch's first record says otherwise.
    let begun = stored.checkpoints.get(b"epoch").unwrap().unwrap();
    let other = String::from_utf8(begun).unwrap();
    let other = other.replace("records_missing", "other_root");
    let found = stored.with(&stored.checkpoints, b"epoch", Some(other.as_bytes()));
    assert_eq!(found, [Finding::of_all(Damage::EpochDamaged)]);
    // What was signed in this epoch, and a log that never had it.
    let signed = stored.checkpoints.get(b"last").unwrap();
    let report = Stored::new(settings(), 3).verifier(signed).run().unwrap();
    let missing = Damage::EpochMissing("that was given".to_owned(), 2);
    assert_eq!(report.findings, [Finding::of_all(missing)]);
}

/// All that the log says, and its salts.
fn said(store: &Store) -> Vec<(Vec<u8>, Vec<u8>)> {
    let [records, salts] = [TREES[0], TREES[1]].map(|name| store.tree(name).unwrap());
    let mut said = records.range(&[], usize::MAX).unwrap();
    said.extend(salts.range(&[], usize::MAX).unwrap());
    said
}

#[test]
fn a_byte_of_the_databases_files_is_found_or_changes_nothing() {
    let count = times(500, 10_000);
    let stored = Stored::new(settings(), count);
    let original = said(&stored.store);
    let (home, beside) = (
        stored.folder.path().join("db/sled"),
        file(stored.folder.path()),
    );
    drop(stored.store);
    drop([
        stored.records,
        stored.tiles,
        stored.heads,
        stored.checkpoints,
    ]);
    // With a snapshot, as a daemon leaves it that was started again.
    drop(Store::open(&stored.folder.path().join("db")).unwrap());
    let mut told = 0;
    for entry in std::fs::read_dir(&home).unwrap() {
        let name = entry.unwrap().file_name();
        let Ok(sound) = std::fs::read(home.join(&name)) else {
            continue;
        };
        for byte in some(times(25, 1000), sound.len() as u64) {
            let copied = tempfile::tempdir().unwrap();
            tree_tests::copy(&home, &copied.path().join("db/sled"));
            std::fs::create_dir_all(copied.path().join(FOLDER)).unwrap();
            std::fs::copy(&beside, file(copied.path())).unwrap();
            let mut flipped = sound.clone();
            flipped[byte as usize] ^= 1;
            std::fs::write(copied.path().join("db/sled").join(&name), flipped).unwrap();
            let store = Store::open(&copied.path().join("db")).unwrap();
            let key = Key::published().public().clone();
            let verifier = Verifier::of_store(&store, copied.path(), key, None).unwrap();
            let report = verifier.run().unwrap();
            let same = said(&store) == original;
            told += usize::from(!report.is_sound());
            assert!(same || !report.is_sound(), "{name:?} {byte}: {report:?}");
        }
    }
    assert!(told > 10, "{told} were told");
}

#[test]
fn a_log_without_a_tree_has_nothing_that_vouches_for_it() {
    let stored = Stored::new(settings(), 3);
    for tree in [&stored.tiles, &stored.heads, &stored.checkpoints] {
        for key in tree.keys(&[], 99).unwrap() {
            tree.remove(&key).unwrap();
        }
    }
    std::fs::remove_file(file(stored.folder.path())).unwrap();
    assert_eq!(stored.verify().findings, [Finding::of_all(Damage::NoTree)]);
}
