//! The machine against a broker, a disk, tasks that take their time, and crashes.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proptest::prelude::*;

use super::{Arrival, Arrived, End, Exact, Id, Key, Known, Machine, Owner, Question, Verdict};
use crate::time::Timestamp;

const OWNER: Owner = [7; 32];

/// Two messages for each question: with one token and with a fresh one. The last two have none.
fn names(n: u8) -> (Exact, Option<Question>) {
    (Exact([n; 32]), (n < 6).then_some(Question([n / 2; 32])))
}

#[derive(Debug, Clone)]
enum Step {
    /// At least once, or at most once.
    Publish(u8, bool),
    /// A task goes on, for better or worse.
    Advance(usize, bool),
    /// The connection is lost, and made again with the session or without.
    Reconnect(bool),
    /// Meanwhile the broker's oldest message expires.
    Expire,
    /// The daemon ends in order, or is killed, and starts again.
    Restart(bool, bool),
    /// All answers are out of their window but so many.
    Prune(usize),
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    let often = prop::bool::weighted(0.8);
    prop_oneof![
        4 => (0..8_u8, often).prop_map(|(n, qos)| Step::Publish(n, qos)),
        12 => (0..6_usize, often).prop_map(|(at, well)| Step::Advance(at, well)),
        1 => often.prop_map(Step::Reconnect),
        1 => Just(Step::Expire),
        1 => (prop::bool::ANY, often).prop_map(|(order, present)| Step::Restart(order, present)),
        1 => (0..3_usize).prop_map(Step::Prune),
        3 => Just(Step::Flush),
    ]
}

/// What admission and transport do for a message, between two words with the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Deciding {
        redelivered: bool,
    },
    Waiting(Key),
    /// For a place, and then for the permit's record.
    Admitted(Key, u32),
    Running(Key),
    /// The last message is sent and acknowledged.
    Ending(Key),
    Telling,
    Refused,
    Recorded,
}

#[derive(Debug, Clone, Copy)]
struct Task {
    id: Id,
    n: u8,
    at: At,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stored {
    message: Exact,
    attempts: u32,
    answered: bool,
}

/// A message that the broker holds.
#[derive(Debug, Clone, Copy)]
struct Held {
    n: u8,
    ack: u32,
    published: u32,
}

#[derive(Default)]
struct World {
    machine: Machine<u32>,
    tasks: Vec<Task>,
    disk: BTreeMap<Key, Stored>,
    /// Unacknowledged messages, oldest first.
    broker: VecDeque<Held>,
    /// When the last message of an answer, or a refusal, was last sent: to whoever asks a question,
    /// and for one message.
    told: BTreeMap<Question, u32>,
    told_of: BTreeMap<u8, u32>,
    now: u32,
    /// Messages that come again though they have been read.
    forgotten: Vec<u8>,
}

impl World {
    fn publish(&mut self, n: u8, at_least_once: bool) {
        self.now += 1;
        let ack = at_least_once.then_some(self.now);
        self.broker.extend(ack.map(|ack| Held {
            n,
            ack,
            published: self.now,
        }));
        let arrival = self.arrive(n, ack, false);
        assert!(matches!(arrival, Arrival::New(_)), "{arrival:?}");
    }

    fn arrive(&mut self, n: u8, ack: Option<u32>, redelivered: bool) -> Arrival {
        let arrival = self.machine.arrived(Arrived {
            message: names(n).0,
            ack,
            redelivered,
            draining: false,
        });
        if let Arrival::New(id) = arrival {
            let at = At::Deciding { redelivered };
            self.tasks.push(Task { id, n, at });
        }
        arrival
    }

    /// `well`: its token is good, there is room, the disk is too.
    fn advance(&mut self, at: usize, well: bool) {
        self.now += 1;
        let Task { id, n, at: stage } = self.tasks[at];
        let (message, question) = names(n);
        let next = match (stage, well) {
            (At::Deciding { .. }, false) => At::Refused,
            (At::Deciding { redelivered }, true) => {
                let began = self
                    .machine
                    .recognise(&message, question.as_ref(), redelivered);
                let stored = |key| self.disk.get(&key).is_some_and(|s| s.message == message);
                assert!(began.is_none_or(stored));
                self.permitted(id, n, Key::of(question.as_ref(), began, &OWNER), false)
            }
            (At::Waiting(key), well) => self.permitted(id, n, key, !well),
            (At::Admitted(key, _), false) => {
                self.machine.released(key);
                At::Refused
            }
            (At::Admitted(key, attempts), true) => {
                self.store(key, message, attempts, false);
                At::Running(key)
            }
            (At::Running(key), _) => {
                self.machine.ends(&key);
                self.tell(n);
                At::Ending(key)
            }
            (At::Ending(key), true) => {
                let attempts = self.disk[&key].attempts;
                self.store(key, message, attempts, true);
                self.machine.released(key);
                At::Recorded
            }
            (At::Ending(key), false) => {
                self.machine.released(key);
                self.tasks.remove(at);
                self.forgotten.push(n);
                assert!(self.machine.ended(id, End::Unrecorded));
                return self.reconnect(true);
            }
            (At::Telling | At::Refused, _) => {
                self.tell(n);
                return self.end(at);
            }
            (At::Recorded, _) => return self.end(at),
        };
        if let Some(task) = self.tasks.iter_mut().find(|task| task.id == id) {
            task.at = next;
        }
    }

    fn permitted(&mut self, id: Id, n: u8, key: Key, waited: bool) -> At {
        let stored = self.disk.get(&key).copied();
        let runs = |task: &Task| matches!(task.at, At::Admitted(k, _) | At::Running(k) | At::Ending(k) if k == key);
        let other = self.tasks.iter().find(|task| runs(task)).copied();
        match self.machine.permitted(id, key, waited) {
            Verdict::Run(attempt) => {
                assert!(other.is_none(), "one question runs once at a time");
                assert_eq!(attempt, stored.map_or(0, |stored| stored.attempts) + 1);
                assert!(attempt <= 2 && !stored.is_some_and(|stored| stored.answered));
                At::Admitted(key, attempt)
            }
            Verdict::Tell => {
                assert!(other.is_none() && stored.is_some_and(|stored| stored.answered));
                At::Telling
            }
            Verdict::GiveUp => {
                let exhausted = |stored: Stored| stored.attempts == 2 && !stored.answered;
                assert!(other.is_none() && stored.is_some_and(exhausted));
                At::Refused
            }
            Verdict::Join => {
                let other = other.expect("something to join");
                if matches!(other.at, At::Ending(_)) {
                    assert!(waited);
                    // Who has waited for so long isn't told again.
                    self.tell(n);
                }
                // Its task ends, and it is acknowledged with the other.
                At::Recorded
            }
            Verdict::Wait => {
                let ends = |other: Task| matches!(other.at, At::Ending(_));
                assert!(!waited && other.is_some_and(ends));
                At::Waiting(key)
            }
        }
    }

    fn tell(&mut self, n: u8) {
        self.told_of.insert(n, self.now);
        if let Some(question) = names(n).1 {
            self.told.insert(question, self.now);
        }
    }

    fn end(&mut self, at: usize) {
        let task = self.tasks.remove(at);
        assert!(!self.machine.ended(task.id, End::Done));
    }

    fn store(&mut self, key: Key, message: Exact, attempts: u32, answered: bool) {
        let stored = Stored {
            message,
            attempts,
            answered,
        };
        self.disk.insert(key, stored);
        self.machine.noted(key, stored.into());
    }

    fn restart(&mut self, in_order: bool, present: bool) {
        for task in std::mem::take(&mut self.tasks) {
            if let At::Running(key) = task.at
                && in_order
            {
                let Stored {
                    message, attempts, ..
                } = self.disk[&key];
                self.store(key, message, attempts - 1, false);
            }
            if in_order {
                let draining = Arrived {
                    message: names(task.n).0,
                    ack: Some(0),
                    redelivered: false,
                    draining: true,
                };
                assert_eq!(self.machine.arrived(draining), Arrival::NotNow);
                assert!(!self.machine.ended(task.id, End::Interrupted));
            }
        }
        self.machine = Machine::default();
        for (key, stored) in &self.disk {
            self.machine.noted(*key, (*stored).into());
        }
        self.forgotten = self.broker.iter().map(|held| held.n).collect();
        self.reconnect(present);
    }

    fn reconnect(&mut self, present: bool) {
        self.machine.lost();
        assert_eq!(self.machine.next_ack(), None);
        self.machine.connected(present);
        if !present {
            self.broker.clear();
        }
        for at in 0..self.broker.len() {
            self.now += 1;
            self.broker[at].ack = self.now;
            let n = self.broker[at].n;
            let arrival = self.arrive(n, Some(self.now), true);
            let again = self.forgotten.contains(&n);
            assert!(arrival == Arrival::Known || again, "read twice");
        }
        self.forgotten.clear();
    }

    fn prune(&mut self, most: usize) {
        let now = Timestamp::from_secs(1000);
        let window = Duration::from_secs(if most == 0 { 600 } else { 2000 });
        let gone = self.machine.prune(now, window, most);
        self.disk.retain(|key, _| !gone.contains(key));
        self.machine.gone_for_good();
    }

    /// A PUBACK is for the oldest message, and its publisher has been told since it was sent.
    fn flush(&mut self) {
        while let Some(ack) = self.machine.next_ack() {
            let held = self.broker.pop_front().expect("a message for each PUBACK");
            assert_eq!(ack, held.ack);
            let told = names(held.n)
                .1
                .and_then(|question| self.told.get(&question));
            let told = told.max(self.told_of.get(&held.n));
            assert!(told >= Some(&held.published), "{held:?}");
            self.machine.acknowledged();
        }
    }

    fn check(&self) {
        assert_eq!(self.machine.unacknowledged(), self.broker.len());
        for task in &self.tasks {
            if let At::Running(key) | At::Ending(key) = task.at {
                assert!(!self.disk[&key].answered, "what runs isn't forgotten");
            }
        }
    }
}

impl From<Stored> for Known {
    fn from(stored: Stored) -> Known {
        Known {
            message: stored.message,
            owner: Some(OWNER),
            touched: Timestamp(0),
            attempts: stored.attempts,
            answered: stored.answered,
        }
    }
}

fn lived(steps: impl IntoIterator<Item = Step>) -> World {
    let mut world = World::default();
    for step in steps {
        match step {
            Step::Publish(n, at_least_once) => world.publish(n, at_least_once),
            Step::Advance(at, well) if at < world.tasks.len() => world.advance(at, well),
            Step::Advance(..) => {}
            Step::Reconnect(present) => world.reconnect(present),
            Step::Expire => {
                world.broker.pop_front();
                world.reconnect(true);
            }
            Step::Restart(in_order, present) => world.restart(in_order, present),
            Step::Prune(most) => world.prune(most),
            Step::Flush => world.flush(),
        }
        world.check();
    }
    world
}

/// The broker drops the first of two equal messages, which has been answered, and sends the second again.
#[test]
fn a_message_is_not_acknowledged_by_the_answer_of_an_equal_one() {
    const EQUAL: u8 = 6;
    lived([
        Step::Publish(EQUAL, true),
        Step::Advance(0, false),
        Step::Advance(0, false),
        Step::Publish(EQUAL, true),
        Step::Reconnect(true),
        Step::Expire,
        Step::Flush,
    ]);
}

proptest! {
    #[test]
    fn each_message_is_answered_or_refused_before_its_puback(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut world = lived(steps);
        // Nothing waits for ever, and nothing is left when all is done.
        while !world.tasks.is_empty() {
            for at in (0..world.tasks.len()).rev() {
                world.advance(at, true);
            }
        }
        world.flush();
        world.publish(0, true);
        world.tell(0);
        world.end(0);
        world.flush();
        prop_assert_eq!((world.broker.len(), world.machine.ledger.len()), (0, 0));
    }
}

#[test]
fn what_is_beyond_the_bound_is_acknowledged_in_its_turn_and_room_stays_for_the_better_qos() {
    let mut machine = Machine::default();
    let arrive = |machine: &mut Machine<u32>, ack| {
        machine.arrived(Arrived {
            message: Exact([1; 32]),
            ack,
            redelivered: false,
            draining: false,
        })
    };
    let new = |arrival: &Arrival| matches!(arrival, Arrival::New(_));
    let at_most_once = std::iter::repeat_with(|| arrive(&mut machine, None));
    assert_eq!(at_most_once.take_while(new).count(), 1024);
    let mut at_least_once = (0..=1024).map(|ack| arrive(&mut machine, Some(ack)));
    let ids: Vec<Id> = at_least_once
        .by_ref()
        .map_while(|arrival| match arrival {
            Arrival::New(id) => Some(id),
            _ => None,
        })
        .collect();
    assert_eq!((ids.len(), at_least_once.next()), (1024, None));
    assert_eq!(machine.next_ack(), None);
    for id in ids {
        assert!(!machine.ended(id, End::Done));
    }
    for ack in 0..=1024 {
        assert_eq!(machine.next_ack(), Some(ack));
        machine.acknowledged();
    }
    assert_eq!(machine.unacknowledged(), 0);
}

#[test]
fn a_question_is_its_principals_own_and_goes_by_topic_correlation_and_body() {
    let key = |question: &Question| Key::of(Some(question), None, &OWNER);
    let asked = Question::new("reply/1", b"c", &[1; 32]);
    assert_eq!(key(&asked), key(&Question::new("reply/1", b"c", &[1; 32])));
    for other in [
        Question::new("reply/2", b"c", &[1; 32]),
        Question::new("reply/1", b"d", &[1; 32]),
        Question::new("reply/1c", b"", &[1; 32]),
        Question::new("reply/1", b"c", &[2; 32]),
    ] {
        assert_ne!(key(&asked), key(&other));
    }
    assert_ne!(key(&asked), Key::of(Some(&asked), None, &[1; 32]));
    let unique = || Key::of(None, None, &OWNER);
    assert_ne!(unique(), unique());
    assert_eq!(Key::of(None, Some(key(&asked)), &OWNER), key(&asked));
}
