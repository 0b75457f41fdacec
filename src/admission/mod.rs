//! The single door, for every transport alike.
//!
//! What is decided ([`decide`]) goes through [`pipeline`] into the engine's queue: reserve → prepare
//! → charge → claim → record → queue. [`Admission::submit`] is the plain way (HTTP);
//! [`Admission::deliver`] adds what an at-least-once transport needs: duplicates and second attempts
//! ([`inbox`]). What is refused comes back as [`Recorded`], and nothing is charged for it.

mod cached;
mod decide;
mod inbox;
mod limits;
mod metrics;
mod operations;
mod pipeline;
mod record;
mod records;
mod replay;
mod running;
mod spans;
mod waiters;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

pub use inbox::{Asker, Delivered, Delivery, Rejected, StoredAnswer, Ticket};
#[cfg(any(test, feature = "for-tests"))]
pub use metrics::fill as fill_metrics;
pub use pipeline::Admitted;
pub use record::Recorded;

use crate::auth::{Clock, Credential, Decision, Permitted};
use crate::authority::Authority;
use crate::engine::Engine;
use crate::prompt::{Completion, Finish, Origin, Request, RequestId};
use crate::reason::Refusal;
use crate::shutdown::Shutdown;
use crate::store::{Store, StoreError};
use crate::telemetry::Registry;
use crate::time::Moment;
use crate::trace::{Kind, Parent, Root, Tracer};
use crate::{audit, time};
use decide::Decider;
use inbox::{Inbox, Waiting};
use limits::Limits;
use metrics::Metrics;
use record::Recorder;
use replay::{FirstUse, Replay};
use running::Running;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Pieces of text that may wait for a slow reader.
    pub answer_buffer: usize,
    /// Applied where a request brings no deadline.
    pub default_deadline: Duration,
    /// How long an answered MQTT request is recognised when it comes again.
    pub duplicate_window: Duration,
    /// MQTT requests remembered for that.
    pub duplicates: usize,
    /// Tokens a minute for a principal whose realm and token say nothing.
    pub tokens_per_minute: u32,
    /// Prompts a minute of a principal, however short: each is written to the flash.
    pub prompts_per_minute: u32,
    /// Requests a minute that need no engine, of each kind and principal.
    pub operations_per_minute: u32,
}

/// The door. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Admission(Arc<Inner>);

/// What the door leads to.
pub struct Parts {
    pub engine: Engine,
    pub log: audit::Log,
    pub store: Store,
    /// What is in force, and the time; told of every accepted token.
    pub authority: Authority,
    pub tracer: Tracer,
    pub shutdown: Shutdown,
}

struct Inner {
    settings: Arc<ArcSwap<Settings>>,
    decider: Decider,
    limits: Limits,
    replay: Replay,
    recorder: Recorder,
    inbox: Inbox,
    waiting: Waiting,
    running: Running,
    engine: Engine,
    tracer: Tracer,
    shutdown: Shutdown,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admission").finish_non_exhaustive()
    }
}

impl Admission {
    pub fn new(
        parts: Parts,
        settings: Settings,
        registry: &mut Registry,
    ) -> Result<Admission, StoreError> {
        let settings = Arc::new(ArcSwap::from_pointee(settings));
        let own = parts.authority.clone();
        let effective = move || own.clock().effective();
        Ok(Admission(Arc::new(Inner {
            inbox: Inbox::open(&parts.store, Box::new(effective))?,
            waiting: Waiting::default(),
            replay: Replay::open(&parts.store, parts.log.clocks().booted(), registry)?,
            limits: Limits::new(Arc::clone(&settings)),
            settings,
            decider: Decider::new(parts.authority.clone(), registry),
            running: Running::default(),
            recorder: Recorder {
                log: parts.log,
                store: parts.store,
                floor: parts.authority.floor().clone(),
                metrics: Metrics::register(registry),
            },
            engine: parts.engine,
            tracer: parts.tracer,
            shutdown: parts.shutdown,
        })))
    }

    /// Begins the trace of a request that has come in.
    pub fn begin_trace(&self, kind: Kind, parent: Option<&Parent>) -> Root {
        self.0.tracer.begin(kind, parent)
    }

    /// Admits a prompt.
    pub async fn submit(
        &self,
        credential: Credential,
        request: Request<Completion>,
    ) -> Result<Admitted, Recorded<Refusal>> {
        let (request, completion) = request.split();
        let request = self.with_deadline(request);
        let permitted = self.decide(&credential, &request).await?;
        self.admit(permitted, completion, None).await
    }

    /// Records a request that was refused before it could be decided.
    pub fn refuse_unread(
        &self,
        origin: Origin,
        id: &RequestId,
        refusal: Refusal,
    ) -> Recorded<Refusal> {
        self.0.recorder.unread(origin, id, refusal)
    }

    /// Records a use of the admin socket by who may not.
    pub fn refuse_admin(&self, origin: Origin, what: String, refusal: &Refusal) -> audit::Noted {
        self.0.recorder.admin(origin, what, refusal)
    }

    /// Another epoch is in force: ends what runs as far as that can change it.
    pub fn look_again(&self) {
        let decider = &self.0.decider;
        let revoked = |permitted: &Permitted| decider.recheck(permitted).err();
        let running = &self.0.running;
        running.interrupt_where(|permitted| revoked(permitted).map(Finish::Revoked));
    }

    pub fn replace_settings(&self, settings: Settings) {
        self.0.settings.store(Arc::new(settings));
    }

    /// Ends what still runs: the drain deadline has passed.
    pub fn interrupt_all(&self) {
        self.0.running.interrupt_where(|_| Some(Finish::Shutdown));
    }

    /// Since the start: how many were permitted, and refused by reason.
    pub fn requests(&self) -> (u64, BTreeMap<String, u64>) {
        self.0.recorder.metrics.requests()
    }

    /// Requests admitted and not finished.
    pub fn running(&self) -> usize {
        self.0.running.len()
    }

    /// Forgets deliveries that are out of their window. Blocks; called about once a second.
    pub fn tick(&self, clock: &Clock) -> Result<(), StoreError> {
        let settings = self.0.settings.load();
        self.0.replay.prune(clock.moment(), clock.synchronised)?;
        self.0.inbox.prune(clock.effective(), &settings)
    }

    /// The time was set: what is remembered until a later one is remembered from now on. Blocks.
    pub fn mend_time(&self, now: Moment) -> Result<(), StoreError> {
        self.0.replay.mend(now.known)?;
        self.0.inbox.prune(now.known, &self.0.settings.load())
    }

    /// Both clocks, as decisions see them.
    pub fn moment(&self) -> Moment {
        self.0.decider.clock().moment()
    }

    fn with_deadline(&self, mut request: Request) -> Arc<Request> {
        let default = self.0.settings.load().default_deadline;
        request
            .deadline
            .get_or_insert_with(|| time::instant() + default);
        Arc::new(request)
    }

    async fn decide(
        &self,
        credential: &Credential,
        request: &Arc<Request>,
    ) -> Result<Permitted, Recorded<Refusal>> {
        match self.0.decider.decide(credential, request, None).await {
            Decision::Permit(permitted) => Ok(permitted),
            Decision::Deny(denied) => Err(self.0.recorder.denied(request, denied)),
        }
    }

    /// Reserves the one use of the proof that came with the request, if one did.
    fn claim_proof(&self, permitted: &Permitted) -> Result<Option<FirstUse>, Refusal> {
        let owner = permitted.grant().principal.key();
        let claim = |proof| self.0.replay.claim(proof, owner, self.moment());
        permitted.proof().map(claim).transpose()
    }
}

#[cfg(test)]
impl Settings {
    fn for_tests() -> Settings {
        Settings {
            answer_buffer: 64,
            default_deadline: Duration::from_secs(300),
            duplicate_window: Duration::from_secs(600),
            duplicates: 256,
            tokens_per_minute: 20_000,
            prompts_per_minute: 600,
            operations_per_minute: 2,
        }
    }
}
