//! `slmd audit verify --state`: what was done to the log of a stopped daemon is told with its place, and
//! by the exit code.

use std::fs;
use std::path::Path;

use serde_json::Value;
use slmd::for_tests::audit::Finished;
use slmd::for_tests::prompt::{Finish, RequestId, Usage};
use slmd::for_tests::store::Store;
use tempfile::TempDir;

use crate::support::{Daemon, Issuer, Setup, log_of, store_of, verify};

const DAMAGED: i32 = 1;
/// Records, in the usual tests and with `SLMD_TEST_MORE`;
const RECORDS: (u64, u64) = (1000, 10_000);
/// and bytes that are flipped: one of so many records, and so many of the rest.
const FLIPPED: (u64, u64) = (5, 200);

fn more((few, many): (u64, u64)) -> u64 {
    match std::env::var_os("SLMD_TEST_MORE") {
        Some(_) => many,
        None => few,
    }
}

/// The folder of a daemon that is stopped.
struct Scene {
    daemon: Daemon,
    /// The index after the last record.
    end: u64,
}

impl Scene {
    fn new() -> Scene {
        let issuer = Issuer::new("ES256", "a");
        let mut daemon = Daemon::start(Setup::new().issuer(&issuer));
        daemon.terminate();
        Scene { daemon, end: 0 }
    }

    /// More records, up to this index, and a signature over them all; as a prompt's end leaves them.
    fn grow(&mut self, end: u64) {
        let state = self.daemon.state_dir();
        let store = store_of(&state);
        let log = log_of(&store, &state);
        let now = slmd::for_tests::time::now();
        while log.next_index() < end {
            log.finish(finished(), now).expect("there is room");
        }
        log.close(now).expect("there is room");
        self.end = log.next_index();
    }

    fn copy(&self) -> TempDir {
        let copy = tempfile::tempdir().expect("a folder");
        copy_all(&self.daemon.state_dir(), copy.path());
        copy
    }

    /// What is found in a copy that something was done to; all of it, sorted by its words.
    fn found(&self, change: impl FnOnce(&Store, &Path)) -> Vec<Value> {
        let copy = self.copy();
        let store = store_of(copy.path());
        change(&store, copy.path());
        drop(store);
        findings(copy.path(), None)
    }
}

fn copy_all(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("a folder");
        let to = to.join(entry.file_name());
        match entry.file_type().expect("a type").is_dir() {
            true => {
                fs::create_dir_all(&to).expect("there is room");
                copy_all(&entry.path(), &to);
            }
            false => drop(fs::copy(entry.path(), to).expect("there is room")),
        }
    }
}

/// What is found, and by the exit code that there is something.
fn findings(state: &Path, kept: Option<&Path>) -> Vec<Value> {
    let output = verify(state, kept);
    let said = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    let findings = report["findings"].as_array().expect("a list").clone();
    let code = if findings.is_empty() { 0 } else { DAMAGED };
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    findings
}

fn finished() -> Finished {
    Finished {
        request_id: RequestId::random(),
        principal: None,
        realm: Some("dev".to_owned()),
        endpoint: Some("slm".to_owned()),
        access_index: None,
        finish: Finish::Stop,
        usage: Usage::default(),
        answer_hash: "0".repeat(64),
        queue_ms: 0,
        first_token_ms: None,
        total_ms: 1,
        text: None,
    }
}

/// Whether one of them is this damage, at exactly these records.
fn says(found: &[Value], damage: &str, from: u64, to: u64) -> bool {
    let is_it = |one: &Value| one["damage"] == damage && one["from"] == from && one["to"] == to;
    found.iter().any(is_it)
}

fn flip(store: &Store, tree: &str, key: &[u8], at: u64) {
    let tree = store.tree(tree).expect("a tree");
    let mut value = tree.get(key).expect("readable").expect("a value");
    let at = usize::try_from(at).expect("small") % value.len();
    value[at] ^= 0x10;
    tree.insert(key, &value).expect("there is room");
}

#[test]
fn what_was_done_to_a_stopped_daemons_log_is_told_with_its_place() {
    let mut scene = Scene::new();
    scene.grow(more(RECORDS));
    assert_eq!(findings(&scene.daemon.state_dir(), None), [] as [Value; 0]);
    flips(&scene);
    exchanges(&scene);
    losses(&scene);
}

fn flips(scene: &Scene) {
    let times = more(FLIPPED);
    for n in 0..times {
        let index = n * (scene.end - 1) / (times - 1).max(1);
        let found = scene.found(|store, _| flip(store, "audit", &index.to_be_bytes(), n * 37 + 5));
        assert!(says(&found, "record_changed", index, index), "{found:?}");
    }
    // A tile of hashes: the records that it is of.
    for n in 0..times {
        let found = scene.found(|store, _| {
            let tiles = store.tree("audit_tiles").expect("a tree");
            let keys = tiles.keys(&[], 999).expect("readable");
            flip(
                store,
                "audit_tiles",
                &keys[n as usize % keys.len()],
                n * 211,
            );
        });
        let places = found
            .iter()
            .filter(|one| one["from"].is_u64() && one["to"].is_u64());
        assert!(places.count() > 0, "{found:?}");
    }
    for n in 0..times {
        for (tree, key, damages) in [
            ("audit_head", &[0, 0][..], &["head_damaged"][..]),
            ("audit_checkpoints", b"last", &["checkpoint_damaged"]),
            (
                "audit_checkpoints",
                b"epoch",
                &["epoch_damaged", "head_wrong"],
            ),
        ] {
            let found = scene.found(|store, _| flip(store, tree, key, n * 13));
            let is_it = |one: &Value| damages.iter().any(|damage| one["damage"] == *damage);
            assert!(found.iter().any(is_it), "{key:?}: {found:?}");
        }
        let found = scene.found(|_, state| {
            let file = state.join("audit/checkpoint");
            let mut note = fs::read(&file).expect("a checkpoint");
            let at = n as usize * 13 % note.len();
            note[at] ^= 0x10;
            fs::write(&file, note).expect("there is room");
        });
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0]["damage"], "checkpoint_damaged", "{found:?}");
        assert_eq!(found[0]["detail"], "beside the store", "{found:?}");
    }
}

/// Records in each other's place.
fn exchanges(scene: &Scene) {
    for (one, other) in [(3_u64, 4_u64), (5, scene.end - 2), (255, 256)] {
        let found = scene.found(|store, _| {
            let records = store.tree("audit").expect("a tree");
            let get = |index: u64| records.get(&index.to_be_bytes()).expect("readable");
            let (first, second) = (get(one).expect("a record"), get(other).expect("a record"));
            for (index, record) in [(one, second), (other, first)] {
                records.insert(&index.to_be_bytes(), &record).expect("room");
            }
        });
        for (index, told) in [(one, other), (other, one)] {
            assert!(says(&found, "record_changed", index, index), "{found:?}");
            let elsewhere = found
                .iter()
                .find(|f| f["damage"] == "record_elsewhere" && f["from"] == index);
            assert_eq!(
                elsewhere.map(|f| &f["detail"]),
                Some(&told.into()),
                "{found:?}"
            );
        }
    }
}

/// Records that were taken out: in the middle, and a tail that was signed, with what tells of it.
fn losses(scene: &Scene) {
    let take = |store: &Store, from: u64, to: u64| {
        let records = store.tree("audit").expect("a tree");
        for index in from..to {
            records.remove(&index.to_be_bytes()).expect("there is room");
        }
    };
    let found = scene.found(|store, _| take(store, 300, 310));
    assert!(says(&found, "records_missing", 300, 309), "{found:?}");
    let (cut, last) = (scene.end - 100, scene.end - 1);
    let found = scene.found(|store, _| take(store, cut, scene.end));
    assert!(says(&found, "records_missing", cut, last), "{found:?}");
    let found = scene.found(|store, _| {
        take(store, cut, scene.end);
        let heads = store.tree("audit_head").expect("a tree");
        heads.remove(&[0, 0]).expect("there is room");
        let checkpoints = store.tree("audit_checkpoints").expect("a tree");
        checkpoints.remove(b"last").expect("there is room");
    });
    assert!(says(&found, "tail_missing", cut, last), "{found:?}");
}

/// A folder that was set back whole is what it says it is; a checkpoint that somebody kept tells.
#[test]
fn a_folder_that_was_set_back_is_told_by_who_kept_a_checkpoint() {
    let mut scene = Scene::new();
    scene.grow(20);
    let (early, end) = (scene.copy(), scene.end);
    scene.grow(400);
    assert_eq!(findings(early.path(), None), [] as [Value; 0]);
    let kept = scene.daemon.state_dir().join("audit/checkpoint");
    let found = findings(early.path(), Some(&kept));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        says(&found, "tail_missing", end, scene.end - 1),
        "{found:?}"
    );
    // People are told in words, and where.
    let (state, kept) = (early.path().to_str(), kept.to_str());
    let (state, kept) = (state.expect("a plain path"), kept.expect("a plain path"));
    let args = ["audit", "verify", "--state", state, "--checkpoint", kept];
    let output = scene.daemon.slmd(&args);
    assert_eq!(output.status.code(), Some(DAMAGED), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout);
    let words = format!(
        "records {end} to {}: gone, though the checkpoint that was given covers them",
        scene.end - 1
    );
    assert!(said.contains(&words), "{said}");
}
