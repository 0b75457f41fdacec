//! The single door: decide → reserve → charge → record → queue, for every transport alike.
//!
//! [`Admission::submit`] is the plain way (HTTP); [`Admission::deliver`] adds what an
//! at-least-once transport needs: duplicates and second attempts ([`inbox`]). Whatever is refused
//! has been recorded when the refusal returns, and nothing is charged for it.

mod door;
mod finish;
mod inbox;
mod metrics;
mod operations;
mod records;
mod replay;
mod running;
mod waiters;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;

pub use door::Admitted;
pub use inbox::{Asker, Delivered, Delivery, Rejected, ReplyCheck, StoredAnswer, Ticket};

use crate::audit::AuditError;
use crate::auth::{self, Cache, Clock, Credential, Decision, Denied, Permitted, Snapshot};
use crate::authority::Authority;
use crate::engine::Engine;
use crate::keysync::{Outcome, Why};
use crate::prompt::{Finish, Origin, Request, RequestId};
use crate::quota::Quota;
use crate::reason::{DenyReason, Refusal, RefuseReason};
use crate::shutdown::Shutdown;
use crate::store::{Store, StoreError};
use crate::telemetry::Registry;
use crate::time::Moment;
use crate::{audit, time};
use inbox::{Begin, Inbox, Waiting};
use metrics::Metrics;
use replay::{Claimed, Replay};
use running::Running;
use waiters::Waiters;

#[derive(Debug, Clone)]
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

/// Verified tokens kept; each costs about 2 KiB.
const CACHED_TOKENS: usize = 1024;
/// How long a prompt waits for a refresh that its token's key caused.
const REFRESH_WAIT: Duration = Duration::from_secs(2);
/// When a prompt is to come again that didn't get to wait, or waited in vain.
const REFRESH_RETRY: Duration = Duration::from_secs(5);
/// Principals whose quota is remembered.
const PRINCIPALS: usize = 4096;
/// Principals' kinds of requests whose rate is remembered.
const TURNS: usize = 4 * PRINCIPALS;

/// The door. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Admission(Arc<Inner>);

/// What the door leads to.
pub struct Parts {
    pub engine: Engine,
    pub log: audit::Log,
    pub store: Store,
    /// What is in force, and the time. Told of every accepted token, and written with its permit.
    pub authority: Authority,
    pub shutdown: Shutdown,
}

/// What came of asking for a realm's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refreshed {
    /// The realm's keys aren't refreshed, or were just seen: the key is unknown for good.
    Settled,
    /// The issuer can't be asked now; it can after this.
    Later(Duration),
}

struct Inner {
    settings: ArcSwap<Settings>,
    authority: Authority,
    cache: Cache,
    quota: Mutex<Quota>,
    /// Requests rather than tokens.
    turns: Mutex<Quota>,
    running: Running,
    inbox: Inbox,
    waiting: Waiting,
    replay: Replay,
    refreshing: Waiters,
    metrics: Metrics,
    engine: Engine,
    log: audit::Log,
    store: Store,
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
        let authority = parts.authority.clone();
        let effective = move || authority.clock().effective();
        Ok(Admission(Arc::new(Inner {
            inbox: Inbox::open(&parts.store, Box::new(effective))?,
            waiting: Waiting::default(),
            replay: Replay::open(&parts.store, registry)?,
            refreshing: Waiters::new(),
            settings: ArcSwap::from_pointee(settings),
            authority: parts.authority,
            cache: Cache::new(CACHED_TOKENS),
            quota: Mutex::new(Quota::new(PRINCIPALS)),
            turns: Mutex::new(Quota::new(TURNS)),
            running: Running::default(),
            metrics: Metrics::register(registry),
            engine: parts.engine,
            log: parts.log,
            store: parts.store,
            shutdown: parts.shutdown,
        })))
    }

    /// Admits a chat.
    pub async fn submit(
        &self,
        credential: Credential,
        request: Request,
    ) -> Result<Admitted, Refusal> {
        let request = self.with_deadline(request);
        match self.decide_fresh(&credential, &request, None).await {
            Decision::Permit(permitted) => self.admit(permitted, None).await,
            Decision::Deny(denied) => Err(self.deny(&request, denied)),
        }
    }

    /// Records a request that was refused before it could be decided.
    pub fn refuse_unread(&self, origin: Origin, id: &RequestId, refusal: &Refusal) {
        self.0
            .metrics
            .decided(origin.transport(), Err(refusal.reason));
        self.note(&records::unread(origin, id, refusal));
    }

    /// Records or counts a use of the admin socket by who may not; says whether it is recorded by
    /// itself.
    pub fn refuse_admin(&self, origin: Origin, what: String, refusal: &Refusal) -> bool {
        self.0
            .metrics
            .decided(origin.transport(), Err(refusal.reason));
        self.note(&records::admin(origin, what, refusal))
    }

    /// Another epoch is in force: ends what runs as far as that can change it.
    pub fn look_again(&self) {
        let (snapshot, clock) = (self.snapshot(), self.clock());
        self.0.running.interrupt_where(|permitted| {
            let again = auth::recheck(permitted, &snapshot, &clock);
            again.err().map(Finish::Revoked)
        });
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.0.authority.snapshot()
    }

    fn clock(&self) -> Clock {
        self.0.authority.clock()
    }

    pub fn replace_settings(&self, settings: Settings) {
        self.0.settings.store(Arc::new(settings));
    }

    /// Ends what still runs: the drain deadline has passed.
    pub fn interrupt_all(&self) {
        self.0.running.interrupt_where(|_| Some(Finish::Shutdown));
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
        self.clock().moment()
    }

    fn with_deadline(&self, mut request: Request) -> Arc<Request> {
        let default = self.0.settings.load().default_deadline;
        request
            .deadline
            .get_or_insert_with(|| time::instant() + default);
        Arc::new(request)
    }

    fn decide(&self, credential: &Credential, request: &Arc<Request>, clock: &Clock) -> Decision {
        let snapshot = self.snapshot();
        self.0.cache.decide(credential, request, &snapshot, clock)
    }

    /// Decides; where the token's key isn't known, asks the issuer for its keys and decides again.
    /// `clock`: the one to decide by, where it isn't the present.
    async fn decide_fresh(
        &self,
        credential: &Credential,
        request: &Arc<Request>,
        clock: Option<&Clock>,
    ) -> Decision {
        let decide = || match clock {
            Some(clock) => self.decide(credential, request, clock),
            None => self.decide(credential, request, &self.clock()),
        };
        let mut denied = match decide() {
            Decision::Deny(denied) if denied.reason == DenyReason::KeyUnknown => denied,
            decision => return self.hear(decision),
        };
        let issuer = auth::alleged_issuer(credential).unwrap_or_default();
        let snapshot = self.snapshot();
        let Some(realm) = snapshot.realms.get(&issuer).map(|realm| realm.name.clone()) else {
            return Decision::Deny(denied);
        };
        let refreshed = self.refresh(realm, &request.origin).await;
        match (decide(), refreshed) {
            (Decision::Deny(again), Refreshed::Later(wait))
                if again.reason == DenyReason::KeyUnknown =>
            {
                denied.reason = DenyReason::KeysRefreshing;
                denied.detail = Some(format!("again in {} s", wait.as_secs().max(1)));
                denied.retry_after = Some(wait);
                Decision::Deny(denied)
            }
            (decision, _) => self.hear(decision),
        }
    }

    /// Takes an accepted token's word for the time, while nothing better tells it.
    fn hear(&self, decision: Decision) -> Decision {
        if let Decision::Permit(permitted) = &decision
            && let Some(at) = permitted.issued_at()
        {
            let (clock, who) = (self.clock(), &permitted.grant().principal);
            if !clock.synchronised {
                let floor = self.0.authority.floor();
                floor.hear(&who.issuer, &who.client, at, clock.now, clock.uptime);
            }
        }
        decision
    }

    /// Off the async threads, bounded in time and number. The fetch goes on when the wait ends.
    async fn refresh(&self, realm: String, origin: &Origin) -> Refreshed {
        let late = Refreshed::Later(REFRESH_RETRY);
        let Some(waiter) = self.0.refreshing.enter(origin) else {
            return late;
        };
        let door = self.clone();
        let asked = tokio::task::spawn_blocking(move || {
            // Until the thread is free, not only until its prompt stops waiting.
            let _waiter = waiter;
            match door.0.authority.refresh(&realm, Why::UnknownKey) {
                Some(Outcome::Failed(_)) => late,
                Some(Outcome::Cooldown(wait)) => Refreshed::Later(wait),
                None | Some(Outcome::Confirmed | Outcome::Replaced | Outcome::Held) => {
                    Refreshed::Settled
                }
            }
        });
        match tokio::time::timeout(REFRESH_WAIT, asked).await {
            Ok(Ok(refreshed)) => refreshed,
            _ => late,
        }
    }

    /// Reserves the one use of the proof that came with the request, if one did.
    fn claim_proof(&self, permitted: &Permitted) -> Result<Option<Claimed>, Refusal> {
        let owner = permitted.grant().principal.key();
        let claim = |proof| self.0.replay.claim(proof, owner, self.moment());
        permitted.proof().map(claim).transpose()
    }

    /// Counts and records a denial.
    fn deny(&self, request: &Request, denied: Denied) -> Refusal {
        let transport = request.origin.transport();
        self.0.metrics.decided(transport, Err(denied.reason.into()));
        self.note(&records::denied(request, &denied));
        let mut refusal = Refusal::new(denied.reason);
        refusal.detail = denied.detail;
        if refusal.status() == 503 {
            refusal.retry_after = denied.retry_after.or(Some(Duration::from_secs(5)));
        }
        refusal
    }

    /// Counts and records a refusal of what the token allows.
    fn refuse(&self, permitted: &Permitted, refusal: Refusal) -> Refusal {
        let transport = permitted.request().origin.transport();
        self.0.metrics.decided(transport, Err(refusal.reason));
        self.note(&records::refused(permitted, &refusal));
        refusal
    }

    /// Refusals ride on the next sync, so that a flood of them can't wear out the flash.
    fn note(&self, access: &audit::Access) -> bool {
        self.0.log.refuse(access, time::now())
    }

    /// Records a permit, and what `also` writes with it; durable when this returns.
    async fn record(
        &self,
        access: audit::Access,
        salt: [u8; 16],
        also: Option<Begin>,
        proof: Option<Claimed>,
    ) -> Result<(), Refusal> {
        let log = self.0.log.clone();
        self.commit(move || {
            if let Some(begin) = &also {
                begin.write()?;
            }
            if let Some(proof) = &proof {
                proof.write()?;
            }
            log.append_permit(access, salt, time::now()).map(drop)
        })
        .await
    }

    /// Runs what writes, with what is known of the time: what was when a request was admitted stays
    /// known after a power cut. Durable when this returns.
    async fn commit(
        &self,
        write: impl FnOnce() -> Result<(), AuditError> + Send + 'static,
    ) -> Result<(), Refusal> {
        let door = self.clone();
        let written = tokio::task::spawn_blocking(move || {
            door.0.store.commit(|| {
                door.0.authority.floor().write_along(time::booted())?;
                write()
            })
        });
        match written.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                tracing::error!(%error, "a permit could not be recorded");
                let refusal = Refusal::new(RefuseReason::AuditUnavailable);
                Err(refusal.retry_after(Duration::from_secs(5)))
            }
            Err(_) => Err(RefuseReason::Internal.into()),
        }
    }
}
