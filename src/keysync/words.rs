//! What one realm's tokens tell of the time while nothing better does. Pure.
//!
//! The word of an accepted token, its `iat`, moves the realm within a *budget*. One client alone
//! moves the time of its own tokens; the lower of two clients' words is *agreed*, and counts for
//! every token of the realm. So one token from the future stops nobody but its own client.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::auth::{Moved, RealmFloor};
use crate::time::{Booted, Timestamp, Uptime};

/// The most that tokens can raise a realm's time beyond the clock and the time that has passed; it
/// refills once in as much time.
pub(super) const BUDGET: Duration = Duration::from_secs(86_400);

/// Administrators are told when tokens have moved a realm's time by so much past the clock, and again
/// when they have moved it further by as much as the second. The budget bounds how often that is.
const NOTICEABLE: Duration = Duration::from_secs(300);
const FURTHER: Duration = Duration::from_secs(3600);

/// What Keycloak's database takes for a client id. A longer one isn't remembered.
const MAX_CLIENT: usize = 255;

/// A time that has passed at a moment: with what has passed since then, that has passed too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line {
    at: Timestamp,
    since: Uptime,
}

impl Line {
    pub(super) fn new(at: Timestamp, since: Uptime) -> Line {
        Line { at, since }
    }

    /// What was `at` when it was stored: exact within one boot; nobody can tell how long a machine
    /// was off.
    pub(super) fn stored(at: Timestamp, then: Option<Booted>, now: Booted) -> Line {
        let passed = then.and_then(|then| now.since(then)).unwrap_or_default();
        Line::new(at.saturating_add(passed), now.uptime)
    }

    pub(super) fn at(self, now: Uptime) -> Timestamp {
        self.at.saturating_add(now.since(self.since))
    }

    /// What had passed when it began.
    pub(super) fn start(self) -> Timestamp {
        self.at
    }
}

/// One realm's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Words {
    agreed: Option<Line>,
    /// Of the one client whose word is beyond what is agreed. Of two such, the lower would be.
    ahead: Option<(String, Line)>,
    /// As of `counted`; refills from then on.
    budget: Duration,
    counted: Uptime,
    /// Not stored yet.
    raised: Duration,
    /// What of these two administrators were told last.
    told_agreed: Option<Line>,
    told_highest: Option<Line>,
}

/// As it is stored. The time while the process didn't run refills no budget.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Saved {
    floor: Timestamp,
    budget_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ahead: Option<(String, Timestamp)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    then: Option<Booted>,
}

impl Saved {
    pub(super) fn forget(&mut self) {
        (self.floor, self.ahead) = (Timestamp(0), None);
    }

    /// Whether it says anything else, whenever it was written.
    pub(super) fn differs(&self, other: &Saved) -> bool {
        let says = |saved: &Saved| (saved.floor, saved.budget_ms, saved.ahead.clone());
        says(self) != says(other)
    }
}

impl Words {
    pub(super) fn new(budget: Duration, now: Uptime) -> Words {
        Words {
            agreed: None,
            ahead: None,
            budget,
            counted: now,
            raised: Duration::ZERO,
            told_agreed: None,
            told_highest: None,
        }
    }

    pub(super) fn stored(saved: Saved, now: Booted) -> Words {
        let line = |at| Line::stored(at, saved.then, now);
        Words {
            agreed: (saved.floor > Timestamp(0)).then(|| line(saved.floor)),
            ahead: saved.ahead.map(|(client, at)| (client, line(at))),
            budget: Duration::from_millis(saved.budget_ms).min(BUDGET),
            counted: now.uptime,
            raised: Duration::ZERO,
            told_agreed: None,
            told_highest: None,
        }
    }

    pub(super) fn saved(&self, now: Booted) -> Saved {
        let ahead = self.ahead.as_ref();
        Saved {
            floor: self.agreed(now.uptime),
            budget_ms: u64::try_from(self.budget(now.uptime).as_millis()).unwrap_or(u64::MAX),
            ahead: ahead.map(|(client, line)| (client.clone(), line.at(now.uptime))),
            then: Some(now),
        }
    }

    pub(super) fn stored_now(&mut self) {
        self.raised = Duration::ZERO;
    }

    /// What tokens have raised since it was stored last.
    pub(super) fn unsaved(&self) -> Duration {
        self.raised
    }

    /// Ends what tokens said; the budget stays as it is.
    pub(super) fn forget(&mut self, now: Uptime) {
        self.raised = self.raised.max(self.highest(now).since(Timestamp(0)));
        (self.agreed, self.ahead) = (None, None);
        (self.told_agreed, self.told_highest) = (None, None);
    }

    /// As a decision sees it; `held` is the clock, held up by the floor.
    pub(super) fn floor(&self, held: Timestamp, now: Uptime) -> RealmFloor {
        let ahead = self.ahead.as_ref();
        RealmFloor {
            floor: self.agreed(now),
            ahead: ahead.map(|(client, line)| (client.clone(), line.at(now))),
            most: self.most(held, now),
        }
    }

    /// Takes the word of an accepted token that was issued to `client` at `issued_at`. What isn't
    /// beyond `floor`, a time that has passed for everybody, is no news.
    pub(super) fn hear(
        &mut self,
        client: &str,
        issued_at: Timestamp,
        held: Timestamp,
        floor: Timestamp,
        now: Uptime,
    ) {
        let word = issued_at.min(self.most(held, now));
        let own = self.own(client, now);
        let before = own.unwrap_or_default().max(self.agreed(now)).max(floor);
        if word <= before || client.len() > MAX_CLIENT {
            return;
        }
        let spent = word.since(held.max(self.highest(now)));
        if !spent.is_zero() {
            self.budget = self.budget(now).saturating_sub(spent);
            self.counted = now;
        }
        self.raised = self.raised.saturating_add(word.since(before));
        let other = self.ahead.take().filter(|(of, _)| of != client);
        if let Some((of, line)) = other {
            self.agree(word.min(line.at(now)), now);
            if line.at(now) > word {
                self.ahead = Some((of, line));
            }
        }
        if self.ahead.is_none() && word > self.agreed(now) {
            self.ahead = Some((client.to_owned(), Line::new(word, now)));
        }
    }

    /// What administrators are to be told, once: how far tokens have moved the realm's time past
    /// `held`, where the clock says `clock`.
    pub(super) fn news(&mut self, held: Timestamp, clock: Timestamp, now: Uptime) -> Option<Moved> {
        let (agreed, highest) = (self.agreed(now), self.highest(now));
        let is_news = |to: Timestamp, told: Option<Line>| {
            let further = told.is_none_or(|told| to.since(told.at(now)) >= FURTHER);
            to.since(held) >= NOTICEABLE && further
        };
        let of_all = is_news(agreed, self.told_agreed);
        if !of_all && !is_news(highest, self.told_highest) {
            return None;
        }
        let (to, client) = match &self.ahead {
            Some((client, _)) if !of_all => (highest, Some(client.clone())),
            _ => (agreed, None),
        };
        if of_all {
            self.told_agreed = Some(Line::new(agreed, now));
        }
        self.told_highest = Some(Line::new(highest, now));
        Some(Moved { to, clock, client })
    }

    fn agree(&mut self, on: Timestamp, now: Uptime) {
        if on > self.agreed(now) {
            self.agreed = Some(Line::new(on, now));
        }
    }

    fn agreed(&self, now: Uptime) -> Timestamp {
        self.agreed.map_or(Timestamp(0), |line| line.at(now))
    }

    fn own(&self, client: &str, now: Uptime) -> Option<Timestamp> {
        let (_, line) = self.ahead.as_ref().filter(|(of, _)| of == client)?;
        Some(line.at(now))
    }

    fn highest(&self, now: Uptime) -> Timestamp {
        let ahead = self.ahead.as_ref().map(|(_, line)| line.at(now));
        self.agreed(now).max(ahead.unwrap_or_default())
    }

    /// The latest word that is taken. Another client may come up to one that is ahead for nothing:
    /// that one has paid.
    fn most(&self, held: Timestamp, now: Uptime) -> Timestamp {
        let highest = held.max(self.highest(now));
        highest.saturating_add(self.budget(now))
    }

    fn budget(&self, now: Uptime) -> Duration {
        let refilled = now.since(self.counted);
        self.budget.saturating_add(refilled).min(BUDGET)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: u64 = 3_600_000;
    /// The tests' clock doesn't move: what passes is the uptime.
    const FLOOR: Timestamp = Timestamp(1_000 * 24 * HOUR);

    fn after(hours: u64) -> Timestamp {
        Timestamp(FLOOR.0 + hours * HOUR)
    }

    fn words() -> Words {
        Words::new(BUDGET, Uptime(0))
    }

    fn hear(words: &mut Words, client: &str, said: Timestamp, hours: u64) {
        let floor = after(hours);
        words.hear(client, said, floor, floor, Uptime(hours * HOUR));
    }

    fn of(words: &Words, client: &str, hours: u64) -> Timestamp {
        let floor = after(hours);
        let told = words.floor(floor, Uptime(hours * HOUR));
        floor.max(told.of(client))
    }

    #[test]
    fn one_client_from_the_future_leaves_the_others_their_time_and_their_room() {
        let mut words = words();
        hear(&mut words, "one", after(1000), 0);
        assert_eq!(of(&words, "one", 0), after(24));
        assert_eq!(of(&words, "two", 0), after(0));
        // Another's clock may be behind by as much without a budget of its own.
        assert_eq!(words.floor(after(0), Uptime(0)).most, after(24));
        hear(&mut words, "two", after(2), 0);
        assert_eq!(of(&words, "three", 0), after(2), "on the lower word");
        assert_eq!(of(&words, "one", 0), after(24));
        // The same client's second token agrees with nobody.
        hear(&mut words, "one", after(1000), 0);
        assert_eq!(of(&words, "three", 0), after(2));
    }

    #[test]
    fn administrators_are_told_of_a_creeping_time_now_and_then_and_when_it_counts_for_all() {
        let mut words = words();
        let (mut told, minute) = (Vec::new(), 60_000);
        for client in ["one", "two"] {
            for minutes in 1..=24 * 60 {
                let word = Timestamp(FLOOR.0 + minutes * minute);
                hear(&mut words, client, word, 0);
                told.extend(words.news(FLOOR, Timestamp(7), Uptime(0)));
            }
        }
        let of = |client: Option<&str>| {
            let of = told
                .iter()
                .filter(|moved| moved.client.as_deref() == client);
            of.count()
        };
        assert_eq!((of(Some("one")), of(Some("two")), of(None)), (24, 0, 24));
        let first = &told[0];
        assert_eq!(
            (first.to.since(FLOOR), first.clock),
            (NOTICEABLE, Timestamp(7))
        );
        // What has passed since is no news.
        assert_eq!(words.news(after(5), after(5), Uptime(5 * HOUR)), None);
    }

    #[test]
    fn a_tokens_word_goes_on_so_that_it_expires() {
        let mut words = words();
        hear(&mut words, "one", after(5), 0);
        assert_eq!(of(&words, "one", 3), after(8));
        hear(&mut words, "one", after(5), 3);
        assert_eq!(of(&words, "one", 3), after(8), "a replay gains nothing");
    }

    #[test]
    fn a_name_that_no_client_of_keycloak_can_have_is_not_kept() {
        let mut words = words();
        hear(&mut words, &"x".repeat(MAX_CLIENT + 1), after(5), 0);
        assert_eq!(words, Words::new(BUDGET, Uptime(0)));
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// A client of these, and hours ahead of the floor, or behind.
        Hear(u8, i64),
        Pass(u64),
        Restart {
            power_cut: bool,
        },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..3_u8, -50..2000_i64).prop_map(|(client, hours)| Step::Hear(client, hours)),
            2 => (0..30_u64).prop_map(Step::Pass),
            1 => any::<bool>().prop_map(|power_cut| Step::Restart { power_cut }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// Whatever tokens say, in whatever order and over restarts: the realm moves beyond what has
        /// passed by a day and a day a day at most; nobody's time goes back; what one client says
        /// alone moves no other's; and the time of all is never beyond what two have said.
        #[test]
        fn tokens_move_their_realm_within_bounds(steps in prop::collection::vec(step(), 1..60)) {
            let (mut words, mut hours, mut boot) = (words(), 0, 0);
            let mut said = [Timestamp(0); 3];
            for step in steps {
                let before = ["0", "1", "2", "other"].map(|client| of(&words, client, hours));
                match step {
                    Step::Hear(client, ahead) => {
                        let word = Timestamp(after(hours).0.saturating_add_signed(ahead * HOUR as i64));
                        let most = words.floor(after(hours), Uptime(hours * HOUR)).most;
                        hear(&mut words, &client.to_string(), word, hours);
                        let said = &mut said[usize::from(client)];
                        *said = (*said).max(word.min(most));
                    }
                    Step::Pass(passed) => {
                        hours += passed;
                        for said in &mut said {
                            said.0 += passed * HOUR;
                        }
                    }
                    Step::Restart { power_cut } => {
                        let at = |boot| Booted { boot, uptime: Uptime(hours * HOUR) };
                        let saved = serde_json::to_vec(&words.saved(at(boot))).unwrap();
                        boot += u64::from(power_cut);
                        words = Words::stored(serde_json::from_slice(&saved).unwrap(), at(boot));
                    }
                }
                let now = ["0", "1", "2", "other"].map(|client| of(&words, client, hours));
                for (now, before) in now.iter().zip(before) {
                    prop_assert!(*now >= before);
                }
                let highest = now.iter().max().unwrap();
                prop_assert!(*highest <= after(hours + 24 + hours), "{highest} after {hours} h");
                let mut sorted = said;
                sorted.sort_unstable();
                prop_assert!(now[3] <= sorted[1].max(after(hours)), "{now:?} {said:?}");
                for (client, said) in said.iter().enumerate() {
                    prop_assert!(now[client] <= (*said).max(now[3]));
                }
            }
        }
    }
}
