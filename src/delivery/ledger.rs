//! Which requests are still owed an answer, and in which order the broker gets its PUBACKs. Pure.
//!
//! - PUBACKs go out in the order of receipt (MQTT-4.6.0-2): a request that is done waits until
//!   all before it are.
//! - When a connection ends, its rights to acknowledge are void, but the runs go on. If the next
//!   connection resumes the session, the broker sends every unacknowledged message again, in
//!   order and before any new one; each such message is matched by its bytes with the entry of
//!   its first arrival, which adopts the new right. So a request is neither run twice nor
//!   acknowledged before its one run is answered, even if it has no correlation data. The first
//!   message that is no redelivery (DUP off) closes the matching: what was not sent again until
//!   then has expired at the broker.
//! - Without the session nothing comes again by itself: entries of finished runs go, the others
//!   end unacknowledged.
//! - A request that its publisher sent again (admission says "running already") *follows* the
//!   open entries with the same question: it is acknowledged when they are done, because after a lost
//!   session it may be the only copy that the broker still holds.

use std::collections::VecDeque;

use super::{Exact, Question};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(u64);

#[derive(Debug)]
pub struct Ledger<A> {
    /// Those with `ack` are in the order of receipt on the present connection.
    entries: VecDeque<Entry<A>>,
    next_id: u64,
}

#[derive(Debug)]
struct Entry<A> {
    id: EntryId,
    message: Exact,
    question: Option<Question>,
    /// The right to acknowledge, on the present connection.
    ack: Option<A>,
    /// Whether the broker may send the message again on the next connection.
    redeliverable: bool,
    work: Work,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Open,
    Follows,
    Done,
}

impl<A> Default for Ledger<A> {
    fn default() -> Ledger<A> {
        Ledger {
            entries: VecDeque::new(),
            next_id: 0,
        }
    }
}

impl<A: Copy> Ledger<A> {
    /// A message with DUP arrived, which may be the redelivery of one whose connection was lost.
    /// If so, its entry takes the new right to acknowledge, and there is nothing else to do.
    pub fn adopt(&mut self, message: &Exact, ack: A) -> bool {
        let waits = |e: &Entry<A>| e.redeliverable && e.ack.is_none() && e.message == *message;
        let Some(at) = self.entries.iter().position(waits) else {
            return false;
        };
        if let Some(mut entry) = self.entries.remove(at) {
            entry.ack = Some(ack);
            self.entries.push_back(entry);
        }
        true
    }

    /// A message without DUP arrived.
    pub fn redeliveries_over(&mut self) {
        for entry in self.entries.iter_mut().filter(|e| e.ack.is_none()) {
            entry.redeliverable = false;
        }
        self.prune();
    }

    /// A new request; without `ack` (QoS 0) it counts for its followers only.
    pub fn open(&mut self, message: Exact, question: Option<Question>, ack: Option<A>) -> EntryId {
        let id = EntryId(self.next_id);
        self.next_id += 1;
        self.entries.push_back(Entry {
            id,
            message,
            question,
            redeliverable: ack.is_some(),
            ack,
            work: Work::Open,
        });
        id
    }

    /// It is answered, or there is nothing to answer.
    pub fn done(&mut self, id: EntryId) {
        self.set(id, Work::Done);
    }

    /// It is to come again, as if it had never arrived. For a connection that has ended: on a
    /// present one, those after it would be acknowledged out of order.
    pub fn forget(&mut self, id: EntryId) {
        let Some(at) = self.entries.iter().position(|e| e.id == id) else {
            return;
        };
        if let Some(entry) = self.entries.remove(at) {
            self.settle(entry.question);
        }
        self.prune();
    }

    /// It repeats a request that runs already.
    pub fn follow(&mut self, id: EntryId) {
        self.set(id, Work::Follows);
    }

    /// The next right to use, in order; [`Ledger::acknowledged`] once it is used.
    pub fn next_ack(&self) -> Option<A> {
        let first = self.entries.iter().find(|e| e.ack.is_some())?;
        (first.work == Work::Done).then_some(first.ack)?
    }

    pub fn acknowledged(&mut self) {
        if self.next_ack().is_some() {
            let first = self.entries.iter().position(|e| e.ack.is_some());
            first.and_then(|at| self.entries.remove(at));
        }
    }

    /// The connection ended.
    pub fn lost(&mut self) {
        for entry in &mut self.entries {
            entry.ack = None;
        }
    }

    /// A connection was made, with or without the session before.
    pub fn connected(&mut self, session_present: bool) {
        if !session_present {
            for entry in &mut self.entries {
                entry.redeliverable = false;
            }
        }
        self.prune();
    }

    /// Unacknowledged messages of the present connection: what a broker's Receive Maximum counts,
    /// and the packet identifiers bound where it doesn't count.
    pub fn unacknowledged(&self) -> usize {
        self.entries.iter().filter(|e| e.ack.is_some()).count()
    }

    fn set(&mut self, id: EntryId, work: Work) {
        let Some(entry) = self.entries.iter_mut().find(|e| e.id == id) else {
            return;
        };
        let question = entry.question;
        entry.work = match (work, question) {
            // Nothing to follow it by.
            (Work::Follows, None) => Work::Done,
            (work, _) => work,
        };
        self.settle(question);
        self.prune();
    }

    /// Followers are done once nothing open is left that they could follow.
    fn settle(&mut self, question: Option<Question>) {
        let same = |e: &Entry<A>| e.question.is_some() && e.question == question;
        let open = |e: &Entry<A>| same(e) && e.work == Work::Open;
        if self.entries.iter().any(open) {
            return;
        }
        for entry in &mut self.entries {
            if entry.work == Work::Follows && same(entry) {
                entry.work = Work::Done;
            }
        }
    }

    /// What is done and can't come again needs no memory.
    fn prune(&mut self) {
        self.entries
            .retain(|e| e.work != Work::Done || e.ack.is_some() || e.redeliverable);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const M: fn(u8) -> Exact = |n| Exact([n; 32]);
    const Q: fn(u8) -> Option<Question> = |n| Some(Question([n; 32]));

    fn acks(ledger: &mut Ledger<u32>) -> Vec<u32> {
        let mut acks = Vec::new();
        while let Some(ack) = ledger.next_ack() {
            acks.push(ack);
            ledger.acknowledged();
        }
        acks
    }

    #[test]
    fn acknowledges_in_order_of_receipt() {
        let mut ledger = Ledger::default();
        let ids: Vec<_> = (0..3)
            .map(|n| ledger.open(M(n), None, Some(u32::from(n))))
            .collect();
        ledger.done(ids[2]);
        ledger.done(ids[1]);
        assert!(acks(&mut ledger).is_empty());
        ledger.done(ids[0]);
        assert_eq!(acks(&mut ledger), [0, 1, 2]);
        assert_eq!(ledger.entries.len(), 0);
    }

    #[test]
    fn redelivery_is_adopted_by_the_running_entry() {
        let mut ledger = Ledger::default();
        let id = ledger.open(M(1), None, Some(10));
        ledger.lost();
        ledger.connected(true);
        assert!(ledger.adopt(&M(1), 20));
        assert!(!ledger.adopt(&M(1), 21), "one entry, one redelivery");
        assert!(acks(&mut ledger).is_empty());
        ledger.done(id);
        assert_eq!(acks(&mut ledger), [20]);
    }

    #[test]
    fn answered_while_away_is_acknowledged_at_once() {
        let mut ledger = Ledger::default();
        let id = ledger.open(M(1), None, Some(10));
        ledger.lost();
        ledger.done(id);
        ledger.connected(true);
        assert!(ledger.adopt(&M(1), 20));
        assert_eq!(acks(&mut ledger), [20]);
    }

    #[test]
    fn what_expired_at_the_broker_answers_for_nothing_later() {
        let mut ledger = Ledger::default();
        let id = ledger.open(M(1), None, Some(10));
        ledger.lost();
        ledger.done(id);
        ledger.connected(true);
        ledger.redeliveries_over();
        assert_eq!(ledger.entries.len(), 0);
        assert!(!ledger.adopt(&M(1), 20));
    }

    #[test]
    fn without_the_session_nothing_is_adopted_or_kept() {
        let mut ledger = Ledger::default();
        let done = ledger.open(M(1), None, Some(10));
        let running = ledger.open(M(2), Q(9), Some(11));
        ledger.lost();
        ledger.done(done);
        ledger.connected(false);
        assert_eq!(ledger.entries.len(), 1);
        assert!(!ledger.adopt(&M(2), 20));
        // Its publisher sends it again: it waits for the run that goes on.
        let again = ledger.open(M(3), Q(9), Some(21));
        ledger.follow(again);
        assert!(acks(&mut ledger).is_empty());
        ledger.done(running);
        assert_eq!(acks(&mut ledger), [21]);
        assert_eq!(ledger.entries.len(), 0);
    }

    #[test]
    fn followers_never_wait_for_each_other() {
        let mut ledger = Ledger::default();
        let key = Q(9);
        let a = ledger.open(M(1), key, Some(1));
        let b = ledger.open(M(2), key, Some(2));
        ledger.follow(b);
        assert!(acks(&mut ledger).is_empty());
        ledger.follow(a);
        assert_eq!(acks(&mut ledger), [1, 2]);
        // The run it follows has just ended.
        let late = ledger.open(M(3), key, Some(3));
        ledger.follow(late);
        assert_eq!(acks(&mut ledger), [3]);
    }

    #[test]
    fn what_is_forgotten_is_taken_as_new() {
        let mut ledger = Ledger::default();
        let unrecorded = ledger.open(M(1), None, Some(1));
        let other = ledger.open(M(2), None, Some(2));
        ledger.lost();
        ledger.forget(unrecorded);
        ledger.connected(true);
        assert!(!ledger.adopt(&M(1), 11));
        assert!(ledger.adopt(&M(2), 12));
        ledger.done(other);
        assert_eq!(acks(&mut ledger), [12]);
    }

    /// What a broker with one session and the tasks of the session do to a ledger.
    #[derive(Debug, Clone)]
    enum Step {
        Publish(u8),
        Done(usize),
        Follow(usize),
        Reconnect(bool),
        Flush,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..4_u8).prop_map(Step::Publish),
            4 => (0..8_usize).prop_map(Step::Done),
            1 => (0..8_usize).prop_map(Step::Follow),
            1 => prop::bool::ANY.prop_map(Step::Reconnect),
            3 => Just(Step::Flush),
        ]
    }

    proptest! {
        /// Against a broker that holds what is unacknowledged: acks name the oldest message of
        /// the present connection, only when its entry's work is done, and at the end, when all
        /// work is done, nothing is left unacknowledged.
        #[test]
        fn acknowledges_what_a_broker_expects(steps in prop::collection::vec(step(), 1..80)) {
            let mut ledger = Ledger::default();
            let mut broker: VecDeque<(u8, u32)> = VecDeque::new();
            let (mut serial, mut working) = (0, Vec::new());
            for step in steps.into_iter().chain([Step::Flush]) {
                match step {
                    Step::Publish(n) => {
                        serial += 1;
                        broker.push_back((n, serial));
                        ledger.redeliveries_over();
                        working.push(ledger.open(M(n), Q(n), Some(serial)));
                    }
                    Step::Done(at) if at < working.len() => ledger.done(working.remove(at)),
                    Step::Follow(at) if at < working.len() => ledger.follow(working.remove(at)),
                    Step::Done(_) | Step::Follow(_) => {}
                    Step::Reconnect(present) => {
                        ledger.lost();
                        ledger.connected(present);
                        if !present {
                            broker.clear();
                        }
                        for (n, ack) in &mut broker {
                            serial += 1;
                            *ack = serial;
                            prop_assert!(ledger.adopt(&M(*n), serial), "redelivery runs twice");
                        }
                    }
                    Step::Flush => {
                        while let Some(ack) = ledger.next_ack() {
                            prop_assert_eq!(broker.pop_front().map(|(_, a)| a), Some(ack));
                            ledger.acknowledged();
                        }
                    }
                }
                prop_assert_eq!(ledger.unacknowledged(), broker.len());
            }
            for id in working {
                ledger.done(id);
            }
            while ledger.next_ack().is_some() {
                broker.pop_front();
                ledger.acknowledged();
            }
            prop_assert_eq!((broker.len(), ledger.entries.len()), (0, 0));
        }
    }
}
