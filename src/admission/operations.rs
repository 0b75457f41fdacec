//! What needs no engine: reads and cancels. Each principal has a rate for each kind of them; reads
//! are counted in the audit rather than recorded one by one, so that who looks often pushes nothing
//! out of it.

use std::sync::{Arc, PoisonError};

use super::{Admission, records};
use crate::audit::AuditError;
use crate::auth::{Credential, Decision, Permitted};
use crate::identity::digest;
use crate::prompt::{Action, Chat, Request};
use crate::reason::{Refusal, RefuseReason};
use crate::time;

/// Text for which a prompt takes one turn, in bytes. Rendering and tokenising take a second for
/// some hundred of them, answered or not.
const TURN: usize = 8 << 10;

impl Admission {
    /// Decides and records what needs no engine: model list, audit reading.
    pub async fn authorize(
        &self,
        credential: Credential,
        request: Request,
    ) -> Result<Permitted, Refusal> {
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
        correlation: &[u8],
        request: Request,
    ) -> Result<bool, Refusal> {
        let permitted = self.authorize(credential, request).await?;
        let principal = &permitted.grant().principal;
        Ok(self.0.running.cancel(principal, correlation))
    }

    /// Takes one of the administrator's turns to change something.
    pub fn take_admin_turn(&self, uid: u32) -> Result<(), Refusal> {
        let rate = self.0.settings.load().operations_per_minute;
        self.take(&digest(&[b"slmd admin", &uid.to_be_bytes()]), 1, rate)
    }

    /// Takes one of the principal's turns at this kind of request. To be called before anything is
    /// written for it.
    pub(super) fn take_turn(&self, permitted: &Permitted) -> Result<(), Refusal> {
        let settings = self.0.settings.load();
        let action = &permitted.request().action;
        let (turns, rate) = match action {
            Action::Chat(chat) => (turns(chat), settings.prompts_per_minute),
            _ => (1, settings.operations_per_minute),
        };
        let principal = permitted.grant().principal.key();
        let key = digest(&[b"slmd turn", &principal, action.as_str().as_bytes()]);
        // Whoever waits long enough may ask what takes a whole minute's turns.
        self.take(&key, turns.min(rate.max(1)), rate)
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
        let is_read = permitted.request().action.is_read();
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

/// A turn for each [`TURN`] that was begun.
fn turns(chat: &Chat) -> u32 {
    let bytes: usize = chat.messages.iter().map(|m| m.content.expose().len()).sum();
    u32::try_from(bytes / TURN).map_or(u32::MAX, |turns| turns.saturating_add(1))
}
