//! The way of one delivery: who asks, was it asked before, and what came of it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::MutexGuard;

use super::attempt::{Asked, Attempt, Next};
use super::entry::{Stage, StoredAnswer};
use super::waiting::Waits;
use crate::admission::pipeline::Place;
use crate::admission::{Admission, Admitted, Recorded, spans};
use crate::auth::{Clock, Credential, Decision, Grant, NonceRule, Permitted, Principal};
use crate::delivery::{Exact, Id, Key, Machine, Question};
use crate::link::Ack;
use crate::prompt::{Completion, Outcome, Request, RequestId};
use crate::reason::{Refusal, RefuseReason};
use crate::store::StoreError;
use crate::time::Timestamp;

/// Whether answers for this grant may go where the message wants them, and topic and token agree.
pub type ReplyCheck = Box<dyn FnOnce(&Grant) -> Result<(), Refusal> + Send>;

/// What an MQTT request brings beside its body.
pub struct Delivery {
    /// What its arrival is known by.
    pub id: Id,
    pub message: Exact,
    /// Without it only what the broker marks as redelivered is recognised.
    pub question: Option<Question>,
    /// Correlation Data or the 3.1.1 id.
    pub correlation: Option<Vec<u8>>,
    /// The broker's word that it sent this before (the DUP flag).
    pub redelivered: bool,
    /// Of the body, for the bound of what waits.
    pub size: usize,
    /// Called once the token is known to allow the request, and dropped where it doesn't.
    pub check: ReplyCheck,
}

#[derive(Debug)]
pub enum Delivered {
    /// Runs now. Call [`Ticket::ends`] before the final answer is sent and, when the broker has
    /// acknowledged that, [`Ticket::answered`] before acknowledging the request.
    Run(Admitted, Box<Ticket>),
    /// The same request is running already; its answer goes to the same topic, and whoever asks
    /// is acknowledged with it.
    Joined,
    /// Answered before: publish this again, then acknowledge.
    Again(Recorded<StoredAnswer>),
}

/// A refusal, and whom it concerns.
#[derive(Debug)]
pub struct Rejected {
    pub refusal: Recorded<Refusal>,
    pub asker: Asker,
}

/// What is known of whoever asks.
#[derive(Debug)]
pub enum Asker {
    /// Nothing was shown, or nothing that a realm has signed.
    Unknown,
    /// A token of this principal's was shown, which doesn't allow the request: it has expired, say.
    Signed(Principal),
    /// The token allows the request.
    Granted(Arc<Grant>),
}

/// Proof that a delivery is recorded as begun; consumed when it is answered. Dropped instead, a
/// redelivery counts as the second attempt.
#[derive(Debug)]
pub struct Ticket {
    attempt: Arc<Attempt>,
    request_id: RequestId,
    model: String,
    created: Timestamp,
}

impl Admission {
    /// What is under way by an at-least-once transport. Not to be held over a wait.
    pub fn deliveries(&self) -> MutexGuard<'_, Machine<Ack>> {
        self.0.inbox.machine()
    }

    /// Admits a prompt that came by an at-least-once transport.
    pub async fn deliver(
        &self,
        credential: Credential,
        request: Request<Completion>,
        delivery: Delivery,
    ) -> Result<Delivered, Rejected> {
        let (request, completion) = request.split();
        let request = self.with_deadline(request);
        let (message, question) = (delivery.message, delivery.question.as_ref());
        let inbox = &self.0.inbox;
        let recognised = inbox.recognise(&message, question, delivery.redelivered);
        let recognised = recognised.map_err(|error| {
            let (origin, id) = (request.origin.clone(), &request.id);
            let refusal = self.refuse_unread(origin, id, unavailable(&error));
            Rejected::of(Asker::Unknown, refusal)
        })?;
        let (began, clock) = match recognised {
            Some((key, first)) => (Some(key), first),
            None => (None, self.0.decider.clock()),
        };
        let recognised = began.is_some();
        let permitted = self.decide_as_at_first(credential, &request, recognised, &clock);
        let permitted = permitted.await?;
        let grant = Arc::clone(permitted.grant());
        let reject = |refusal| self.reject(&permitted, refusal);
        (delivery.check)(&grant).map_err(reject)?;
        let principal = &grant.principal;
        let asked = Asked {
            id: delivery.id,
            key: Key::of(question, began, &principal.key()),
            message,
            recognised,
            principal,
            clock: &clock,
        };
        let next = inbox.permitted(&asked).await;
        let attempt = match next.map_err(|error| reject(unavailable(&error)))? {
            Next::Run(attempt) => attempt,
            Next::Tell(answer) => {
                let answer = self.0.recorder.remembered(&permitted, answer);
                return Ok(Delivered::Again(answer));
            }
            Next::GiveUp => return Err(reject(RefuseReason::AttemptsExhausted.into())),
            Next::Join => {
                self.0.recorder.joined(&permitted);
                return Ok(Delivered::Joined);
            }
        };
        let came = (delivery.correlation, delivery.size);
        self.run((permitted, completion), attempt, came).await
    }

    /// A redelivery is decided as at its first admission, when its nonce was checked.
    async fn decide_as_at_first(
        &self,
        mut credential: Credential,
        request: &Arc<Request>,
        recognised: bool,
        clock: &Clock,
    ) -> Result<Permitted, Rejected> {
        if let Credential::Dpop { binding, .. } = &mut credential
            && recognised
        {
            binding.nonce = NonceRule::Checked;
        }
        let decider = &self.0.decider;
        match decider.decide(&credential, request, Some(clock)).await {
            Decision::Permit(permitted) => Ok(permitted),
            Decision::Deny(denied) => {
                let asker = Asker::signed(denied.principal.clone());
                let refusal = self.0.recorder.denied(request, denied);
                Err(Rejected::of(asker, refusal))
            }
        }
    }

    /// Whose token this is, whatever it allows. Records nothing.
    pub fn asker(&self, credential: &Credential, request: Request) -> Asker {
        let request = Arc::new(request);
        match self.0.decider.look(credential, &request, None) {
            Decision::Permit(permitted) => Asker::Granted(Arc::clone(permitted.grant())),
            Decision::Deny(denied) => Asker::signed(denied.principal),
        }
    }

    /// Waits for a place, and admits.
    async fn run(
        &self,
        (permitted, completion): (Permitted, Completion),
        attempt: Arc<Attempt>,
        (correlation, size): (Option<Vec<u8>>, usize),
    ) -> Result<Delivered, Rejected> {
        let run = self.0.running.enter(permitted.clone(), correlation);
        let grant = Arc::clone(permitted.grant());
        let waits = Waits {
            principal: grant.principal.clone(),
            size,
            run: &run,
        };
        let until = permitted
            .request()
            .deadline
            .unwrap_or_else(crate::time::instant);
        let (engine, shutdown) = (&self.0.engine, &self.0.shutdown);
        let place = self.0.waiting.place(waits, until, engine, shutdown);
        let trace = &permitted.request().trace;
        let reservation = spans::step(trace, "wait", place)
            .await
            .map_err(|refusal| self.reject(&permitted, refusal))?;
        let place = Place {
            reservation,
            run,
            attempt: Some(Arc::clone(&attempt)),
        };
        match self.admit(permitted, completion, Some(place)).await {
            Ok(admitted) => {
                let ticket = Ticket {
                    attempt,
                    request_id: admitted.id.clone(),
                    model: admitted.model.clone(),
                    created: admitted.created,
                };
                Ok(Delivered::Run(admitted, Box::new(ticket)))
            }
            Err(refusal) => Err(Rejected::of(Asker::Granted(grant), refusal)),
        }
    }

    fn reject(&self, permitted: &Permitted, refusal: Refusal) -> Rejected {
        let asker = Asker::Granted(Arc::clone(permitted.grant()));
        Rejected::of(asker, self.0.recorder.refused(permitted, refusal))
    }
}

impl Ticket {
    /// The last message of the answer is about to be sent.
    pub fn ends(&self) {
        self.attempt.ends();
    }

    /// Persists that the request is finished and answered. Durable when this returns; where it
    /// fails, in spite of being tried again, the request must stay unacknowledged.
    pub async fn answered(self, text: String, outcome: Outcome) -> Result<(), StoreError> {
        self.ends();
        let stage = Stage::Answered(StoredAnswer {
            request_id: self.request_id,
            model: self.model,
            created: self.created,
            text,
            finish: outcome.finish,
            usage: outcome.usage,
        });
        let attempts = self.attempt.number();
        self.attempt.close(stage, attempts).await
    }

    /// Takes the attempt back: an orderly stop in mid-answer is no failed attempt. Durable when
    /// this returns.
    pub async fn released(self) -> Result<(), StoreError> {
        let attempts = self.attempt.number().saturating_sub(1);
        self.attempt.close(Stage::Begun, attempts).await
    }
}

impl Asker {
    fn signed(principal: Option<Principal>) -> Asker {
        principal.map_or(Asker::Unknown, Asker::Signed)
    }
}

impl Rejected {
    fn of(asker: Asker, refusal: Recorded<Refusal>) -> Rejected {
        Rejected { refusal, asker }
    }
}

fn unavailable(error: &StoreError) -> Refusal {
    tracing::error!(%error, "deliveries can't be looked up");
    Refusal::new(RefuseReason::AuditUnavailable).retry_after(Duration::from_secs(5))
}
