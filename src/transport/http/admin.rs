//! The admin socket: for root and the daemon's own user, each use recorded before it is carried out.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::connections::{Peer, Service};
use super::metrics::Metrics;
use super::reply::{self, Body, JSON, Refused};
use super::request::Sender;
use super::route::wrong_method;
use super::{Control, Settings, accept, evidence, host, records, request, verify};
use crate::admin::{Call, Forget, Operation, PinHeld, ResetTime, ShowSalt, VerifyAudit, route};
use crate::audit::{Forgotten, Log, Salt, TextOf, Unforgotten, Unshown, What};
use crate::auth::ToExplain;
use crate::authority;
use crate::json;
use crate::prompt::{Origin, Place};
use crate::reason::{DenyReason, Refusal, RefuseReason};
use crate::secret::{Wiped, wipe_json};
use crate::shutdown::Shutdown;
use crate::wire;

const BYTES: &str = "application/octet-stream";

pub(super) struct Admin {
    pub(super) settings: Arc<Settings>,
    pub(super) control: Arc<dyn Control>,
    pub(super) metrics: Metrics,
    pub(super) shutdown: Shutdown,
}

impl Service for Admin {
    async fn answer(&self, peer: Peer, request: Request<Incoming>) -> Response<Body> {
        let place = Operation::at(request.uri().path());
        let name = place.as_ref().map_or("other", |place| place.path);
        let asked = match place {
            Some(place) => Asked::of(place, request.method()),
            None => Err(Refusal::new(RefuseReason::NotFound).into()),
        };
        let answer = if may_administer(&peer) {
            self.handle(asked, peer, request).await
        } else {
            let what =
                asked.map_or_else(|_| "unknown".to_owned(), |asked| asked.what().to_string());
            let refusal = self.refuse(&peer, what, DenyReason::PeerNotAllowed.into());
            Err(refusal.into())
        };
        let response = answer.unwrap_or_else(Refused::into_response);
        self.metrics.answered(name, response.status().as_u16());
        response
    }

    async fn turned_away(&self, peer: Peer, refusal: &Refusal) {
        let full = refusal.reason == RefuseReason::TooManyConnections.into();
        if full {
            tracing::warn!(uid = peer.uid, %refusal, "admin connection turned away");
        }
        // Whoever may administer and finds no room has done nothing.
        if !full || !may_administer(&peer) {
            let what = if full { "connect" } else { "unread" };
            self.control
                .record_refused(origin(&peer), what.to_owned(), refusal);
        }
    }
}

/// Root, and the daemon's own user.
fn may_administer(peer: &Peer) -> bool {
    peer.uid == 0 || peer.uid == rustix::process::geteuid().as_raw()
}

fn origin(peer: &Peer) -> Origin {
    Origin::Admin {
        uid: peer.uid,
        gid: peer.gid,
        pid: peer.pid,
    }
}

impl Admin {
    async fn handle(
        &self,
        asked: Result<Asked, Refused>,
        peer: Peer,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refused> {
        host::single(&request)?;
        let asked = asked?;
        let (origin, what) = (origin(&peer), asked.what());
        let is_look = asked.operation.route().is_look;
        self.blocking(move |control| control.record(origin, &what, is_look))
            .await??;
        let realm = asked.realm;
        match asked.operation {
            Operation::Status => self.answer(route::STATUS, |c| Ok(c.whole_status())).await,
            Operation::Keys => self.answer(route::KEYS, |c| Ok(c.keys())).await,
            Operation::Metrics => {
                let format = accept::format(request.headers());
                let text = self.blocking(move |c| c.metrics(format)).await?;
                Ok(accept::metrics(format, text))
            }
            Operation::Reload => self.reload().await,
            Operation::PinKeys => self.pin_keys(realm, request).await,
            Operation::Trust => self.answer(route::TRUST, |c| Ok(c.trust())).await,
            Operation::PinRoot => self.pin_root(request).await,
            Operation::FetchKeys => {
                self.answer(route::FETCH_KEYS, move |c| c.fetch_keys(&realm))
                    .await
            }
            Operation::RefreshKeys => {
                self.answer(route::REFRESH_KEYS, move |c| c.refresh_keys(&realm))
                    .await
            }
            Operation::PinHeld => {
                let PinHeld { fingerprint } = self.parsed(request).await?;
                let pin = move |c: &dyn Control| c.pin_held_keys(&realm, &fingerprint);
                self.answer(route::PIN_HELD, pin).await
            }
            Operation::Explain => {
                let asked: ToExplain = self.parsed(request).await?;
                self.answer(route::EXPLAIN, move |c| Ok(c.explain_token(&asked)))
                    .await
            }
            Operation::ResetTime => {
                let ResetTime { to } = self.parsed(request).await?;
                self.answer(route::RESET_TIME, move |c| c.reset_time(to))
                    .await
            }
            Operation::AuditText => self.text(&request).await,
            operation @ (Operation::Audit
            | Operation::Checkpoint
            | Operation::Sign
            | Operation::Proof
            | Operation::Forget
            | Operation::ShowSalt
            | Operation::VerifyAudit) => self.audit(operation, request).await,
        }
    }

    async fn reload(&self) -> Result<Response<Body>, Refused> {
        match self.blocking(<dyn Control>::reload).await? {
            Ok(reloaded) => Ok(reply::json(StatusCode::OK, &reloaded)),
            Err(errors) => Ok(not_reloaded(&errors)),
        }
    }

    async fn pin_keys(
        &self,
        realm: String,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refused> {
        let jwks = self.body(request).await?;
        self.answer(route::PIN_KEYS, move |c| c.pin_keys(&realm, &jwks))
            .await
    }

    async fn pin_root(&self, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
        let root = self.body(request).await?;
        self.answer(route::PIN_ROOT, move |c| c.pin_root(&root))
            .await
    }

    /// Records a refusal at the refusals' rate.
    fn refuse(&self, peer: &Peer, what: String, refusal: Refusal) -> Refusal {
        if self.control.record_refused(origin(peer), what, &refusal) {
            tracing::warn!(uid = peer.uid, "the admin socket was used by who may not");
        }
        refusal
    }

    async fn body(&self, request: Request<Incoming>) -> Result<Wiped, Refused> {
        request::require_json(request.headers(), Sender::Unknown)?;
        let (max, timeout) = (self.settings.max_body, self.settings.body_timeout);
        Ok(request::body(request, max, timeout).await?)
    }

    async fn parsed<T: DeserializeOwned>(&self, request: Request<Incoming>) -> Result<T, Refused> {
        let body = self.body(request).await?;
        let mut value = json::parse(&body).map_err(|error| {
            let refusal = Refusal::new(RefuseReason::BadRequest);
            refusal.detail(format!("no strict JSON: {error}"))
        })?;
        let parsed = T::deserialize(&value);
        wipe_json(&mut value);
        let refused = |e: serde_json::Error| {
            Refusal::new(RefuseReason::InvalidParameter).detail(e.to_string())
        };
        Ok(parsed.map_err(refused)?)
    }

    async fn audit(
        &self,
        operation: Operation,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refused> {
        let log = self.control.audit();
        match operation {
            Operation::Checkpoint => Ok(evidence::checkpoint(&log)?),
            Operation::Sign => {
                let sign = move || log.sign_now(log.clocks().now()).map_err(evidence::failed);
                Ok(evidence::note(&*evidence::blocking(sign).await?))
            }
            Operation::Proof => {
                let index = request::query(&request, "index").unwrap_or_default();
                Ok(evidence::proof(log, index, true).await?)
            }
            Operation::Forget => {
                let Forget { request } = self.parsed(request).await?;
                let forgotten = evidence::blocking(move || forget(&log, &request)).await?;
                Ok(reply::json(StatusCode::OK, &forgotten))
            }
            Operation::ShowSalt => {
                let ShowSalt { index } = self.parsed(request).await?;
                let shown = evidence::blocking(move || show_salt(&log, index)).await?;
                Ok(reply::json(StatusCode::OK, &shown))
            }
            Operation::VerifyAudit => {
                let VerifyAudit { checkpoint } = self.parsed(request).await?;
                let shutdown = self.shutdown.clone();
                verify::answer(&log, checkpoint, self.settings.keep_alive, shutdown)
            }
            _ => {
                let (query, shutdown) = (request.uri().query(), self.shutdown.clone());
                records::answer(query, log, self.settings.keep_alive, shutdown)
            }
        }
    }

    /// A text as it was encrypted.
    async fn text(&self, request: &Request<Incoming>) -> Result<Response<Body>, Refused> {
        let of = request.uri().query();
        let of = of.and_then(|query| query.strip_prefix("of="));
        let of = of.unwrap_or_default().parse::<TextOf>().map_err(|why| {
            let refusal = Refusal::new(RefuseReason::InvalidParameter);
            refusal.param("of").detail(why)
        })?;
        let text = self.blocking(move |c| c.audit().text_of(&of)).await?;
        match text {
            Ok(Some(text)) => Ok(reply::full(StatusCode::OK, BYTES, text.file)),
            Ok(None) => Err(Refusal::new(RefuseReason::NotFound).into()),
            Err(error) => {
                tracing::error!(%error, "a text of the audit log can't be read");
                Err(Refusal::new(RefuseReason::AuditUnavailable).into())
            }
        }
    }

    async fn answer<A: Serialize + Send + 'static>(
        &self,
        _: Call<A>,
        ask: impl FnOnce(&dyn Control) -> Result<A, authority::Refused> + Send + 'static,
    ) -> Result<Response<Body>, Refused> {
        match self.blocking(ask).await? {
            Ok(answer) => Ok(reply::json(StatusCode::OK, &answer)),
            Err(refused) => {
                let refusal = Refusal::new(RefuseReason::BadRequest);
                Err(refusal.detail(refused.to_string()).into())
            }
        }
    }

    /// `Control` may wait for the disk.
    async fn blocking<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&dyn Control) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let control = Arc::clone(&self.control);
        let asked = tokio::task::spawn_blocking(move || ask(&*control)).await;
        asked.map_err(|error| {
            tracing::error!(%error, "an administration task failed");
            RefuseReason::Internal.into()
        })
    }
}

fn forget(log: &Log, request: &str) -> Result<Forgotten, Refusal> {
    let forgotten = log.forget(request, Origin::Daemon, log.clocks().now());
    forgotten.map_err(|error| match error {
        Unforgotten::Audit(error) => evidence::failed(error),
        other => Refusal::new(RefuseReason::BadRequest).detail(other.to_string()),
    })
}

fn show_salt(log: &Log, index: u64) -> Result<Salt, Refusal> {
    let shown = log.show_salt(index, Origin::Daemon, log.clocks().now());
    shown.map_err(|error| match error {
        Unshown::Audit(error) => evidence::failed(error),
        other => Refusal::new(RefuseReason::BadRequest).detail(other.to_string()),
    })
}

/// What a request asks for.
struct Asked {
    operation: Operation,
    realm: String,
}

impl Asked {
    fn of(place: Place<Operation>, method: &Method) -> Result<Asked, Refused> {
        let realm = place.named.clone();
        let operation = place.take(method.as_str()).map_err(wrong_method)?;
        Ok(Asked { operation, realm })
    }

    /// What the audit says was done.
    fn what(&self) -> What {
        let realm: String = self.realm.chars().take(64).collect();
        let realm = realm.trim_end();
        What {
            change: self.operation.route().what,
            realm: (!realm.is_empty()).then(|| realm.to_owned()),
        }
    }
}

/// The usual error object, with every error of the configuration beside it.
fn not_reloaded(errors: &[String]) -> Response<Body> {
    let refusal = Refusal::new(RefuseReason::BadRequest).detail(format!(
        "the configuration isn't changed: {}",
        errors.join("; ")
    ));
    let mut body: Value = serde_json::from_slice(&wire::error(&refusal)).unwrap_or_default();
    body["errors"] = errors.into();
    reply::full(StatusCode::BAD_REQUEST, JSON, body.to_string())
}
