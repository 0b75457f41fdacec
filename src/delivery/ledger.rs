//! Which messages are still owed a PUBACK, and in which order the broker gets them.
//!
//! - PUBACKs go out in the order of receipt (MQTT-4.6.0-2): a message that is done waits until all
//!   before it are.
//! - When a connection ends, its rights to acknowledge are void, but the runs go on. If the next
//!   connection resumes the session, the broker sends every unacknowledged message again, in
//!   order and before any new one; each such message is matched by its bytes with the entry of
//!   its first arrival, which adopts the new right. So a request is neither run twice nor
//!   acknowledged before its one run is answered, even if it has no correlation data. The first
//!   message that is no redelivery (DUP off) closes the matching: what was not sent again until
//!   then has expired at the broker.
//! - Without the session nothing comes again by itself: entries of finished runs go, the others
//!   end unacknowledged.
//! - A repeat of what runs *joins* it, and is done when that is: after a lost session it may be the
//!   only copy that the broker still holds.

use std::collections::VecDeque;

use super::Exact;

/// A message, from its arrival until nothing is left to do for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(u64);

#[derive(Debug)]
pub(super) struct Ledger<A> {
    /// Those with `ack` are in the order of receipt on the present connection.
    entries: VecDeque<Entry<A>>,
    next_id: u64,
}

#[derive(Debug)]
struct Entry<A> {
    id: Id,
    message: Exact,
    /// The right to acknowledge, on the present connection.
    ack: Option<A>,
    /// Whether the broker may send the message again on the next connection.
    redeliverable: bool,
    work: Work,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Open,
    /// The message that runs.
    Joins(Id),
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
    pub(super) fn adopt(&mut self, message: &Exact, ack: A) -> bool {
        let waits = |e: &Entry<A>| e.redeliverable && e.ack.is_none() && e.message == *message;
        // Of equal messages the broker may have dropped the first: the last to come is taken first, so
        // that none is acknowledged by an answer that was given before it.
        let waiting = self.entries.iter().enumerate().filter(|(_, e)| waits(e));
        let Some((at, _)) = waiting.max_by_key(|(_, e)| e.id) else {
            return false;
        };
        if let Some(mut entry) = self.entries.remove(at) {
            entry.ack = Some(ack);
            self.entries.push_back(entry);
        }
        true
    }

    /// A message without DUP arrived.
    pub(super) fn redeliveries_over(&mut self) {
        for entry in self.entries.iter_mut().filter(|e| e.ack.is_none()) {
            entry.redeliverable = false;
        }
        self.prune();
    }

    /// A new message; without `ack` (QoS 0) it counts for those that join it only.
    pub(super) fn open(&mut self, message: Exact, ack: Option<A>) -> Id {
        let id = Id(self.next_id);
        self.next_id += 1;
        self.entries.push_back(Entry {
            id,
            message,
            redeliverable: ack.is_some(),
            ack,
            work: Work::Open,
        });
        id
    }

    /// Nothing is left to do for it but what it has joined.
    pub(super) fn done(&mut self, id: Id) {
        match self.entry(id) {
            Some(entry) if entry.work == Work::Open => entry.work = Work::Done,
            _ => return,
        }
        self.settle(id);
    }

    /// It is to come again, as if it had never arrived. For a connection that has ended: on a
    /// present one, those after it would be acknowledged out of order.
    pub(super) fn forget(&mut self, id: Id) {
        self.entries.retain(|entry| entry.id != id);
        self.settle(id);
    }

    /// It repeats `other`, which runs.
    pub(super) fn join(&mut self, id: Id, other: Id) {
        if let Some(entry) = self.entry(id) {
            entry.work = Work::Joins(other);
        }
    }

    /// The next right to use, in order; [`Ledger::acknowledged`] once it is used.
    pub(super) fn next_ack(&self) -> Option<A> {
        let first = self.entries.iter().find(|e| e.ack.is_some())?;
        (first.work == Work::Done).then_some(first.ack)?
    }

    /// The next right has been used.
    pub(super) fn acknowledged(&mut self) {
        if self.next_ack().is_some() {
            let first = self.entries.iter().position(|e| e.ack.is_some());
            first.and_then(|at| self.entries.remove(at));
        }
    }

    /// The connection ended.
    pub(super) fn lost(&mut self) {
        for entry in &mut self.entries {
            entry.ack = None;
        }
    }

    /// A connection was made, with or without the session before.
    pub(super) fn connected(&mut self, session_present: bool) {
        if !session_present {
            for entry in &mut self.entries {
                entry.redeliverable = false;
            }
        }
        self.prune();
    }

    /// Unacknowledged messages of the present connection: what a broker's Receive Maximum counts,
    /// and the packet identifiers bound where it doesn't count.
    pub(super) fn unacknowledged(&self) -> usize {
        self.entries.iter().filter(|e| e.ack.is_some()).count()
    }

    /// Messages that somebody works on.
    pub(super) fn under_way(&self) -> usize {
        self.entries.iter().filter(|e| e.work == Work::Open).count()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn entry(&mut self, id: Id) -> Option<&mut Entry<A>> {
        self.entries.iter_mut().find(|e| e.id == id)
    }

    /// Nothing more comes of `id`: what has joined it is done.
    fn settle(&mut self, id: Id) {
        for entry in &mut self.entries {
            if entry.work == Work::Joins(id) {
                entry.work = Work::Done;
            }
        }
        self.prune();
    }

    /// What is done and can't come again needs no memory.
    fn prune(&mut self) {
        self.entries
            .retain(|e| e.work != Work::Done || e.ack.is_some() || e.redeliverable);
    }
}
