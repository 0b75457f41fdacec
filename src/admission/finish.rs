//! What happens when an answer ends: the record, the refund, and room for the next.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::running::RunKey;
use super::{Admission, records};
use crate::auth::Permitted;
use crate::engine::{Prompt, Report};
use crate::identity::{digest, hex};
use crate::prompt::RequestId;
use crate::quota::Quota;
use crate::reason::{Refusal, RefuseReason};
use crate::{audit, time};

/// Called once by the engine thread.
pub(super) struct Finisher {
    door: Admission,
    key: RunKey,
    charge: Charge,
    request_id: RequestId,
    principal: audit::Tag,
    transport: &'static str,
}

impl Finisher {
    pub(super) fn new(
        door: Admission,
        key: RunKey,
        charge: Charge,
        permitted: &Permitted,
    ) -> Finisher {
        let request = permitted.request();
        Finisher {
            door,
            key,
            charge,
            request_id: request.id.own(),
            principal: records::tag(permitted),
            transport: request.origin.transport(),
        }
    }

    pub(super) fn finish(mut self, report: &Report) {
        let usage = report.outcome.usage;
        self.charge.used = usage.prompt_tokens.saturating_add(usage.completion_tokens);
        self.door.0.running.end(self.key);
        let finish = report.outcome.finish;
        self.door.0.metrics.finished(self.transport, finish);
        let record = audit::Finished {
            request_id: self.request_id,
            principal: Some(self.principal),
            finish,
            usage,
            answer_hash: hex(&report.answer_hash),
            queue_ms: millis(report.queued),
            first_token_ms: report.first_token.map(millis),
            total_ms: millis(report.total),
        };
        if let Err(error) = self.door.0.log.finish(record, time::now()) {
            // The permit is on record, so the access isn't hidden; the operator must know.
            tracing::error!(%error, "a finish could not be recorded");
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Tokens taken from a principal's quota for one request: the prompt's and the most that the
/// answer may have, but never more than the bucket holds.
pub(super) struct Charge {
    door: Admission,
    key: [u8; 32],
    tokens: u32,
    per_minute: u32,
    used: u32,
}

impl Charge {
    pub(super) fn take(
        door: &Admission,
        permitted: &Permitted,
        prompt: &Prompt,
    ) -> Result<Charge, Refusal> {
        let grant = permitted.grant();
        let default = door.0.settings.load().tokens_per_minute;
        let per_minute = grant.tokens_per_minute.unwrap_or(default);
        let prompt_tokens = u32::try_from(prompt.tokens.len()).unwrap_or(u32::MAX);
        let most = prompt_tokens.saturating_add(prompt.max_completion_tokens);
        let principal = &grant.principal;
        let key = digest(&[
            principal.issuer.as_bytes(),
            principal.subject.as_bytes(),
            principal.client.as_bytes(),
        ]);
        let mut quota = door.0.quota.lock().unwrap_or_else(PoisonError::into_inner);
        let tokens = charge(&mut quota, &key, most, per_minute, time::instant())?;
        Ok(Charge {
            door: door.clone(),
            key,
            tokens,
            per_minute,
            used: 0,
        })
    }
}

/// Takes `most` tokens, or a whole bucket where they are more than that; returns how many.
fn charge(
    quota: &mut Quota,
    key: &[u8; 32],
    most: u32,
    per_minute: u32,
    now: Instant,
) -> Result<u32, Refusal> {
    // Of nothing a minute, not even nothing is to be had.
    let tokens = most.min(per_minute).max(1);
    let Err(wait) = quota.charge(key, tokens, per_minute, now) else {
        return Ok(tokens);
    };
    let refusal = Refusal::new(RefuseReason::QuotaExceeded).detail(format!(
        "{tokens} tokens asked for, {per_minute} a minute allowed"
    ));
    // What never comes isn't worth waiting for.
    if wait == Duration::MAX {
        return Err(refusal);
    }
    Err(refusal.retry_after(wait))
}

/// What wasn't used goes back, on every way out.
impl Drop for Charge {
    fn drop(&mut self) {
        let unused = self.tokens.saturating_sub(self.used);
        let mut quota = self
            .door
            .0
            .quota
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        quota.refund(&self.key, unused, self.per_minute, time::instant());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [7; 32];

    #[test]
    fn a_large_request_takes_a_whole_bucket_and_says_when_the_next_is_full() {
        let (mut quota, now) = (Quota::new(8), time::instant());
        assert_eq!(charge(&mut quota, &KEY, 5000, 60, now), Ok(60));
        let refused = charge(&mut quota, &KEY, 5000, 60, now).unwrap_err();
        assert_eq!(refused.retry_after, Some(Duration::from_secs(60)));
        assert_eq!(refused.status(), 429);
    }

    #[test]
    fn of_nothing_a_minute_nothing_is_given_and_no_wait_is_told() {
        let (mut quota, now) = (Quota::new(8), time::instant());
        for most in [0, 1, 5000, u32::MAX] {
            let refused = charge(&mut quota, &KEY, most, 0, now).unwrap_err();
            assert_eq!((refused.status(), refused.retry_after), (429, None));
        }
    }
}
