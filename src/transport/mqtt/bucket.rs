//! A token bucket. Pure: time is a parameter.

use std::time::Instant;

#[derive(Debug)]
pub(super) struct Bucket {
    per_second: f64,
    burst: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    pub(super) fn new(per_second: u32, burst: u32, now: Instant) -> Bucket {
        Bucket {
            per_second: per_second.into(),
            burst: burst.into(),
            level: burst.into(),
            at: now,
        }
    }

    pub(super) fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.level = (self.level + passed * self.per_second).min(self.burst);
        self.at = now;
        let there = self.level >= 1.0;
        if there {
            self.level -= 1.0;
        }
        there
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn burst_then_rate() {
        let start = crate::time::instant();
        let mut bucket = Bucket::new(2, 3, start);
        let taken = |bucket: &mut Bucket, now| (0..9).filter(|_| bucket.take(now)).count();
        assert_eq!(taken(&mut bucket, start), 3);
        assert_eq!(taken(&mut bucket, start + Duration::from_secs(1)), 2);
        assert_eq!(taken(&mut bucket, start + Duration::from_secs(99)), 3);
        assert_eq!(taken(&mut bucket, start), 0, "a clock that steps back");
    }
}
