//! The log's tree against one that is made anew of all that was ever appended, over all orders of
//! appends, removals, reopenings and losses of the store.

use proptest::prelude::*;
use tempfile::TempDir;

use super::tests::{access, later, open_in, settings};
use super::*;
use crate::reason::{DenyReason, Reason};
use crate::tlog::tree::{
    Hash, Hashes, consistency, inclusion, leaf_hash, node_hash, root, verify_consistency,
    verify_inclusion,
};

/// All leaves of an epoch, whatever became of their records.
#[derive(Debug, Default, Clone)]
struct Naive(Vec<Hash>);

impl Hashes for Naive {
    type Error = std::convert::Infallible;

    fn hash(&self, level: u8, index: u64) -> Result<Hash, Self::Error> {
        let below = |index| self.hash(level - 1, index).unwrap();
        Ok(match level {
            0 => self.0[index as usize],
            _ => node_hash(&below(2 * index), &below(2 * index + 1)),
        })
    }
}

impl Naive {
    fn root(&self, size: u64) -> Hash {
        root(size, self).unwrap()
    }
}

/// A small log with everything that was appended to it.
struct World {
    folder: TempDir,
    store: Option<Store>,
    log: Option<Log>,
    settings: Settings,
    appended: Naive,
    /// Signed so far, and held.
    signed: Vec<Arc<Signed>>,
    clock: u64,
}

impl World {
    fn new(max_bytes: u64) -> World {
        let mut world = World {
            folder: tempfile::tempdir().unwrap(),
            store: None,
            log: None,
            settings: Settings {
                max_bytes,
                refusals_per_minute: u32::MAX,
                ..settings()
            },
            appended: Naive::default(),
            signed: Vec::new(),
            clock: 0,
        };
        world.open();
        world
    }

    fn open(&mut self) {
        let store = Store::open(&self.folder.path().join("db")).unwrap();
        self.log = Some(open_in(&store, &self.folder, self.settings.clone()));
        self.store = Some(store);
        self.seen();
    }

    fn log(&self) -> &Log {
        self.log.as_ref().unwrap()
    }

    fn now(&mut self) -> Timestamp {
        self.clock += 1;
        later(self.clock)
    }

    /// Takes down what was appended since.
    fn seen(&mut self) {
        let log = self.log().clone();
        while (self.appended.0.len() as u64) < log.next_index() {
            let index = self.appended.0.len() as u64;
            let json = log.0.records.get(&index.to_be_bytes()).unwrap();
            let json = json.expect("what was appended last is there");
            self.appended.0.push(leaf_hash(&json));
        }
    }

    fn append(&mut self, who: u8, padding: usize) {
        let mut one = access(Verdict::Deny);
        one.reason = Some(Reason::Denied(DenyReason::Expired));
        one.subject = Some(who.to_string());
        one.token_id = Some("x".repeat(padding));
        let now = self.now();
        assert_eq!(self.log().refuse(&one, now), Noted::ByItself);
        self.seen();
    }

    fn sign(&mut self) {
        let now = self.now();
        let signed = self.log().sign_now(now).unwrap();
        self.seen();
        assert_eq!(signed.size, self.appended.0.len() as u64);
        self.signed.push(signed);
        let held = self.signed.len().saturating_sub(3);
        let held: Vec<u64> = self.signed[held..].iter().map(|s| s.size).collect();
        self.log().hold(&held).unwrap();
    }

    /// As a process that was killed leaves it: what was written, but nothing closed in order.
    fn reopen(&mut self, closed: bool) {
        if closed {
            let now = self.now();
            self.log().close(now).unwrap();
            self.seen();
        }
        (self.log, self.store) = (None, None);
        self.open();
    }

    /// The store is set back under the log to where it was when `synced` of the last records were on
    /// the disk, without the log's knowing.
    fn lose(&mut self, synced: usize, lost: usize) {
        let kept = tempfile::tempdir().unwrap();
        let home = self.folder.path().join("db/sled");
        self.log().0.sync().unwrap();
        (0..synced).for_each(|_| self.append(4, 9));
        let store = self.store.clone().unwrap();
        store.sync().unwrap();
        copy(&home, kept.path());
        (0..lost).for_each(|_| self.append(5, 9));
        store.lose(|home| {
            std::fs::remove_dir_all(home).unwrap();
            copy(kept.path(), home);
        });
        self.append(6, 9);
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        let log = self.log().clone();
        let state = log.state();
        prop_assert_eq!((state.epoch.number, state.epoch.base), (1, 0));
        let size = self.appended.0.len() as u64;
        prop_assert_eq!(
            state.epoch.root(size, &log.0.tiles).unwrap(),
            self.appended.root(size)
        );
        drop(state);
        for signed in &self.signed {
            prop_assert_eq!(signed.root, self.appended.root(signed.size));
        }
        let Some(newest) = self.signed.last() else {
            return Ok(());
        };
        for line in all_lines(&log) {
            let leaf = leaf_hash(&line.json);
            prop_assert_eq!(leaf, self.appended.0[line.index as usize]);
            if newest.covers(line.index) {
                let proof = log.inclusion(line.index, newest).unwrap();
                prop_assert_eq!(
                    &proof,
                    &inclusion(line.index, newest.size, &self.appended).unwrap()
                );
                let verified =
                    verify_inclusion(&leaf, line.index, newest.size, &proof, &newest.root);
                prop_assert_eq!(verified, Ok(()));
            }
        }
        for old in self.signed.iter().rev().take(3) {
            let proof = log.consistency(old.size, newest).unwrap();
            prop_assert_eq!(
                &proof,
                &consistency(old.size, newest.size, &self.appended).unwrap()
            );
            let (from, to) = ((old.size, &old.root), (newest.size, &newest.root));
            let verified = verify_consistency(from.0, from.1, to.0, to.1, &proof);
            prop_assert_eq!(verified, Ok(()));
        }
        Ok(())
    }
}

pub(super) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

fn all_lines(log: &Log) -> Vec<Line> {
    let (mut lines, mut from) = (Vec::new(), 0);
    loop {
        let page = log.read(from, usize::MAX).unwrap();
        let Some(last) = page.last() else {
            return lines;
        };
        from = last.index + 1;
        lines.extend(page);
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Append(u8, usize, usize),
    Sign,
    Reopen(bool),
    Lose(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    // Now and then as many as fill a tile.
    let times = prop_oneof![4 => 1..8usize, 2 => 100..300usize];
    prop_oneof![
        8 => (0..4u8, 0..250usize, times).prop_map(|(who, padding, times)| {
            Step::Append(who, padding, times)
        }),
        2 => Just(Step::Sign),
        1 => any::<bool>().prop_map(Step::Reopen),
        1 => (0..40usize, 0..300usize).prop_map(|(synced, lost)| Step::Lose(synced, lost)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn the_tree_is_that_of_all_that_was_ever_appended(
        steps in prop::collection::vec(step(), 1..40),
    ) {
        // The least cap: some hundred records.
        let mut world = World::new(0);
        for step in steps {
            match step {
                Step::Append(who, padding, times) => {
                    for _ in 0..times {
                        world.append(who, padding);
                    }
                }
                Step::Sign => world.sign(),
                Step::Reopen(closed) => world.reopen(closed),
                Step::Lose(synced, lost) => world.lose(synced, lost),
            }
            world.check()?;
        }
        world.sign();
        world.check()?;
    }
}
