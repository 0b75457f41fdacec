//! A token bucket per principal. Pure: time is a parameter.

use std::time::{Duration, Instant};

/// Tokens a minute for each principal, with a burst of one minute's worth. Bounded: the principals
/// that have been full longest are forgotten first.
#[derive(Debug)]
pub struct Quota {}

impl Quota {
    pub fn new(_max_principals: usize) -> Quota {
        todo!()
    }
    /// Takes `tokens`, or says how long until they are there. `per_minute` is the principal's rate.
    pub fn charge(
        &mut self,
        _key: &[u8; 32],
        _tokens: u32,
        _per_minute: u32,
        _now: Instant,
    ) -> Result<(), Duration> {
        todo!()
    }
    pub fn refund(&mut self, _key: &[u8; 32], _tokens: u32, _per_minute: u32, _now: Instant) {
        todo!()
    }
}
