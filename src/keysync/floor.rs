//! The time floors: saved lower bounds of the time, so that a power cut on a box without a clock
//! of its own can't bring expired tokens back.
//!
//! The global floor follows the synchronised clock, and goes on by itself from there: what passes on
//! the clock that never steps has passed for certain. While nothing synchronises the clock, each
//! realm also has what its accepted tokens say ([`words`](super::words)).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Error;

use super::words::{BUDGET, Line, Saved, Words};
use crate::auth::RealmFloor;
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
    state: Arc<Mutex<State>>,
    /// Held during a write, or an older one could take the place of a newer.
    writing: Arc<Mutex<()>>,
}

#[derive(Debug)]
struct State {
    floor: Line,
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
        let (saved, then) = saved.unwrap_or_default();
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
            state: Arc::new(Mutex::new(State {
                floor,
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
    /// while the clock isn't synchronised and says `now`.
    pub fn hear(
        &self,
        issuer: &str,
        client: &str,
        issued_at: Timestamp,
        now: Timestamp,
        uptime: Uptime,
    ) {
        let mut state = self.state();
        let floor = state.floor(uptime);
        if let Some(words) = state.realms.get_mut(issuer) {
            words.hear(client, issued_at, now.max(floor), floor, uptime);
        }
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

    /// Sets the floor, also back, but never before the build; the realms' own floors end. Durable
    /// when this returns; the caller audits it. Blocks.
    pub fn reset(&self, to: Timestamp, at: Booted) -> Result<(), StoreError> {
        {
            let mut state = self.state();
            state.floor = Line::new(to.max(build_time()), at.uptime);
            // Also of those realms that aren't configured now.
            for saved in state.saved_realms.values_mut() {
                saved.forget();
            }
            for words in state.realms.values_mut() {
                words.forget(at.uptime);
            }
        }
        self.commit(at)
    }

    fn commit(&self, at: Booted) -> Result<(), StoreError> {
        let committed = self.store.commit(|| self.write(at));
        if committed.is_err() {
            // So that it is due again.
            self.state().saved = Timestamp(0);
        }
        committed
    }

    fn write(&self, at: Booted) -> Result<(), StoreError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let (floor, realms) = {
            let state = self.state();
            (state.floor(at.uptime), state.to_saved(at))
        };
        let bytes =
            serde_json::to_vec(&realms).map_err(|e: Error| StoreError::Io(e.to_string()))?;
        self.tree.insert(KEY, &stored(floor, at))?;
        self.tree.insert(REALMS_KEY, &bytes)?;
        let mut state = self.state();
        state.saved = floor;
        state.saved_realms = realms;
        state.realms_saved_at = Some(at.uptime);
        state.realms.values_mut().for_each(Words::stored_now);
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A realm as it was saved; a new one begins with a whole budget.
    fn opened(&self, issuer: &str, now: Booted) -> Words {
        match self.saved_realms.get(issuer) {
            Some(saved) => Words::stored(saved.clone(), now),
            None => Words::new(self.whole, now.uptime),
        }
    }

    fn floor(&self, now: Uptime) -> Timestamp {
        match self.kept {
            true => self.floor.start(),
            false => self.floor.at(now),
        }
    }

    fn synchronise(&mut self, now: Timestamp, uptime: Uptime) {
        self.floor = Line::new(self.floor(uptime).max(now), uptime);
        self.kept = true;
        // What tokens have said is worth nothing beside a time that is known.
        for words in self.realms.values_mut() {
            words.forget(uptime);
        }
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

/// A floor as it is stored: the time, and the boot and uptime at which it was that.
fn stored(floor: Timestamp, at: Booted) -> [u8; 24] {
    let mut bytes = [0; 24];
    for (part, number) in bytes
        .chunks_exact_mut(8)
        .zip([floor.0, at.boot, at.uptime.0])
    {
        part.copy_from_slice(&number.to_be_bytes());
    }
    bytes
}

/// Earlier releases stored the time alone. Damage counts as nothing saved.
fn read(bytes: &[u8]) -> Option<(Timestamp, Option<Booted>)> {
    let numbers = bytes
        .chunks_exact(8)
        .map(|part| part.try_into().map(u64::from_be_bytes));
    let numbers: Vec<u64> = numbers.collect::<Result<_, _>>().ok()?;
    match (&numbers[..], bytes.len() % 8) {
        (&[floor], 0) => Some((Timestamp(floor), None)),
        (&[floor, boot, uptime], 0) => {
            let uptime = Uptime(uptime);
            Some((Timestamp(floor), Some(Booted { boot, uptime })))
        }
        _ => None,
    }
}

/// When this binary was built, as far as the build tells.
fn build_time() -> Timestamp {
    let told = option_env!("SOURCE_DATE_EPOCH").and_then(|secs| secs.parse().ok());
    Timestamp::from_secs(told.unwrap_or(RELEASED))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So long after the start of this boot, or of another.
    fn at(passed: Duration) -> Booted {
        in_boot(1, passed)
    }

    fn in_boot(boot: u64, passed: Duration) -> Booted {
        let uptime = Uptime(1_000_000) + passed;
        Booted { boot, uptime }
    }

    const START: Duration = Duration::ZERO;
    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(86_400);
    const TEN_YEARS: Duration = Duration::from_secs(10 * 365 * 86_400);
    const REALM: &str = "https://a/realms/a";
    const OTHER: &str = "https://a/realms/b";
    /// What a clock without a battery says.
    const EPOCH: Timestamp = Timestamp(0);

    fn floor_in(folder: &tempfile::TempDir, now: Booted) -> Floor {
        let floor = Floor::open(&Store::open(folder.path()).unwrap(), now).unwrap();
        floor.follow(&[REALM, OTHER], now);
        floor
    }

    fn later(passed: Duration) -> Timestamp {
        build_time().saturating_add(passed)
    }

    /// The time of a client's tokens, and the latest that one more may say.
    fn time_of(floor: &Floor, client: &str, now: Timestamp, at: Booted) -> (Timestamp, Timestamp) {
        let realm = &floor.realms(now, at.uptime)[REALM];
        let held = now.max(floor.get(at.uptime));
        (held.max(realm.of(client)), realm.most)
    }

    fn hear(floor: &Floor, client: &str, said: Timestamp, at: Booted) {
        floor.hear(REALM, client, said, EPOCH, at.uptime);
    }

    #[test]
    fn follows_a_synchronised_clock_only_and_survives() {
        let folder = tempfile::tempdir().unwrap();
        let (start, secs) = (at(START), |secs| later(Duration::from_secs(secs)));
        let floor = floor_in(&folder, start);
        assert_eq!(floor.get(start.uptime), build_time());
        floor.advance(secs(9_999_999), false, start).unwrap();
        assert_eq!(floor.get(start.uptime), build_time());
        floor.advance(secs(1000), true, start).unwrap();
        floor.advance(secs(1100), true, start).unwrap();
        floor.advance(secs(50), true, start).unwrap();
        assert_eq!(floor.get(start.uptime), secs(1100));
        drop(floor);
        // 100 seconds weren't worth a write.
        let floor = floor_in(&folder, start);
        assert_eq!(floor.get(start.uptime), secs(1000));
        floor.advance(secs(1001), true, start).unwrap();
        floor.save(start).unwrap();
        drop(floor);
        let floor = floor_in(&folder, start);
        assert_eq!(floor.get(start.uptime), secs(1001));
        floor.reset(Timestamp(0), start).unwrap();
        assert_eq!(floor.get(start.uptime), build_time());
        drop(floor);
        assert_eq!(floor_in(&folder, start).get(start.uptime), build_time());
    }

    #[test]
    fn what_passes_has_passed_also_while_nobody_keeps_the_clock_and_over_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let floor = floor_in(&folder, at(START));
        assert_eq!(floor.get(at(HOUR).uptime), later(HOUR));
        floor.advance(EPOCH, false, at(HOUR)).unwrap();
        drop(floor);
        // In one boot a restart takes nothing back, whenever it was saved.
        let floor = floor_in(&folder, at(HOUR * 2));
        assert_eq!(floor.get(at(HOUR * 2).uptime), later(HOUR * 2));
        drop(floor);
        // A power cut takes back what was saved last.
        let floor = floor_in(&folder, in_boot(2, START));
        assert_eq!(floor.get(at(START).uptime), later(HOUR));
        floor.write_along(in_boot(2, MINUTE)).unwrap();
        drop(floor);
        let floor = floor_in(&folder, in_boot(3, START));
        assert_eq!(floor.get(at(START).uptime), later(HOUR + MINUTE));
    }

    #[test]
    fn a_synchronised_clock_that_was_stepped_back_a_little_catches_up() {
        let folder = tempfile::tempdir().unwrap();
        let floor = floor_in(&folder, at(START));
        floor.advance(later(HOUR), true, at(START)).unwrap();
        for second in 1..=3 {
            let passed = Duration::from_secs(second);
            let behind = later(HOUR + passed - Duration::from_secs(2));
            floor.advance(behind, true, at(passed)).unwrap();
            let expected = later(HOUR).max(behind);
            assert_eq!(floor.get(at(passed).uptime), expected);
        }
    }

    #[test]
    fn saves_seldom_and_never_starts_before_its_build() {
        for synchronised in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let store = Store::open(folder.path()).unwrap();
            let floor = Floor::open(&store, at(START)).unwrap();
            store.sync().unwrap();
            let before = store.syncs();
            // The first save is due at once; then one in ten minutes.
            for second in 0..3600 {
                let passed = Duration::from_secs(second);
                let now = later(passed);
                floor.advance(now, synchronised, at(passed)).unwrap();
            }
            assert_eq!(store.syncs() - before, 6);
            let opened = || Floor::open(&store, at(START)).unwrap();
            // What is stored from an earlier release doesn't hold this one back, and counts.
            floor.tree.insert(KEY, &1_u64.to_be_bytes()).unwrap();
            assert_eq!(opened().get(at(START).uptime), build_time());
            let old = later(DAY).0.to_be_bytes();
            floor.tree.insert(KEY, &old).unwrap();
            assert_eq!(opened().get(at(START).uptime), later(DAY));
            // Damage counts as nothing saved.
            for damage in [&b"x"[..], &[0xff; 23], &[0xff; 16]] {
                floor.tree.insert(KEY, damage).unwrap();
                assert_eq!(opened().get(at(START).uptime), build_time());
            }
        }
    }

    #[test]
    fn in_1970_a_token_tells_its_client_the_time_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let (floor, start) = (floor_in(&folder, at(START)), at(START));
        assert_eq!(
            time_of(&floor, "one", EPOCH, start),
            (later(START), later(DAY))
        );
        hear(&floor, "one", later(DAY / 2), start);
        assert_eq!(
            time_of(&floor, "one", EPOCH, start),
            (later(DAY / 2), later(DAY))
        );
        assert_eq!(
            time_of(&floor, "two", EPOCH, start),
            (later(START), later(DAY))
        );
        let other = &floor.realms(EPOCH, start.uptime)[OTHER];
        assert_eq!((other.floor, &other.ahead), (EPOCH, &None));
        // An earlier one takes nothing back; time goes on by itself, and the budget refills.
        hear(&floor, "one", later(START), start);
        let quarter = at(DAY / 4);
        let expected = (later(DAY * 3 / 4), later(DAY * 3 / 2));
        assert_eq!(time_of(&floor, "one", EPOCH, quarter), expected);
        assert_eq!(floor.get(start.uptime), build_time());
    }

    #[test]
    fn a_clock_that_is_ten_years_ahead_is_raised_by_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let (floor, start) = (floor_in(&folder, at(START)), at(START));
        floor.hear(REALM, "one", later(DAY), later(TEN_YEARS), start.uptime);
        // Stepped back, it is as if it had never been.
        assert_eq!(time_of(&floor, "two", EPOCH, start).0, later(START));
        floor.advance(later(TEN_YEARS), false, start).unwrap();
        assert_eq!(floor.get(start.uptime), build_time());
    }

    #[test]
    fn a_far_future_token_moves_its_client_by_a_day_however_often_and_over_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let (far, start) = (later(TEN_YEARS), at(START));
        for _restart in 0..5 {
            let floor = floor_in(&folder, start);
            for _ in 0..100 {
                hear(&floor, "one", far, start);
                // Killed afterwards: a large raise is saved within a second.
                floor.advance(EPOCH, false, start).unwrap();
            }
            let all = later(DAY);
            assert_eq!(time_of(&floor, "one", EPOCH, start), (all, all));
            assert_eq!(time_of(&floor, "two", EPOCH, start), (later(START), all));
        }
        // A day later a day is there again.
        let floor = floor_in(&folder, start);
        for days in [1, 10] {
            let (_, most) = time_of(&floor, "two", EPOCH, at(DAY * days));
            assert_eq!(
                most,
                later(DAY * (days + 2)),
                "a day, and the one for all time"
            );
        }
    }

    #[test]
    fn two_clients_agree_on_the_lower_word_over_a_power_cut_too() {
        let folder = tempfile::tempdir().unwrap();
        let (floor, start) = (floor_in(&folder, at(START)), at(START));
        hear(&floor, "one", later(HOUR * 5), start);
        hear(&floor, "two", later(HOUR * 2), start);
        let times = |floor: &Floor, now| {
            ["one", "two", "three"].map(|client| time_of(floor, client, EPOCH, now).0)
        };
        let expected = [later(HOUR * 5), later(HOUR * 2), later(HOUR * 2)];
        assert_eq!(times(&floor, start), expected);
        floor.write_along(start).unwrap();
        floor.store.sync().unwrap();
        drop(floor);
        let cut = in_boot(2, START);
        let floor = floor_in(&folder, cut);
        assert_eq!(times(&floor, cut), expected);
        // And what an earlier release stored.
        let old = format!(
            r#"{{"{REALM}":{{"floor":{},"budget_ms":7}}}}"#,
            later(HOUR).0
        );
        floor.tree.insert(REALMS_KEY, old.as_bytes()).unwrap();
        let floor = Floor::open(&floor.store, cut).unwrap();
        floor.follow(&[REALM], cut);
        assert_eq!(times(&floor, cut), [later(HOUR); 3]);
    }

    #[test]
    fn damaged_budgets_are_spent_ones() {
        let (folder, start) = (tempfile::tempdir().unwrap(), at(START));
        floor_in(&folder, start)
            .tree
            .insert(REALMS_KEY, b"x")
            .unwrap();
        let floor = floor_in(&folder, start);
        assert_eq!(
            time_of(&floor, "one", EPOCH, start),
            (later(START), later(START))
        );
    }

    #[test]
    fn synchronisation_and_a_reset_end_what_tokens_said() {
        let (folder, start) = (tempfile::tempdir().unwrap(), at(START));
        let floor = floor_in(&folder, start);
        hear(&floor, "one", later(DAY), start);
        floor.reset(build_time(), start).unwrap();
        assert_eq!(time_of(&floor, "one", EPOCH, start).0, later(START));
        let two_days = at(DAY * 2);
        for client in ["one", "two"] {
            hear(&floor, client, later(DAY * 3), two_days);
        }
        assert_eq!(time_of(&floor, "three", EPOCH, two_days).0, later(DAY * 3));
        floor.advance(later(DAY / 2), true, two_days).unwrap();
        assert_eq!(time_of(&floor, "one", EPOCH, two_days).0, later(DAY * 2));
        drop(floor);
        let floor = floor_in(&folder, two_days);
        assert_eq!(time_of(&floor, "one", EPOCH, two_days).0, later(DAY * 2));
    }

    #[test]
    fn a_reset_also_ends_what_tokens_of_a_realm_said_that_is_not_configured_now() {
        let (folder, start) = (tempfile::tempdir().unwrap(), at(START));
        let floor = floor_in(&folder, start);
        hear(&floor, "one", later(DAY), start);
        floor.save(start).unwrap();
        drop(floor);
        let floor = Floor::open(&Store::open(folder.path()).unwrap(), start).unwrap();
        floor.reset(build_time(), start).unwrap();
        floor.follow(&[REALM], start);
        assert_eq!(time_of(&floor, "one", EPOCH, start).0, later(START));
    }

    #[test]
    fn realm_floors_are_written_seldom() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let floor = Floor::open(&store, at(START)).unwrap();
        floor.follow(&[REALM], at(START));
        floor.save(at(START)).unwrap();
        let before = store.syncs();
        for second in 1..=3600 {
            let passed = Duration::from_secs(second);
            // Always a bit ahead.
            hear(&floor, "one", later(passed * 2), at(passed));
            floor.advance(EPOCH, false, at(passed)).unwrap();
        }
        let writes = store.syncs() - before;
        assert!((1..=6).contains(&writes), "{writes}");
    }
}
