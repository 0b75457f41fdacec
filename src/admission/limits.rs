//! What a principal may use in a minute: turns, and tokens.

use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::Settings;
use crate::auth::Permitted;
use crate::digest::digest;
use crate::engine::{Allowance, Prompt};
use crate::prompt::{Completion, Usage};
use crate::quota::Quota;
use crate::reason::{Refusal, RefuseReason};
use crate::time;

/// Principals whose quota is remembered.
const PRINCIPALS: usize = 4096;
/// Principals' kinds of requests whose rate is remembered.
const TURNS: usize = 4 * PRINCIPALS;
/// Text for which a prompt takes one turn, in bytes. Rendering and tokenising take a second for
/// some hundred of them, answered or not.
const TURN: usize = 8 << 10;

type Key = [u8; 32];

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    settings: Arc<ArcSwap<Settings>>,
    tokens: Arc<Mutex<Quota>>,
    /// Requests rather than tokens.
    turns: Arc<Mutex<Quota>>,
}

/// Tokens taken from a principal's quota for one request: the prompt's and the most that the
/// answer may have. What wasn't used goes back when it is dropped.
#[must_use]
#[derive(Debug)]
pub(super) struct Charge {
    quota: Arc<Mutex<Quota>>,
    key: Key,
    taken: u32,
    per_minute: u32,
    used: u32,
}

impl Limits {
    pub(super) fn new(settings: Arc<ArcSwap<Settings>>) -> Limits {
        let of = |bound| Arc::new(Mutex::new(Quota::new(bound)));
        Limits {
            settings,
            tokens: of(PRINCIPALS),
            turns: of(TURNS),
        }
    }

    /// Takes one of the administrator's turns to change something.
    pub(super) fn take_admin_turn(&self, uid: u32) -> Result<(), Refusal> {
        let rate = self.settings.load().operations_per_minute;
        self.take(&digest(&[b"slmd admin", &uid.to_be_bytes()]), 1, rate)
    }

    /// Takes the principal's turns for a prompt, however it is put. To be called before anything is
    /// written for it.
    pub(super) fn take_prompt_turns(
        &self,
        permitted: &Permitted,
        completion: &Completion,
    ) -> Result<(), Refusal> {
        let rate = self.settings.load().prompts_per_minute;
        // Whoever waits long enough may ask what takes a whole minute's turns.
        let turns = turns(completion).min(rate.max(1));
        self.take(&turn_key(permitted, "prompt"), turns, rate)
    }

    /// Takes one of the principal's turns at this kind of request.
    pub(super) fn take_turn(&self, permitted: &Permitted) -> Result<(), Refusal> {
        let rate = self.settings.load().operations_per_minute;
        let kind = permitted.request().asks.as_str();
        self.take(&turn_key(permitted, kind), 1, rate)
    }

    /// Tokens that one request may have at most: the lower of the token's own context and one
    /// minute's, which is all that a bucket holds.
    pub(super) fn allowance(&self, permitted: &Permitted) -> Allowance {
        let rate = self.tokens_per_minute(permitted);
        match permitted.grant().max_context {
            Some(tokens) if tokens <= rate => Allowance {
                tokens,
                by: "the token allows",
            },
            _ => Allowance {
                tokens: rate,
                by: "the principal's limit a minute is",
            },
        }
    }

    /// Takes the tokens, or says when they will be there.
    pub(super) fn charge(&self, permitted: &Permitted, prompt: &Prompt) -> Result<Charge, Refusal> {
        let prompt_tokens = u32::try_from(prompt.tokens.len()).unwrap_or(u32::MAX);
        let most = prompt_tokens.saturating_add(prompt.max_completion_tokens);
        let key = permitted.grant().principal.key();
        self.charge_key(key, most, self.tokens_per_minute(permitted))
    }

    fn charge_key(&self, key: Key, taken: u32, per_minute: u32) -> Result<Charge, Refusal> {
        let charged = self
            .tokens
            .lock()
            .charge(&key, taken, per_minute, time::instant());
        charged.map_err(|wait| {
            let detail = format!("{taken} tokens asked for, {per_minute} a minute allowed");
            let refusal = Refusal::new(RefuseReason::QuotaExceeded).detail(detail);
            refusal.retry_after(wait)
        })?;
        Ok(Charge {
            quota: Arc::clone(&self.tokens),
            key,
            taken,
            per_minute,
            used: 0,
        })
    }

    fn tokens_per_minute(&self, permitted: &Permitted) -> u32 {
        let default = || self.settings.load().tokens_per_minute;
        let grant = permitted.grant();
        let rate = grant.tokens_per_minute.unwrap_or_else(default);
        rate.min(grant.tokens_per_minute_at_most.unwrap_or(u32::MAX))
    }

    fn take(&self, key: &Key, count: u32, rate: u32) -> Result<(), Refusal> {
        let taken = self.turns.lock().charge(key, count, rate, time::instant());
        taken.map_err(|wait| {
            let detail = format!("{rate} a minute allowed");
            let refusal = Refusal::new(RefuseReason::RateLimitExceeded).detail(detail);
            refusal.retry_after(wait)
        })
    }
}

impl Charge {
    pub(super) fn use_up(&mut self, usage: Usage) {
        self.used = usage.prompt_tokens.saturating_add(usage.completion_tokens);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let unused = self.taken.saturating_sub(self.used);
        self.quota
            .lock()
            .refund(&self.key, unused, self.per_minute, time::instant());
    }
}

/// One rate for each kind of request of a principal.
fn turn_key(permitted: &Permitted, kind: &str) -> Key {
    let principal = permitted.grant().principal.key();
    digest(&[b"slmd turn", &principal, kind.as_bytes()])
}

/// A turn for each [`TURN`] that was begun.
fn turns(completion: &Completion) -> u32 {
    let bytes = completion.input.bytes();
    u32::try_from(bytes / TURN).map_or(u32::MAX, |turns| turns.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = [7; 32];

    fn limits() -> Limits {
        Limits::new(Arc::new(ArcSwap::from_pointee(Settings::for_tests())))
    }

    #[test]
    fn a_used_up_bucket_says_when_the_tokens_are_there() {
        let limits = limits();
        let _all = limits.charge_key(KEY, 60, 60).unwrap();
        let refused = limits.charge_key(KEY, 20, 60).unwrap_err();
        let wait = refused.retry_after.unwrap().as_secs_f64();
        assert!(wait > 0.0 && wait <= 20.0, "{wait}");
        assert_eq!(refused.status(), 429);
    }

    #[test]
    fn what_was_not_used_goes_back_on_every_way_out() {
        let limits = limits();
        let mut used = limits.charge_key(KEY, 50, 60).unwrap();
        drop(limits.charge_key(KEY, 10, 60).unwrap());
        used.use_up(Usage {
            prompt_tokens: 20,
            completion_tokens: 10,
        });
        drop(used);
        let _rest = limits.charge_key(KEY, 30, 60).unwrap();
        limits.charge_key(KEY, 20, 60).unwrap_err();
    }

    #[test]
    fn an_administrator_has_so_many_turns() {
        let limits = limits();
        let rate = limits.settings.load().operations_per_minute;
        for _ in 0..rate {
            limits.take_admin_turn(0).unwrap();
        }
        let refused = limits.take_admin_turn(0).unwrap_err();
        assert_eq!(refused.reason, RefuseReason::RateLimitExceeded.into());
        limits.take_admin_turn(1000).unwrap();
    }
}
