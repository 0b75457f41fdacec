//! A token bucket per principal. Pure: time is a parameter.
//!
//! A bucket is kept as the one instant at which it will be full again (the "virtual scheduling"
//! form of the generic cell rate algorithm, ITU-T I.371), so nothing has to be refilled, a full
//! bucket needs no memory at all, and a clock that stands still or steps back can only cost
//! tokens, never give any.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// The burst is what this much time brings.
const BURST: Duration = Duration::from_secs(60);

type Key = [u8; 32];

/// Tokens a minute for each principal, with a burst of one minute's worth. Bounded: the principals
/// that have been full longest are forgotten first; where none is full, those nearest to it.
#[derive(Debug)]
pub struct Quota {
    max_principals: usize,
    full_at: HashMap<Key, Instant>,
    /// The same pairs in the order of forgetting.
    by_time: BTreeSet<(Instant, Key)>,
}

impl Quota {
    pub fn new(max_principals: usize) -> Quota {
        Quota {
            // With none remembered, nobody would ever be out of tokens.
            max_principals: max_principals.max(1),
            full_at: HashMap::new(),
            by_time: BTreeSet::new(),
        }
    }

    /// Takes `tokens`, or says how long until they are there. `per_minute` is the principal's rate.
    /// More than a minute's worth is never there: the wait is `Duration::MAX`.
    pub fn charge(
        &mut self,
        key: &Key,
        tokens: u32,
        per_minute: u32,
        now: Instant,
    ) -> Result<(), Duration> {
        if tokens == 0 {
            return Ok(());
        }
        if tokens > per_minute {
            return Err(Duration::MAX);
        }
        let cost = Duration::from_nanos(nanos(tokens, per_minute, u128::div_ceil));
        let missing = self.missing(key, now).saturating_add(cost);
        if missing > BURST {
            return Err(missing - BURST);
        }
        let full_at = now.checked_add(missing).ok_or(Duration::MAX)?;
        self.set(key, full_at);
        Ok(())
    }

    /// Gives back what a charge took and nobody used. Never more than a full bucket.
    pub fn refund(&mut self, key: &Key, tokens: u32, per_minute: u32, now: Instant) {
        if per_minute == 0 || !self.full_at.contains_key(key) {
            return;
        }
        let credit = Duration::from_nanos(nanos(tokens, per_minute, u128::div_euclid));
        let left = self.missing(key, now).saturating_sub(credit);
        if let Some(full_at) = now.checked_add(left) {
            self.set(key, full_at);
        }
    }

    /// How long until the bucket is full.
    fn missing(&self, key: &Key, now: Instant) -> Duration {
        let full_at = self.full_at.get(key);
        full_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }

    fn set(&mut self, key: &Key, full_at: Instant) {
        if let Some(old) = self.full_at.remove(key) {
            self.by_time.remove(&(old, *key));
        } else if self.full_at.len() >= self.max_principals
            && let Some((_, forgotten)) = self.by_time.pop_first()
        {
            self.full_at.remove(&forgotten);
        }
        self.full_at.insert(*key, full_at);
        self.by_time.insert((full_at, *key));
    }
}

/// The nanoseconds that bring `tokens`. Charges round up and refunds down, so that no sequence of
/// them gains anything.
fn nanos(tokens: u32, per_minute: u32, divide: fn(u128, u128) -> u128) -> u64 {
    let nanos = divide(
        u128::from(tokens) * BURST.as_nanos(),
        u128::from(per_minute),
    );
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::time::instant;

    const KEY: Key = [7; 32];

    #[test]
    fn burst_then_rate() {
        let (mut quota, start) = (Quota::new(8), instant());
        assert_eq!(quota.charge(&KEY, 60, 60, start), Ok(()));
        let second = Duration::from_secs(1);
        assert_eq!(quota.charge(&KEY, 1, 60, start), Err(second));
        assert_eq!(quota.charge(&KEY, 1, 60, start + second), Ok(()));
        assert_eq!(quota.charge(&KEY, 61, 60, start), Err(Duration::MAX));
        assert_eq!(quota.charge(&KEY, 1, 0, start), Err(Duration::MAX));
        assert_eq!(quota.charge(&[8; 32], 60, 60, start), Ok(()));
    }

    #[test]
    fn full_buckets_are_forgotten_first() {
        let (mut quota, start) = (Quota::new(2), instant());
        let later = start + Duration::from_secs(30);
        quota.charge(&[1; 32], 60, 60, start).unwrap();
        quota.charge(&[2; 32], 1, 60, start).unwrap();
        quota.charge(&[3; 32], 60, 60, later).unwrap();
        assert_eq!(quota.full_at.len(), 2);
        assert!(quota.charge(&[1; 32], 60, 60, later).is_err());
        assert!(quota.charge(&[3; 32], 1, 60, later).is_err());
    }

    #[test]
    fn even_a_quota_without_room_holds() {
        let (mut quota, start) = (Quota::new(0), instant());
        assert!(quota.charge(&KEY, 9, 9, start).is_ok());
        assert!(quota.charge(&KEY, 1, 9, start).is_err());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Charge(u32),
        /// Gives back so much of what was charged and not yet given back.
        Refund(u32),
        /// The clock jumps to this many milliseconds after the start.
        Jump(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..2000u32).prop_map(Step::Charge),
            any::<u32>().prop_map(Step::Charge),
            (0..2000u32).prop_map(Step::Refund),
            (0..600_000u64).prop_map(Step::Jump),
        ]
    }

    proptest! {
        /// Whatever the order of charges, refunds and jumps of the clock: what was taken for good
        /// is at most a burst and what the longest time seen has brought.
        #[test]
        fn nothing_is_gained(rate in 1..5000u32, steps in prop::collection::vec(step(), 0..60)) {
            let (mut quota, start) = (Quota::new(1), instant());
            let (mut now, mut latest) = (0u64, 0u64);
            let mut taken = 0u64;
            for step in steps {
                let at = start + Duration::from_millis(now);
                match step {
                    Step::Charge(n) if quota.charge(&KEY, n, rate, at).is_ok() => taken += u64::from(n),
                    Step::Charge(_) => {}
                    Step::Refund(n) => {
                        let n = u32::try_from(u64::from(n).min(taken)).unwrap();
                        quota.refund(&KEY, n, rate, at);
                        taken -= u64::from(n);
                    }
                    Step::Jump(to) => now = to,
                }
                latest = latest.max(now);
                prop_assert!(taken * 60_000 <= u64::from(rate) * (60_000 + latest));
            }
        }

        /// The wait that a refusal names is enough, and no shorter one is.
        #[test]
        fn the_wait_is_exact(rate in 1..100_000u32, first in 0..100_000u32, then in 1..100_000u32) {
            let (mut quota, start) = (Quota::new(1), instant());
            let _ = quota.charge(&KEY, first.min(rate), rate, start);
            if let Err(wait) = quota.charge(&KEY, then.min(rate), rate, start) {
                let almost = start + wait - Duration::from_nanos(1);
                prop_assert!(quota.charge(&KEY, then.min(rate), rate, almost).is_err());
                prop_assert!(quota.charge(&KEY, then.min(rate), rate, start + wait).is_ok());
            }
        }

        /// A refund beyond what was charged fills the bucket and no more.
        #[test]
        fn a_refund_stops_at_full(rate in 1..1000u32, back in any::<u32>()) {
            let (mut quota, start) = (Quota::new(1), instant());
            quota.charge(&KEY, 1, rate, start).unwrap();
            quota.refund(&KEY, back, rate, start);
            quota.refund(&KEY, back, 1, start);
            let _ = quota.charge(&KEY, rate, rate, start);
            prop_assert!(quota.charge(&KEY, 1, rate, start).is_err());
        }
    }
}
