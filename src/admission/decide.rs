//! The decision: what is in force, what was verified before, and a realm's keys where one that a
//! token names isn't known yet.

use std::sync::Arc;
use std::time::Duration;

use super::cached::Figures;
use super::spans;
use super::waiters::Waiters;
use crate::auth::{self, Cache, Clock, Credential, Decision, Permitted};
use crate::authority::Authority;
use crate::keysync::{Outcome, Why};
use crate::prompt::{Origin, Request};
use crate::reason::DenyReason;
use crate::telemetry::Registry;
use crate::{telemetry, time};

/// Verified tokens kept; each costs about 2 KiB.
const CACHED_TOKENS: usize = 1024;
/// How long a prompt waits for a refresh that its token's key caused.
const REFRESH_WAIT: Duration = Duration::from_secs(2);
/// When a prompt is to come again that didn't get to wait, or waited in vain.
const REFRESH_RETRY: Duration = Duration::from_secs(5);

/// What came of asking for a realm's keys.
#[derive(Debug, Clone, Copy)]
enum Refreshed {
    /// The realm's keys aren't refreshed, or were just seen: the key is unknown for good.
    Settled,
    /// The issuer can't be asked now; it can after this.
    Later(Duration),
}

pub(super) struct Decider {
    authority: Authority,
    cache: Arc<Cache>,
    refreshing: Waiters,
}

impl Decider {
    pub(super) fn new(authority: Authority, registry: &mut Registry) -> Decider {
        let cache = Arc::new(Cache::new(CACHED_TOKENS));
        let figures = Figures(Arc::clone(&cache));
        registry.register_collector(Box::new(figures));
        Decider {
            authority,
            cache,
            refreshing: Waiters::new(),
        }
    }

    pub(super) fn clock(&self) -> Clock {
        self.authority.clock()
    }

    /// By what is known now. Nobody is asked, and no word on the time is taken.
    pub(super) fn look(
        &self,
        credential: &Credential,
        request: &Arc<Request>,
        clock: Option<&Clock>,
    ) -> Decision {
        let snapshot = self.authority.snapshot();
        let decide = |clock| self.cache.decide(credential, request, &snapshot, clock);
        match clock {
            Some(clock) => decide(clock),
            None => decide(&self.clock()),
        }
    }

    /// Decides; where the token's key isn't known, asks the issuer for its keys and decides again.
    /// `clock`: the one to decide by, where it isn't the present.
    pub(super) async fn decide(
        &self,
        credential: &Credential,
        request: &Arc<Request>,
        clock: Option<&Clock>,
    ) -> Decision {
        let from = time::instant();
        let decision = self.ask(credential, request, clock).await;
        spans::decided(request, from, &decision);
        decision
    }

    async fn ask(
        &self,
        credential: &Credential,
        request: &Arc<Request>,
        clock: Option<&Clock>,
    ) -> Decision {
        let mut denied = match self.look(credential, request, clock) {
            Decision::Deny(denied) if denied.reason == DenyReason::KeyUnknown => denied,
            decision => return self.hear(decision),
        };
        let issuer = auth::alleged_issuer(credential).unwrap_or_default();
        let snapshot = self.authority.snapshot();
        let Some(realm) = snapshot.realms.get(&issuer).map(|realm| realm.name.clone()) else {
            return Decision::Deny(denied);
        };
        let refreshed = self.refresh(realm, &request.origin).await;
        match (self.look(credential, request, clock), refreshed) {
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

    /// Whether what was permitted still is.
    pub(super) fn recheck(&self, permitted: &Permitted) -> Result<(), DenyReason> {
        auth::recheck(permitted, &self.authority.snapshot(), &self.clock())
    }

    /// Whether an endpoint may answer with this bundle.
    pub(super) fn may_run(&self, model: &str, digest: &str) -> bool {
        self.authority.force().may_run(model, digest)
    }

    /// Takes an accepted token's word for the time, while nothing better tells it.
    fn hear(&self, decision: Decision) -> Decision {
        if let Decision::Permit(permitted) = &decision
            && let Some(at) = permitted.issued_at()
        {
            let (clock, who) = (self.clock(), &permitted.grant().principal);
            if !clock.synchronised {
                let floor = self.authority.floor();
                let moved = floor.hear(&who.issuer, &who.client, at, clock.now, clock.uptime);
                if let Some(moved) = moved {
                    let realm = &permitted.grant().realm;
                    tracing::warn!(realm, %moved, "tokens have moved the realm's time past the clock");
                }
            }
        }
        decision
    }

    /// Off the async threads, bounded in time and number. The fetch goes on when the wait ends.
    async fn refresh(&self, realm: String, origin: &Origin) -> Refreshed {
        let late = Refreshed::Later(REFRESH_RETRY);
        let Some(waiter) = self.refreshing.enter(origin) else {
            return late;
        };
        let authority = self.authority.clone();
        let asked = telemetry::blocking(move || {
            // Until the thread is free, not only until its prompt stops waiting.
            let _waiter = waiter;
            match authority.refresh(&realm, Why::UnknownKey) {
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
}
