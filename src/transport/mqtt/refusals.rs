//! How often a refusal may be told where nothing bounds what comes: to whom no token vouches for,
//! and for what came at QoS 0. Pure: time is a parameter.
//!
//! Whoever may publish on a request topic can ask for refusals, so they are few: a share for each
//! principal whose signature was verified (its token has expired, say), one for each client that
//! is merely alleged, and a bound for all of these. So a flood without tokens spends what it and
//! its like have, and a device whose token has just expired is told so all the same.

use std::time::Instant;

use crate::auth::Principal;
use crate::digest::digest;
use crate::quota::Quota;

/// Refusals a minute, and at once, that one principal may be told.
const SIGNED: u32 = 120;
/// The same for one alleged client.
const ALLEGED: u32 = 15;
/// Refusals a second for all alleged clients together, and at once.
const ALL_ALLEGED: (u32, u32) = (5, 60);
/// Principals, and alleged clients, that are remembered.
const REMEMBERED: usize = 256;

/// Whom a refusal concerns.
#[derive(Debug, Clone, Copy)]
pub(super) enum Whose<'a> {
    Signed(&'a Principal),
    /// As the Response Topic has it.
    Alleged(&'a str),
}

#[derive(Debug)]
pub(super) struct Refusals {
    signed: Quota,
    alleged: Quota,
    all_alleged: Bucket,
}

impl Refusals {
    pub(super) fn new(now: Instant) -> Refusals {
        Refusals {
            signed: Quota::new(REMEMBERED),
            alleged: Quota::new(REMEMBERED),
            all_alleged: Bucket::new(ALL_ALLEGED.0, ALL_ALLEGED.1, now),
        }
    }

    /// Whether one more may be told; if so, it counts.
    pub(super) fn take(&mut self, whose: Whose<'_>, now: Instant) -> bool {
        match whose {
            Whose::Signed(principal) => {
                self.signed.charge(&principal.key(), 1, SIGNED, now).is_ok()
            }
            Whose::Alleged(client) => {
                let key = digest(&[client.as_bytes()]);
                // The own share first: what it holds back costs the others nothing.
                self.alleged.charge(&key, 1, ALLEGED, now).is_ok() && self.all_alleged.take(now)
            }
        }
    }
}

/// A token bucket.
#[derive(Debug)]
struct Bucket {
    per_second: f64,
    burst: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    fn new(per_second: u32, burst: u32, now: Instant) -> Bucket {
        Bucket {
            per_second: per_second.into(),
            burst: burst.into(),
            level: burst.into(),
            at: now,
        }
    }

    fn take(&mut self, now: Instant) -> bool {
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

    /// Fifty messages a second without a token, for a minute, under one name or under many.
    #[test]
    fn a_flood_spends_its_own() {
        let start = crate::time::instant();
        let device = Principal {
            issuer: "i".to_owned(),
            subject: "s".to_owned(),
            client: "device-1".to_owned(),
        };
        for names in [1, 1000] {
            let mut refusals = Refusals::new(start);
            let (mut told, mut expired, mut newcomers) = (0, 0, 0);
            for n in 0..3000_u32 {
                let now = start + Duration::from_millis(20) * n;
                let flooder = format!("flooder-{}", n % names);
                told += u32::from(refusals.take(Whose::Alleged(&flooder), now));
                if n % 300 == 299 {
                    expired += u32::from(refusals.take(Whose::Signed(&device), now));
                    let newcomer = format!("newcomer-{n}");
                    newcomers += u32::from(refusals.take(Whose::Alleged(&newcomer), now));
                }
            }
            assert_eq!(expired, 10, "its signature was verified");
            if names == 1 {
                assert_eq!(newcomers, 10, "before the flooder");
                assert!(told <= 2 * ALLEGED, "{told}");
            }
            assert!(told <= 60 + 5 * 60, "{told}");
        }
    }
}
