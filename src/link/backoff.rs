//! How long to wait before the next connection. Pure: time and chance are parameters.

use std::time::Duration;

use super::Lost;

/// A connection that lived shorter than this, or than the longest pause, failed "right after
/// connecting". Two boxes with one client id that throw each other out would otherwise look
/// stable as soon as both wait long.
const STABLE: Duration = Duration::from_secs(10);

/// How a connection ended, as far as the next one's delay goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It never came to be.
    Unreachable,
    /// It ended after so long, and why is known.
    Ended(Duration),
    /// It was closed after so long without a word, as brokers do that don't tell of a takeover.
    Dropped(Duration),
    /// Another client took our session: reconnecting at once would take it back, and so on.
    TakenOver,
}

impl Failure {
    /// `lived`: how long after CONNACK, where there was one.
    pub fn of(lost: &Lost, lived: Option<Duration>) -> Failure {
        match (lost, lived) {
            (Lost::TakenOver, _) => Failure::TakenOver,
            (Lost::Dropped(_), Some(lived)) => Failure::Dropped(lived),
            (_, Some(lived)) => Failure::Ended(lived),
            (_, None) => Failure::Unreachable,
        }
    }
}

/// Exponential backoff with jitter over the whole range from `min` to the ceiling, so that a
/// fleet that lost its broker at one moment doesn't come back at one moment.
#[derive(Debug, Clone)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
    flaps: u32,
}

impl Backoff {
    pub fn new(min: Duration, max: Duration) -> Backoff {
        Backoff {
            min,
            max: max.max(min),
            failures: 0,
            flaps: 0,
        }
    }

    /// How often in a row a connection ended right after it was made, for no known reason or by a
    /// takeover.
    pub fn flaps(&self) -> u32 {
        self.flaps
    }

    /// The pause after `failure`; `chance` is uniform in 0..1. Only a connection that has lasted
    /// a while starts the count anew, so one that is accepted and dropped over and over waits
    /// ever longer too.
    pub fn pause(&mut self, failure: Failure, chance: f64) -> Duration {
        match failure {
            Failure::Ended(lived) | Failure::Dropped(lived) if lived >= self.max.max(STABLE) => {
                (self.failures, self.flaps) = (1, 0);
            }
            Failure::Unreachable | Failure::Ended(_) => {
                self.failures = self.failures.saturating_add(1);
            }
            Failure::Dropped(_) | Failure::TakenOver => {
                self.failures = self.failures.saturating_add(1);
                self.flaps = self.flaps.saturating_add(1);
            }
        }
        let (floor, ceiling) = match failure {
            Failure::TakenOver => (self.max / 2, self.max),
            _ => {
                let doubled = 2_u32.saturating_pow(self.failures);
                (self.min, self.min.saturating_mul(doubled).min(self.max))
            }
        };
        floor
            + ceiling
                .saturating_sub(floor)
                .mul_f64(chance.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_secs(1);
    const MAX: Duration = Duration::from_secs(60);

    fn ceilings(failure: Failure) -> Vec<u64> {
        let mut backoff = Backoff::new(MIN, MAX);
        let pauses = (0..8).map(|_| backoff.pause(failure, 1.0).as_secs());
        pauses.collect()
    }

    #[test]
    fn grows_to_the_maximum_and_no_further() {
        let doubling = [2, 4, 8, 16, 32, 60, 60, 60];
        assert_eq!(ceilings(Failure::Unreachable), doubling);
        assert_eq!(ceilings(Failure::Ended(Duration::from_secs(1))), doubling);
        assert_eq!(ceilings(Failure::Ended(STABLE)), doubling);
        assert_eq!(ceilings(Failure::Ended(MAX)), [2; 8]);
        assert_eq!(ceilings(Failure::Dropped(STABLE)), doubling);
        assert_eq!(ceilings(Failure::TakenOver), [60; 8]);
        let mut backoff = Backoff::new(MIN, MAX);
        for _ in 0..100 {
            assert_eq!(backoff.pause(Failure::Unreachable, 0.0), MIN);
        }
    }

    #[test]
    fn an_end_whose_cause_is_known_is_no_flap() {
        let mut backoff = Backoff::new(MIN, MAX);
        for failure in [Failure::Unreachable, Failure::Ended(MIN)] {
            let _ = backoff.pause(failure, 0.5);
            assert_eq!(backoff.flaps(), 0);
        }
        for flaps in 1..4 {
            let _ = backoff.pause(Failure::Dropped(MIN), 0.5);
            assert_eq!(backoff.flaps(), flaps);
        }
        let _ = backoff.pause(Failure::Dropped(MAX), 0.5);
        assert_eq!(backoff.flaps(), 0);
    }

    #[test]
    fn takeover_waits_long_even_with_luck() {
        let mut backoff = Backoff::new(MIN, MAX);
        assert_eq!(backoff.pause(Failure::TakenOver, 0.0), MAX / 2);
        assert_eq!(backoff.flaps(), 1);
        let _ = backoff.pause(Failure::Ended(MAX), 0.5);
        assert_eq!(backoff.flaps(), 0);
    }
}
