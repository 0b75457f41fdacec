//! The store's part of deliveries, and which of them run in this process.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::entry::Entry;
use crate::admission::Settings;
use crate::delivery::memory::Memory;
use crate::delivery::{Exact, Key};
use crate::store::{Batch, Store, StoreError, Tree};
use crate::time::Timestamp;

/// Deliveries that are read at once on opening: each may hold an answer.
const PAGE: usize = 64;

/// The store's keys are `d` and the delivery's. What is known of all is in memory: the store is
/// read when the daemon starts, and for a message that has come before.
#[derive(Debug, Clone)]
pub(in crate::admission) struct Inbox(Arc<Shelf>);

/// The time as decisions see it.
pub(in crate::admission) type Now = Box<dyn Fn() -> Timestamp + Send + Sync>;

struct Shelf {
    tree: Tree,
    store: Store,
    now: Now,
    /// Held while what is forgotten is removed, or what begins meanwhile would go with it.
    memory: Mutex<Memory<watch::Receiver<bool>>>,
}

impl std::fmt::Debug for Shelf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shelf").finish_non_exhaustive()
    }
}

/// A delivery claimed by this process; dropped, it may be claimed again.
#[derive(Debug)]
pub(super) struct Claim {
    shelf: Arc<Shelf>,
    key: Key,
    ending: watch::Sender<bool>,
}

/// A claim that is in another's way.
#[derive(Debug)]
pub(super) struct Taken(watch::Receiver<bool>);

impl Claim {
    /// The last message is about to be sent: who comes from now on may have missed it.
    pub(super) fn ends(&self) {
        self.ending.send_replace(true);
    }
}

impl Taken {
    /// Waits until a claim that is ending has ended, for so long at most; `false` at once where it
    /// isn't ending.
    pub(super) async fn ended(&self, limit: Duration) -> bool {
        if !*self.0.borrow() {
            return false;
        }
        // Its end is the end of its channel.
        let mut ending = self.0.clone();
        let ended = ending.wait_for(|ending| !ending);
        tokio::time::timeout(limit, ended).await.is_ok()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.shelf.memory().release(self.key);
    }
}

impl Inbox {
    pub(in crate::admission) fn open(store: &Store, now: Now) -> Result<Inbox, StoreError> {
        let tree = store.tree("inbox")?;
        let memory = Mutex::new(remember(&tree)?);
        Ok(Inbox(Arc::new(Shelf {
            tree,
            store: store.clone(),
            now,
            memory,
        })))
    }

    /// The time by which deliveries are remembered.
    pub(in crate::admission) fn now(&self) -> Timestamp {
        (self.0.now)()
    }

    /// An error says that it runs already.
    pub(super) fn claim(&self, key: Key) -> Result<Claim, Taken> {
        let (ending, is_ending) = watch::channel(false);
        self.0.memory().claim(key, is_ending).map_err(Taken)?;
        Ok(Claim {
            shelf: Arc::clone(&self.0),
            key,
            ending,
        })
    }

    pub(super) fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        let known = self.0.memory().knows(key);
        match known {
            true => self.0.read(key),
            false => Ok(None),
        }
    }

    /// The delivery that this message began.
    pub(super) fn begun_by(&self, message: &Exact) -> Option<Key> {
        self.0.memory().begun_by(message)
    }

    /// For a delivery that is claimed, so that nothing forgets it meanwhile. Rides on the next sync.
    pub(super) fn put(&self, key: &Key, entry: &Entry) -> Result<(), StoreError> {
        let value = to_bytes(entry)?;
        self.0.tree.insert(&named(key), &value)?;
        self.0.memory().note(*key, entry.known());
        Ok(())
    }

    /// Durable when this returns. Blocks.
    pub(super) fn put_durably(&self, key: &Key, entry: &Entry) -> Result<(), StoreError> {
        self.0.store.commit(|| self.put(key, entry))
    }

    /// Forgets what is out of its window, and what is beyond the bound. What runs stays.
    pub(in crate::admission) fn prune(
        &self,
        now: Timestamp,
        settings: &Settings,
    ) -> Result<(), StoreError> {
        let mut memory = self.0.memory();
        let mut batch = Batch::default();
        for key in memory.redate(now) {
            if let Some(mut entry) = self.0.read(&key)? {
                entry.touched = now;
                batch.insert(&named(&key), &to_bytes(&entry)?);
            }
        }
        memory.prune(now, settings.duplicate_window, settings.duplicates);
        for key in memory.gone() {
            batch.remove(&named(key));
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.0.tree.apply(batch)?;
        memory.gone_for_good();
        Ok(())
    }
}

impl Shelf {
    fn read(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        let value = self.tree.get(&named(key))?;
        let entry = value.map(|value| serde_json::from_slice(&value));
        let damaged = |e: serde_json::Error| StoreError::Corrupt(e.to_string());
        entry.transpose().map_err(damaged)
    }

    fn memory(&self) -> MutexGuard<'_, Memory<watch::Receiver<bool>>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads all deliveries once. What can't be read names none, nor does what earlier releases kept
/// beside them.
fn remember(tree: &Tree) -> Result<Memory<watch::Receiver<bool>>, StoreError> {
    let (mut memory, mut from) = (Memory::default(), Vec::new());
    loop {
        let page = tree.range(&from, PAGE)?;
        let Some((last, _)) = page.last() else {
            return Ok(memory);
        };
        from = [last.as_slice(), &[0]].concat();
        for (name, value) in page {
            let key = name
                .strip_prefix(b"d")
                .and_then(|key| key.try_into().ok().map(Key));
            match (key, serde_json::from_slice::<Entry>(&value)) {
                (Some(key), Ok(entry)) => memory.note(key, entry.known()),
                _ => tree.remove(&name)?,
            }
        }
    }
}

fn to_bytes(entry: &Entry) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(entry).map_err(|e| StoreError::Io(e.to_string()))
}

fn named(key: &Key) -> [u8; 33] {
    let mut name = [b'd'; 33];
    name[1..].copy_from_slice(&key.0);
    name
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::super::entry::{Stage, StoredAnswer};
    use super::*;
    use crate::auth::{Clock, Principal};
    use crate::prompt::{Finish, RequestId, Usage};

    const START: Timestamp = Timestamp(1_800_000_000_000);

    fn open() -> (TempDir, Inbox) {
        let folder = tempfile::tempdir().unwrap();
        let inbox = reopen(&folder);
        (folder, inbox)
    }

    fn reopen(folder: &TempDir) -> Inbox {
        let store = Store::open(folder.path()).unwrap();
        Inbox::open(&store, Box::new(|| START)).unwrap()
    }

    fn settings(duplicates: usize) -> Settings {
        let settings = Settings::for_tests();
        Settings {
            duplicates,
            ..settings
        }
    }

    fn begun(n: u8, secs: u64) -> Entry {
        let touched = after(secs);
        let clock = Clock {
            now: touched,
            floor: START,
            uptime: Default::default(),
            synchronised: true,
            realm_floors: Default::default(),
        };
        let who = Principal {
            issuer: "a".to_owned(),
            subject: "s".to_owned(),
            client: "c".to_owned(),
        };
        Entry {
            stage: Stage::Begun,
            attempts: 1,
            clock: super::super::entry::FirstClock::new(&clock, &who),
            touched,
            message: Exact([n | 0x80; 32]),
            owner: None,
        }
    }

    fn answered(n: u8, secs: u64) -> Entry {
        let stage = Stage::Answered(StoredAnswer {
            request_id: RequestId::random(),
            model: "slm".to_owned(),
            created: START,
            text: format!("answer {n}"),
            finish: Finish::Stop,
            usage: Usage::default(),
        });
        Entry {
            stage,
            ..begun(n, secs)
        }
    }

    fn after(secs: u64) -> Timestamp {
        START.saturating_add(Duration::from_secs(secs))
    }

    /// The deliveries that are left: in the store, and each known by its attempt.
    fn left(inbox: &Inbox) -> Vec<u8> {
        let entries = inbox.0.tree.range(&[], usize::MAX).unwrap();
        let key = |(name, value): (Vec<u8>, Vec<u8>)| {
            let key = Key(name[1..].try_into().unwrap());
            let entry: Entry = serde_json::from_slice(&value).unwrap();
            assert_eq!(inbox.begun_by(&entry.message), Some(key));
            key.0[0]
        };
        entries.into_iter().map(key).collect()
    }

    #[test]
    fn one_claim_at_a_time() {
        let (_folder, inbox) = open();
        let claim = inbox.claim(Key([1; 32])).unwrap();
        assert!(inbox.claim(Key([1; 32])).is_err());
        assert!(inbox.clone().claim(Key([1; 32])).is_err());
        assert!(inbox.claim(Key([2; 32])).is_ok());
        drop(claim);
        assert!(inbox.claim(Key([1; 32])).is_ok());
    }

    #[tokio::test]
    async fn a_claim_that_is_ending_is_waited_for_and_no_other() {
        let (_folder, inbox) = open();
        let claim = inbox.claim(Key([1; 32])).unwrap();
        let taken = || inbox.claim(Key([1; 32])).unwrap_err();
        assert!(!taken().ended(Duration::MAX).await, "it runs");
        claim.ends();
        let short = Duration::from_millis(1);
        assert!(!taken().ended(short).await, "it doesn't end for long");
        let other = taken();
        let waits = tokio::spawn(async move { other.ended(Duration::MAX).await });
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        drop(claim);
        assert!(waits.await.unwrap());
        assert!(inbox.claim(Key([1; 32])).is_ok());
    }

    #[test]
    fn what_was_put_durably_survives() {
        let (folder, inbox) = open();
        inbox.put_durably(&Key([1; 32]), &answered(1, 0)).unwrap();
        drop(inbox);
        let inbox = reopen(&folder);
        let entry = inbox.get(&Key([1; 32])).unwrap().unwrap();
        assert!(matches!(entry.stage, Stage::Answered(answer) if answer.text == "answer 1"));
        assert_eq!(entry.attempts, 1);
        assert_eq!(inbox.begun_by(&Exact([0x81; 32])), Some(Key([1; 32])));
        assert!(inbox.get(&Key([2; 32])).unwrap().is_none());
        assert_eq!(inbox.begun_by(&Exact([1; 32])), None);
    }

    #[test]
    fn an_answer_is_kept_for_its_window_and_a_beginning_for_a_day() {
        let (_folder, inbox) = open();
        inbox.put(&Key([1; 32]), &answered(1, 0)).unwrap();
        inbox.put(&Key([2; 32]), &answered(2, 1)).unwrap();
        inbox.put(&Key([3; 32]), &begun(3, 0)).unwrap();
        inbox.prune(after(600), &settings(8)).unwrap();
        assert_eq!(left(&inbox), [1, 2, 3]);
        inbox.prune(after(601), &settings(8)).unwrap();
        assert_eq!(left(&inbox), [2, 3]);
        inbox.prune(after(86_400), &settings(8)).unwrap();
        assert_eq!(left(&inbox), [3]);
        inbox.prune(after(86_401), &settings(8)).unwrap();
        assert!(left(&inbox).is_empty());
        // A clock that was set back forgets nothing early, and nothing late.
        inbox.put(&Key([4; 32]), &answered(4, 5000)).unwrap();
        inbox.prune(START, &settings(8)).unwrap();
        assert_eq!(left(&inbox), [4]);
        inbox.prune(after(601), &settings(8)).unwrap();
        assert!(left(&inbox).is_empty());
    }

    #[test]
    fn idle_ticks_read_nothing_from_the_store() {
        let (folder, inbox) = open();
        for n in 0..=255 {
            let entry = Entry {
                message: Exact([n; 32]),
                ..answered(n, 0)
            };
            inbox.put(&Key([n; 32]), &entry).unwrap();
        }
        drop(inbox);
        let inbox = reopen(&folder);
        let store = &inbox.0.store;
        let (reads, syncs) = (store.reads(), store.syncs());
        for secs in 0..=600 {
            inbox.prune(after(secs), &settings(256)).unwrap();
            store.sync().unwrap();
        }
        assert_eq!((store.reads(), store.syncs()), (reads, syncs + 1));
        assert_eq!(left(&inbox).len(), 256);
        inbox.prune(after(601), &settings(256)).unwrap();
        assert!(left(&inbox).is_empty());
    }

    #[test]
    fn what_earlier_releases_kept_beside_deliveries_goes_and_so_does_damage() {
        let (folder, inbox) = open();
        inbox.put(&Key([1; 32]), &answered(1, 0)).unwrap();
        let tree = &inbox.0.tree;
        let attempt = [b"a".as_slice(), &[0x81; 32]].concat();
        tree.insert(&attempt, &[1; 32]).unwrap();
        tree.insert(&named(&Key([2; 32])), b"{").unwrap();
        drop(inbox);
        assert_eq!(left(&reopen(&folder)), [1]);
    }

    #[test]
    fn what_a_clock_dated_too_late_pushes_nothing_newer_out() {
        let (_folder, inbox) = open();
        for n in 1..=4 {
            inbox.put(&Key([n; 32]), &answered(n, 315_360_000)).unwrap();
        }
        inbox.prune(after(0), &settings(4)).unwrap();
        inbox.put(&Key([5; 32]), &begun(5, 1)).unwrap();
        inbox.prune(after(2), &settings(4)).unwrap();
        assert!(left(&inbox).contains(&5), "{:?}", left(&inbox));
    }

    #[test]
    fn beyond_the_bound_the_oldest_go_but_never_what_runs() {
        let (_folder, inbox) = open();
        for n in 1..=5 {
            let entry = if n % 2 == 0 { answered } else { begun };
            // In another order than that of their keys.
            let touched = u64::from(n * 3 % 5);
            inbox.put(&Key([n; 32]), &entry(n, touched)).unwrap();
        }
        let oldest = inbox.claim(Key([5; 32])).unwrap();
        inbox.prune(after(10), &settings(3)).unwrap();
        assert_eq!(left(&inbox), [1, 3, 5]);
        inbox.prune(after(10), &settings(0)).unwrap();
        assert_eq!(left(&inbox), [5]);
        inbox.prune(after(1_000_000), &settings(8)).unwrap();
        assert_eq!(left(&inbox), [5], "what runs stays however long it takes");
        drop(oldest);
        inbox.prune(after(1_000_000), &settings(8)).unwrap();
        assert!(left(&inbox).is_empty());
    }

    #[test]
    fn whoever_has_the_most_is_forgotten_first() {
        let (_folder, inbox) = open();
        let owned = |owner: u8, entry: Entry| Entry {
            owner: Some([owner; 32]),
            ..entry
        };
        inbox.put(&Key([1; 32]), &owned(1, begun(1, 0))).unwrap();
        inbox.put(&Key([2; 32]), &owned(1, answered(2, 1))).unwrap();
        for n in 3..60 {
            let secs = u64::from(n);
            inbox
                .put(&Key([n; 32]), &owned(2, answered(n, secs)))
                .unwrap();
        }
        inbox.prune(after(60), &settings(5)).unwrap();
        assert_eq!(left(&inbox), [1, 2, 57, 58, 59]);
        inbox.prune(after(60), &settings(3)).unwrap();
        assert_eq!(left(&inbox), [2, 58, 59], "of equals, the oldest");
    }

    #[test]
    fn an_attempt_with_a_fresh_token_replaces_the_one_before() {
        let (_folder, inbox) = open();
        inbox.put(&Key([1; 32]), &begun(1, 0)).unwrap();
        let again = Entry {
            attempts: 2,
            ..begun(2, 1)
        };
        inbox.put(&Key([1; 32]), &again).unwrap();
        inbox.prune(after(2), &settings(8)).unwrap();
        assert_eq!(left(&inbox), [1]);
        assert_eq!(inbox.get(&Key([1; 32])).unwrap().unwrap().attempts, 2);
        assert_eq!(inbox.begun_by(&Exact([0x81; 32])), None);
    }
}
