//! The way of one delivery: who asks, was it asked before, and what came of it.

use std::sync::Arc;
use std::time::Duration;

use super::Owner;
use super::entry::{Entry, FirstClock, State, StoredAnswer};
use super::shelf::{Busy, Inbox};
use super::waiting::Waits;
use crate::admission::running::Run;
use crate::admission::{Admission, Admitted};
use crate::auth::{Credential, Decision, Grant, NonceRule, Permitted, Principal};
use crate::identity::{digest, random};
use crate::prompt::{Outcome, Request, RequestId};
use crate::reason::{Refusal, RefuseReason};
use crate::store::StoreError;
use crate::time::Timestamp;

/// A request that is begun twice and not finished isn't tried again.
const MOST_ATTEMPTS: u32 = 2;

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
    /// Response Topic, or the 3.1.1 form's answer prefix.
    pub reply_to: String,
    /// Correlation Data or the 3.1.1 id; without it only what the broker marks as redelivered is
    /// recognised.
    pub correlation: Option<Vec<u8>>,
    /// SHA-256 of the body without `authorization`.
    pub body_hash: [u8; 32],
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
    Again(StoredAnswer),
}

/// A refusal, and whom it concerns.
#[derive(Debug)]
pub struct Rejected {
    pub refusal: Refusal,
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
    busy: Busy,
}

/// What is written when a delivery begins.
#[derive(Debug, Clone)]
pub(in crate::admission) struct Begin {
    inbox: Inbox,
    key: [u8; 32],
    entry: Entry,
    /// This exact message, with its proof, has been admitted before.
    recognised: bool,
}

impl Admission {
    /// Admits a chat that came by an at-least-once transport.
    pub async fn deliver(
        &self,
        mut credential: Credential,
        request: Request,
        delivery: Delivery,
    ) -> Result<Delivered, Rejected> {
        let request = self.with_deadline(request);
        let prior = self.prior(&credential, &delivery);
        let prior = prior.map_err(|e| Rejected::of(Asker::Unknown, unavailable(&e)))?;
        let recognised = prior.entry.is_some();
        let first_clock = prior.entry.as_ref().map(|entry| entry.clock.clone().into());
        let clock = first_clock.unwrap_or_else(|| self.clock());
        if recognised {
            waive_nonce(&mut credential);
        }
        let decision = self.decide_fresh(&credential, &request, Some(&clock));
        let permitted = match decision.await {
            Decision::Permit(permitted) => permitted,
            Decision::Deny(denied) => {
                let asker = Asker::signed(denied.principal.clone());
                return Err(Rejected::of(asker, self.deny(&request, denied)));
            }
        };
        let grant = Arc::clone(permitted.grant());
        let reject = |refusal| {
            let asker = Asker::Granted(Arc::clone(&grant));
            Rejected::of(asker, self.refuse(&permitted, refusal))
        };
        let key = prior.key_for(&grant, &delivery);
        (delivery.check)(&grant).map_err(reject)?;
        let Some(busy) = self.claim(key).await else {
            return Ok(Delivered::Running);
        };
        let known = self
            .0
            .inbox
            .get(&key)
            .map_err(|e| reject(unavailable(&e)))?;
        let begin = match known.map(|entry| (entry.state, entry.attempts, entry.clock)) {
            Some((State::Answered(answer), ..)) => return Ok(Delivered::Again(answer)),
            Some((State::Begun, attempts, _)) if attempts >= MOST_ATTEMPTS => {
                return Err(reject(RefuseReason::AttemptsExhausted.into()));
            }
            Some((State::Begun, attempts, clock)) => (attempts + 1, clock),
            None => (1, FirstClock::new(&clock, &grant.principal)),
        };
        let owner = grant.principal.key();
        let begin = Begin {
            inbox: self.0.inbox.clone(),
            key,
            entry: prior.begin(owner, begin, self.0.inbox.now()),
            recognised,
        };
        let run = self
            .0
            .running
            .enter(permitted.clone(), delivery.correlation);
        self.run(permitted, begin, (run, delivery.size), busy).await
    }

    /// Whose token this is, whatever it allows. Records nothing.
    pub fn asker(&self, credential: &Credential, request: Request) -> Asker {
        let (snapshot, clock) = (self.snapshot(), self.clock());
        let request = Arc::new(request);
        match self.0.cache.decide(credential, &request, &snapshot, &clock) {
            Decision::Permit(permitted) => Asker::Granted(Arc::clone(permitted.grant())),
            Decision::Deny(denied) => Asker::signed(denied.principal),
        }
    }

    /// `None`: it is running already, and the last message of its answer is still to come. Where
    /// that is on its way, whoever asks again may have missed it: the record of it is waited for.
    async fn claim(&self, key: [u8; 32]) -> Option<Busy> {
        match self.0.inbox.claim(key) {
            Ok(busy) => Some(busy),
            Err(claimed) if claimed.ended(ENDING).await => self.0.inbox.claim(key).ok(),
            Err(_) => None,
        }
    }

    /// Waits for a place, and admits.
    async fn run(
        &self,
        permitted: Permitted,
        begin: Begin,
        (run, size): (Run, usize),
        busy: Busy,
    ) -> Result<Delivered, Rejected> {
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
        let slot = match place.await {
            Ok(slot) => slot,
            Err(refusal) => {
                let refusal = self.refuse(&permitted, refusal);
                return Err(Rejected::of(Asker::Granted(grant), refusal));
            }
        };
        match self
            .admit(permitted, Some((begin.clone(), slot, run)))
            .await
        {
            Ok(admitted) => {
                let ticket = Ticket {
                    begin,
                    request_id: admitted.id.clone(),
                    model: admitted.model.clone(),
                    created: admitted.created,
                    busy,
                };
                Ok(Delivered::Run(admitted, Box::new(ticket)))
            }
            Err(refusal) => Err(Rejected::of(Asker::Granted(grant), refusal)),
        }
    }

    /// What is known of this exact message, before anybody has been verified.
    fn prior(&self, credential: &Credential, delivery: &Delivery) -> Result<Prior, StoreError> {
        let attempt_key = attempt_key(credential, delivery);
        let recognisable = delivery.redelivered || delivery.correlation.is_some();
        let mut prior = Prior {
            attempt_key,
            key: None,
            entry: None,
        };
        if recognisable {
            prior.key = self.0.inbox.by_attempt(&attempt_key);
        }
        if let Some(key) = &prior.key {
            prior.entry = self.0.inbox.get(key)?;
        }
        Ok(prior)
    }
}

/// What is known of a message by its attempt key.
struct Prior {
    attempt_key: [u8; 32],
    key: Option<[u8; 32]>,
    entry: Option<Entry>,
}

impl Prior {
    /// The duplicate key: of principal, Response Topic, correlation and body. Without correlation
    /// nothing is a duplicate, but a redelivery is found by its attempt.
    fn key_for(&self, grant: &Grant, delivery: &Delivery) -> [u8; 32] {
        let Some(correlation) = &delivery.correlation else {
            return self.key.unwrap_or_else(random);
        };
        let principal = &grant.principal;
        digest(&[
            b"slmd duplicate",
            principal.issuer.as_bytes(),
            principal.subject.as_bytes(),
            principal.client.as_bytes(),
            delivery.reply_to.as_bytes(),
            correlation,
            &delivery.body_hash,
        ])
    }

    fn begin(
        &self,
        owner: Owner,
        (attempts, clock): (u32, FirstClock),
        touched: Timestamp,
    ) -> Entry {
        Entry {
            state: State::Begun,
            attempts,
            clock,
            touched,
            attempt_key: self.attempt_key,
            owner: Some(owner),
        }
    }
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
        self.busy.ends();
    }

    /// Persists that the request is finished and answered. Durable when this returns; where it
    /// fails, in spite of being tried again, the request must stay unacknowledged.
    pub async fn answered(self, text: String, outcome: Outcome) -> Result<(), StoreError> {
        self.busy.ends();
        let state = State::Answered(StoredAnswer {
            request_id: self.request_id.clone(),
            model: self.model.clone(),
            created: self.created,
            text,
            finish: outcome.finish,
            usage: outcome.usage,
        });
        let attempts = self.begin.entry.attempts;
        self.close(state, attempts).await
    }

    /// Takes the attempt back: an orderly stop in mid-answer is no failed attempt. Durable when
    /// this returns.
    pub async fn released(self) -> Result<(), StoreError> {
        let attempts = self.begin.entry.attempts.saturating_sub(1);
        self.close(State::Begun, attempts).await
    }

    async fn close(self, state: State, attempts: u32) -> Result<(), StoreError> {
        let entry = Entry {
            state,
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
    fn of(asker: Asker, refusal: Refusal) -> Rejected {
        Rejected { refusal, asker }
    }
}

/// A redelivery is decided as at its first admission, when its nonce was checked.
fn waive_nonce(credential: &mut Credential) {
    if let Credential::Dpop { binding, .. } = credential {
        binding.nonce = NonceRule::Checked;
    }
}

/// Of token and proof too: with another of either it is another attempt, which is judged anew.
fn attempt_key(credential: &Credential, delivery: &Delivery) -> [u8; 32] {
    let proof = match credential {
        Credential::Dpop { proof, .. } => proof.expose().as_bytes(),
        _ => b"",
    };
    let token = match credential {
        Credential::Bearer(token) | Credential::Dpop { token, .. } => token.expose().as_bytes(),
        Credential::None | Credential::LocalPeer { .. } => b"",
    };
    digest(&[
        b"slmd attempt",
        token,
        proof,
        delivery.reply_to.as_bytes(),
        delivery.correlation.as_deref().unwrap_or_default(),
        &delivery.body_hash,
    ])
}

fn unavailable(error: &StoreError) -> Refusal {
    tracing::error!(%error, "deliveries can't be looked up");
    Refusal::new(RefuseReason::AuditUnavailable).retry_after(Duration::from_secs(5))
}
