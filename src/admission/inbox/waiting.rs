//! Verified requests that wait for a place in the engine's queue.
//!
//! A device that publishes and sleeps can't try again in a second, so where the queue is full its
//! request waits: in a line of its principal's own, and the lines take turns, as far as each has
//! a share of the places left. What waits is bounded; beyond that the longest line loses its last,
//! so that nobody's flood turns another away.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

use crate::admission::running::Run;
use crate::auth::Principal;
use crate::delivery::Owner;
use crate::engine::{Engine, Reservation};
use crate::reason::{Reason, Refusal, RefuseReason};
use crate::shutdown::Shutdown;

/// Requests that may wait: four times the engine's queue, as it is unless configured.
const MOST: usize = 64;
/// Bytes of their bodies.
const MOST_BYTES: usize = 8 << 20;
/// The longest pause that is advised to who finds no room even here.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// What a wait ends in.
type Place = Result<Reservation, Refusal>;

#[derive(Debug, Default)]
pub(in crate::admission) struct Waiting(Mutex<Lines<Waiter>>);

#[derive(Debug)]
struct Waiter {
    principal: Principal,
    call: oneshot::Sender<Place>,
}

/// What waits.
#[derive(Debug)]
pub(super) struct Waits<'a> {
    pub(super) run: &'a Run,
    pub(super) principal: Principal,
    /// Of the body.
    pub(super) size: usize,
}

/// A place in a line; dropped, it is free.
struct Here<'a> {
    waiting: &'a Waiting,
    number: u64,
}

impl Waiting {
    /// Waits for its turn, until the request's deadline at most.
    pub(super) async fn place(
        &self,
        request: Waits<'_>,
        until: Instant,
        engine: &Engine,
        shutdown: &Shutdown,
    ) -> Place {
        let (call, mut called) = oneshot::channel();
        let Waits {
            run,
            principal,
            size,
        } = request;
        let owner = principal.key();
        let waiter = Waiter { principal, call };
        let number = self.lines().enter(owner, size, waiter);
        let _here = Here {
            waiting: self,
            number,
        };
        loop {
            // Before the attempt, so that no place gets free unseen in between.
            let room = engine.room();
            self.call(engine);
            tokio::select! {
                biased;
                place = &mut called => {
                    return place.unwrap_or_else(|_| Err(RefuseReason::Internal.into()));
                }
                () = run.cancelled() => return Err(RefuseReason::Cancelled.into()),
                () = room => {}
                () = tokio::time::sleep_until(until.into()) => {
                    return Err(RefuseReason::DeadlineExceeded.into());
                }
                () = shutdown.draining() => return Err(RefuseReason::Draining.into()),
            }
        }
    }

    /// Gives away what places there are, whoever of those who wait is running this.
    fn call(&self, engine: &Engine) {
        let mut one = None;
        let mut lines = self.lines();
        let served = lines.serve(|waiter| match engine.reserve(&waiter.principal) {
            Err(refusal) if refusal.reason == Reason::Refused(RefuseReason::Overloaded) => {
                one = refusal.retry_after;
                None
            }
            place => Some(place),
        });
        let waiting = lines.len();
        let turned_away = lines.trim(MOST, MOST_BYTES);
        drop(lines);
        for (waiter, place) in served {
            let _ = waiter.call.send(place);
        }
        for waiter in turned_away {
            let _ = waiter.call.send(Err(no_room(one, waiting)));
        }
    }

    /// Nothing between two locks depends on the other, so a panic elsewhere leaves sound lines.
    fn lines(&self) -> MutexGuard<'_, Lines<Waiter>> {
        self.0.lock()
    }
}

impl Drop for Here<'_> {
    fn drop(&mut self) {
        let left = self.waiting.lines().leave(self.number);
        drop(left);
    }
}

/// With the time that those who wait will take, at `one` for each.
fn no_room(one: Option<Duration>, waiting: usize) -> Refusal {
    let one = one.unwrap_or(Duration::from_secs(1));
    let all = one.saturating_mul(u32::try_from(waiting).unwrap_or(u32::MAX));
    let detail = "the room for requests that wait is full, and no client takes more of it";
    Refusal::new(RefuseReason::Overloaded)
        .detail(detail)
        .retry_after(all.min(LONGEST_RETRY))
}

/// The lines. Pure.
#[derive(Debug)]
struct Lines<W> {
    /// In the order of their turns; none is empty.
    lines: VecDeque<Line<W>>,
    next: u64,
}

#[derive(Debug)]
struct Line<W> {
    owner: Owner,
    waits: VecDeque<Wait<W>>,
}

#[derive(Debug)]
struct Wait<W> {
    number: u64,
    size: usize,
    who: W,
}

impl<W> Default for Lines<W> {
    fn default() -> Lines<W> {
        Lines {
            lines: VecDeque::new(),
            next: 0,
        }
    }
}

impl<W> Line<W> {
    fn bytes(&self) -> usize {
        self.waits.iter().map(|wait| wait.size).sum()
    }
}

impl<W> Lines<W> {
    /// Goes to the end of the owner's line; the number is for [`Lines::leave`].
    fn enter(&mut self, owner: Owner, size: usize, who: W) -> u64 {
        let number = self.next;
        self.next += 1;
        let wait = Wait { number, size, who };
        match self.lines.iter_mut().find(|line| line.owner == owner) {
            Some(line) => line.waits.push_back(wait),
            None => self.lines.push_back(Line {
                owner,
                waits: VecDeque::from([wait]),
            }),
        }
        number
    }

    /// `None` where it was served or turned away before.
    fn leave(&mut self, number: u64) -> Option<W> {
        let of = |line: &Line<W>| line.waits.iter().position(|wait| wait.number == number);
        let (line, at) = (0..self.lines.len()).find_map(|n| Some((n, of(&self.lines[n])?)))?;
        let left = self.lines[line].waits.remove(at);
        if self.lines[line].waits.is_empty() {
            self.lines.remove(line);
        }
        left.map(|wait| wait.who)
    }

    /// Who gets a place, while anybody does: the first of each line in turn.
    fn serve<P>(&mut self, mut place: impl FnMut(&W) -> Option<P>) -> Vec<(W, P)> {
        let mut served = Vec::new();
        loop {
            let mut first = |line: &Line<W>| place(&line.waits.front()?.who);
            let mut lines = self.lines.iter().enumerate();
            let Some((at, place)) = lines.find_map(|(at, line)| Some((at, first(line)?))) else {
                return served;
            };
            let Some(mut line) = self.lines.remove(at) else {
                return served;
            };
            served.extend(line.waits.pop_front().map(|wait| (wait.who, place)));
            if !line.waits.is_empty() {
                self.lines.push_back(line);
            }
        }
    }

    /// Who must leave so that no more than so many wait.
    fn trim(&mut self, most: usize, most_bytes: usize) -> Vec<W> {
        let mut left = Vec::new();
        while self.len() > most {
            left.extend(self.turn_away(|line| line.waits.len()));
        }
        while self.lines.iter().map(Line::bytes).sum::<usize>() > most_bytes {
            left.extend(self.turn_away(Line::bytes));
        }
        left
    }

    /// The last of the line that is longest; of equals, of the one whose turn is furthest.
    fn turn_away(&mut self, long: impl Fn(&Line<W>) -> usize) -> Option<W> {
        let line = (0..self.lines.len()).max_by_key(|n| long(&self.lines[*n]))?;
        let left = self.lines[line].waits.pop_back();
        if self.lines[line].waits.is_empty() {
            self.lines.remove(line);
        }
        left.map(|wait| wait.who)
    }

    fn len(&self) -> usize {
        self.lines.iter().map(|line| line.waits.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const OWNER: fn(u8) -> Owner = |n| [n; 32];

    #[test]
    fn lines_take_turns_and_each_keeps_its_order() {
        let mut lines = Lines::default();
        for (owner, who) in [(1, "a1"), (1, "a2"), (1, "a3"), (2, "b1"), (2, "b2")] {
            lines.enter(OWNER(owner), 1, who);
        }
        let mut places = 0..4;
        let served = lines.serve(|_| places.next());
        let served: Vec<&str> = served.into_iter().map(|(who, _)| who).collect();
        assert_eq!(served, ["a1", "b1", "a2", "b2"]);
        lines.enter(OWNER(3), 1, "c1");
        let rest = lines.serve(|_| Some(()));
        let rest: Vec<&str> = rest.into_iter().map(|(who, ())| who).collect();
        assert_eq!(rest, ["a3", "c1"]);
    }

    #[test]
    fn who_has_had_its_share_lets_the_next_pass() {
        let mut lines = Lines::default();
        for (owner, who) in [(1, "a1"), (1, "a2"), (2, "b1"), (2, "b2")] {
            lines.enter(OWNER(owner), 1, who);
        }
        let mut places = 0..3;
        let served = lines.serve(|who| who.starts_with('b').then(|| places.next())?);
        let served: Vec<&str> = served.into_iter().map(|(who, _)| who).collect();
        assert_eq!(served, ["b1", "b2"]);
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn whoever_floods_loses_its_own() {
        let mut lines = Lines::default();
        for n in 0..60 {
            lines.enter(OWNER(1), 1, n);
        }
        lines.enter(OWNER(2), 1, 100);
        lines.enter(OWNER(1), 1, 60);
        assert_eq!(lines.trim(60, 1000), [60, 59]);
        // By size too: one large body isn't worse than many small ones of the same weight.
        lines.enter(OWNER(3), 900, 200);
        assert_eq!(lines.trim(1000, 900), [200]);
        lines.enter(OWNER(2), 1, 101);
        assert!(lines.trim(1000, 900).is_empty());
    }

    proptest! {
        /// Nobody is lost: all who came have been served, turned away, have left, or wait. The
        /// bounds hold, and who is turned away was in a line that was the longest.
        #[test]
        fn nobody_is_lost(steps in prop::collection::vec((0..4_u8, 0..5_u8, 1..40_usize), 1..120)) {
            let mut lines = Lines::default();
            let mut here: BTreeMap<u64, u8> = BTreeMap::new();
            for (owner, what, size) in steps {
                if what < 3 {
                    let number = lines.next;
                    lines.enter(OWNER(owner), size, number);
                    here.insert(number, owner);
                } else if what == 3 {
                    let first = here.keys().next().copied();
                    if let Some(number) = first {
                        prop_assert_eq!(lines.leave(number), Some(number));
                        prop_assert_eq!(lines.leave(number), None);
                        here.remove(&number);
                    }
                } else {
                    let mut place = Some(());
                    for (number, ()) in lines.serve(|_| place.take()) {
                        prop_assert!(here.remove(&number).is_some());
                    }
                }
                let before = here.clone();
                for (nth, number) in lines.trim(10, 200).into_iter().enumerate() {
                    let owner = here.remove(&number);
                    let count = |of: u8| before.values().filter(|o| **o == of).count();
                    if before.len() > 10 && nth == 0 {
                        prop_assert_eq!(owner.map(count), (0..4).map(count).max());
                    }
                }
                prop_assert!(lines.len() <= 10);
                prop_assert_eq!(lines.len(), here.len());
                prop_assert!(lines.lines.iter().map(Line::bytes).sum::<usize>() <= 200);
                prop_assert!(lines.lines.iter().all(|line| !line.waits.is_empty()));
            }
        }
    }
}
