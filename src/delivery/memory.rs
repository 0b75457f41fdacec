//! What is known of all deliveries, in memory: which there are, whose, and which is forgotten next.
//! Pure; their answers are in the store.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::ledger::Id;
use super::{Exact, Key, Owner};
use crate::time::Timestamp;

/// How long a delivery that was begun and never answered is remembered: longer than a broker is
/// likely to keep the session that would bring it again.
const BEGUN_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// A request that is begun twice and not finished isn't tried again: it may be what ends the daemon.
const MOST_ATTEMPTS: u32 = 2;

/// What is known of one delivery.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// The message that began it last.
    pub message: Exact,
    pub owner: Option<Owner>,
    pub touched: Timestamp,
    /// So far.
    pub attempts: u32,
    pub answered: bool,
}

/// What is to come of a delivery that isn't running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Attempt(u32),
    Again,
    Exhausted,
}

/// What is known of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    /// Whose message it is.
    pub(super) id: Id,
    /// The last message of its answer is on its way.
    pub(super) ends: bool,
}

/// Oldest first.
type ByTime = BTreeSet<(Timestamp, Key)>;

#[derive(Debug, Default)]
pub(super) struct Memory {
    known: BTreeMap<Key, Known>,
    messages: BTreeMap<Exact, Key>,
    /// Deliveries between their claim and their answer, in this process.
    running: BTreeMap<Key, Run>,
    /// Those that don't run: begun, and answered.
    begun: ByTime,
    answered: ByTime,
    shares: BTreeMap<Option<Owner>, Share>,
    /// Forgotten here, and perhaps still in the store.
    gone: BTreeSet<Key>,
}

/// An owner's part of what is known.
#[derive(Debug, Default)]
struct Share {
    held: usize,
    /// Of these, those that don't run.
    idle: ByTime,
}

impl Memory {
    /// The delivery that this message began.
    pub(super) fn begun_by(&self, message: &Exact) -> Option<Key> {
        self.messages.get(message).copied()
    }

    pub(super) fn next(&self, key: &Key) -> Next {
        match self.known.get(key) {
            None => Next::Attempt(1),
            Some(known) if known.answered => Next::Again,
            Some(known) if known.attempts < MOST_ATTEMPTS => Next::Attempt(known.attempts + 1),
            Some(_) => Next::Exhausted,
        }
    }

    pub(super) fn run(&mut self, key: &Key) -> Option<&mut Run> {
        self.running.get_mut(key)
    }

    /// Replaces what was known of it, its message too.
    pub(super) fn note(&mut self, key: Key, known: Known) {
        self.forget(&key);
        self.known.insert(key, known);
        self.messages.insert(known.message, key);
        self.shares.entry(known.owner).or_default().held += 1;
        if !self.running.contains_key(&key) {
            self.set_idle(key, known);
        }
    }

    /// It runs from now on, for this message. To be asked of what doesn't run.
    pub(super) fn claim(&mut self, key: Key, id: Id) {
        self.running.insert(key, Run { id, ends: false });
        self.gone.remove(&key);
        if let Some(known) = self.known.get(&key).copied() {
            self.unset_idle(key, known);
        }
    }

    /// It runs no more.
    pub(super) fn release(&mut self, key: Key) {
        self.running.remove(&key);
        if let Some(known) = self.known.get(&key).copied() {
            self.set_idle(key, known);
        }
    }

    /// Dates back what a clock dated later than `now`, and says which: it would be kept until then,
    /// and push newer ones out meanwhile. What runs stays.
    pub(super) fn redate(&mut self, now: Timestamp) -> Vec<Key> {
        let of = |dated: &ByTime| -> Vec<Key> {
            let ahead = dated.iter().rev().take_while(|(touched, _)| *touched > now);
            ahead.map(|(_, key)| *key).collect()
        };
        let ahead = [of(&self.begun), of(&self.answered)].concat();
        for key in &ahead {
            if let Some(known) = self.known.get(key).copied() {
                let touched = now;
                self.note(*key, Known { touched, ..known });
            }
        }
        ahead
    }

    /// Forgets what is out of its window, and what is beyond the bound: of whoever has the most,
    /// the oldest. What runs stays.
    pub(super) fn prune(&mut self, now: Timestamp, window: Duration, most: usize) {
        while let Some(key) = self.outdated(now, window).or_else(|| self.beyond(most)) {
            self.forget(&key);
            self.gone.insert(key);
        }
    }

    pub(super) fn gone(&self) -> &BTreeSet<Key> {
        &self.gone
    }

    /// They have been taken out of the store.
    pub(super) fn gone_for_good(&mut self) {
        self.gone.clear();
    }

    fn outdated(&self, now: Timestamp, window: Duration) -> Option<Key> {
        let old = |dated: &ByTime, kept: Duration| {
            let first = dated.first().filter(|first| now.since(first.0) > kept);
            first.map(|(_, key)| *key)
        };
        old(&self.begun, BEGUN_KEPT).or_else(|| old(&self.answered, window))
    }

    fn beyond(&self, most: usize) -> Option<Key> {
        if self.known.len() <= most {
            return None;
        }
        let shares = self.shares.values();
        let oldest = shares.filter_map(|share| Some((share.held, Reverse(share.idle.first()?))));
        oldest.max().map(|(_, Reverse((_, key)))| *key)
    }

    fn forget(&mut self, key: &Key) {
        let Some(known) = self.known.remove(key) else {
            return;
        };
        self.unset_idle(*key, known);
        if self.messages.get(&known.message) == Some(key) {
            self.messages.remove(&known.message);
        }
        if let Some(share) = self.shares.get_mut(&known.owner) {
            share.held -= 1;
            if share.held == 0 {
                self.shares.remove(&known.owner);
            }
        }
    }

    fn set_idle(&mut self, key: Key, known: Known) {
        let dated = (known.touched, key);
        self.dated(known.answered).insert(dated);
        self.shares
            .entry(known.owner)
            .or_default()
            .idle
            .insert(dated);
    }

    fn unset_idle(&mut self, key: Key, known: Known) {
        let dated = (known.touched, key);
        self.dated(known.answered).remove(&dated);
        if let Some(share) = self.shares.get_mut(&known.owner) {
            share.idle.remove(&dated);
        }
    }

    fn dated(&mut self, answered: bool) -> &mut ByTime {
        match answered {
            true => &mut self.answered,
            false => &mut self.begun,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(600);

    #[derive(Debug, Clone)]
    enum Step {
        Note(u8, Known),
        Claim(u8),
        Release(u8),
        Prune(u64, usize),
    }

    fn known() -> impl Strategy<Value = Known> {
        (0..6_u8, 0..3_u8, 0..200_000_u64, prop::bool::ANY).prop_map(
            |(message, owner, secs, answered)| Known {
                message: Exact([message; 32]),
                owner: Some([owner; 32]),
                touched: Timestamp::from_secs(secs),
                attempts: 1,
                answered,
            },
        )
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..12_u8, known()).prop_map(|(n, known)| Step::Note(n, known)),
            2 => (0..12_u8).prop_map(Step::Claim),
            2 => (0..12_u8).prop_map(Step::Release),
            2 => (0..300_000_u64, 0..8_usize).prop_map(|(secs, most)| Step::Prune(secs, most)),
        ]
    }

    fn is_over(known: &Known, now: Timestamp) -> bool {
        let kept = if known.answered { WINDOW } else { BEGUN_KEPT };
        now.since(known.touched) > kept
    }

    proptest! {
        /// What is forgotten doesn't run, and was out of its window or beyond the bound, and what
        /// is kept that doesn't run is within both. The indexes tell the same as the entries.
        #[test]
        fn forgets_what_is_due_and_nothing_else(steps in prop::collection::vec(step(), 1..80)) {
            let mut memory = Memory::default();
            for step in steps {
                match step {
                    Step::Note(n, known) => memory.note(Key([n; 32]), known),
                    Step::Claim(n) => {
                        memory.claim(Key([n; 32]), Id::default());
                    }
                    Step::Release(n) => memory.release(Key([n; 32])),
                    Step::Prune(secs, most) => {
                        let now = Timestamp::from_secs(secs);
                        memory.redate(now);
                        let before = memory.known.clone();
                        memory.prune(now, WINDOW, most);
                        let idle = |key: &Key| !memory.running.contains_key(key);
                        for (key, known) in &before {
                            let over = is_over(known, now);
                            if memory.known.contains_key(key) {
                                prop_assert!(!idle(key) || (!over && known.touched <= now));
                            } else {
                                prop_assert!(idle(key) && memory.gone().contains(key));
                                prop_assert!(over || before.len() > most);
                            }
                        }
                        let left = memory.known.keys().filter(|key| idle(key)).count();
                        prop_assert!(memory.known.len() <= most || left == 0);
                        memory.gone_for_good();
                    }
                }
                let idle = memory.known.keys().filter(|key| !memory.running.contains_key(*key));
                prop_assert_eq!(idle.count(), memory.begun.len() + memory.answered.len());
                let held: usize = memory.shares.values().map(|share| share.held).sum();
                prop_assert_eq!(held, memory.known.len());
                for (message, key) in &memory.messages {
                    prop_assert_eq!(memory.known.get(key).map(|k| k.message), Some(*message));
                }
            }
        }
    }
}
