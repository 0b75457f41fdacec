//! The way of a permitted prompt into the engine's queue, and out of it.
//!
//! Each step takes what the one before has made, so that none can be left out: nothing is queued
//! that isn't on record, nothing recorded that isn't paid for. A step that refuses drops what the
//! others have taken, which gives it back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::Instrument;

use super::inbox::Attempt;
use super::limits::Charge;
use super::record::{Recorded, Recorder};
use super::replay::FirstUse;
use super::running::Run;
use super::{Admission, records, spans};
use crate::age::{NotEncrypted, Recipient};
use crate::audit::{self, Sealed};
use crate::auth::Permitted;
use crate::digest::hex;
use crate::engine::{Job, Prompt, Report, Reservation, Ticket};
use crate::identity::random;
use crate::prompt::{self, AnswerReceiver, Completion, Finish, RequestId};
use crate::reason::{Refusal, RefuseReason};
use crate::secret::Secret;
use crate::telemetry;
use crate::time::{self, Timestamp};
use crate::trace::Trace;

/// A permitted, recorded, queued request and its answer. Dropping it cancels what still runs.
#[derive(Debug)]
pub struct Admitted {
    pub id: RequestId,
    /// The endpoint's client id: what `model` in the reply says.
    pub model: String,
    pub created: Timestamp,
    pub answer: AnswerReceiver,
    /// How far its turn is.
    pub ticket: Ticket,
    /// What a refusal is told with, should the answer not become whole.
    pub permit: Recorded<()>,
}

/// A place in the engine's queue, and the name by which its request can be stopped.
#[must_use]
pub(super) struct Place {
    pub(super) reservation: Reservation,
    pub(super) run: Run,
    /// What a delivery writes with its permit.
    pub(super) attempt: Option<Arc<Attempt>>,
}

#[must_use]
struct Reserved {
    permitted: Permitted,
    completion: Completion,
    place: Place,
}

#[must_use]
struct Prepared {
    permitted: Permitted,
    prompt: Prompt,
    text: Option<Sealed>,
    place: Place,
}

#[must_use]
struct Charged {
    prepared: Prepared,
    charge: Charge,
}

#[must_use]
struct Claimed {
    charged: Charged,
    proof: Option<FirstUse>,
}

#[must_use]
struct OnRecord {
    charged: Charged,
    /// Where the access stands in the log.
    permit: Recorded<u64>,
}

impl Admission {
    /// Runs to its end even when the caller leaves, so that no permit is recorded without its
    /// finish. `place`: where it was waited for.
    pub(super) async fn admit(
        &self,
        permitted: Permitted,
        completion: Completion,
        place: Option<Place>,
    ) -> Result<Admitted, Recorded<Refusal>> {
        let (door, refused) = (self.clone(), permitted.clone());
        let pass = async move {
            let refused = permitted.clone();
            let admitted = door.pass(permitted, completion, place).await;
            admitted.map_err(|refusal| door.0.recorder.refused(&refused, refusal))
        };
        let task = tokio::spawn(pass.in_current_span());
        let panicked = |_| {
            let refusal = RefuseReason::Internal.into();
            Err(self.0.recorder.refused(&refused, refusal))
        };
        task.await.unwrap_or_else(panicked)
    }

    async fn pass(
        &self,
        permitted: Permitted,
        completion: Completion,
        place: Option<Place>,
    ) -> Result<Admitted, Refusal> {
        let trace = permitted.request().trace.clone();
        let reserved = self.reserve(permitted, completion, place)?;
        let prepared = spans::step(&trace, "prepare", self.prepare(reserved)).await?;
        let charged = self.charge(prepared)?;
        let claimed = self.claim(charged)?;
        let on_record = spans::step(&trace, "record", self.record(claimed)).await?;
        Ok(self.queue(on_record))
    }

    fn reserve(
        &self,
        permitted: Permitted,
        completion: Completion,
        place: Option<Place>,
    ) -> Result<Reserved, Refusal> {
        if self.0.shutdown.is_draining() {
            return Err(RefuseReason::Draining.into());
        }
        let place = match place {
            Some(place) => place,
            None => Place {
                reservation: self.0.engine.reserve(&permitted.grant().principal)?,
                run: self.0.running.enter(permitted.clone(), None),
                attempt: None,
            },
        };
        // Before the text is read: what is refused for its length has cost as much.
        self.0.limits.take_prompt_turns(&permitted, &completion)?;
        Ok(Reserved {
            permitted,
            completion,
            place,
        })
    }

    /// Renders and tokenises off the async threads: milliseconds of CPU for a long prompt. The
    /// answer is cut to what the principal's limits leave, so that none is looked at too late.
    async fn prepare(&self, reserved: Reserved) -> Result<Prepared, Refusal> {
        let Reserved {
            permitted,
            completion,
            place,
        } = reserved;
        let engine = self.0.engine.clone();
        let endpoint = Arc::clone(permitted.endpoint());
        let allowed = self.0.limits.allowance(&permitted);
        let now = self.0.decider.clock().effective();
        let prepared = telemetry::blocking(move || {
            let prompt = engine.prepare(&endpoint, completion, Some(allowed), now)?;
            let text = sealed(prompt.text.as_ref(), &endpoint.text_recipients);
            // What has to be kept and can't be isn't asked.
            let text = text.map_err(|_| Refusal::new(RefuseReason::AuditUnavailable))?;
            Ok::<_, Refusal>((prompt, text))
        });
        let (prompt, text) = prepared
            .await
            .unwrap_or_else(|_| Err(RefuseReason::Internal.into()))?;
        let model = &permitted.endpoint().model;
        if !self.0.decider.may_run(model, &prompt.model_digest) {
            return Err(RefuseReason::ModelNotListed.into());
        }
        Ok(Prepared {
            permitted,
            prompt,
            text,
            place,
        })
    }

    fn charge(&self, prepared: Prepared) -> Result<Charged, Refusal> {
        let limits = &self.0.limits;
        let charge = limits.charge(&prepared.permitted, &prepared.prompt)?;
        Ok(Charged { prepared, charge })
    }

    fn claim(&self, charged: Charged) -> Result<Claimed, Refusal> {
        let Prepared {
            permitted, place, ..
        } = &charged.prepared;
        // A second attempt brings the proof that its first has used.
        let attempt = place.attempt.as_deref();
        let recognised = attempt.is_some_and(Attempt::is_recognised);
        let proof = match recognised {
            true => None,
            false => self.claim_proof(permitted)?,
        };
        Ok(Claimed { charged, proof })
    }

    /// Durable when this returns.
    async fn record(&self, claimed: Claimed) -> Result<OnRecord, Refusal> {
        let Claimed { mut charged, proof } = claimed;
        let attempt = charged.prepared.place.attempt.take();
        let text = charged.prepared.text.take();
        let Prepared {
            permitted, prompt, ..
        } = &charged.prepared;
        let salt = random::<16>();
        let commitment = audit::prompt_commitment(&salt, &prompt.tokens);
        let number = attempt.as_deref().map(Attempt::number);
        let mut access = records::prompt(permitted, prompt, commitment, number);
        access.text = text;
        let recorder = &self.0.recorder;
        let permit = recorder.permit(permitted, (access, salt), attempt, proof);
        let permit = permit.await?;
        Ok(OnRecord { charged, permit })
    }

    fn queue(&self, on_record: OnRecord) -> Admitted {
        let OnRecord { charged, permit } = on_record;
        let Charged { prepared, charge } = charged;
        let Prepared {
            permitted,
            prompt,
            place,
            ..
        } = prepared;
        let Place {
            reservation, run, ..
        } = place;
        let (sender, answer) = prompt::channel(self.0.settings.load().answer_buffer);
        let interrupt = run.interrupt.clone();
        // What was revoked since the decision may not have found it among what runs.
        if let Err(reason) = self.0.decider.recheck(&permitted) {
            interrupt.raise(Finish::Revoked(reason));
        }
        let id = permitted.request().id.clone();
        let model = permitted.endpoint().client_id.clone();
        spans::asked(&permitted, &prompt);
        let finisher = Finisher {
            recorder: self.0.recorder.clone(),
            run,
            charge,
            trace: permitted.request().trace.clone(),
            queued: time::instant(),
            served: prompt.model.clone(),
            request_id: id.own(),
            principal: records::tag(&permitted),
            realm: permitted.grant().realm.clone(),
            endpoint: model.clone(),
            access_index: *permit,
            transport: permitted.request().origin.transport(),
            recipients: permitted.endpoint().text_recipients.clone(),
        };
        let created = self.0.recorder.log.clocks().now();
        let ticket = reservation.submit(Job {
            permitted,
            prompt,
            answer: sender,
            interrupt,
            done: Box::new(move |report| finisher.finish(report)),
        });
        Admitted {
            id,
            model,
            created,
            answer,
            ticket,
            permit: permit.with(()),
        }
    }
}

/// Called once by the engine thread when the answer ends.
struct Finisher {
    recorder: Recorder,
    run: Run,
    charge: Charge,
    trace: Trace,
    queued: Instant,
    /// The bundle.
    served: String,
    request_id: RequestId,
    principal: audit::Tag,
    realm: String,
    endpoint: String,
    access_index: u64,
    transport: &'static str,
    recipients: Vec<Recipient>,
}

/// Encrypted to whom its endpoint names.
fn sealed(text: Option<&Secret<String>>, to: &[Recipient]) -> Result<Option<Sealed>, NotEncrypted> {
    let seal = |text: &Secret<String>| Sealed::of(text.expose(), to);
    text.map(seal).transpose()
}

impl Finisher {
    fn finish(mut self, report: &Report) {
        self.charge.use_up(report.outcome.usage);
        drop(self.run);
        spans::answered(&self.trace, self.queued, &self.served, report);
        let text = sealed(report.answer.as_ref(), &self.recipients).unwrap_or_else(|error| {
            tracing::error!(%error, "an answer's text isn't kept");
            None
        });
        let finished = audit::Finished {
            request_id: self.request_id,
            principal: Some(self.principal),
            realm: Some(self.realm),
            endpoint: Some(self.endpoint),
            access_index: Some(self.access_index),
            finish: report.outcome.finish,
            usage: report.outcome.usage,
            answer_hash: hex(&report.answer_hash),
            queue_ms: millis(report.queued),
            first_token_ms: report.first_token.map(millis),
            total_ms: millis(report.total),
            text,
        };
        self.recorder.finished(self.transport, finished);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
