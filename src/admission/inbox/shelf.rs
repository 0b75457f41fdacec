//! The store's part of deliveries, and which of them run in this process.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::Owner;
use super::entry::{Entry, State};
use crate::admission::Settings;
use crate::store::{Batch, Store, StoreError, Tree};
use crate::time::Timestamp;

/// How long a delivery that was begun and never answered is remembered: longer than a broker is
/// likely to keep the session that would bring it again.
const BEGUN_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

type Key = [u8; 32];
/// An attempt key, and the duplicate key that it leads to.
type Attempt = (Key, Key);
/// A delivery's key and what is remembered of it.
type Delivery = (Key, Entry);

/// Keys are `d` + duplicate key → entry, `a` + attempt key → duplicate key.
#[derive(Debug, Clone)]
pub(in crate::admission) struct Inbox(Arc<Shelf>);

/// The time as decisions see it.
pub(in crate::admission) type Now = Box<dyn Fn() -> Timestamp + Send + Sync>;

struct Shelf {
    tree: Tree,
    store: Store,
    now: Now,
    /// Deliveries between their claim and their answer, in this process; whether they are ending.
    busy: Mutex<BTreeMap<Key, watch::Receiver<bool>>>,
}

impl std::fmt::Debug for Shelf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shelf").finish_non_exhaustive()
    }
}

/// A delivery claimed by this process; dropped, it may be claimed again.
#[derive(Debug)]
pub(super) struct Busy {
    shelf: Arc<Shelf>,
    key: Key,
    ending: watch::Sender<bool>,
}

/// A claim that is in another's way.
#[derive(Debug)]
pub(super) struct Claimed(watch::Receiver<bool>);

impl Busy {
    /// The last message is about to be sent: who comes from now on may have missed it.
    pub(super) fn ends(&self) {
        self.ending.send_replace(true);
    }
}

impl Claimed {
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

impl Drop for Busy {
    fn drop(&mut self) {
        let mut busy = self
            .shelf
            .busy
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        busy.remove(&self.key);
    }
}

impl Inbox {
    pub(in crate::admission) fn open(store: &Store, now: Now) -> Result<Inbox, StoreError> {
        Ok(Inbox(Arc::new(Shelf {
            tree: store.tree("inbox")?,
            store: store.clone(),
            now,
            busy: Mutex::default(),
        })))
    }

    /// The time by which deliveries are remembered.
    pub(in crate::admission) fn now(&self) -> Timestamp {
        (self.0.now)()
    }

    /// An error says that it runs already.
    pub(super) fn claim(&self, key: [u8; 32]) -> Result<Busy, Claimed> {
        let mut busy = self.0.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(claimed) = busy.get(&key) {
            return Err(Claimed(claimed.clone()));
        }
        let (ending, is_ending) = watch::channel(false);
        busy.insert(key, is_ending);
        Ok(Busy {
            shelf: Arc::clone(&self.0),
            key,
            ending,
        })
    }

    pub(super) fn get(&self, key: &[u8; 32]) -> Result<Option<Entry>, StoreError> {
        let Some(value) = self.0.tree.get(&named(b'd', key))? else {
            return Ok(None);
        };
        let entry = serde_json::from_slice(&value);
        entry
            .map(Some)
            .map_err(|e| StoreError::Corrupt(e.to_string()))
    }

    /// The delivery that this exact message began.
    pub(super) fn by_attempt(&self, attempt: &[u8; 32]) -> Result<Option<[u8; 32]>, StoreError> {
        let value = self.0.tree.get(&named(b'a', attempt))?;
        Ok(value.and_then(|key| key.try_into().ok()))
    }

    /// Rides on the next sync.
    pub(super) fn put(&self, key: &[u8; 32], entry: &Entry) -> Result<(), StoreError> {
        let value = to_bytes(entry)?;
        let mut batch = Batch::default();
        batch.insert(&named(b'd', key), &value);
        batch.insert(&named(b'a', &entry.attempt_key), key);
        self.0.tree.apply(batch)
    }

    /// Durable when this returns. Blocks.
    pub(super) fn put_durably(&self, key: &[u8; 32], entry: &Entry) -> Result<(), StoreError> {
        self.0.store.commit(|| self.put(key, entry))
    }

    /// Forgets what is out of its window, and what is beyond the bound. What runs stays.
    pub(in crate::admission) fn prune(
        &self,
        now: Timestamp,
        settings: &Settings,
    ) -> Result<(), StoreError> {
        // Until all is applied, or what begins meanwhile would be set back.
        let busy = self.0.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let (attempts, mut entries) = self.all()?;
        let mut batch = Batch::default();
        for (key, entry) in &mut entries {
            // A clock was ahead. It would be kept until then, and push newer ones out meanwhile.
            if entry.touched > now && !busy.contains_key(&*key) {
                entry.touched = now;
                batch.insert(&named(b'd', key), &to_bytes(entry)?);
            }
        }
        let is_old = |entry: &Entry| {
            let window = match entry.state {
                State::Begun => BEGUN_KEPT,
                State::Answered(_) => settings.duplicate_window,
            };
            now.since(entry.touched) > window
        };
        let (mut gone, mut kept): (Vec<Delivery>, Vec<Delivery>) = entries
            .into_iter()
            .partition(|(key, entry)| is_old(entry) && !busy.contains_key(key));
        gone.extend(beyond(&mut kept, settings.duplicates, &busy));
        for (key, _) in gone {
            batch.remove(&named(b'd', &key));
        }
        let kept: BTreeSet<Attempt> = kept
            .into_iter()
            .map(|(key, entry)| (entry.attempt_key, key))
            .collect();
        // Also the attempts whose place a later one has taken.
        for (attempt, key) in attempts {
            if !kept.contains(&(attempt, key)) {
                batch.remove(&named(b'a', &attempt));
            }
        }
        self.0.tree.apply(batch)
    }

    /// Attempts with the deliveries that they began, and deliveries.
    fn all(&self) -> Result<(Vec<Attempt>, Vec<Delivery>), StoreError> {
        let (mut attempts, mut entries) = (Vec::new(), Vec::new());
        for (name, value) in self.0.tree.range(&[], usize::MAX)? {
            let Some((kind, Ok(key))) = name.split_first().map(|(k, rest)| (k, rest.try_into()))
            else {
                continue;
            };
            if *kind == b'a' {
                attempts.extend(value.try_into().map(|delivery| (key, delivery)));
            } else {
                entries.extend(serde_json::from_slice(&value).map(|entry| (key, entry)));
            }
        }
        Ok((attempts, entries))
    }
}

fn to_bytes(entry: &Entry) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(entry).map_err(|e| StoreError::Io(e.to_string()))
}

/// Takes out what is beyond the bound: of whoever has the most, the oldest. What runs stays.
fn beyond(
    kept: &mut Vec<Delivery>,
    most: usize,
    busy: &BTreeMap<Key, watch::Receiver<bool>>,
) -> Vec<Delivery> {
    // Oldest last.
    kept.sort_by_key(|(_, entry)| Reverse(entry.touched));
    let mut count: BTreeMap<Option<Owner>, usize> = BTreeMap::new();
    for (_, entry) in &*kept {
        *count.entry(entry.owner).or_default() += 1;
    }
    let mut gone = Vec::new();
    while kept.len() > most {
        let share = |at: usize| count.get(&kept[at].1.owner);
        let idle = (0..kept.len()).filter(|at| !busy.contains_key(&kept[*at].0));
        let Some(at) = idle.max_by_key(|at| (share(*at), *at)) else {
            break;
        };
        let (key, entry) = kept.remove(at);
        if let Some(count) = count.get_mut(&entry.owner) {
            *count -= 1;
        }
        gone.push((key, entry));
    }
    gone
}

fn named(kind: u8, key: &[u8; 32]) -> [u8; 33] {
    let mut name = [kind; 33];
    name[1..].copy_from_slice(key);
    name
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::super::entry::StoredAnswer;
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
        Settings {
            answer_buffer: 64,
            default_deadline: Duration::from_secs(300),
            duplicate_window: Duration::from_secs(600),
            duplicates,
            tokens_per_minute: 20_000,
            prompts_per_minute: 600,
            operations_per_minute: 120,
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
            state: State::Begun,
            attempts: 1,
            clock: super::super::entry::FirstClock::new(&clock, &who),
            touched,
            attempt_key: [n | 0x80; 32],
            owner: None,
        }
    }

    fn answered(n: u8, secs: u64) -> Entry {
        let state = State::Answered(StoredAnswer {
            request_id: RequestId::random(),
            model: "slm".to_owned(),
            created: START,
            text: format!("answer {n}"),
            finish: Finish::Stop,
            usage: Usage::default(),
        });
        Entry {
            state,
            ..begun(n, secs)
        }
    }

    fn after(secs: u64) -> Timestamp {
        START.saturating_add(Duration::from_secs(secs))
    }

    /// The deliveries that are left; each has its own attempt and no other is left.
    fn left(inbox: &Inbox) -> Vec<u8> {
        let (attempts, entries) = inbox.all().unwrap();
        assert_eq!(attempts.len(), entries.len());
        for (key, entry) in &entries {
            assert_eq!(inbox.by_attempt(&entry.attempt_key).unwrap(), Some(*key));
        }
        entries.iter().map(|(key, _)| key[0]).collect()
    }

    #[test]
    fn one_claim_at_a_time() {
        let (_folder, inbox) = open();
        let busy = inbox.claim([1; 32]).unwrap();
        assert!(inbox.claim([1; 32]).is_err());
        assert!(inbox.clone().claim([1; 32]).is_err());
        assert!(inbox.claim([2; 32]).is_ok());
        drop(busy);
        assert!(inbox.claim([1; 32]).is_ok());
    }

    #[tokio::test]
    async fn a_claim_that_is_ending_is_waited_for_and_no_other() {
        let (_folder, inbox) = open();
        let busy = inbox.claim([1; 32]).unwrap();
        let claimed = || inbox.claim([1; 32]).unwrap_err();
        assert!(!claimed().ended(Duration::MAX).await, "it runs");
        busy.ends();
        let short = Duration::from_millis(1);
        assert!(!claimed().ended(short).await, "it doesn't end for long");
        let other = claimed();
        let waits = tokio::spawn(async move { other.ended(Duration::MAX).await });
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        drop(busy);
        assert!(waits.await.unwrap());
        assert!(inbox.claim([1; 32]).is_ok());
    }

    #[test]
    fn what_was_put_durably_survives() {
        let (folder, inbox) = open();
        inbox.put_durably(&[1; 32], &answered(1, 0)).unwrap();
        drop(inbox);
        let inbox = reopen(&folder);
        let entry = inbox.get(&[1; 32]).unwrap().unwrap();
        assert!(matches!(entry.state, State::Answered(answer) if answer.text == "answer 1"));
        assert_eq!(entry.attempts, 1);
        assert_eq!(inbox.by_attempt(&[0x81; 32]).unwrap(), Some([1; 32]));
        assert!(inbox.get(&[2; 32]).unwrap().is_none());
        assert_eq!(inbox.by_attempt(&[1; 32]).unwrap(), None);
    }

    #[test]
    fn an_answer_is_kept_for_its_window_and_a_beginning_for_a_day() {
        let (_folder, inbox) = open();
        inbox.put(&[1; 32], &answered(1, 0)).unwrap();
        inbox.put(&[2; 32], &answered(2, 1)).unwrap();
        inbox.put(&[3; 32], &begun(3, 0)).unwrap();
        inbox.prune(after(600), &settings(8)).unwrap();
        assert_eq!(left(&inbox), [1, 2, 3]);
        inbox.prune(after(601), &settings(8)).unwrap();
        assert_eq!(left(&inbox), [2, 3]);
        inbox.prune(after(86_400), &settings(8)).unwrap();
        assert_eq!(left(&inbox), [3]);
        inbox.prune(after(86_401), &settings(8)).unwrap();
        assert!(left(&inbox).is_empty());
        // A clock that was set back forgets nothing early, and nothing late.
        inbox.put(&[4; 32], &answered(4, 5000)).unwrap();
        inbox.prune(START, &settings(8)).unwrap();
        assert_eq!(left(&inbox), [4]);
        inbox.prune(after(601), &settings(8)).unwrap();
        assert!(left(&inbox).is_empty());
    }

    #[test]
    fn what_a_clock_dated_too_late_pushes_nothing_newer_out() {
        let (_folder, inbox) = open();
        for n in 1..=4 {
            inbox.put(&[n; 32], &answered(n, 315_360_000)).unwrap();
        }
        inbox.prune(after(0), &settings(4)).unwrap();
        inbox.put(&[5; 32], &begun(5, 1)).unwrap();
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
            inbox.put(&[n; 32], &entry(n, touched)).unwrap();
        }
        let oldest = inbox.claim([5; 32]).unwrap();
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
        inbox.put(&[1; 32], &owned(1, begun(1, 0))).unwrap();
        inbox.put(&[2; 32], &owned(1, answered(2, 1))).unwrap();
        for n in 3..60 {
            let secs = u64::from(n);
            inbox.put(&[n; 32], &owned(2, answered(n, secs))).unwrap();
        }
        inbox.prune(after(60), &settings(5)).unwrap();
        assert_eq!(left(&inbox), [1, 2, 57, 58, 59]);
        inbox.prune(after(60), &settings(3)).unwrap();
        assert_eq!(left(&inbox), [2, 58, 59], "of equals, the oldest");
    }

    #[test]
    fn an_attempt_with_a_fresh_token_replaces_the_one_before() {
        let (_folder, inbox) = open();
        inbox.put(&[1; 32], &begun(1, 0)).unwrap();
        let again = Entry {
            attempts: 2,
            ..begun(2, 1)
        };
        inbox.put(&[1; 32], &again).unwrap();
        inbox.prune(after(2), &settings(8)).unwrap();
        assert_eq!(left(&inbox), [1]);
        assert_eq!(inbox.get(&[1; 32]).unwrap().unwrap().attempts, 2);
        assert_eq!(inbox.by_attempt(&[0x81; 32]).unwrap(), None);
    }
}
