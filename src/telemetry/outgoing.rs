//! Traces that wait to be sent. Who adds one never waits: where there are too many, the oldest goes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::time;
use crate::trace::Finished;

/// Each is some KiB.
const MOST: usize = 512;
/// In one request.
const BATCH: usize = 64;
/// How long the first of a batch waits for others.
const GATHER: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Outgoing {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Finished>,
    closed: bool,
}

impl Outgoing {
    /// Gives back the one that had to go for it.
    pub(super) fn add(&self, trace: Finished) -> Option<Finished> {
        let mut state = self.state.lock();
        if state.closed {
            return Some(trace);
        }
        let full = state.waiting.len() >= MOST;
        let oldest = full.then(|| state.waiting.pop_front()).flatten();
        state.waiting.push_back(trace);
        drop(state);
        self.wake.notify_one();
        oldest
    }

    /// Waits for the next batch, of one trace at least; `None` once all is sent and it is closed.
    pub(super) fn next(&self) -> Option<Vec<Finished>> {
        let mut state = self.state.lock();
        while state.waiting.is_empty() {
            if state.closed {
                return None;
            }
            self.wake.wait(&mut state);
        }
        let until = time::instant() + GATHER;
        while !state.closed && state.waiting.len() < BATCH {
            if self.wake.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        let batch = state.waiting.len().min(BATCH);
        Some(state.waiting.drain(..batch).collect())
    }

    /// Waits as long; false once it is closed.
    pub(super) fn pause(&self, until: Instant) -> bool {
        let mut state = self.state.lock();
        while !state.closed {
            if self.wake.wait_until(&mut state, until).timed_out() {
                return true;
            }
        }
        false
    }

    /// Takes no more.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.wake.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::TraceId;

    fn trace() -> Finished {
        Finished {
            trace: TraceId::random(),
            state: String::new(),
            spans: Vec::new(),
            permitted: true,
        }
    }

    #[test]
    fn the_oldest_makes_room_and_a_closed_queue_is_emptied() {
        let outgoing = Outgoing::default();
        let all: Vec<Finished> = (0..=MOST).map(|_| trace()).collect();
        for trace in &all[..MOST] {
            assert_eq!(outgoing.add(trace.clone()), None);
        }
        assert_eq!(outgoing.add(all[MOST].clone()).as_ref(), Some(&all[0]));
        outgoing.close();
        let late = trace();
        assert_eq!(outgoing.add(late.clone()), Some(late));
        assert!(!outgoing.pause(time::instant() + Duration::from_secs(3600)));
        let batches: Vec<Vec<Finished>> = std::iter::from_fn(|| outgoing.next()).collect();
        assert!(batches.iter().all(|batch| batch.len() == BATCH));
        assert_eq!(batches.concat(), all[1..]);
    }

    #[test]
    fn a_full_batch_waits_for_nothing() {
        let outgoing = Outgoing::default();
        let all: Vec<Finished> = (0..=BATCH).map(|_| trace()).collect();
        for trace in &all {
            outgoing.add(trace.clone());
        }
        assert_eq!(outgoing.next().as_deref(), Some(&all[..BATCH]));
    }
}
