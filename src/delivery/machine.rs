//! What is to be done with a message, from its arrival to its PUBACK. Pure: what happens is told by
//! a method each, and what is to be done about it comes back.
//!
//! ```text
//! arrived ─▶ New ─▶ (decided) ─▶ permitted ─▶ Run ─▶ noted … ends … noted, released ─▶ ended
//!    │                 │             ├─▶ Tell, GiveUp, Join ──────────────────────────────┤
//!    │                 │             └─▶ Wait ─▶ permitted                                │
//!    │                 └─▶ refused ───────────────────────────────────────────────────────┤
//!    └─▶ Known, Excess, NotNow                                        next_ack ◀──────────┘
//! ```

use std::collections::BTreeSet;
use std::time::Duration;

use super::ledger::{Id, Ledger};
use super::memory::{Known, Memory, Next};
use super::{Exact, Key, Question};
use crate::time::Timestamp;

/// Messages that may be under way, most of them refusals that the broker hasn't acknowledged. What
/// comes beyond is acknowledged and not answered.
const UNDER_WAY: usize = 2048;
/// The same for what comes at QoS 0, which no Receive Maximum bounds: room for the rest stays.
const UNDER_WAY_QOS_0: usize = UNDER_WAY / 2;

/// `A`: the right to acknowledge a message on its connection.
#[derive(Debug)]
pub struct Machine<A> {
    pub(super) ledger: Ledger<A>,
    memory: Memory,
}

/// A message as it came.
#[derive(Debug, Clone, Copy)]
pub struct Arrived<A> {
    pub message: Exact,
    /// `None` at QoS 0.
    pub ack: Option<A>,
    /// The broker's word that it sent this before (the DUP flag).
    pub redelivered: bool,
    /// The daemon is going down.
    pub draining: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// To be read and decided; [`Machine::ended`] when nothing is left to do.
    New(Id),
    /// What is under way, or done and unacknowledged, came again: nothing is to be done.
    Known,
    /// Too much is under way: acknowledged in its turn, and not answered.
    Excess,
    /// It is to come again after the restart.
    NotNow,
}

/// What is to be done with a message that its token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Run it, for the first time or the second; until [`Machine::released`].
    Run(u32),
    /// Tell the first run's answer again.
    Tell,
    /// It was begun twice and never answered.
    GiveUp,
    /// Nothing: its answer is on its way to the same topic, and it is acknowledged with that.
    Join,
    /// The last message of its answer is on its way, and whoever asks now may have missed it: ask
    /// again when something was released, or when that takes too long.
    Wait,
}

/// How the work on a message ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Answered, refused, or nothing to answer.
    Done,
    /// The daemon's end came first: it stays unacknowledged, so that it comes again.
    Interrupted,
    /// Answered, but that could not be recorded: the broker is to send it again, which it does on
    /// the next connection only.
    Unrecorded,
}

impl<A> Default for Machine<A> {
    fn default() -> Machine<A> {
        Machine {
            ledger: Ledger::default(),
            memory: Memory::default(),
        }
    }
}

/// What comes by the broker, and what it gets.
impl<A: Copy> Machine<A> {
    /// A connection was made, with or without the session before.
    pub fn connected(&mut self, session_present: bool) {
        self.ledger.connected(session_present);
    }

    /// The connection has ended.
    pub fn lost(&mut self) {
        self.ledger.lost();
    }

    pub fn arrived(&mut self, arrived: Arrived<A>) -> Arrival {
        let Arrived { message, ack, .. } = arrived;
        if let Some(ack) = ack {
            if arrived.redelivered && self.ledger.adopt(&message, ack) {
                return Arrival::Known;
            }
            if !arrived.redelivered {
                self.ledger.redeliveries_over();
            }
        }
        if arrived.draining {
            return Arrival::NotNow;
        }
        let most = match ack {
            Some(_) => UNDER_WAY,
            None => UNDER_WAY_QOS_0,
        };
        let excess = self.ledger.under_way() >= most;
        let id = self.ledger.open(message, ack);
        if excess {
            self.ledger.done(id);
            return Arrival::Excess;
        }
        Arrival::New(id)
    }

    /// Nobody works on it any more. Whether the connection is to be made anew.
    #[must_use]
    pub fn ended(&mut self, id: Id, end: End) -> bool {
        match end {
            End::Done => self.ledger.done(id),
            End::Interrupted => {}
            End::Unrecorded => {
                self.ledger.lost();
                self.ledger.forget(id);
            }
        }
        end == End::Unrecorded
    }

    /// The next PUBACK; [`Machine::acknowledged`] once it is sent.
    pub fn next_ack(&self) -> Option<A> {
        self.ledger.next_ack()
    }

    pub fn acknowledged(&mut self) {
        self.ledger.acknowledged();
    }

    /// Unacknowledged messages of the present connection: what a broker's Receive Maximum counts,
    /// and the packet identifiers bound where it doesn't count.
    pub fn unacknowledged(&self) -> usize {
        self.ledger.unacknowledged()
    }
}

/// What is asked, and what is remembered of it.
impl<A: Copy> Machine<A> {
    /// The delivery that this very message began. One without a question is recognised by the
    /// broker's word alone.
    pub fn recognise(
        &self,
        message: &Exact,
        question: Option<&Question>,
        redelivered: bool,
    ) -> Option<Key> {
        let recognisable = redelivered || question.is_some();
        recognisable
            .then(|| self.memory.begun_by(message))
            .flatten()
    }

    /// Its token allows it. `waited`: long enough.
    pub fn permitted(&mut self, id: Id, key: Key, waited: bool) -> Verdict {
        if let Some(run) = self.memory.run(&key) {
            if run.ends && !waited {
                return Verdict::Wait;
            }
            let other = run.id;
            self.ledger.join(id, other);
            return Verdict::Join;
        }
        match self.memory.next(&key) {
            Next::Attempt(attempt) => {
                self.memory.claim(key, id);
                Verdict::Run(attempt)
            }
            Next::Again => Verdict::Tell,
            Next::Exhausted => Verdict::GiveUp,
        }
    }

    /// The last message of the answer is about to be sent: who asks from now on may miss it.
    pub fn ends(&mut self, key: &Key) {
        if let Some(run) = self.memory.run(key) {
            run.ends = true;
        }
    }

    /// It runs no more, whatever came of it.
    pub fn released(&mut self, key: Key) {
        self.memory.release(key);
    }

    /// The store has this of a delivery.
    pub fn noted(&mut self, key: Key, known: Known) {
        self.memory.note(key, known);
    }

    /// Dates back what a clock dated later than `now`, and says which: it would be kept until then,
    /// and push newer ones out meanwhile. What runs stays.
    pub fn redate(&mut self, now: Timestamp) -> Vec<Key> {
        self.memory.redate(now)
    }

    /// Forgets what is out of its window, and what is beyond the bound, and says what the store
    /// may still have of that. What runs stays.
    pub fn prune(&mut self, now: Timestamp, window: Duration, most: usize) -> &BTreeSet<Key> {
        self.memory.prune(now, window, most);
        self.memory.gone()
    }

    /// That has been taken out of the store.
    pub fn gone_for_good(&mut self) {
        self.memory.gone_for_good();
    }
}
