//! The time floors: saved lower bounds of the time, so that a power cut on a box without a clock
//! of its own can't bring expired tokens back.
//!
//! The global floor follows the synchronised clock, and goes on by itself from there: what passes on
//! the clock that never steps has passed for certain. While nothing synchronises the clock, each
//! realm also has what its accepted tokens say ([`words`](super::words)).

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use serde_json::Error;

use super::words::{BUDGET, Line, Saved, Words};
use crate::auth::{Moved, RealmFloor};
use crate::store::{Store, StoreError, Tree};
use crate::time::{Booted, Moment, Timestamp, Uptime};

/// When this release was made, where its build doesn't say (`SOURCE_DATE_EPOCH`):
/// 2026-11-24T00:00:00Z.
const RELEASED: u64 = 1_795_478_400;

/// The floors are saved when they have moved by this much: seldom, for the flash's sake.
const SAVE_EVERY: Duration = Duration::from_secs(600);
/// What tokens have raised by more than this is saved at once.
const LARGE: Duration = Duration::from_secs(3600);
/// What has passed by less isn't worth a place in another's write.
const SMALL: Duration = Duration::from_secs(1);

/// Realms of earlier configurations that are remembered.
const MOST_SAVED: usize = 64;

const KEY: &[u8] = b"floor";
const REALMS_KEY: &[u8] = b"realms";

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Floor {
    store: Store,
    tree: Tree,
    state: Arc<Mutex<Floors>>,
    /// Held during a write, or an older one could take the place of a newer.
    writing: Arc<Mutex<()>>,
}

#[derive(Debug, Clone)]
struct Floors {
    floor: Line,
    /// For how long the daemon has run, as of `begun`.
    ran: Duration,
    begun: Uptime,
    /// The clock is synchronised: the floor follows it and doesn't go on by itself, so that a clock
    /// that was stepped back by a little can catch up.
    kept: bool,
    saved: Timestamp,
    /// By issuer.
    realms: BTreeMap<String, Words>,
    saved_realms: BTreeMap<String, Saved>,
    realms_saved_at: Option<Uptime>,
    /// The budget of a realm that isn't known.
    whole: Duration,
}

impl Floor {
    pub fn open(store: &Store, now: Booted) -> Result<Floor, StoreError> {
        let tree = store.tree("time")?;
        let saved = tree.get(KEY)?.and_then(|bytes| read(&bytes));
        let (saved, then, ran) = saved.unwrap_or_default();
        let passed = then.and_then(|then| now.since(then)).unwrap_or_default();
        let floor = Line::stored(saved, then, now).at(now.uptime);
        let floor = Line::new(floor.max(build_time()), now.uptime);
        // Damage counts as budgets that are spent.
        let (saved_realms, whole) = match tree.get(REALMS_KEY)? {
            None => (BTreeMap::new(), BUDGET),
            Some(bytes) => match serde_json::from_slice(&bytes) {
                Ok(realms) => (realms, BUDGET),
                Err(_) => (BTreeMap::new(), Duration::ZERO),
            },
        };
        Ok(Floor {
            store: store.clone(),
            tree,
            state: Arc::new(Mutex::new(Floors {
                floor,
                ran: ran.saturating_add(passed),
                begun: now.uptime,
                kept: false,
                saved,
                realms: BTreeMap::new(),
                saved_realms,
                whole,
                realms_saved_at: None,
            })),
            writing: Arc::default(),
        })
    }

    /// Keeps floors for these issuers' realms, and for no others.
    pub fn follow(&self, issuers: &[&str], now: Booted) {
        let mut state = self.state();
        let mut realms = BTreeMap::new();
        for issuer in issuers.iter().copied() {
            let known = state.realms.remove(issuer);
            let words = known.unwrap_or_else(|| state.opened(issuer, now));
            realms.insert(issuer.to_owned(), words);
        }
        state.realms = realms;
    }

    /// No moment from now on is earlier.
    pub fn get(&self, now: Uptime) -> Timestamp {
        self.state().floor(now)
    }

    /// For how long the daemon has run in all, as far as is known: it goes on with the uptime, whatever
    /// clocks do, and a power cut takes back what wasn't saved.
    pub fn ran(&self, now: Uptime) -> Duration {
        self.state().ran(now)
    }

    /// Both clocks, for a wall clock that says `now`.
    pub fn moment(&self, now: Timestamp, uptime: Uptime) -> Moment {
        let known = now.max(self.get(uptime));
        Moment { known, uptime }
    }

    /// The realms' own floors by issuer, for a clock that isn't synchronised and says `now`.
    pub fn realms(&self, now: Timestamp, uptime: Uptime) -> Arc<BTreeMap<String, RealmFloor>> {
        let state = self.state();
        let held = now.max(state.floor(uptime));
        let floors = state.realms.iter();
        let floors = floors.map(|(issuer, words)| (issuer.clone(), words.floor(held, uptime)));
        Arc::new(floors.collect())
    }

    /// Takes the word of an accepted token of the realm that was issued to `client` at `issued_at`,
    /// while the clock isn't synchronised and says `now`. What comes of it is told where that is
    /// news.
    pub fn hear(
        &self,
        issuer: &str,
        client: &str,
        issued_at: Timestamp,
        now: Timestamp,
        uptime: Uptime,
    ) -> Option<Moved> {
        let mut state = self.state();
        let floor = state.floor(uptime);
        let words = state.realms.get_mut(issuer)?;
        let held = now.max(floor);
        words.hear(client, issued_at, held, floor, uptime);
        words.news(held, now, uptime)
    }

    /// Follows the clock while it is synchronised. Never goes back. May block to save.
    pub fn advance(
        &self,
        now: Timestamp,
        synchronised: bool,
        at: Booted,
    ) -> Result<(), StoreError> {
        let due = {
            let mut state = self.state();
            match synchronised {
                true => state.synchronise(now, at.uptime),
                false => state.kept = false,
            }
            state.due(at.uptime)
        };
        match due {
            true => self.save(at),
            false => Ok(()),
        }
    }

    /// Saves the floors; durable when this returns. Blocks.
    pub fn save(&self, at: Booted) -> Result<(), StoreError> {
        if !self.state().unsaved(at) {
            return Ok(());
        }
        self.commit(at)
    }

    /// Writes what has changed; rides on the next sync.
    pub fn write_along(&self, at: Booted) -> Result<(), StoreError> {
        let small = {
            let state = self.state();
            let raised = state
                .realms
                .values()
                .any(|words| !words.unsaved().is_zero());
            !raised && state.floor(at.uptime).since(state.saved) < SMALL
        };
        match small {
            true => Ok(()),
            false => self.write(at),
        }
    }

    /// Sets the floor, also back, but never before the build; the realms' own floors end. Counts,
    /// and is durable with what `also` writes, when this returns. Blocks.
    pub fn reset<E: From<StoreError>>(
        &self,
        to: Timestamp,
        at: Booted,
        also: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let _writing = self.writing();
        let mut reset = self.state().clone();
        reset.reset(to, at);
        let (floor, realms) = reset.written(at);
        let written = self.store.commit(|| {
            self.insert(&floor, realms)?;
            also()
        });
        // What may be there all the same is written over.
        written.inspect_err(|_| self.state().unsave())?;
        // What tokens have said meanwhile ends as well.
        *self.state() = reset;
        Ok(())
    }

    /// Raises the floor to a time that has passed, unless the clock is synchronised: then that is
    /// what tells the time. Durable with what `also` writes when this returns. Blocks.
    pub fn raise<E: From<StoreError>>(
        &self,
        to: Timestamp,
        at: Booted,
        also: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let mut raised = self.state().clone();
        if !raised.raise(to, at.uptime) {
            return also();
        }
        let _writing = self.writing();
        let (floor, realms) = raised.written(at);
        let written = self.store.commit(|| {
            self.insert(&floor, realms)?;
            also()
        });
        let mut state = self.state();
        state.unsave();
        written?;
        // What was heard meanwhile stays.
        state.raise(to, at.uptime);
        Ok(())
    }

    /// What the floor is after such a reset.
    pub fn after_reset(to: Timestamp) -> Timestamp {
        to.max(build_time())
    }

    fn commit(&self, at: Booted) -> Result<(), StoreError> {
        let committed = self.store.commit(|| self.write(at));
        committed.inspect_err(|_| self.state().unsave())
    }

    fn write(&self, at: Booted) -> Result<(), StoreError> {
        let _writing = self.writing();
        let (floor, realms) = self.state().written(at);
        let inserted = self.insert(&floor, realms);
        inserted.inspect_err(|_| self.state().unsave())
    }

    fn insert(&self, floor: &[u8], realms: Result<Vec<u8>, Error>) -> Result<(), StoreError> {
        let realms = realms.map_err(|e| StoreError::Io(e.to_string()))?;
        self.tree.insert(KEY, floor)?;
        self.tree.insert(REALMS_KEY, &realms)
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock()
    }

    fn state(&self) -> MutexGuard<'_, Floors> {
        self.state.lock()
    }
}

impl Floors {
    /// A realm as it was saved; a new one begins with a whole budget.
    fn opened(&self, issuer: &str, now: Booted) -> Words {
        match self.saved_realms.get(issuer) {
            Some(saved) => Words::stored(saved.clone(), now),
            None => Words::new(self.whole, now.uptime),
        }
    }

    fn ran(&self, now: Uptime) -> Duration {
        self.ran.saturating_add(now.since(self.begun))
    }

    fn floor(&self, now: Uptime) -> Timestamp {
        match self.kept {
            true => self.floor.start(),
            false => self.floor.at(now),
        }
    }

    fn reset(&mut self, to: Timestamp, at: Booted) {
        self.floor = Line::new(Floor::after_reset(to), at.uptime);
        // Also of those realms that aren't configured now.
        self.saved_realms.values_mut().for_each(Saved::forget);
        for words in self.realms.values_mut() {
            words.forget(at.uptime);
        }
    }

    /// Whether that changes anything.
    fn raise(&mut self, to: Timestamp, uptime: Uptime) -> bool {
        let raises = !self.kept && to > self.floor(uptime);
        if raises {
            self.floor = Line::new(to, uptime);
        }
        raises
    }

    fn synchronise(&mut self, now: Timestamp, uptime: Uptime) {
        self.floor = Line::new(self.floor(uptime).max(now), uptime);
        self.kept = true;
        // What tokens have said is worth nothing beside a time that is known.
        for words in self.realms.values_mut() {
            words.forget(uptime);
        }
    }

    /// Floor and realms as they are to be stored. From here on they count as saved: what is raised
    /// while they are written is due the next time.
    fn written(&mut self, at: Booted) -> (Vec<u8>, Result<Vec<u8>, Error>) {
        self.saved = self.floor(at.uptime);
        self.saved_realms = self.to_saved(at);
        self.realms_saved_at = Some(at.uptime);
        self.realms.values_mut().for_each(Words::stored_now);
        let floor = stored(self.saved, at, self.ran(at.uptime));
        (floor, serde_json::to_vec(&self.saved_realms))
    }

    /// It couldn't be written, so it is due again.
    fn unsave(&mut self) {
        self.saved = Timestamp(0);
    }

    fn to_saved(&self, now: Booted) -> BTreeMap<String, Saved> {
        // Those of realms that aren't configured now wait for them, within bounds.
        let mut saved = self.saved_realms.clone();
        if saved.len() > MOST_SAVED {
            saved.clear();
        }
        let realms = self.realms.iter();
        saved.extend(realms.map(|(issuer, words)| (issuer.clone(), words.saved(now))));
        saved
    }

    /// Whether anything has moved since the last write.
    fn unsaved(&self, now: Booted) -> bool {
        self.floor(now.uptime) != self.saved
            || self.realms.iter().any(|(issuer, words)| {
                let saved = self.saved_realms.get(issuer);
                saved.is_none_or(|saved| words.saved(now).differs(saved))
            })
    }

    /// Whether a floor has moved far, or at all and long enough since the last write.
    fn due(&self, now: Uptime) -> bool {
        let floor = self.floor(now);
        if floor.since(self.saved) >= SAVE_EVERY {
            return true;
        }
        let raised = self.realms.values().map(Words::unsaved).max();
        let raised = raised.unwrap_or_default();
        let waited = self
            .realms_saved_at
            .is_none_or(|at| now.since(at) >= SAVE_EVERY);
        raised > LARGE || (waited && !raised.is_zero())
    }
}

/// A floor as it is stored: the time, the boot and uptime at which it was that, and for how long the
/// daemon had run.
fn stored(floor: Timestamp, at: Booted, ran: Duration) -> Vec<u8> {
    let ran = u64::try_from(ran.as_millis()).unwrap_or(u64::MAX);
    let numbers = [floor.0, at.boot, at.uptime.0, ran];
    numbers.map(u64::to_be_bytes).concat()
}

/// Earlier releases stored the time alone. Damage counts as nothing saved.
fn read(bytes: &[u8]) -> Option<(Timestamp, Option<Booted>, Duration)> {
    let (numbers, []) = bytes.as_chunks::<8>() else {
        return None;
    };
    let number = |at: usize| numbers.get(at).copied().map(u64::from_be_bytes);
    match (number(0)?, number(1), number(2), number(3), numbers.len()) {
        (floor, None, ..) => Some((Timestamp(floor), None, Duration::ZERO)),
        (floor, Some(boot), Some(uptime), Some(ran), 4) => {
            let uptime = Uptime(uptime);
            let then = Booted { boot, uptime };
            Some((Timestamp(floor), Some(then), Duration::from_millis(ran)))
        }
        _ => None,
    }
}

/// When this binary was built, as far as the build tells.
fn build_time() -> Timestamp {
    let told = option_env!("SOURCE_DATE_EPOCH").and_then(|secs| secs.parse().ok());
    Timestamp::from_secs(told.unwrap_or(RELEASED))
}
