//! Ledger and memory together, against a broker, a disk and crashes.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::ledger::{EntryId, Ledger};
use super::memory::{Known, Memory, Next};
use super::{Exact, Key, Owner, Question};
use crate::time::Timestamp;

const OWNER: Owner = [7; 32];

/// Two messages for each question: with one token and with a fresh one.
fn names(n: u8) -> (Exact, Question) {
    (Exact([n; 32]), Question([n / 2; 32]))
}

#[derive(Debug, Clone)]
enum Step {
    Publish(u8),
    /// One of the runs ends, and its answer is on record.
    Answer(usize),
    /// The connection is lost, and made again with the session or without.
    Reconnect(bool),
    /// The same, and all that isn't on the disk is lost too.
    Crash(bool),
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6_u8).prop_map(Step::Publish),
        3 => (0..6_usize).prop_map(Step::Answer),
        1 => prop::bool::ANY.prop_map(Step::Reconnect),
        1 => prop::bool::weighted(0.8).prop_map(Step::Crash),
        3 => Just(Step::Flush),
    ]
}

#[derive(Debug, Clone, Copy)]
struct Stored {
    message: Exact,
    attempts: u32,
    answered: bool,
}

impl Stored {
    fn known(self) -> Known {
        Known {
            message: self.message,
            owner: Some(OWNER),
            touched: Timestamp(0),
            answered: self.answered,
        }
    }

    fn next(self) -> Next<()> {
        Next::of(self.attempts, self.answered.then_some(()))
    }
}

struct World {
    ledger: Ledger<u32>,
    memory: Memory<()>,
    runs: Vec<(EntryId, Key)>,
    disk: BTreeMap<Key, Stored>,
    /// Unacknowledged messages, oldest first.
    broker: VecDeque<(u8, u32)>,
    serial: u32,
}

impl World {
    fn arrive(&mut self, n: u8, ack: u32, dup: bool) {
        let (message, question) = names(n);
        if dup && self.ledger.adopt(&message, ack) {
            return;
        }
        if !dup {
            self.ledger.redeliveries_over();
        }
        let entry = self.ledger.open(message, Some(question), Some(ack));
        let key = question.of(&OWNER);
        let stored = self.disk.get(&key).copied();
        let begun = stored.filter(|stored| stored.message == message);
        assert_eq!(self.memory.begun_by(&message), begun.map(|_| key));
        if self.memory.claim(key, ()).is_err() {
            return self.ledger.follow(entry);
        }
        match stored.map_or(Next::Attempt(1), Stored::next) {
            Next::Attempt(attempts) => {
                self.runs.push((entry, key));
                self.store(key, message, attempts, false);
            }
            Next::Again(()) | Next::Exhausted => {
                self.memory.release(key);
                self.ledger.done(entry);
            }
        }
    }

    fn store(&mut self, key: Key, message: Exact, attempts: u32, answered: bool) {
        let stored = Stored {
            message,
            attempts,
            answered,
        };
        self.disk.insert(key, stored);
        self.memory.note(key, stored.known());
    }

    fn answer(&mut self, at: usize) {
        let (entry, key) = self.runs.remove(at);
        let begun = self.disk[&key];
        self.store(key, begun.message, begun.attempts, true);
        self.memory.release(key);
        self.ledger.done(entry);
    }

    fn crash(&mut self) {
        self.ledger = Ledger::default();
        self.memory = Memory::default();
        for (key, stored) in &self.disk {
            self.memory.note(*key, stored.known());
        }
        self.runs.clear();
    }

    fn reconnect(&mut self, present: bool) {
        self.ledger.lost();
        self.ledger.connected(present);
        if !present {
            self.broker.clear();
        }
        for at in 0..self.broker.len() {
            self.serial += 1;
            self.broker[at].1 = self.serial;
            self.arrive(self.broker[at].0, self.serial, true);
        }
    }

    /// A PUBACK is for the oldest message, and only once its question has been answered, or given
    /// up after two attempts.
    fn flush(&mut self) {
        while let Some(ack) = self.ledger.next_ack() {
            let (n, oldest) = self.broker.pop_front().expect("a message for each PUBACK");
            assert_eq!(ack, oldest);
            let key = names(n).1.of(&OWNER);
            let stored = self.disk[&key];
            let runs = self.runs.iter().any(|(_, run)| *run == key);
            assert!(stored.answered || !runs && stored.next() == Next::Exhausted);
            self.ledger.acknowledged();
        }
    }

    fn check(&self) {
        assert_eq!(self.ledger.unacknowledged(), self.broker.len());
        for (at, (_, key)) in self.runs.iter().enumerate() {
            let again = self.runs[..at].iter().any(|(_, other)| other == key);
            assert!(!again, "one question runs once at a time");
            assert!(!self.disk[key].answered, "what is answered isn't run again");
        }
        assert!(self.disk.values().all(|stored| stored.attempts <= 2));
    }
}

proptest! {
    #[test]
    fn each_message_is_answered_or_given_up_before_its_puback(
        steps in prop::collection::vec(step(), 1..100),
    ) {
        let mut world = World {
            ledger: Ledger::default(),
            memory: Memory::default(),
            runs: Vec::new(),
            disk: BTreeMap::new(),
            broker: VecDeque::new(),
            serial: 0,
        };
        for step in steps {
            match step {
                Step::Publish(n) => {
                    world.serial += 1;
                    world.broker.push_back((n, world.serial));
                    world.arrive(n, world.serial, false);
                }
                Step::Answer(at) if at < world.runs.len() => world.answer(at),
                Step::Answer(_) => {}
                Step::Reconnect(present) => world.reconnect(present),
                Step::Crash(present) => {
                    world.crash();
                    world.reconnect(present);
                }
                Step::Flush => world.flush(),
            }
            world.check();
        }
        while !world.runs.is_empty() {
            world.answer(0);
        }
        world.flush();
        prop_assert_eq!((world.broker.len(), world.ledger.unacknowledged()), (0, 0));
    }
}

#[test]
fn a_question_is_its_principals_own_and_goes_by_topic_correlation_and_body() {
    let asked = Question::new("reply/1", b"c", &[1; 32]);
    assert_eq!(asked, Question::new("reply/1", b"c", &[1; 32]));
    for other in [
        Question::new("reply/2", b"c", &[1; 32]),
        Question::new("reply/1", b"d", &[1; 32]),
        Question::new("reply/1c", b"", &[1; 32]),
        Question::new("reply/1", b"c", &[2; 32]),
    ] {
        assert_ne!(asked, other);
    }
    assert_ne!(asked.of(&[1; 32]), asked.of(&[2; 32]));
    assert_ne!(Key::unique(), Key::unique());
}
