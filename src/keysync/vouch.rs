//! Which keys of a fetched set come into force: the pure part of a refresh.
//!
//! Whoever controls the line to an issuer for a while can serve any set, and every public key that
//! is in force in it. So a key only vouches for others when it is *ripe*: pinned by a person, or in
//! force for long enough. What leaves the set goes at once, because it may be compromised; but a
//! ripe key that left still vouches, so that the issuer's own set comes back by itself.
//!
//! All ages are readings of one clock of the realm's own, which goes on while its issuer answers.
//! No wall clock can move it, and silence ripens nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// RFC 7638 thumbprints: a key is its thumbprint, whatever its `kid`.
pub type Thumbprints = BTreeSet<String>;

/// How long a ripe key vouches after it has left.
const VOUCHES_FOR: Duration = Duration::from_secs(30 * 86_400);
/// Ripe keys that have left and are remembered; only an issuer that changes its keys daily has more.
const MOST_LEFT: usize = 32;

/// How long each key of a realm has been in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The realm's clock.
    watched_ms: u64,
    keys: BTreeMap<String, Standing>,
}

/// Times are readings of the realm's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Standing {
    by_hand: bool,
    since_ms: u64,
    /// `None`: in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    left_ms: Option<u64>,
}

/// What an answer is judged by, besides the keys.
#[derive(Clone, Copy)]
pub struct Circumstances<'c> {
    /// Since the answer before, where that was one of the realm's.
    pub passed: Duration,
    /// How long a key must be in force until it is ripe.
    pub vouch_after: Duration,
    /// Keys that the deny-list names: they may be in the hands of whoever serves the set.
    pub denied: &'c dyn Fn(&str) -> bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// What is in force, again.
    Confirmed,
    /// The fetched set is in force.
    Taken,
    /// Something in it is new, and nobody vouches for that. What is in force and not in it has
    /// left all the same.
    Held,
    /// Nothing in it is the realm's.
    Foreign,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Next {
    pub verdict: Verdict,
    /// From now on.
    pub in_force: Thumbprints,
    pub history: History,
}

impl History {
    /// Keys that a person has pinned. What was before them counts no more.
    pub fn by_hand(keys: &Thumbprints) -> History {
        let standing = Standing {
            by_hand: true,
            since_ms: 0,
            left_ms: None,
        };
        History {
            watched_ms: 0,
            keys: keys.iter().map(|key| (key.clone(), standing)).collect(),
        }
    }

    /// What becomes of the keys `in_force` when the issuer serves `fetched`.
    pub fn next(
        &self,
        in_force: &Thumbprints,
        fetched: &Thumbprints,
        circumstances: &Circumstances<'_>,
    ) -> Next {
        let mut history = self.clone();
        history.watched_ms = self.watched_ms.saturating_add(millis(circumstances.passed));
        let counts = |key: &&String| !(circumstances.denied)(key);
        let vouched = fetched
            .iter()
            .filter(counts)
            .any(|key| history.vouches(key, circumstances.vouch_after));
        let known = fetched
            .iter()
            .filter(counts)
            .any(|key| in_force.contains(key));
        let verdict = match () {
            () if fetched == in_force => Verdict::Confirmed,
            () if vouched || (known && fetched.is_subset(in_force)) => Verdict::Taken,
            () if known => Verdict::Held,
            () => {
                return Next {
                    verdict: Verdict::Foreign,
                    in_force: in_force.clone(),
                    history: self.clone(),
                };
            }
        };
        let now_in_force = match verdict {
            Verdict::Held => in_force.intersection(fetched).cloned().collect(),
            _ => fetched.clone(),
        };
        history.follow(&now_in_force, self.watched_ms, circumstances.vouch_after);
        Next {
            verdict,
            in_force: now_in_force,
            history,
        }
    }

    /// The keys that vouch for others, in force or not.
    pub fn vouching(&self, vouch_after: Duration) -> Vec<String> {
        let keys = self.keys.keys();
        let vouching = keys.filter(|key| self.vouches(key, vouch_after));
        vouching.cloned().collect()
    }

    /// Whether a person has chosen all of these keys.
    pub fn is_by_hand(&self, keys: &Thumbprints) -> bool {
        let chosen = |key| self.keys.get(key).is_some_and(|standing| standing.by_hand);
        keys.iter().all(chosen)
    }

    /// Whether a person has chosen the same keys in both.
    pub fn is_chosen_as(&self, other: &History) -> bool {
        let chosen = |history: &History| {
            let keys = history.keys.iter().filter(|(_, standing)| standing.by_hand);
            keys.map(|(key, _)| key.clone()).collect::<Thumbprints>()
        };
        chosen(self) == chosen(other)
    }

    /// How far the realm's clock is ahead of the other's.
    pub fn ahead_of(&self, other: &History) -> Duration {
        Duration::from_millis(self.watched_ms.saturating_sub(other.watched_ms))
    }

    /// Whether the key vouches for others, in force or not.
    fn vouches(&self, key: &str, vouch_after: Duration) -> bool {
        let Some(standing) = self.keys.get(key) else {
            return false;
        };
        standing.is_ripe(self.watched_ms, vouch_after) && standing.is_remembered(self.watched_ms)
    }

    /// `before`: the reading at the answer before, until which what leaves now was seen.
    fn follow(&mut self, in_force: &Thumbprints, before: u64, vouch_after: Duration) {
        let now = self.watched_ms;
        for (key, standing) in &mut self.keys {
            standing.left_ms = match in_force.contains(key) {
                true => None,
                false => standing.left_ms.or(Some(before)),
            };
        }
        // One that left unripe begins anew when it comes again.
        self.keys.retain(|_, standing| {
            standing.left_ms.is_none()
                || (standing.is_ripe(now, vouch_after) && standing.is_remembered(now))
        });
        for key in in_force {
            self.keys.entry(key.clone()).or_insert(Standing {
                by_hand: false,
                since_ms: now,
                left_ms: None,
            });
        }
        self.forget_first_left();
    }

    fn forget_first_left(&mut self) {
        let left = self.keys.iter().filter_map(|(key, standing)| {
            let at = standing.left_ms?;
            Some((at, key.clone()))
        });
        let mut left: Vec<(u64, String)> = left.collect();
        left.sort_unstable();
        for (_, key) in left.iter().rev().skip(MOST_LEFT) {
            self.keys.remove(key);
        }
    }
}

impl Standing {
    fn is_ripe(&self, now: u64, vouch_after: Duration) -> bool {
        let until = self.left_ms.unwrap_or(now);
        self.by_hand || until.saturating_sub(self.since_ms) >= millis(vouch_after)
    }

    fn is_remembered(&self, now: u64) -> bool {
        let gone = self.left_ms.map_or(0, |left| now.saturating_sub(left));
        gone <= millis(VOUCHES_FOR)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(86_400);

    /// A realm and what has been in force of it.
    struct Realm {
        in_force: Thumbprints,
        history: History,
        denied: Thumbprints,
    }

    fn set(keys: &[&str]) -> Thumbprints {
        keys.iter().map(|key| (*key).to_owned()).collect()
    }

    impl Realm {
        fn pinned(keys: &[&str]) -> Realm {
            Realm {
                in_force: set(keys),
                history: History::by_hand(&set(keys)),
                denied: Thumbprints::new(),
            }
        }

        fn answer(&mut self, fetched: &Thumbprints, passed: Duration) -> Verdict {
            let circumstances = Circumstances {
                passed,
                vouch_after: DAY,
                denied: &|key| self.denied.contains(key),
            };
            let next = self.history.next(&self.in_force, fetched, &circumstances);
            (self.in_force, self.history) = (next.in_force, next.history);
            next.verdict
        }

        #[track_caller]
        fn serves(&mut self, fetched: &[&str], verdict: Verdict, in_force: &[&str]) {
            self.after(HOUR, fetched, verdict, in_force);
        }

        #[track_caller]
        fn after(
            &mut self,
            passed: Duration,
            fetched: &[&str],
            verdict: Verdict,
            in_force: &[&str],
        ) {
            assert_eq!(self.answer(&set(fetched), passed), verdict);
            assert_eq!(self.in_force, set(in_force));
        }
    }

    #[test]
    fn a_realm_isnt_handed_over_in_three_fetches() {
        let mut realm = Realm::pinned(&["K"]);
        realm.serves(&["K", "A"], Verdict::Taken, &["K", "A"]);
        realm.serves(&["A"], Verdict::Taken, &["A"]);
        realm.serves(&["A", "B"], Verdict::Held, &["A"]);
        realm.serves(&["B"], Verdict::Foreign, &["A"]);
        realm.serves(&["K"], Verdict::Taken, &["K"]);
        // What has left unripe is foreign.
        realm.serves(&["A"], Verdict::Foreign, &["K"]);
    }

    #[test]
    fn a_key_of_a_day_vouches_for_the_next() {
        let mut realm = Realm::pinned(&["K"]);
        realm.serves(&["K", "A"], Verdict::Taken, &["K", "A"]);
        for _ in 0..24 {
            realm.serves(&["K", "A"], Verdict::Confirmed, &["K", "A"]);
        }
        realm.serves(&["A", "B"], Verdict::Taken, &["A", "B"]);
        // K left 29 days ago, and a moment more than 30.
        realm.after(28 * DAY, &["A", "B"], Verdict::Confirmed, &["A", "B"]);
        let mut late = Realm {
            in_force: realm.in_force.clone(),
            history: realm.history.clone(),
            denied: Thumbprints::new(),
        };
        realm.serves(&["K"], Verdict::Taken, &["K"]);
        late.after(2 * DAY, &["A", "B"], Verdict::Confirmed, &["A", "B"]);
        late.serves(&["K"], Verdict::Foreign, &["A", "B"]);
    }

    #[test]
    fn what_is_held_comes_into_force_when_its_key_is_ripe() {
        let mut realm = Realm::pinned(&["K"]);
        realm.serves(&["K", "A"], Verdict::Taken, &["K", "A"]);
        for _ in 0..23 {
            realm.serves(&["A", "B"], Verdict::Held, &["A"]);
        }
        realm.serves(&["A", "B"], Verdict::Taken, &["A", "B"]);
    }

    #[test]
    fn silence_after_a_key_was_seen_last_doesnt_ripen_it() {
        let mut realm = Realm::pinned(&["K"]);
        realm.serves(&["K", "A"], Verdict::Taken, &["K", "A"]);
        realm.after(DAY, &["K"], Verdict::Taken, &["K"]);
        realm.serves(&["A", "B"], Verdict::Foreign, &["K"]);
    }

    #[test]
    fn a_denied_key_vouches_for_nothing_and_is_no_company() {
        let mut realm = Realm::pinned(&["K", "L"]);
        realm.denied = set(&["L"]);
        realm.serves(&["L", "B"], Verdict::Foreign, &["K", "L"]);
        realm.serves(&["L"], Verdict::Foreign, &["K", "L"]);
        realm.serves(&["K", "B"], Verdict::Taken, &["K", "B"]);
        realm.serves(&["L"], Verdict::Foreign, &["K", "B"]);
    }

    #[test]
    fn what_a_person_pins_is_all_that_counts() {
        let mut realm = Realm::pinned(&["K"]);
        realm.serves(&["K", "A"], Verdict::Taken, &["K", "A"]);
        realm = Realm::pinned(&["P"]);
        realm.serves(&["K"], Verdict::Foreign, &["P"]);
        realm.serves(&["P", "Q"], Verdict::Taken, &["P", "Q"]);
    }

    #[test]
    fn old_keys_are_remembered_within_a_bound() {
        let mut realm = Realm::pinned(&["0"]);
        for n in 1..200 {
            let both = [&*(n - 1).to_string(), &*n.to_string()].map(str::to_owned);
            realm.answer(&both.clone().into(), HOUR);
            realm.answer(&both.into(), DAY);
            assert_eq!(realm.answer(&set(&[&n.to_string()]), HOUR), Verdict::Taken);
            assert!(realm.history.keys.len() <= MOST_LEFT + 1);
        }
    }

    #[test]
    fn it_is_stored_as_it_was() {
        let mut realm = Realm::pinned(&["K"]);
        realm.serves(&["K", "A"], Verdict::Taken, &["K", "A"]);
        realm.serves(&["A"], Verdict::Taken, &["A"]);
        let stored = serde_json::to_vec(&realm.history).unwrap();
        let read: History = serde_json::from_slice(&stored).unwrap();
        assert_eq!(read, realm.history);
    }

    /// Served in turn: minutes since the answer before, and which of the known keys.
    type Attack = Vec<(u64, u16)>;

    #[derive(Debug, Clone)]
    enum Step {
        /// The issuer itself answers, after so many minutes.
        Answer(u64),
        Adds,
        RetiresOldest,
        /// Somebody else answers for less than a day; then the issuer does again.
        Attacked(Attack, u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let attack = proptest::collection::vec((1_u64..600, 1_u16..1024), 1..8);
        let step = prop_oneof![
            4 => (1_u64..2000).prop_map(Step::Answer),
            1 => Just(Step::Adds),
            1 => Just(Step::RetiresOldest),
            3 => (attack, 1_u64..2000).prop_map(|(attack, after)| Step::Attacked(attack, after)),
        ];
        proptest::collection::vec(step, 1..60)
    }

    /// An issuer that follows Keycloak's advice: a key goes only when another has been served long
    /// enough.
    struct World {
        realm: Realm,
        /// The issuer's own keys, the oldest first, with the minutes that each was served in peace.
        own: Vec<(String, u64)>,
        made: usize,
        /// The most that one silence counts.
        most: Duration,
    }

    impl World {
        fn new(most: Duration) -> World {
            World {
                realm: Realm::pinned(&["R0"]),
                own: vec![("R0".to_owned(), u64::MAX)],
                made: 1,
                most,
            }
        }

        fn minutes(&self, minutes: u64) -> Duration {
            Duration::from_secs(60 * minutes).min(self.most)
        }

        fn answers(&mut self, after: u64) {
            let passed = self.minutes(after);
            let own: Thumbprints = self.own.iter().map(|(key, _)| key.clone()).collect();
            let verdict = self.realm.answer(&own, passed);
            assert!(
                matches!(verdict, Verdict::Confirmed | Verdict::Taken),
                "{verdict:?}"
            );
            assert_eq!(self.realm.in_force, own);
            for (_, served) in &mut self.own {
                *served = match *served {
                    // Seen for the first time.
                    0 => 1,
                    minutes => minutes.saturating_add(passed.as_secs() / 60),
                };
            }
        }

        fn step(&mut self, step: &Step) {
            match step {
                Step::Answer(after) => self.answers(*after),
                Step::Adds => {
                    self.own.push((format!("R{}", self.made), 0));
                    self.made += 1;
                }
                Step::RetiresOldest => {
                    let ripe = self.own[1..].iter().any(|(_, served)| *served > 24 * 60);
                    if ripe {
                        self.own.remove(0);
                    }
                }
                Step::Attacked(attack, after) => {
                    self.attacked(attack);
                    self.answers(*after);
                }
            }
        }

        /// With keys of their own and every key that the issuer ever had: those are public.
        fn attacked(&mut self, attack: &Attack) {
            let own = (0..self.made).rev().take(6).map(|n| format!("R{n}"));
            let foreign = (0..4).map(|n| format!("E{n}"));
            let keys: Vec<String> = foreign.chain(own).collect();
            let mut lasted = 0;
            for (place, (after, mask)) in attack.iter().enumerate() {
                lasted += if place > 0 { *after } else { 0 };
                if lasted >= 24 * 60 {
                    break;
                }
                let served = keys.iter().enumerate();
                let served = served.filter(|(bit, _)| mask & (1 << bit) != 0);
                let served: Thumbprints = served.map(|(_, key)| key.clone()).collect();
                if served.is_empty() {
                    continue;
                }
                let passed = self.minutes(*after);
                let verdict = self.realm.answer(&served, passed);
                let gone = verdict != Verdict::Foreign;
                assert!(!gone || self.realm.in_force.is_subset(&served));
                assert!(!self.realm.in_force.is_empty());
            }
            // What isn't ripe yet may have to begin anew.
            for (_, served) in &mut self.own {
                if *served <= 24 * 60 {
                    *served = 0;
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn whoever_answers_for_less_than_a_day_leaves_no_realm_behind(
            steps in steps(),
            most in prop_oneof![Just(HOUR / 2), Just(40 * DAY)],
        ) {
            let mut world = World::new(most);
            world.answers(1);
            for step in &steps {
                world.step(step);
            }
        }
    }
}
