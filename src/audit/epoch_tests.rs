//! When a log goes on in its epoch, and when it begins another.

use std::fs;

use tempfile::TempDir;

use super::checkpoint::file;
use super::head::Head;
use super::tests::{SALT, START, access, all, later, open, open_in, settings};
use super::tree_tests::copy;
use super::*;

fn append(log: &Log, count: u64) {
    for _ in 0..count {
        log.permit(access(Verdict::Permit), SALT, START).unwrap();
    }
}

/// The detail of the record that begins an epoch.
fn begun(log: &Log, index: u64) -> serde_json::Value {
    let record = log.line(index).unwrap().unwrap().record().unwrap();
    match record.event {
        Event::Change { what, detail, .. } if what == Change::AuditEpochBegun.into() => detail,
        other => panic!("{other:?}"),
    }
}

fn epoch(log: &Log) -> (u64, u64, u64) {
    let state = log.state();
    (state.epoch.number, state.epoch.base, state.epoch.size)
}

fn set_back(folder: &TempDir, to: &TempDir) {
    let db = folder.path().join("db");
    fs::remove_dir_all(&db).unwrap();
    copy(to.path(), &db);
}

fn kept(folder: &TempDir) -> TempDir {
    let kept = tempfile::tempdir().unwrap();
    copy(&folder.path().join("db"), kept.path());
    kept
}

#[test]
fn a_log_goes_on_in_its_first_epoch_and_says_nothing_of_it() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let log = open(&folder, settings());
        assert_eq!(epoch(&log), (1, 0, 300 * round));
        append(&log, 300);
        log.close(START).unwrap();
        let signed = log.checkpoint().unwrap();
        assert_eq!(signed.origin, "slmd.internal/edge-1/1");
        assert_eq!(
            fs::read_to_string(file(folder.path())).unwrap(),
            signed.note
        );
    }
    let log = open(&folder, settings());
    assert_eq!(log.checkpoint().unwrap().size, 900);
    let is_permit = |record: &Record| matches!(record.event, Event::Access(_));
    assert!(all(&log).iter().all(is_permit));
}

#[test]
fn a_store_that_was_set_back_or_lost_begins_a_new_epoch_that_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let write = |count| {
        let log = open(&folder, settings());
        append(&log, count);
        log.close(START).unwrap();
        log.checkpoint().unwrap()
    };
    write(300);
    let early = kept(&folder);
    let last = write(10);
    set_back(&folder, &early);
    let log = open(&folder, settings());
    assert_eq!(epoch(&log), (2, 300, 1));
    let said = begun(&log, 300);
    let expected = serde_json::json!({
        "epoch": 2, "base": 300, "why": "behind_checkpoint", "checkpoint": last.note,
    });
    assert_eq!(said, expected);
    assert_eq!(log.checkpoint(), None, "of another epoch");
    let signed = log.sign_now(START).unwrap();
    assert_eq!((signed.epoch, signed.base, signed.size), (2, 300, 1));
    assert!(signed.origin.ends_with("/2"));
    assert!(log.inclusion(300, &signed).is_ok());
    assert!(matches!(
        log.inclusion(299, &signed),
        Err(ProofError::Beyond)
    ));
    let other = log.inclusion(299, &last);
    assert!(matches!(other, Err(ProofError::OtherEpoch)));
    drop(log);
    // The one before knows nothing of the second epoch.
    set_back(&folder, &early);
    assert_eq!(epoch(&open(&folder, settings())), (3, 300, 1));
    fs::remove_dir_all(folder.path().join("db")).unwrap();
    let log = open(&folder, settings());
    assert_eq!(epoch(&log), (3, 0, 1), "what wasn't signed is forgotten");
    assert_eq!(begun(&log, 0)["why"], "behind_checkpoint");
    drop(log);
    assert_eq!(epoch(&open(&folder, settings())), (3, 0, 1), "and goes on");
}

#[test]
fn another_history_than_was_signed_begins_a_new_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let write = || {
        let log = open(&folder, settings());
        append(&log, 10);
        log.close(START).unwrap();
    };
    write();
    let early = kept(&folder);
    write();
    let signed = fs::read(file(folder.path())).unwrap();
    set_back(&folder, &early);
    fs::remove_file(file(folder.path())).unwrap();
    write();
    fs::write(file(folder.path()), signed).unwrap();
    let log = open(&folder, settings());
    assert_eq!(epoch(&log), (2, 20, 1));
    assert_eq!(begun(&log, 20)["why"], "other_root");
}

#[test]
fn a_checkpoint_that_isnt_the_devices_says_nothing() {
    let folder = tempfile::tempdir().unwrap();
    open(&folder, settings()).close(START).unwrap();
    for note in [
        "",
        "no note",
        "a/7\n9\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n\u{2014} a/7 AAAAAAA=\n",
    ] {
        fs::write(file(folder.path()), note).unwrap();
        let log = open(&folder, settings());
        assert_eq!(epoch(&log), (1, 0, 0), "{note:?}");
    }
}

#[test]
fn an_epoch_whose_record_a_crash_has_lost_tells_of_itself_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("db")).unwrap();
    let log = open_in(&store, &folder, settings());
    append(&log, 3);
    drop(log);
    let begun_so = br#"{"epoch":7,"base":3,"why":"tree_damaged"}"#;
    store
        .tree("audit_checkpoints")
        .unwrap()
        .insert(b"epoch", begun_so)
        .unwrap();
    let log = open_in(&store, &folder, settings());
    assert_eq!(epoch(&log), (7, 3, 1));
    assert_eq!(begun(&log, 3)["why"], "tree_damaged");
}

#[test]
fn records_that_were_taken_out_or_tiles_that_are_damaged_begin_a_new_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("db")).unwrap();
    let trees = [TREES[0], TREES[2], "audit_head"].map(|name| store.tree(name).unwrap());
    let [records, tiles, heads] = &trees;
    let log = open_in(&store, &folder, settings());
    append(&log, 600);
    log.close(START).unwrap();
    drop(log);
    records.remove(&5_u64.to_be_bytes()).unwrap();
    // The head record says nothing of it, and who verifies the log sees it.
    assert_eq!(epoch(&open_in(&store, &folder, settings())), (1, 0, 600));
    heads.remove(&0_u16.to_be_bytes()).unwrap();
    let log = open_in(&store, &folder, settings());
    assert_eq!(epoch(&log), (2, 600, 1));
    assert_eq!(begun(&log, 600)["why"], "records_missing");
    append(&log, 10);
    log.close(START).unwrap();
    drop(log);
    let keys = tiles.keys(&[], 9).unwrap();
    assert_eq!(keys.len(), 1, "those of the first epoch are gone");
    tiles.insert(&keys[0], b"damaged").unwrap();
    let log = open_in(&store, &folder, settings());
    assert_eq!(epoch(&log), (3, 611, 1));
    assert_eq!(begun(&log, 611)["why"], "tree_damaged");
}

/// All that a look at the log finds.
fn counters(log: &Log) -> (Head, i64) {
    (log.state().head(), log.metrics().bytes.get())
}

#[test]
fn a_head_that_is_lost_damaged_or_old_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("db")).unwrap();
    let heads = store.tree("audit_head").unwrap();
    let small = || Settings {
        max_bytes: 0,
        ..settings()
    };
    let log = open_in(&store, &folder, small());
    append(&log, 60);
    log.close(START).unwrap();
    let old = heads.range(&[], 9).unwrap();
    // Over the cap: removals come after what this head says.
    append(&log, 300);
    log.close(START).unwrap();
    assert!(log.metrics().removed.get() > 100);
    let live = counters(&log);
    assert!(live.0.removed > 100 && live.0.first > 0, "{live:?}");
    drop(log);
    assert_eq!(counters(&open_in(&store, &folder, small())), live);
    for head in [None, Some(&b"damaged"[..]), Some(&old[0].1[..])] {
        match head {
            Some(head) => heads.insert(&old[0].0, head).unwrap(),
            None => heads.remove(&old[0].0).unwrap(),
        }
        assert_eq!(
            counters(&open_in(&store, &folder, small())),
            live,
            "{head:?}"
        );
    }
}

#[test]
fn opening_reads_what_came_after_the_head_and_nothing_before() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("db")).unwrap();
    let log = open_in(&store, &folder, settings());
    append(&log, 3000);
    let reads = |closed: bool| {
        if closed {
            open_in(&store, &folder, settings()).close(START).unwrap();
        }
        let before = store.reads();
        drop(open_in(&store, &folder, settings()));
        store.reads() - before
    };
    drop(log);
    // Records of the unfinished tile one by one, where it isn't stored.
    let killed = reads(false);
    assert!(killed < 300, "{killed} reads");
    let closed = reads(true);
    assert!(closed < 32, "{closed} reads");
}

#[test]
fn checkpoints_come_by_number_and_by_time_where_there_is_something_new() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(&folder, settings());
    let size = || log.checkpoint().map(|signed| signed.size);
    let told = log.checkpoints();
    log.tick(later(0), false).unwrap();
    assert_eq!(size(), None, "nothing is in it");
    append(&log, 1);
    log.tick(later(1), false).unwrap();
    assert_eq!(size(), Some(1));
    append(&log, 5);
    log.tick(later(60), false).unwrap();
    assert_eq!(size(), Some(1));
    log.tick(later(61), false).unwrap();
    assert_eq!(size(), Some(6));
    assert!(told.has_changed().unwrap());
    append(&log, 1000);
    log.tick(later(62), false).unwrap();
    assert_eq!(size(), Some(1006));
    let note = log.checkpoint().unwrap();
    for secs in [300, 30] {
        log.tick(later(secs), false).unwrap();
        assert_eq!(log.checkpoint().unwrap(), note, "there is nothing new");
    }
    append(&log, 1);
    log.tick(later(31), false).unwrap();
    assert_eq!(size(), Some(1007), "the clock was set back");
}

#[test]
fn what_cant_be_kept_beside_the_store_is_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(&folder, settings());
    append(&log, 2);
    fs::write(folder.path().join(FOLDER), "in the way").unwrap();
    let signed = log.sign_now(START).unwrap();
    drop(log);
    let log = open(&folder, settings());
    assert_eq!(log.checkpoint().unwrap(), signed);
}
