//! What happens when an answer ends: the record, the refund, and room for the next.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::running::Run;
use super::{Admission, records};
use crate::auth::Permitted;
use crate::engine::{Prompt, Report};
use crate::identity::hex;
use crate::prompt::RequestId;
use crate::quota::Quota;
use crate::reason::{Refusal, RefuseReason};
use crate::{audit, time};

/// Called once by the engine thread.
pub(super) struct Finisher {
    door: Admission,
    run: Run,
    charge: Charge,
    request_id: RequestId,
    principal: audit::Tag,
    transport: &'static str,
}

impl Finisher {
    pub(super) fn new(
        door: Admission,
        run: Run,
        charge: Charge,
        permitted: &Permitted,
    ) -> Finisher {
        let request = permitted.request();
        Finisher {
            door,
            run,
            charge,
            request_id: request.id.own(),
            principal: records::tag(permitted),
            transport: request.origin.transport(),
        }
    }

    pub(super) fn finish(mut self, report: &Report) {
        let usage = report.outcome.usage;
        self.charge.used = usage.prompt_tokens.saturating_add(usage.completion_tokens);
        drop(self.run);
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
/// answer may have.
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
        per_minute: u32,
    ) -> Result<Charge, Refusal> {
        let prompt_tokens = u32::try_from(prompt.tokens.len()).unwrap_or(u32::MAX);
        let most = prompt_tokens.saturating_add(prompt.max_completion_tokens);
        let key = permitted.grant().principal.key();
        let mut quota = door.0.quota.lock().unwrap_or_else(PoisonError::into_inner);
        charge(&mut quota, &key, most, per_minute, time::instant())?;
        Ok(Charge {
            door: door.clone(),
            key,
            tokens: most,
            per_minute,
            used: 0,
        })
    }
}

/// Takes the tokens, or says when they will be there.
fn charge(
    quota: &mut Quota,
    key: &[u8; 32],
    tokens: u32,
    per_minute: u32,
    now: Instant,
) -> Result<(), Refusal> {
    let Err(wait) = quota.charge(key, tokens, per_minute, now) else {
        return Ok(());
    };
    let refusal = Refusal::new(RefuseReason::QuotaExceeded).detail(format!(
        "{tokens} tokens asked for, {per_minute} a minute allowed"
    ));
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
    fn a_used_up_bucket_says_when_the_tokens_are_there() {
        let (mut quota, now) = (Quota::new(8), time::instant());
        assert_eq!(charge(&mut quota, &KEY, 60, 60, now), Ok(()));
        let refused = charge(&mut quota, &KEY, 20, 60, now).unwrap_err();
        assert_eq!(refused.retry_after, Some(Duration::from_secs(20)));
        assert_eq!(refused.status(), 429);
    }
}
