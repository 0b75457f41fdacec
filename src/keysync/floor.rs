//! The time floors: saved lower bounds of the time, so that a power cut on a box without a clock
//! of its own can't bring expired tokens back.
//!
//! The global floor follows the synchronised clock. While nothing synchronises it, each realm's
//! own floor follows what that realm's tokens say of the time when they were issued: no further
//! than the time that has passed on the monotonic clock, and a day's *budget* beyond. So a token
//! from the far future moves its realm by a day and not by ten years.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::auth::RealmFloor;
use crate::store::{Store, StoreError, Tree};
use crate::time::Timestamp;

/// When this release was made, where its build doesn't say (`SOURCE_DATE_EPOCH`):
/// 2026-11-24T00:00:00Z.
const RELEASED: u64 = 1_795_478_400;

/// A floor is saved when it has moved by this much: seldom, for the flash's sake.
const SAVE_EVERY: Duration = Duration::from_secs(600);
/// A realm's floor that has moved by more than this is saved at once.
const LARGE: Duration = Duration::from_secs(3600);
/// The most that tokens can raise a realm's floor beyond the time that has passed; it refills
/// once in as much time.
const BUDGET: Duration = Duration::from_secs(86_400);

/// Realms of earlier configurations that are remembered.
const MOST_SAVED: usize = 64;

const KEY: &[u8] = b"floor";
const REALMS_KEY: &[u8] = b"realms";

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Floor {
    store: Store,
    tree: Tree,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    floor: Timestamp,
    saved: Timestamp,
    /// By issuer.
    realms: BTreeMap<String, Realm>,
    saved_realms: BTreeMap<String, Saved>,
    realms_saved_at: Option<Instant>,
    /// The budget of a realm that isn't known.
    whole: Duration,
}

#[derive(Debug)]
struct Realm {
    floor: Timestamp,
    /// A time that had passed at `since`: with what has passed since then, that has passed too.
    passed: Timestamp,
    since: Instant,
    /// As of `counted`; refills from then on.
    budget: Duration,
    counted: Instant,
}

/// A realm's floor as it is stored. The time while the process didn't run refills nothing: nobody
/// can tell how long that was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Saved {
    floor: Timestamp,
    budget_ms: u64,
}

impl Floor {
    pub fn open(store: &Store) -> Result<Floor, StoreError> {
        let tree = store.tree("time")?;
        let saved = tree.get(KEY)?.and_then(|bytes| bytes.try_into().ok());
        let saved = Timestamp(saved.map_or(0, u64::from_be_bytes));
        let floor = saved.max(build_time());
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
            state: Arc::new(Mutex::new(State {
                floor,
                saved,
                realms: BTreeMap::new(),
                saved_realms,
                whole,
                realms_saved_at: None,
            })),
        })
    }

    /// Keeps floors for these issuers' realms, and for no others.
    pub fn follow(&self, issuers: &[&str], now: Instant) {
        let mut state = self.state();
        let mut realms = BTreeMap::new();
        for issuer in issuers.iter().copied() {
            let known = state.realms.remove(issuer);
            let realm = known.unwrap_or_else(|| state.opened(issuer, now));
            realms.insert(issuer.to_owned(), realm);
        }
        state.realms = realms;
    }

    /// No moment from now on is earlier.
    pub fn get(&self) -> Timestamp {
        self.state().floor
    }

    /// The realms' own floors by issuer, for a clock that isn't synchronised and says `now`.
    pub fn realms(&self, now: Timestamp, instant: Instant) -> Arc<BTreeMap<String, RealmFloor>> {
        let state = self.state();
        let held = now.max(state.floor);
        let floors = state.realms.iter().map(|(issuer, realm)| {
            let headroom = realm.headroom(held, instant);
            let floor = realm.floor;
            (issuer.clone(), RealmFloor { floor, headroom })
        });
        Arc::new(floors.collect())
    }

    /// Takes the word of a genuine token of the realm that was issued at `issued_at`, while the
    /// clock isn't synchronised and says `now`. Saves nothing itself: [`Floor::advance`] does.
    pub fn issued(&self, issuer: &str, issued_at: Timestamp, now: Timestamp, instant: Instant) {
        let mut state = self.state();
        let held = now.max(state.floor);
        if let Some(realm) = state.realms.get_mut(issuer) {
            realm.raise(issued_at, held, instant);
        }
    }

    /// Follows the clock while it is synchronised. Never goes back. May block to save.
    pub fn advance(
        &self,
        now: Timestamp,
        synchronised: bool,
        instant: Instant,
    ) -> Result<(), StoreError> {
        let (due, realms_due) = {
            let mut state = self.state();
            if synchronised {
                state.floor = state.floor.max(now);
                // What tokens have said is worth nothing beside a time that is known.
                for realm in state.realms.values_mut() {
                    realm.floor = Timestamp(0);
                    (realm.passed, realm.since) = (now, instant);
                }
            }
            let due = state.floor.since(state.saved) >= SAVE_EVERY;
            (due, state.realms_due(instant))
        };
        if due {
            self.save_global()?;
        }
        match realms_due {
            true => self.save_realms(instant),
            false => Ok(()),
        }
    }

    /// Saves the floors; durable when this returns. For the stop. Blocks.
    pub fn save(&self, instant: Instant) -> Result<(), StoreError> {
        self.save_global()?;
        let unsaved = {
            let state = self.state();
            state.to_saved(instant) != state.saved_realms
        };
        match unsaved {
            true => self.save_realms(instant),
            false => Ok(()),
        }
    }

    /// Sets the floor, also back, but never before the build; the realms' own floors end. Durable
    /// when this returns; the caller audits it. Blocks.
    pub fn reset(&self, to: Timestamp, instant: Instant) -> Result<(), StoreError> {
        let to = to.max(build_time());
        self.write(to)?;
        {
            let mut state = self.state();
            state.floor = to;
            for realm in state.realms.values_mut() {
                realm.floor = Timestamp(0);
                (realm.passed, realm.since) = (to, instant);
            }
        }
        self.save_realms(instant)
    }

    fn save_global(&self) -> Result<(), StoreError> {
        let floor = self.get();
        if floor != self.state().saved {
            self.write(floor)?;
        }
        Ok(())
    }

    fn write(&self, floor: Timestamp) -> Result<(), StoreError> {
        let bytes = floor.0.to_be_bytes();
        self.store.commit(|| self.tree.insert(KEY, &bytes))?;
        self.state().saved = floor;
        Ok(())
    }

    fn save_realms(&self, instant: Instant) -> Result<(), StoreError> {
        let saved = self.state().to_saved(instant);
        let bytes = serde_json::to_vec(&saved).map_err(|e| StoreError::Io(e.to_string()))?;
        self.store.commit(|| self.tree.insert(REALMS_KEY, &bytes))?;
        let mut state = self.state();
        state.saved_realms = saved;
        state.realms_saved_at = Some(instant);
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A realm as it was saved; a new one begins with a whole budget.
    fn opened(&self, issuer: &str, now: Instant) -> Realm {
        let saved = self.saved_realms.get(issuer).copied();
        let saved = saved.unwrap_or(Saved {
            floor: Timestamp(0),
            budget_ms: millis(self.whole),
        });
        Realm {
            floor: saved.floor,
            passed: saved.floor.max(self.floor),
            since: now,
            budget: Duration::from_millis(saved.budget_ms).min(BUDGET),
            counted: now,
        }
    }

    fn to_saved(&self, now: Instant) -> BTreeMap<String, Saved> {
        // Those of realms that aren't configured now wait for them, within bounds.
        let mut saved = self.saved_realms.clone();
        if saved.len() > MOST_SAVED {
            saved.clear();
        }
        for (issuer, realm) in &self.realms {
            let budget_ms = millis(realm.budget(now));
            let floor = realm.floor;
            saved.insert(issuer.clone(), Saved { floor, budget_ms });
        }
        saved
    }

    /// Whether a floor has moved far, or at all and long enough since the last write.
    fn realms_due(&self, now: Instant) -> bool {
        let moved = |(issuer, realm): (&String, &Realm)| {
            let saved = self.saved_realms.get(issuer).copied().unwrap_or_default();
            let (up, down) = (
                realm.floor.since(saved.floor),
                saved.floor.since(realm.floor),
            );
            up.max(down)
        };
        let moved = self.realms.iter().map(moved).max().unwrap_or_default();
        let waited = self
            .realms_saved_at
            .is_none_or(|at| now.saturating_duration_since(at) >= SAVE_EVERY);
        moved > LARGE || (waited && !moved.is_zero())
    }
}

impl Realm {
    fn budget(&self, now: Instant) -> Duration {
        let refilled = now.saturating_duration_since(self.counted);
        self.budget.saturating_add(refilled).min(BUDGET)
    }

    /// What has passed for certain.
    fn passed(&self, now: Instant) -> Timestamp {
        let since = now.saturating_duration_since(self.since);
        self.passed.saturating_add(since)
    }

    /// Moves what has passed on, never back.
    fn pass(&mut self, to: Timestamp, now: Instant) {
        if to > self.passed(now) {
            (self.passed, self.since) = (to, now);
        }
    }

    /// By how much a token may raise the time, from the later of `held` and the realm's floor.
    fn headroom(&self, held: Timestamp, now: Instant) -> Duration {
        let unused = self.passed(now).since(held.max(self.floor));
        unused.saturating_add(self.budget(now))
    }

    fn raise(&mut self, issued_at: Timestamp, held: Timestamp, now: Instant) {
        let held = held.max(self.floor);
        let most = held.saturating_add(self.headroom(held, now));
        let to = issued_at.min(most);
        if to <= held {
            return;
        }
        let spent = to.since(self.passed(now).max(held));
        if !spent.is_zero() {
            self.budget = self.budget(now).saturating_sub(spent);
            self.counted = now;
        }
        self.floor = to;
        self.pass(to, now);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// When this binary was built, as far as the build tells.
fn build_time() -> Timestamp {
    let told = option_env!("SOURCE_DATE_EPOCH").and_then(|secs| secs.parse().ok());
    Timestamp::from_secs(told.unwrap_or(RELEASED))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::instant;

    fn floor_in(folder: &tempfile::TempDir) -> Floor {
        Floor::open(&Store::open(folder.path()).unwrap()).unwrap()
    }

    #[test]
    fn follows_a_synchronised_clock_only_and_survives() {
        let folder = tempfile::tempdir().unwrap();
        let built = build_time();
        let later = |secs| built.saturating_add(Duration::from_secs(secs));
        let floor = floor_in(&folder);
        assert_eq!(floor.get(), built);
        floor.advance(later(9_999_999), false, instant()).unwrap();
        assert_eq!(floor.get(), built);
        floor.advance(later(1000), true, instant()).unwrap();
        floor.advance(later(1100), true, instant()).unwrap();
        floor.advance(later(50), true, instant()).unwrap();
        assert_eq!(floor.get(), later(1100));
        drop(floor);
        // 100 seconds weren't worth a write.
        let floor = floor_in(&folder);
        assert_eq!(floor.get(), later(1000));
        floor.advance(later(1001), true, instant()).unwrap();
        floor.save(instant()).unwrap();
        drop(floor);
        let floor = floor_in(&folder);
        assert_eq!(floor.get(), later(1001));
        floor.reset(Timestamp(0), instant()).unwrap();
        assert_eq!(floor.get(), built);
        drop(floor);
        assert_eq!(floor_in(&folder).get(), built);
    }

    #[test]
    fn saves_seldom_and_never_starts_before_its_build() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let floor = Floor::open(&store).unwrap();
        store.sync().unwrap();
        let (built, before) = (build_time(), store.syncs());
        // The first save is due at once; then one in ten minutes.
        for second in 0..3600 {
            let now = built.saturating_add(Duration::from_secs(second));
            floor.advance(now, true, instant()).unwrap();
        }
        assert_eq!(store.syncs() - before, 6);
        // What is stored from an earlier release doesn't hold this one back.
        floor.tree.insert(KEY, &1_u64.to_be_bytes()).unwrap();
        assert_eq!(Floor::open(&store).unwrap().get(), built);
        // Damage counts as nothing saved.
        floor.tree.insert(KEY, b"x").unwrap();
        assert_eq!(Floor::open(&store).unwrap().get(), built);
    }

    const REALM: &str = "https://a/realms/a";
    const OTHER: &str = "https://a/realms/b";
    const DAY: Duration = Duration::from_secs(86_400);
    const TEN_YEARS: Duration = Duration::from_secs(10 * 365 * 86_400);
    /// What a clock without a battery says.
    const EPOCH: Timestamp = Timestamp(0);

    fn following(folder: &tempfile::TempDir, now: Instant) -> Floor {
        let floor = floor_in(folder);
        floor.follow(&[REALM, OTHER], now);
        floor
    }

    fn realm(floor: &Floor, now: Timestamp, at: Instant) -> (Timestamp, Duration) {
        let realm = floor.realms(now, at)[REALM];
        (realm.floor, realm.headroom)
    }

    #[test]
    fn in_1970_a_token_tells_its_realm_the_time_and_no_other() {
        let (folder, start, built) = (tempfile::tempdir().unwrap(), instant(), build_time());
        let floor = following(&folder, start);
        assert_eq!(realm(&floor, EPOCH, start), (EPOCH, DAY));
        let told = built.saturating_add(DAY / 2);
        floor.issued(REALM, told, EPOCH, start);
        assert_eq!(realm(&floor, EPOCH, start), (told, DAY / 2));
        assert_eq!(floor.realms(EPOCH, start)[OTHER].floor, EPOCH);
        // An earlier one takes nothing back; what has passed and the budget give more.
        floor.issued(REALM, built, EPOCH, start);
        let later = start + DAY / 4;
        assert_eq!(realm(&floor, EPOCH, later), (told, DAY / 4 + DAY * 3 / 4));
        assert_eq!(floor.get(), built);
    }

    #[test]
    fn what_has_passed_costs_no_budget_and_is_used_once() {
        let (folder, start, built) = (tempfile::tempdir().unwrap(), instant(), build_time());
        let floor = following(&folder, start);
        let (mut at, mut told) = (start, built);
        for _ in 0..100 {
            at += DAY / 10;
            told = told.saturating_add(DAY / 10);
            floor.issued(REALM, told, EPOCH, at);
            assert_eq!(realm(&floor, EPOCH, at), (told, DAY));
        }
    }

    #[test]
    fn a_clock_that_is_ten_years_ahead_is_raised_by_nobody() {
        let (folder, start) = (tempfile::tempdir().unwrap(), instant());
        let floor = following(&folder, start);
        let ahead = build_time().saturating_add(TEN_YEARS);
        floor.issued(REALM, build_time().saturating_add(DAY), ahead, start);
        assert_eq!(realm(&floor, ahead, start), (EPOCH, DAY));
        // Stepped back, it is as if it had never been.
        assert_eq!(realm(&floor, build_time(), start), (EPOCH, DAY));
        floor.advance(ahead, false, start).unwrap();
        assert_eq!(floor.get(), build_time());
    }

    #[test]
    fn a_clock_that_steps_back_leaves_the_realms_floor() {
        let (folder, start, built) = (tempfile::tempdir().unwrap(), instant(), build_time());
        let floor = following(&folder, start);
        let (now, told) = (built.saturating_add(DAY), built.saturating_add(DAY * 3 / 2));
        floor.issued(REALM, told, now, start);
        assert_eq!(realm(&floor, EPOCH, start), (told, DAY / 2));
    }

    #[test]
    fn a_far_future_token_moves_its_realm_by_a_day_however_often_and_over_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let (start, built) = (instant(), build_time());
        let far = built.saturating_add(TEN_YEARS);
        for _restart in 0..5 {
            let floor = following(&folder, start);
            for _ in 0..100 {
                floor.issued(REALM, far, EPOCH, start);
                // Killed afterwards: a large raise is saved within a second.
                floor.advance(EPOCH, false, start).unwrap();
            }
            let raised = built.saturating_add(DAY);
            assert_eq!(realm(&floor, EPOCH, start), (raised, Duration::ZERO));
        }
        // A day later a day is there again, and one for the day that has passed.
        let floor = following(&folder, start);
        assert_eq!(realm(&floor, EPOCH, start + DAY).1, DAY * 2);
        assert_eq!(realm(&floor, EPOCH, start + DAY * 10).1, DAY * 11);
    }

    #[test]
    fn damaged_budgets_are_spent_ones() {
        let (folder, start) = (tempfile::tempdir().unwrap(), instant());
        floor_in(&folder).tree.insert(REALMS_KEY, b"x").unwrap();
        let floor = following(&folder, start);
        assert_eq!(realm(&floor, EPOCH, start), (EPOCH, Duration::ZERO));
    }

    #[test]
    fn synchronisation_and_a_reset_end_what_tokens_said() {
        let (folder, start, built) = (tempfile::tempdir().unwrap(), instant(), build_time());
        let floor = following(&folder, start);
        let told = built.saturating_add(DAY);
        floor.issued(REALM, told, EPOCH, start);
        floor.reset(built, start).unwrap();
        assert_eq!(realm(&floor, EPOCH, start).0, EPOCH);
        let at = start + DAY * 2;
        floor.issued(REALM, told, EPOCH, at);
        assert_eq!(realm(&floor, EPOCH, at).0, told);
        floor
            .advance(built.saturating_add(DAY / 2), true, at)
            .unwrap();
        assert_eq!(realm(&floor, EPOCH, at).0, EPOCH);
        drop(floor);
        assert_eq!(realm(&following(&folder, at), EPOCH, at).0, EPOCH);
    }

    #[test]
    fn realm_floors_are_written_seldom() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let (floor, start, built) = (Floor::open(&store).unwrap(), instant(), build_time());
        floor.follow(&[REALM], start);
        floor.save(start).unwrap();
        let before = store.syncs();
        for second in 1..=3600 {
            let passed = Duration::from_secs(second);
            let told = built.saturating_add(passed);
            floor.issued(REALM, told, EPOCH, start + passed);
            floor.advance(EPOCH, false, start + passed).unwrap();
        }
        let writes = store.syncs() - before;
        assert!((1..=6).contains(&writes), "{writes}");
    }
}
