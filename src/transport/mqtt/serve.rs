//! One request from its message to its acknowledged answer: a task of its own.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;
use tracing::Instrument;

use super::answer::{Answer, Ended, Messages};
use super::hints;
use super::inboxes::{Inboxes, Stay};
use super::metrics::Metrics;
use super::outbox::{Outbox, Unsent};
use super::refusals::{Refusals, Whose};
use super::request::{self, Asked, Form, Reply, Unread};
use super::signature::Signer;
use super::spans::Arrived;
use super::status::Cell;
use super::topics::{self, Topics};
use super::untold::Why;
use crate::admission::{
    Admission, Admitted, Asker, Delivered, Delivery, Recorded, Rejected, StoredAnswer, Ticket,
};
use crate::auth::{Credential, Grant};
use crate::delivery::{End, Exact, Id};
use crate::identity::Nonces;
use crate::link::Message;
use crate::prompt::{
    self, Cancel, Dialect, Finish, Look, Operation, Origin, Outcome, Request, RequestId,
};
use crate::reason::{DenyReason, Reason, Refusal, RefuseReason};
use crate::trace::{Root, Trace};
use crate::wire::Framing;

/// What all requests share.
pub(super) struct Context {
    pub(super) admission: Admission,
    pub(super) topics: Arc<Topics>,
    pub(super) nonces: Nonces,
    /// Where answers are signed.
    pub(super) signer: Option<Signer>,
    pub(super) outbox: Outbox,
    pub(super) metrics: Metrics,
    pub(super) status: Cell,
    pub(super) fragment_interval: Duration,
    /// Bounds refusals that go to whom no token vouches for.
    pub(super) refusals: Mutex<Refusals>,
    /// Where no such refusal goes.
    pub(super) inboxes: Inboxes,
}

/// A place among the requests whose token isn't decided yet; dropped once it is.
pub(super) type Deciding = OwnedSemaphorePermit;

/// How a message came: QoS 0, or better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Came {
    /// May be lost, so its refusal may be too.
    AtMostOnce,
    AtLeastOnce,
}

/// A message as it was read, and its span.
pub(super) struct Read<T> {
    root: Root,
    parsed: T,
}

/// Reads a message on a request topic.
pub(super) fn read(
    context: &Context,
    message: &Message,
    form: (Dialect, topics::Form<'_>),
    max_body: usize,
) -> Read<Result<Box<Asked>, Box<Unread>>> {
    let (topics, now) = (&context.topics, crate::time::instant());
    let arrived = Arrived::new(&context.admission, message);
    let nonces = || context.accepted_nonces();
    let mut parsed = request::parse(topics, message, form, max_body, &nonces, now);
    arrived.asks(topics, form, &mut parsed);
    let root = arrived.root;
    Read { root, parsed }
}

/// Serves a message on a request topic.
pub(super) async fn request(
    context: Arc<Context>,
    message: (Id, Exact),
    Read { root, parsed }: Read<Result<Box<Asked>, Box<Unread>>>,
    came: Came,
    deciding: Deciding,
) -> End {
    let id = match &parsed {
        Ok(asked) => &asked.request.id,
        Err(unread) => &unread.id,
    };
    let lines = id.log_span();
    let served = async {
        match parsed {
            Ok(asked) => ask(context, message, asked, (&root, came), deciding).await,
            Err(unread) => {
                root.decided(Err(unread.refusal.reason));
                context.unread(unread, came, deciding).await
            }
        }
    };
    served.instrument(lines).await
}

async fn ask(
    context: Arc<Context>,
    message: (Id, Exact),
    asked: Box<Asked>,
    (root, came): (&Root, Came),
    deciding: Deciding,
) -> End {
    let framing = asked.framing;
    let reply = asked.reply.clone();
    let sender = Sender {
        id: asked.request.id.clone(),
        origin: asked.request.origin.clone(),
        reply: Some(reply.clone()),
        came,
    };
    // Until the answer is acknowledged, or the refusal.
    let stay = Arc::default();
    let delivery = delivery(&context, message, &asked, deciding, &stay);
    let delivered = context
        .admission
        .deliver(asked.credential, asked.request, delivery);
    match delivered.await {
        Ok(Delivered::Run(admitted, ticket)) => {
            context.run(admitted, *ticket, &reply, framing).await
        }
        Ok(Delivered::Joined) => {
            root.set("slmd.duplicate", "joined");
            context.metrics.duplicate();
            End::Done
        }
        Ok(Delivered::Again(stored)) => {
            root.set("slmd.duplicate", "answered");
            context.metrics.duplicate();
            context.again(stored, &reply, framing).await
        }
        Err(rejected) => context.reject(rejected, &sender).await,
    }
}

/// Whoever sent a message, and where a refusal may go.
struct Sender {
    id: RequestId,
    origin: Origin,
    reply: Option<Reply>,
    came: Came,
}

/// A message on the cancel topic.
pub(super) struct Cancelling {
    id: RequestId,
    origin: Origin,
    parsed: Result<(Credential, Request<Cancel>), Refusal>,
}

/// Reads a message on the cancel topic.
pub(super) fn read_cancel(context: &Context, message: &Message) -> Read<Cancelling> {
    let arrived = Arrived::new(&context.admission, message);
    let id = arrived.cancels(message);
    let nonces = || context.accepted_nonces();
    let parsed = request::parse_cancel(&context.topics, message, id.clone(), &nonces);
    let origin = request::origin(message);
    Read {
        root: arrived.root,
        parsed: Cancelling { id, origin, parsed },
    }
}

/// Serves a message on the cancel topic. The cancelled request's own answer tells the client.
pub(super) async fn cancel(
    context: Arc<Context>,
    Read { root, parsed }: Read<Cancelling>,
    _deciding: Deciding,
) {
    let Cancelling { id, origin, parsed } = parsed;
    let served = async {
        let admission = &context.admission;
        let (credential, mut request) = match parsed {
            Ok(cancel) => cancel,
            Err(refusal) => {
                root.decided(Err(refusal.reason));
                let refusal = admission.refuse_unread(origin.clone(), &id, refusal);
                return context.untold(refusal.reason, &origin, Why::Cancel);
            }
        };
        request.trace = root.trace();
        match admission.cancel(credential, request).await {
            Ok(found) => tracing::debug!(found, "cancel"),
            Err(refusal) => context.untold(refusal.reason, &origin, Why::Cancel),
        }
    };
    served.instrument(id.log_span()).await;
}

fn delivery(
    context: &Context,
    (id, message): (Id, Exact),
    asked: &Asked,
    deciding: Deciding,
    stay: &Arc<OnceLock<Stay>>,
) -> Delivery {
    let (topics, reply) = (Arc::clone(&context.topics), asked.reply.clone());
    let (inboxes, stay) = (context.inboxes.clone(), Arc::clone(stay));
    Delivery {
        id,
        message,
        question: asked.question,
        correlation: asked.reply.correlation.as_ref().map(|c| c.to_vec()),
        redelivered: asked.redelivered,
        size: asked.size,
        check: Box::new(move |grant: &Grant| {
            let _deciding = deciding;
            may_answer(&topics, &reply, grant)?;
            stay.get_or_init(|| inboxes.enter(&grant.principal.client, &reply));
            Ok(())
        }),
    }
}

/// Whether the grant's client may be answered there.
fn may_answer(topics: &Topics, reply: &Reply, grant: &Grant) -> Result<(), Refusal> {
    let azp = &grant.principal.client;
    match &reply.form {
        Form::Properties => topics.may_answer(&reply.topic, azp),
        Form::Plain { client } => topics.may_ask(client, azp),
    }
}

impl Context {
    /// What a DPoP proof may say.
    pub(super) fn accepted_nonces(&self) -> Vec<String> {
        self.nonces.accepted(self.admission.moment())
    }

    /// A message beyond what may be under way: even a refusal would be one too many.
    pub(super) fn excess(&self, origin: &Origin) {
        let reason = Reason::Refused(RefuseReason::Overloaded);
        self.metrics.request(reason.status());
        self.untold(reason, origin, Why::Excess);
    }

    /// A topic that our subscriptions cover but that can't be answered from.
    pub(super) fn set_aside(&self, origin: &Origin) {
        let refusal = RefuseReason::NotFound.into();
        let id = RequestId::random();
        let refusal = self.admission.refuse_unread(origin.clone(), &id, refusal);
        self.metrics.request(refusal.status());
        self.untold(refusal.reason, origin, Why::Topic);
    }

    fn untold(&self, reason: Reason, origin: &Origin, why: Why) {
        if let Origin::Mqtt { topic } = origin {
            self.metrics.untold();
            let now = crate::time::instant();
            self.status.untold(reason, topic, why, now);
        }
    }

    /// The messages of one telling of an answer.
    fn messages<'a>(&'a self, reply: &'a Reply, id: &'a RequestId) -> Messages<'a> {
        let telling = self.signer.as_ref().map(Signer::begin);
        Messages::new(&self.outbox, telling, reply, id)
    }

    async fn run(
        &self,
        admitted: Admitted,
        ticket: Ticket,
        reply: &Reply,
        framing: Framing,
    ) -> End {
        let answer = Answer {
            framer: framing.framer(&admitted.id, &admitted.model, admitted.created),
            fragments: admitted.answer,
            permit: admitted.permit,
        };
        let mut messages = self.messages(reply, &admitted.id).of_run(&ticket);
        let (text, outcome) = match answer.send(&mut messages, self.fragment_interval).await {
            Ended::Sent {
                text,
                outcome,
                status,
            } => {
                self.metrics.request(status);
                (text, outcome)
            }
            Ended::Unsendable { text, why } => {
                self.unsendable(reply, &why);
                let usage = prompt::Usage::default();
                let finish = Finish::Cancelled;
                (text, Outcome { finish, usage })
            }
            // An orderly stop is no failed attempt.
            Ended::Interrupted => {
                if let Err(error) = ticket.released().await {
                    tracing::error!(%error, "an interrupted request counts as an attempt");
                }
                return End::Interrupted;
            }
        };
        if let Err(error) = ticket.answered(text, outcome).await {
            tracing::error!(%error, "an answered request is not on record");
            return End::Unrecorded;
        }
        End::Done
    }

    async fn again(&self, stored: Recorded<StoredAnswer>, reply: &Reply, framing: Framing) -> End {
        let (mut text, fragments) = prompt::channel(1);
        text.send(&stored.text);
        text.finish(stored.outcome());
        let answer = Answer {
            framer: framing.framer(&stored.request_id, &stored.model, stored.created),
            fragments,
            permit: stored.with(()),
        };
        let mut messages = self.messages(reply, &stored.request_id);
        match answer.send(&mut messages, self.fragment_interval).await {
            Ended::Sent { status, .. } => self.metrics.request(status),
            Ended::Unsendable { why, .. } => self.unsendable(reply, &why),
            Ended::Interrupted => return End::Interrupted,
        }
        End::Done
    }

    /// A message that is no request; its token, where it has one, says whom that may be told.
    async fn unread(&self, unread: Box<Unread>, came: Came, deciding: Deciding) -> End {
        let Unread {
            id,
            origin,
            refusal,
            reply,
            credential,
        } = *unread;
        let refusal = self.admission.refuse_unread(origin.clone(), &id, refusal);
        let request = Request {
            id: id.clone(),
            origin: origin.clone(),
            model: None,
            deadline: None,
            trace: Trace::default(),
            asks: Operation::Look(Look::Models),
        };
        let asker = self.admission.asker(&credential, request);
        drop(deciding);
        self.metrics.request(refusal.status());
        let sender = Sender {
            id,
            origin,
            reply,
            came,
        };
        self.tell(refusal, &asker, &sender).await
    }

    async fn reject(&self, rejected: Rejected, sender: &Sender) -> End {
        if is_shutdown(&rejected.refusal) {
            return End::Interrupted;
        }
        self.metrics.request(rejected.refusal.status());
        self.tell(rejected.refusal, &rejected.asker, sender).await
    }

    /// Whoever may be answered there is refused there, of what came at QoS 0 so many a minute;
    /// anybody else only beneath our own `reply`, at a bounded rate, and not where an answer is
    /// awaited.
    async fn tell(&self, refusal: Recorded<Refusal>, asker: &Asker, sender: &Sender) -> End {
        let Sender {
            id, origin, came, ..
        } = sender;
        let Some(reply) = &sender.reply else {
            self.untold(refusal.reason, origin, Why::NoResponseTopic);
            return End::Done;
        };
        let verified = match asker {
            Asker::Granted(grant) => may_answer(&self.topics, reply, grant).is_ok(),
            Asker::Signed(_) | Asker::Unknown => false,
        };
        let untold = match (verified, came) {
            (true, Came::AtLeastOnce) => None,
            (true, Came::AtMostOnce) => self.has_no_share(asker, reply),
            (false, _) => self.may_not_tell(asker, reply),
        };
        if let Some(why) = untold {
            self.untold(refusal.reason, origin, why);
            return End::Done;
        }
        let refusal = refusal.map(|refusal| hints::advise(reply, refusal));
        let mut messages = self.messages(reply, id);
        if !verified {
            messages.mark_unverified();
        }
        if refusal.reason == Reason::Denied(DenyReason::UseDpopNonce) {
            let nonce = self.nonces.current(self.admission.moment());
            messages.tell_nonce(nonce.value);
        }
        match messages.refuse(&refusal).await {
            Ok(()) => End::Done,
            Err(Unsent::Closed) => End::Interrupted,
            Err(unsent) => {
                self.unsendable(reply, &unsent.to_string());
                End::Done
            }
        }
    }

    fn may_not_tell(&self, asker: &Asker, reply: &Reply) -> Option<Why> {
        if !self.topics.is_reply(&reply.topic) {
            return Some(Why::ResponseTopic);
        }
        if self.inboxes.await_one_like(reply, &self.topics) {
            return Some(Why::Awaited);
        }
        self.has_no_share(asker, reply)
    }

    fn has_no_share(&self, asker: &Asker, reply: &Reply) -> Option<Why> {
        let whose = match asker {
            Asker::Granted(grant) => Whose::Signed(&grant.principal),
            Asker::Signed(principal) => Whose::Signed(principal),
            Asker::Unknown => Whose::Alleged(self.topics.alleged_client(&reply.topic)),
        };
        let mut refusals = self.refusals.lock();
        let told = refusals.take(whose, crate::time::instant());
        (!told).then_some(Why::Rate)
    }

    fn unsendable(&self, reply: &Reply, why: &str) {
        tracing::warn!(topic = %reply.topic, why, "answer not taken");
        let status = RefuseReason::AnswerTooLarge.status();
        self.metrics.request(status);
        let problem = format!("an answer on {} was not taken: {why}", reply.topic);
        self.status.answer_refused(problem);
    }
}

/// The request isn't to blame and comes again after the restart.
fn is_shutdown(refusal: &Refusal) -> bool {
    refusal.reason == Reason::Refused(RefuseReason::Draining)
}
