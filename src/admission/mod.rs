//! The single door: decide → reserve → charge → record → queue, for every transport alike.

use std::sync::Arc;
use std::time::Duration;

use crate::auth::{Credential, Grant, Permitted};
use crate::prompt::{AnswerReceiver, Interrupt, Outcome, Request, RequestId};
use crate::reason::Refusal;
use crate::time::Timestamp;

#[derive(Debug, Clone)]
pub struct Settings {
    /// Pieces of text that may wait for a slow reader.
    pub answer_buffer: usize,
    /// Applied where a request brings no deadline.
    pub default_deadline: Duration,
    /// How long an answered MQTT request is recognised when it comes again.
    pub duplicate_window: Duration,
    /// Answered MQTT requests remembered for that.
    pub duplicates: usize,
    /// Tokens a minute for a principal whose realm and token say nothing.
    pub tokens_per_minute: u32,
}

/// The door. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Admission {}

/// A permitted, recorded, queued request and its answer. Dropping it cancels what still runs.
#[derive(Debug)]
pub struct Admitted {
    pub id: RequestId,
    /// The endpoint's client id: what `model` in the reply says.
    pub model: String,
    pub created: Timestamp,
    pub answer: AnswerReceiver,
    pub interrupt: Interrupt,
}

/// What an MQTT request brings beside its body.
pub struct Delivery {
    /// Response Topic, or the 3.1.1 form's answer prefix.
    pub reply_to: String,
    /// Correlation Data or the 3.1.1 id; without it nothing counts as a duplicate.
    pub correlation: Option<Vec<u8>>,
    /// SHA-256 of the body without `authorization`.
    pub body_hash: [u8; 32],
    /// Whether answers for this grant may go to `reply_to`, and topic and token agree.
    pub check: Box<dyn FnOnce(&Grant) -> Result<(), Refusal> + Send>,
}

pub enum Delivered {
    /// Runs now. When the final answer is acknowledged by the broker, call [`Ticket::answered`]
    /// before acknowledging the request.
    Run(Admitted, Ticket),
    /// The same request is running already; its answer goes to the same topic. Acknowledge.
    Running,
    /// Answered before: publish this again, then acknowledge.
    Again(StoredAnswer),
}

/// A refusal, and whom it concerns once the token is verified.
#[derive(Debug)]
pub struct Rejected {
    pub refusal: Refusal,
    pub grant: Option<Arc<Grant>>,
}

/// Proof that a delivery is recorded as begun; consumed when it is answered.
#[derive(Debug)]
pub struct Ticket {}

/// The first run's answer, for a duplicate.
#[derive(Debug, Clone)]
pub struct StoredAnswer {
    pub request_id: RequestId,
    pub model: String,
    pub created: Timestamp,
    pub text: String,
    pub outcome: Outcome,
}

impl Admission {
    /// Admits a chat. A refusal has been recorded when this returns.
    pub async fn submit(&self, _: Credential, _: Request) -> Result<Admitted, Refusal> {
        todo!()
    }
    /// Decides and records what needs no engine: model list, audit reading.
    pub async fn authorize(&self, _: Credential, _: Request) -> Result<Permitted, Refusal> {
        todo!()
    }
    /// Admits a chat that came by an at-least-once transport.
    pub async fn deliver(
        &self,
        _: Credential,
        _: Request,
        _: Delivery,
    ) -> Result<Delivered, Rejected> {
        todo!()
    }
    /// Stops the principal's own running request with this correlation data; says whether there was one.
    pub async fn cancel(&self, _: Credential, _: Request) -> Result<bool, Rejected> {
        todo!()
    }
    /// Records a request that was refused before it could be parsed or decided.
    pub async fn refuse_unread(
        &self,
        _origin: crate::prompt::Origin,
        _id: &RequestId,
        _: &Refusal,
    ) {
        todo!()
    }
}

impl Ticket {
    /// Persists that the request is finished and answered. Durable when this returns.
    pub async fn answered(self, _text: String, _outcome: Outcome) {
        todo!()
    }
}
