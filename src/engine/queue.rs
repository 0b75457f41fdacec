//! The bounded queue in front of the engine thread: its places are shared between the principals
//! ([`Shares`]), and so are the turns ([`Turns`]).
//!
//! A [`Place`] is taken before anything is charged or recorded, travels with the request, and is
//! free again when it is dropped: after the answer, or when the request never comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::generate::{Progress, departed};
use super::metrics::Metrics;
use super::totals::Totals;
use super::turns::{Key, Turns};
use super::{Prompt, Report};
use crate::auth::Permitted;
use crate::prompt::{AnswerSender, Finish, Interrupt, Outcome};
use crate::reason::{Refusal, RefuseReason};
use crate::share::{Full, Shares};
use crate::time;

/// How often an idle engine shows that it lives.
const BEAT: Duration = Duration::from_secs(10);
/// Bounds of the hint to a client that finds the queue full, in seconds.
const RETRY_AFTER: (f64, f64) = (1.0, 60.0);
/// The weight of the latest run in the mean that the hint is made of.
const LATEST: f64 = 0.25;

/// What the engine thread and its handles share.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<Occupancy>,
    wake: Condvar,
    /// Told whenever a place gets free.
    room: Notify,
    beat: AtomicU64,
    pub(super) metrics: Metrics,
    pub(super) totals: Totals,
}

#[derive(Debug)]
struct Occupancy {
    waiting: Turns<(u64, Work)>,
    /// The number of the ticket that was given out last.
    ticket: u64,
    /// Places that are reserved, waiting or running.
    places: Shares<Key>,
    running: Option<Interrupt>,
    closed: bool,
    /// Mean seconds of a run; what a full queue waits for.
    mean_run: Option<f64>,
}

/// A place in the queue, of one principal's share.
#[derive(Debug)]
pub(super) struct Place {
    queue: Arc<Queue>,
    whose: Key,
}

/// Tells who waits how far it is.
#[derive(Debug)]
pub struct Ticket {
    queue: Arc<Queue>,
    number: u64,
}

/// A request in the queue. Ended by [`Work::end`] exactly once.
pub(super) struct Work {
    pub(super) prompt: Prompt,
    pub(super) answer: AnswerSender,
    pub(super) interrupt: Interrupt,
    pub(super) deadline: Option<Instant>,
    /// The higher goes first.
    pub(super) priority: u8,
    pub(super) done: Box<dyn FnOnce(&Report) + Send>,
    pub(super) submitted: Instant,
    /// What log lines of it are in.
    pub(super) lines: tracing::Span,
    pub(super) place: Place,
    /// Absent in tests only.
    #[expect(
        dead_code,
        reason = "kept with the work as the proof that it may be done"
    )]
    pub(super) permitted: Option<Permitted>,
}

impl Queue {
    /// One place runs, `waiting` wait.
    pub(super) fn new(waiting: usize, metrics: Metrics) -> Queue {
        let state = Occupancy {
            waiting: Turns::default(),
            ticket: 0,
            places: Shares::new(waiting.saturating_add(1)),
            running: None,
            closed: false,
            mean_run: None,
        };
        Queue {
            state: Mutex::new(state),
            wake: Condvar::new(),
            room: Notify::new(),
            beat: AtomicU64::new(0),
            metrics,
            totals: Totals::default(),
        }
    }

    /// Takes a place for the principal `whose`.
    pub(super) fn reserve(self: &Arc<Self>, whose: Key) -> Result<Place, Refusal> {
        let mut state = self.state();
        if state.closed {
            return Err(Refusal::new(RefuseReason::Draining));
        }
        if let Err(full) = state.places.take(&whose) {
            return Err(state.overloaded(full, &whose));
        }
        self.publish(&state);
        let queue = Arc::clone(self);
        Ok(Place { queue, whose })
    }

    /// Resolves when a place gets free after this call.
    pub(super) fn room(&self) -> Notified<'_> {
        self.room.notified()
    }

    /// Puts work where its turn will be. A closed queue ends it at once, on the caller's thread.
    pub(super) fn push(self: &Arc<Self>, work: Work) -> Ticket {
        let mut state = self.state();
        state.ticket += 1;
        let ticket = Ticket {
            queue: Arc::clone(self),
            number: state.ticket,
        };
        if state.closed {
            drop(state);
            work.end_unrun(Finish::Shutdown);
            return ticket;
        }
        let (priority, whose) = (work.priority, work.place.whose);
        state.waiting.push(priority, whose, (ticket.number, work));
        self.publish(&state);
        drop(state);
        self.wake.notify_one();
        ticket
    }

    /// Waits for the next work; `None` once the queue is closed.
    pub(super) fn next(&self) -> Option<Work> {
        let mut state = self.state();
        loop {
            if state.closed {
                return None;
            }
            if let Some((_, work)) = state.waiting.next() {
                state.running = Some(work.interrupt.clone());
                self.publish(&state);
                return Some(work);
            }
            self.beat();
            self.wake.wait_for(&mut state, BEAT);
        }
    }

    /// Notes that the running work has ended after `ran`.
    pub(super) fn ended(&self, ran: Duration) {
        let mut state = self.state();
        state.running = None;
        let ran = ran.as_secs_f64();
        let mean = state
            .mean_run
            .map_or(ran, |mean| mean + LATEST * (ran - mean));
        state.mean_run = Some(mean);
        self.publish(&state);
    }

    /// Ends waiting work that nobody wants any more, so that it neither keeps a place nor learns
    /// of its deadline late.
    pub(super) fn sweep(&self) {
        let mut state = self.state();
        let left = state.waiting.extract(|(_, work)| work.departed());
        drop(state);
        for ((_, work), cause) in left {
            work.end_unrun(cause);
        }
    }

    /// Takes no more work and interrupts what runs.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        if let Some(running) = &state.running {
            running.raise(Finish::Shutdown);
        }
        drop(state);
        self.wake.notify_all();
    }

    /// Ends everything that still waits.
    pub(super) fn abandon(&self) {
        let mut waiting = std::mem::take(&mut self.state().waiting);
        while let Some((_, work)) = waiting.next() {
            work.end_unrun(Finish::Shutdown);
        }
    }

    /// Waiting (reserved places included) and running.
    pub(super) fn load(&self) -> (usize, usize) {
        self.state().load()
    }

    pub(super) fn beat(&self) {
        self.beat.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn beats(&self) -> u64 {
        self.beat.load(Ordering::Relaxed)
    }

    fn publish(&self, state: &Occupancy) {
        self.metrics.queue(state.load());
    }

    /// A panic elsewhere leaves counters that are still true.
    fn state(&self) -> MutexGuard<'_, Occupancy> {
        self.state.lock()
    }
}

impl Occupancy {
    fn load(&self) -> (usize, usize) {
        let running = usize::from(self.running.is_some());
        (self.places.taken().saturating_sub(running), running)
    }

    /// Tells whether the whole queue is full or the principal's share of it, and when a place may
    /// be free: soon one of all, but of its own only one a round.
    fn overloaded(&self, full: Full, whose: &Key) -> Refusal {
        let (taken, room) = (self.places.taken(), self.places.room());
        let (detail, turns) = match full {
            Full::Room => (format!("{taken} requests are waiting or running"), 1),
            Full::Share => {
                let own = self.places.held(whose);
                let detail = format!(
                    "{own} requests of this principal are waiting or running, which is its share \
                     of {room} places while {taken} are taken; the rest is for others"
                );
                (detail, self.places.holders())
            }
        };
        let (least, most) = RETRY_AFTER;
        let wait = self.mean_run.unwrap_or(least) * turns as f64;
        Refusal::new(RefuseReason::Overloaded)
            .detail(detail)
            .retry_after(Duration::from_secs_f64(wait.clamp(least, most).ceil()))
    }
}

impl Ticket {
    /// From 1 for who is next; `None` when the turn has come, or never will.
    #[must_use]
    pub fn place(&self) -> Option<usize> {
        let state = self.queue.state();
        let before = state.waiting.before(|(number, _)| *number == self.number);
        before.map(|before| before + 1)
    }
}

impl Place {
    pub(super) fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    #[cfg(test)]
    pub(super) fn whose(&self) -> Key {
        self.whose
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        state.places.give_back(&self.whose);
        self.queue.publish(&state);
        drop(state);
        self.queue.room.notify_waiters();
    }
}

impl Work {
    /// Why it isn't wanted any more, if so.
    pub(super) fn departed(&self) -> Option<Finish> {
        departed(&self.answer, &self.interrupt, self.deadline)
    }

    /// Ends work that was never run.
    fn end_unrun(self, finish: Finish) {
        let queued = time::instant().saturating_duration_since(self.submitted);
        let progress = Progress::new(&self.prompt);
        self.end(finish, queued, progress);
    }

    /// Tells everybody: metrics, `done`, then the reader, whose place is free by then.
    pub(super) fn end(self, finish: Finish, queued: Duration, mut progress: Progress) {
        let lines = self.lines.clone();
        let _lines = lines.enter();
        let since = |at: Instant| at.saturating_duration_since(self.submitted);
        let outcome = Outcome {
            finish,
            usage: progress.usage,
        };
        let report = Report {
            outcome,
            answer_hash: progress.answer_hash(),
            answer: progress.take_text(),
            queued,
            first_token: progress.first_token.map(since),
            total: since(time::instant()),
        };
        let queue = self.place.queue();
        queue.metrics.observe(&self.prompt, &report);
        queue.totals.add(&report);
        (self.done)(&report);
        drop(self.place);
        self.answer.finish(outcome);
    }
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Work")
            .field("prompt", &self.prompt)
            .finish_non_exhaustive()
    }
}
