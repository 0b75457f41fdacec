//! The way of a permitted chat into the engine's queue.

use std::sync::Arc;

use super::finish::{Charge, Finisher};
use super::inbox::Begin;
use super::running::Run;
use super::{Admission, records};
use crate::auth::{self, Permitted};
use crate::engine::{Allowance, Job, Prompt, Slot};
use crate::prompt::{self, Action, AnswerReceiver, Finish, RequestId};
use crate::reason::{Refusal, RefuseReason};
use crate::time::{self, Timestamp};
use crate::{audit, identity};

/// A permitted, recorded, queued request and its answer. Dropping it cancels what still runs.
#[derive(Debug)]
pub struct Admitted {
    pub id: RequestId,
    /// The endpoint's client id: what `model` in the reply says.
    pub model: String,
    pub created: Timestamp,
    pub answer: AnswerReceiver,
}

impl Admission {
    /// Reserves (where no place was waited for), charges, records and queues. Runs to its end even
    /// when the caller leaves, so that no permit is recorded without its finish.
    pub(super) async fn admit(
        &self,
        permitted: Permitted,
        delivery: Option<(Begin, Slot, Run)>,
    ) -> Result<Admitted, Refusal> {
        let door = self.clone();
        let admitted = tokio::spawn(async move {
            let result = door.try_admit(&permitted, delivery).await;
            result.map_err(|refusal| door.refuse(&permitted, refusal))
        });
        admitted
            .await
            .unwrap_or_else(|_| Err(RefuseReason::Internal.into()))
    }

    async fn try_admit(
        &self,
        permitted: &Permitted,
        delivery: Option<(Begin, Slot, Run)>,
    ) -> Result<Admitted, Refusal> {
        if self.0.shutdown.is_draining() {
            return Err(RefuseReason::Draining.into());
        }
        let (slot, run, begin) = match delivery {
            Some((begin, slot, run)) => (slot, run, Some(begin)),
            None => {
                let principal = &permitted.grant().principal;
                let slot = self.0.engine.reserve(principal)?;
                (slot, self.0.running.enter(permitted.clone(), None), None)
            }
        };
        // Before the text is read: what is refused for its length has cost as much.
        self.take_turn(permitted)?;
        let rate = self.rate(permitted);
        let prompt = self.prepare(permitted, rate).await?;
        let charge = Charge::take(self, permitted, &prompt, rate)?;
        let attempt = begin.as_ref().map(Begin::attempt);
        let salt = identity::random::<16>();
        let commitment = audit::prompt_commitment(&salt, &prompt.tokens);
        let access = records::chat(permitted, &prompt, commitment, attempt);
        // A second attempt brings the proof that its first has used.
        let recognised = begin.as_ref().is_some_and(Begin::is_recognised);
        let proof = match recognised {
            true => None,
            false => self.claim_proof(permitted)?,
        };
        self.record(access, salt, begin, proof).await?;
        self.0.metrics.permitted(permitted);
        Ok(self.queue(slot, run, permitted.clone(), prompt, charge))
    }

    /// Tokens a minute that the principal may use.
    fn rate(&self, permitted: &Permitted) -> u32 {
        let default = || self.0.settings.load().tokens_per_minute;
        permitted.grant().tokens_per_minute.unwrap_or_else(default)
    }

    /// Renders and tokenises off the async threads: milliseconds of CPU for a long chat. The
    /// answer is cut to what the principal's limits leave, so that none is looked at too late.
    async fn prepare(&self, permitted: &Permitted, rate: u32) -> Result<Prompt, Refusal> {
        let engine = self.0.engine.clone();
        let request = Arc::clone(permitted.request());
        let endpoint = Arc::clone(permitted.endpoint());
        let allowed = allowance(permitted.grant().max_context, rate);
        let now = self.clock().effective();
        let prepared = tokio::task::spawn_blocking(move || match &request.action {
            Action::Chat(chat) => {
                let limit = endpoint.max_completion_tokens;
                engine.prepare(&endpoint.model, chat, limit, Some(allowed), now)
            }
            _ => Err(RefuseReason::Internal.into()),
        });
        prepared
            .await
            .unwrap_or_else(|_| Err(RefuseReason::Internal.into()))
    }

    fn queue(
        &self,
        slot: Slot,
        run: Run,
        permitted: Permitted,
        prompt: Prompt,
        charge: Charge,
    ) -> Admitted {
        let (sender, answer) = prompt::channel(self.0.settings.load().answer_buffer);
        let interrupt = run.interrupt.clone();
        // What was revoked since the decision may not have found it among what runs.
        let (snapshot, clock) = (self.snapshot(), self.clock());
        if let Err(reason) = auth::recheck(&permitted, &snapshot, &clock) {
            interrupt.raise(Finish::Revoked(reason));
        }
        let admitted = Admitted {
            id: permitted.request().id.clone(),
            model: permitted.endpoint().client_id.clone(),
            created: time::now(),
            answer,
        };
        let finisher = Finisher::new(self.clone(), run, charge, &permitted);
        slot.submit(Job {
            permitted,
            prompt,
            answer: sender,
            interrupt,
            done: Box::new(move |report| finisher.finish(report)),
        });
        admitted
    }
}

/// The lower of the token's own context and one minute's tokens, which is all that a bucket holds.
fn allowance(max_context: Option<u32>, rate: u32) -> Allowance {
    match max_context {
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
