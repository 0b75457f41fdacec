//! The way of one delivery: who asks, was it asked before, and what came of it.

use std::sync::Arc;
use std::time::Duration;

use super::entry::{Entry, FirstClock, Stage, StoredAnswer};
use super::shelf::{Claim, Inbox};
use super::waiting::Waits;
use crate::admission::pipeline::Place;
use crate::admission::{Admission, Admitted, Recorded};
use crate::auth::{Clock, Credential, Decision, Grant, NonceRule, Permitted, Principal};
use crate::delivery::memory::Next;
use crate::delivery::{Exact, Key, Question};
use crate::prompt::{Completion, Outcome, Request, RequestId};
use crate::reason::{Refusal, RefuseReason};
use crate::store::StoreError;
use crate::time::Timestamp;

/// How long a duplicate waits for a first run whose last message is on its way.
const ENDING: Duration = Duration::from_secs(10);

/// Pauses before what could not be written is tried again: a full disk may have been trimmed.
const WRITE_AGAIN: [Duration; 3] = [
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
];

/// Whether answers for this grant may go where the message wants them, and topic and token agree.
pub type ReplyCheck = Box<dyn FnOnce(&Grant) -> Result<(), Refusal> + Send>;

/// What an MQTT request brings beside its body.
pub struct Delivery {
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
    /// The same request is running already; its answer goes to the same topic.
    Running,
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
    begin: Begin,
    request_id: RequestId,
    model: String,
    created: Timestamp,
    claim: Claim,
}

/// What is written when a delivery begins.
#[derive(Debug, Clone)]
pub(in crate::admission) struct Begin {
    inbox: Inbox,
    key: Key,
    entry: Entry,
    /// This exact message, with its proof, has been admitted before.
    recognised: bool,
}

impl Admission {
    /// Admits a prompt that came by an at-least-once transport.
    pub async fn deliver(
        &self,
        credential: Credential,
        request: Request<Completion>,
        delivery: Delivery,
    ) -> Result<Delivered, Rejected> {
        let (request, completion) = request.split();
        let request = self.with_deadline(request);
        let prior = self.prior(&delivery).map_err(|error| {
            let (origin, id) = (request.origin.clone(), &request.id);
            let refusal = self.refuse_unread(origin, id, unavailable(&error));
            Rejected::of(Asker::Unknown, refusal)
        })?;
        let first_clock = prior.entry.as_ref().map(|entry| entry.clock.clone().into());
        let clock = first_clock.unwrap_or_else(|| self.0.decider.clock());
        let permitted = self.decide_as_at_first(credential, &request, &prior, &clock);
        let permitted = permitted.await?;
        let grant = Arc::clone(permitted.grant());
        let reject = |refusal| self.reject(&permitted, refusal);
        let key = match &delivery.question {
            Some(question) => question.of(&grant.principal.key()),
            None => prior.key.unwrap_or_else(Key::unique),
        };
        (delivery.check)(&grant).map_err(reject)?;
        let Some(claim) = self.claim_delivery(key).await else {
            return Ok(Delivered::Running);
        };
        let known = self.0.inbox.get(&key);
        let known = known.map_err(|error| reject(unavailable(&error)))?;
        let (attempts, answer, clock) = match known {
            Some(entry) => (entry.attempts, entry.stage.into_answer(), entry.clock),
            None => (0, None, FirstClock::new(&clock, &grant.principal)),
        };
        let attempt = match Next::of(attempts, answer) {
            Next::Attempt(attempt) => attempt,
            Next::Again(answer) => {
                return Ok(Delivered::Again(self.0.recorder.remembered(answer)));
            }
            Next::Exhausted => return Err(reject(RefuseReason::AttemptsExhausted.into())),
        };
        let begin = Begin {
            inbox: self.0.inbox.clone(),
            key,
            entry: Entry {
                stage: Stage::Begun,
                attempts: attempt,
                clock,
                touched: self.0.inbox.now(),
                message: delivery.message,
                owner: Some(grant.principal.key()),
            },
            recognised: prior.entry.is_some(),
        };
        let came = (delivery.correlation, delivery.size);
        self.run((permitted, completion), begin, came, claim).await
    }

    /// A redelivery is decided as at its first admission, when its nonce was checked.
    async fn decide_as_at_first(
        &self,
        mut credential: Credential,
        request: &Arc<Request>,
        prior: &Prior,
        clock: &Clock,
    ) -> Result<Permitted, Rejected> {
        if let Credential::Dpop { binding, .. } = &mut credential
            && prior.entry.is_some()
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

    /// `None`: it is running already, and the last message of its answer is still to come. Where
    /// that is on its way, whoever asks again may have missed it: the record of it is waited for.
    async fn claim_delivery(&self, key: Key) -> Option<Claim> {
        match self.0.inbox.claim(key) {
            Ok(claim) => Some(claim),
            Err(claimed) if claimed.ended(ENDING).await => self.0.inbox.claim(key).ok(),
            Err(_) => None,
        }
    }

    /// Waits for a place, and admits.
    async fn run(
        &self,
        (permitted, completion): (Permitted, Completion),
        begin: Begin,
        (correlation, size): (Option<Vec<u8>>, usize),
        claim: Claim,
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
        let slot = place
            .await
            .map_err(|refusal| self.reject(&permitted, refusal))?;
        let place = Place {
            slot,
            run,
            begin: Some(begin.clone()),
        };
        match self.admit(permitted, completion, Some(place)).await {
            Ok(admitted) => {
                let ticket = Ticket {
                    begin,
                    request_id: admitted.id.clone(),
                    model: admitted.model.clone(),
                    created: admitted.created,
                    claim,
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

    /// What is known of this exact message, before anybody has been verified.
    fn prior(&self, delivery: &Delivery) -> Result<Prior, StoreError> {
        let recognisable = delivery.redelivered || delivery.question.is_some();
        let begun = || self.0.inbox.begun_by(&delivery.message);
        let key = recognisable.then(begun).flatten();
        let entry = key.map(|key| self.0.inbox.get(&key)).transpose()?;
        Ok(Prior {
            key,
            entry: entry.flatten(),
        })
    }
}

/// What is known of this very message.
struct Prior {
    key: Option<Key>,
    entry: Option<Entry>,
}

impl Begin {
    pub(in crate::admission) fn attempt(&self) -> u32 {
        self.entry.attempts
    }

    pub(in crate::admission) fn is_recognised(&self) -> bool {
        self.recognised
    }

    /// Rides on the sync of the permit's record.
    pub(in crate::admission) fn write(&self) -> Result<(), StoreError> {
        self.inbox.put(&self.key, &self.entry)
    }
}

impl Ticket {
    /// The last message of the answer is about to be sent.
    pub fn ends(&self) {
        self.claim.ends();
    }

    /// Persists that the request is finished and answered. Durable when this returns; where it
    /// fails, in spite of being tried again, the request must stay unacknowledged.
    pub async fn answered(self, text: String, outcome: Outcome) -> Result<(), StoreError> {
        self.claim.ends();
        let stage = Stage::Answered(StoredAnswer {
            request_id: self.request_id.clone(),
            model: self.model.clone(),
            created: self.created,
            text,
            finish: outcome.finish,
            usage: outcome.usage,
        });
        let attempts = self.begin.entry.attempts;
        self.close(stage, attempts).await
    }

    /// Takes the attempt back: an orderly stop in mid-answer is no failed attempt. Durable when
    /// this returns.
    pub async fn released(self) -> Result<(), StoreError> {
        let attempts = self.begin.entry.attempts.saturating_sub(1);
        self.close(Stage::Begun, attempts).await
    }

    async fn close(self, stage: Stage, attempts: u32) -> Result<(), StoreError> {
        let entry = Entry {
            stage,
            attempts,
            touched: self.begin.inbox.now(),
            ..self.begin.entry.clone()
        };
        // The claim ends only when the entry is on record, or given up.
        let ticket = Arc::new(self);
        for pause in WRITE_AGAIN {
            match ticket.write(&entry).await {
                Ok(()) => return Ok(()),
                Err(error) => tracing::warn!(%error, "a delivery is to be recorded again"),
            }
            tokio::time::sleep(pause).await;
        }
        ticket.write(&entry).await
    }

    async fn write(self: &Arc<Ticket>, entry: &Entry) -> Result<(), StoreError> {
        let (ticket, entry) = (Arc::clone(self), entry.clone());
        let written = tokio::task::spawn_blocking(move || {
            ticket.begin.inbox.put_durably(&ticket.begin.key, &entry)
        });
        let lost = |_| Err(StoreError::Io("the writing task ended early".to_owned()));
        written.await.unwrap_or_else(lost)
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
