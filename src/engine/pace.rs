//! Whether it pays to share passes of one token with other threads, found out by doing both.
//!
//! Such a pass is some hundred short jobs. While another process keeps a core busy, threads that
//! wait for each other are in turn without a core, and one alone is faster. Nothing that a process
//! can ask says so beforehand, so both ways are measured: mostly the better one is used, and now
//! and then the other.

use std::collections::VecDeque;
use std::time::Duration;

/// Last passes of each way whose times count.
const KEPT: usize = 8;
/// Passes of a trial of the other way.
const TRIAL: u32 = 2;
/// Passes before the first trial; twice as many before the next, as long as nothing changes.
const FIRST: u32 = 8;
/// Most passes between trials: they cost about a hundredth of the time.
const MOST: u32 = 64;

#[derive(Debug)]
pub(super) struct Pace {
    shared: Times,
    alone: Times,
    /// The way that is better as far as is known.
    share: bool,
    /// The other way is being tried.
    trial: bool,
    /// Passes until that changes.
    left: u32,
    period: u32,
}

/// The last times, the oldest first.
#[derive(Debug, Default)]
struct Times(VecDeque<Duration>);

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            shared: Times::default(),
            alone: Times::default(),
            share: true,
            trial: false,
            left: FIRST,
            period: FIRST,
        }
    }
}

impl Pace {
    /// Whether the next pass is to be shared.
    pub(super) fn share(&self) -> bool {
        self.share != self.trial
    }

    /// Notes how long a pass took that was shared or not, as [`Pace::share`] said.
    pub(super) fn note(&mut self, shared: bool, took: Duration) {
        let way = match shared {
            true => &mut self.shared,
            false => &mut self.alone,
        };
        way.push(took);
        self.left = self.left.saturating_sub(1);
        let (better, other) = match self.share {
            true => (&self.shared, &self.alone),
            false => (&self.alone, &self.shared),
        };
        let mistaken = other.clearly_below(better);
        match (self.trial, mistaken, self.left) {
            (true, _, 1..) | (false, false, 1..) => {}
            (false, false, 0) => {
                self.trial = true;
                self.left = TRIAL;
            }
            (_, true, _) => {
                self.share = !self.share;
                self.stay(FIRST);
            }
            (true, false, 0) => self.stay(MOST.min(2 * self.period)),
        }
    }

    fn stay(&mut self, period: u32) {
        self.trial = false;
        self.period = period;
        self.left = period;
    }
}

impl Times {
    fn push(&mut self, took: Duration) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(took);
    }

    /// By over a twentieth.
    fn clearly_below(&self, other: &Times) -> bool {
        match (self.mean(), other.mean()) {
            (Some(mine), Some(others)) => mine * 20 < others * 19,
            _ => false,
        }
    }

    fn mean(&self) -> Option<Duration> {
        let sum: Duration = self.0.iter().sum();
        sum.checked_div(self.0.len() as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs passes that take so many microseconds; says how many were shared.
    fn run(pace: &mut Pace, passes: u32, shared: u64, alone: u64) -> u32 {
        let mut count = 0;
        for pass in 0..passes {
            let share = pace.share();
            count += u32::from(share);
            // Some passes are disturbed.
            let factor = if pass % 13 == 5 { 2 } else { 1 };
            let took = if share { shared } else { alone };
            pace.note(share, Duration::from_micros(took * factor));
        }
        count
    }

    #[test]
    fn the_better_way_is_used_and_the_other_tried() {
        let mut pace = Pace::default();
        let shared = run(&mut pace, 1000, 3500, 5000);
        assert!((950..1000).contains(&shared), "{shared}");
    }

    #[test]
    fn a_busy_core_is_noticed_at_once_and_its_end_soon() {
        let mut pace = Pace::default();
        run(&mut pace, 500, 3500, 5000);
        let noticing = run(&mut pace, 16, 9000, 5000);
        assert!(noticing < 8, "{noticing}");
        let shared = run(&mut pace, 1000, 9000, 5000);
        assert!((10..50).contains(&shared), "{shared}");
        let back = run(&mut pace, 1000, 3500, 5000);
        assert!(back > 600, "{back}");
    }
}
