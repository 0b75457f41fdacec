//! What needs no engine: reads and cancels. Each principal has a rate for each kind of them; reads
//! are counted in the audit rather than recorded one by one, so that who looks often pushes nothing
//! out of it.

use std::sync::{Arc, PoisonError};

use super::{Admission, records};
use crate::audit::AuditError;
use crate::auth::{Credential, Decision, Permitted};
use crate::identity::digest;
use crate::prompt::{Cancel, Completion, Look, Operation, Request};
use crate::reason::{Refusal, RefuseReason};
use crate::time;

/// Text for which a prompt takes one turn, in bytes. Rendering and tokenising take a second for
/// some hundred of them, answered or not.
const TURN: usize = 8 << 10;

impl Admission {
    /// Decides and records a look.
    pub async fn authorize(
        &self,
        credential: Credential,
        request: Request<Look>,
    ) -> Result<Permitted, Refusal> {
        self.permit(credential, request.split().0).await
    }

    async fn permit(&self, credential: Credential, request: Request) -> Result<Permitted, Refusal> {
        let request = Arc::new(request);
        match self.decide_fresh(&credential, &request, None).await {
            Decision::Deny(denied) => Err(self.deny(&request, denied)),
            Decision::Permit(permitted) => match self.record_operation(&permitted).await {
                Ok(()) => {
                    self.0.metrics.permitted(&permitted);
                    Ok(permitted)
                }
                Err(refusal) => Err(self.refuse(&permitted, refusal)),
            },
        }
    }

    /// Stops the principal's own request with this correlation data, which runs or waits; says
    /// whether there was one.
    pub async fn cancel(
        &self,
        credential: Credential,
        request: Request<Cancel>,
    ) -> Result<bool, Refusal> {
        let (request, Cancel { correlation }) = request.split();
        let permitted = self.permit(credential, request).await?;
        let principal = &permitted.grant().principal;
        Ok(self.0.running.cancel(principal, &correlation))
    }

    /// Takes one of the administrator's turns to change something.
    pub fn take_admin_turn(&self, uid: u32) -> Result<(), Refusal> {
        let rate = self.0.settings.load().operations_per_minute;
        self.take(&digest(&[b"slmd admin", &uid.to_be_bytes()]), 1, rate)
    }

    /// Takes the principal's turns for a prompt, however it is put. To be called before anything is
    /// written for it.
    pub(super) fn take_prompt_turns(
        &self,
        permitted: &Permitted,
        completion: &Completion,
    ) -> Result<(), Refusal> {
        let rate = self.0.settings.load().prompts_per_minute;
        // Whoever waits long enough may ask what takes a whole minute's turns.
        let turns = turns(completion).min(rate.max(1));
        self.take(&turn_key(permitted, "prompt"), turns, rate)
    }

    /// Takes one of the principal's turns at this kind of request.
    fn take_turn(&self, permitted: &Permitted) -> Result<(), Refusal> {
        let rate = self.0.settings.load().operations_per_minute;
        let kind = permitted.request().asks.as_str();
        self.take(&turn_key(permitted, kind), 1, rate)
    }

    fn take(&self, key: &[u8; 32], count: u32, rate: u32) -> Result<(), Refusal> {
        let mut turns = self.0.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = turns.charge(key, count, rate, time::instant());
        taken.map_err(|wait| {
            let detail = format!("{rate} a minute allowed");
            let refusal = Refusal::new(RefuseReason::RateLimitExceeded).detail(detail);
            refusal.retry_after(wait)
        })
    }

    async fn record_operation(&self, permitted: &Permitted) -> Result<(), Refusal> {
        self.take_turn(permitted)?;
        let proof = self.claim_proof(permitted)?;
        let access = records::permitted(permitted);
        let log = self.0.log.clone();
        let is_read = matches!(permitted.request().asks, Operation::Look(_));
        let counted = is_read && log.count_read(&access, time::now());
        if counted && proof.is_none() {
            return Ok(());
        }
        let record = access.clone();
        self.commit(move || {
            if let Some(proof) = &proof {
                proof.write()?;
            }
            if !counted {
                log.append_read(record, time::now())?;
            }
            Ok::<_, AuditError>(())
        })
        .await?;
        if is_read && !counted {
            self.0.log.begin_counting(&access, time::now());
        }
        Ok(())
    }
}

/// One rate for each kind of request of a principal.
fn turn_key(permitted: &Permitted, kind: &str) -> [u8; 32] {
    let principal = permitted.grant().principal.key();
    digest(&[b"slmd turn", &principal, kind.as_bytes()])
}

/// A turn for each [`TURN`] that was begun.
fn turns(completion: &Completion) -> u32 {
    let bytes = completion.input.bytes();
    u32::try_from(bytes / TURN).map_or(u32::MAX, |turns| turns.saturating_add(1))
}
