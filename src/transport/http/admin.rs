//! The admin socket: for root and the daemon's own user, each use recorded before it is carried out.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::Value;

use super::connections::{Peer, Service};
use super::metrics::Metrics;
use super::public::OPENMETRICS;
use super::reply::{self, Body, JSON, Refused};
use super::route::wrong_method;
use super::{Control, Settings, host, request};
use crate::audit::{AuditError, Line, Log};
use crate::auth::ExplainContext;
use crate::json;
use crate::prompt::{Origin, Scope, Transport};
use crate::reason::{DenyReason, Refusal, RefuseReason};
use crate::secret::{Secret, wipe_json};
use crate::shutdown::Shutdown;
use crate::time::{MAX_SECS, Timestamp};
use crate::wire;

const JSON_LINES: &str = "application/jsonl";

/// Records read at a time; bounds what one reader holds in memory.
const BATCH: usize = 256;

pub(super) struct Admin {
    pub(super) settings: Arc<Settings>,
    pub(super) control: Arc<dyn Control>,
    pub(super) metrics: Metrics,
    pub(super) shutdown: Shutdown,
}

#[derive(Debug, PartialEq, Eq)]
enum Route {
    Status,
    Metrics,
    Reload,
    Keys,
    PinKeys(String),
    FetchKeys(String),
    PinHeld(String),
    RefreshKeys(String),
    Explain,
    ResetTime,
    Audit,
}

impl Service for Admin {
    async fn answer(&self, peer: Peer, request: Request<Incoming>) -> Response<Body> {
        let route = Route::at(request.uri().path());
        let name = route.as_ref().map_or("other", Route::name);
        let answer = match route {
            _ if !may_administer(&peer) => {
                let what = route
                    .as_ref()
                    .map_or_else(|| "unknown".to_owned(), Route::what);
                Err(self
                    .refuse(&peer, what, DenyReason::PeerNotAllowed.into())
                    .into())
            }
            Some(route) => match host::single(&request) {
                Ok(()) => self.handle(route, peer, request).await,
                Err(refusal) => Err(refusal.into()),
            },
            None => Err(Refusal::new(RefuseReason::NotFound).into()),
        };
        let response = answer.unwrap_or_else(Refused::into_response);
        self.metrics.answered(name, response.status().as_u16());
        response
    }

    async fn turned_away(&self, peer: Peer, refusal: &Refusal) {
        tracing::warn!(uid = peer.uid, %refusal, "admin connection turned away");
        if !may_administer(&peer) {
            self.refuse(&peer, "connect".to_owned(), refusal.clone());
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
        route: Route,
        peer: Peer,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refused> {
        route.check_method(request.method())?;
        let recorded = self.record(&peer, &route).await;
        // Who mends a full disk has to see what is wrong; the log has who looked.
        if !route.is_look() {
            recorded?;
        }
        match route {
            Route::Status => self.json(|control| Ok(control.status())).await,
            Route::Keys => self.json(|control| Ok(control.keys())).await,
            Route::Metrics => {
                let text = self.blocking(<dyn Control>::metrics).await?;
                Ok(reply::full(StatusCode::OK, OPENMETRICS, text))
            }
            Route::Reload => match self.blocking(<dyn Control>::reload).await? {
                Ok(report) => Ok(reply::full(StatusCode::OK, JSON, report.to_string())),
                Err(errors) => Ok(not_reloaded(&errors)),
            },
            Route::PinKeys(realm) => self.pin_keys(realm, request).await,
            Route::FetchKeys(realm) => self.json(move |control| control.fetch_keys(&realm)).await,
            Route::RefreshKeys(realm) => {
                self.json(move |control| control.refresh_keys(&realm)).await
            }
            Route::PinHeld(realm) => {
                let body = self.object(request).await?;
                let fingerprint = body["fingerprint"].as_str().map(str::to_owned);
                let fingerprint =
                    fingerprint.ok_or_else(|| bad_value("fingerprint", "a string"))?;
                self.json(move |control| control.pin_held_keys(&realm, &fingerprint))
                    .await
            }
            Route::Explain => {
                let mut body = self.object(request).await?;
                let asked = to_explain(&body);
                wipe_json(&mut body);
                let (token, context) = asked?;
                self.json(move |control| control.explain_token(token.expose(), &context))
                    .await
            }
            Route::ResetTime => {
                let to = reset_to(&self.object(request).await?)?;
                self.json(move |control| control.reset_time(to)).await
            }
            Route::Audit => self.audit(&request),
        }
    }

    /// Records a refusal at the refusals' rate.
    fn refuse(&self, peer: &Peer, what: String, refusal: Refusal) -> Refusal {
        if self.control.record_refused(origin(peer), what, &refusal) {
            tracing::warn!(uid = peer.uid, "the admin socket was used by who may not");
        }
        refusal
    }

    async fn record(&self, peer: &Peer, route: &Route) -> Result<(), Refused> {
        let (origin, what) = (origin(peer), route.what());
        if route.is_look() {
            let counted = self.blocking(move |control| control.record_look(origin, &what));
            return counted.await.map_err(Refused::from);
        }
        let recorded = self
            .blocking(move |control| control.record_admin(origin, &what))
            .await?;
        recorded.map_err(Refused::from)
    }

    /// A small JSON body.
    async fn object(&self, request: Request<Incoming>) -> Result<Value, Refused> {
        request::require_json(request.headers())?;
        let (max, timeout) = (self.settings.max_body, self.settings.body_timeout);
        let body = request::body(request, max, timeout).await?;
        let parsed = json::parse(&body);
        parsed.map_err(|error| {
            let refusal = Refusal::new(RefuseReason::BadRequest);
            refusal.detail(format!("no strict JSON: {error}")).into()
        })
    }

    async fn pin_keys(
        &self,
        realm: String,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refused> {
        request::require_json(request.headers())?;
        let (max, timeout) = (self.settings.max_body, self.settings.body_timeout);
        let jwks = request::body(request, max, timeout).await?;
        self.json(move |control| control.pin_keys(&realm, &jwks))
            .await
    }

    fn audit(&self, request: &Request<Incoming>) -> Result<Response<Body>, Refused> {
        let number = |name| match request::query(request, name) {
            None => Ok(None),
            Some(text) => text
                .parse::<u64>()
                .map(Some)
                .map_err(|_| bad_value(name, "a number")),
        };
        let follow = match request::query(request, "follow") {
            None | Some("false") => false,
            Some("" | "true") => true,
            Some(_) => return Err(bad_value("follow", "true or false").into()),
        };
        let log = self.control.audit();
        let before = number("before")?.unwrap_or(u64::MAX).min(log.next_index());
        let start = match (number("from")?, number("last")?) {
            (Some(_), Some(_)) => return Err(bad_value("last", "alone, without `from`").into()),
            (None, Some(last)) => Start::Last(last, before),
            (from, None) => Start::At(from.unwrap_or(0)),
        };
        let reader = Reader {
            start,
            left: number("limit")?.unwrap_or(u64::MAX),
            end: if follow { u64::MAX } else { before },
            log,
            shutdown: self.shutdown.clone(),
        };
        let lines = stream::unfold(reader, async |mut reader| {
            let bytes = reader.lines().await?;
            Some((Ok(Frame::data(bytes)), reader))
        });
        let body = StreamBody::new(Box::pin(lines)).boxed_unsync();
        Ok(reply::new(StatusCode::OK, JSON_LINES, body))
    }

    async fn json(
        &self,
        ask: impl FnOnce(&dyn Control) -> Result<Value, String> + Send + 'static,
    ) -> Result<Response<Body>, Refused> {
        match self.blocking(ask).await? {
            Ok(value) => Ok(reply::full(StatusCode::OK, JSON, value.to_string())),
            Err(why) => Err(Refusal::new(RefuseReason::BadRequest).detail(why).into()),
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

/// Walks through the audit log in batches, and waits at its end where it is to follow.
struct Reader {
    log: Log,
    start: Start,
    /// Records that may still be sent.
    left: u64,
    /// The first index that isn't sent.
    end: u64,
    shutdown: Shutdown,
}

/// Where a reader goes on.
#[derive(Debug, Clone, Copy)]
enum Start {
    At(u64),
    /// At so many records before an index.
    Last(u64, u64),
}

impl Reader {
    /// The next lines; `None` at the end, at shutdown, or when the log can't be read.
    async fn lines(&mut self) -> Option<Bytes> {
        loop {
            let next = match self.begin().await {
                Ok(next) => next,
                Err(error) => {
                    tracing::error!(%error, "the audit log can't be read");
                    return None;
                }
            };
            // Of indexes that are left there may be fewer.
            let wanted = self
                .left
                .min(self.end.saturating_sub(next))
                .min(BATCH as u64);
            if wanted == 0 {
                return None;
            }
            match self.batch(next, wanted as usize).await {
                Ok(records) if !records.is_empty() => return Some(self.advance(&records)),
                // Only a follower waits: below `end` nothing is missing but what was truncated.
                Ok(_) if self.end < u64::MAX => return None,
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(%error, "the audit log can't be read");
                    return None;
                }
            }
            tokio::select! {
                () = self.log.wait(next) => {}
                () = self.shutdown.draining() => return None,
            }
        }
    }

    /// The index to go on at.
    async fn begin(&mut self) -> Result<u64, AuditError> {
        let (count, end) = match self.start {
            Start::At(next) => return Ok(next),
            Start::Last(count, end) => (count, end),
        };
        let log = self.log.clone();
        let found = tokio::task::spawn_blocking(move || log.last(count, end)).await;
        let next = found.unwrap_or_else(|error| {
            tracing::error!(%error, "an audit reader failed");
            Ok(end)
        })?;
        self.start = Start::At(next);
        Ok(next)
    }

    async fn batch(&self, from: u64, limit: usize) -> Result<Vec<Line>, AuditError> {
        let log = self.log.clone();
        let read = tokio::task::spawn_blocking(move || log.read(from, limit)).await;
        read.unwrap_or_else(|error| {
            tracing::error!(%error, "an audit reader failed");
            Ok(Vec::new())
        })
    }

    fn advance(&mut self, records: &[Line]) -> Bytes {
        let mut bytes = Vec::new();
        for record in records.iter().filter(|record| record.index < self.end) {
            bytes.extend_from_slice(&record.json);
            bytes.push(b'\n');
        }
        self.left = self.left.saturating_sub(records.len() as u64);
        if let Some(last) = records.last() {
            self.start = Start::At(last.index.saturating_add(1));
        }
        bytes.into()
    }
}

impl Route {
    fn at(path: &str) -> Option<Route> {
        Some(match path {
            "/status" => Route::Status,
            "/metrics" => Route::Metrics,
            "/reload" => Route::Reload,
            "/keys" => Route::Keys,
            "/audit" => Route::Audit,
            "/keys/explain" => Route::Explain,
            "/time/reset" => Route::ResetTime,
            _ => {
                let (realm, action) = match path.strip_prefix("/keys/")?.split_once('/') {
                    None => (path.strip_prefix("/keys/")?, ""),
                    Some(parts) => parts,
                };
                let realm = request::decoded(realm)?;
                match action {
                    "" if !path.ends_with('/') => Route::PinKeys(realm),
                    "fetch" => Route::FetchKeys(realm),
                    "pin-held" => Route::PinHeld(realm),
                    "refresh" => Route::RefreshKeys(realm),
                    _ => return None,
                }
            }
        })
    }

    fn name(&self) -> &'static str {
        match self {
            Route::Status => "/status",
            Route::Metrics => "/metrics",
            Route::Reload => "/reload",
            Route::Keys => "/keys",
            Route::PinKeys(_) => "/keys/{realm}",
            Route::FetchKeys(_) => "/keys/{realm}/fetch",
            Route::PinHeld(_) => "/keys/{realm}/pin-held",
            Route::RefreshKeys(_) => "/keys/{realm}/refresh",
            Route::Explain => "/keys/explain",
            Route::ResetTime => "/time/reset",
            Route::Audit => "/audit",
        }
    }

    /// Whether it changes nothing: such are counted in the audit, and work on a full disk too.
    fn is_look(&self) -> bool {
        matches!(
            self,
            Route::Status | Route::Metrics | Route::Keys | Route::Explain | Route::Audit
        )
    }

    /// What the audit says was done.
    fn what(&self) -> String {
        match self {
            Route::Status => "status".to_owned(),
            Route::Metrics => "metrics".to_owned(),
            Route::Reload => "reload".to_owned(),
            Route::Keys => "keys list".to_owned(),
            Route::PinKeys(realm) => format!("keys pin {}", short(realm)),
            Route::FetchKeys(realm) => format!("keys fetch {}", short(realm)),
            Route::PinHeld(realm) => format!("keys pin held {}", short(realm)),
            Route::RefreshKeys(realm) => format!("keys refresh {}", short(realm)),
            Route::Explain => "keys explain".to_owned(),
            Route::ResetTime => "time reset".to_owned(),
            Route::Audit => "audit read".to_owned(),
        }
    }

    fn check_method(&self, method: &Method) -> Result<(), Refused> {
        let (allowed, allow) = match self {
            Route::Reload
            | Route::FetchKeys(_)
            | Route::PinHeld(_)
            | Route::RefreshKeys(_)
            | Route::Explain
            | Route::ResetTime => (Method::POST, "POST"),
            Route::PinKeys(_) => (Method::PUT, "PUT"),
            _ => (Method::GET, "GET"),
        };
        if *method == allowed {
            return Ok(());
        }
        Err(wrong_method(allow))
    }
}

fn short(realm: &str) -> String {
    realm.chars().take(64).collect()
}

/// A token, and the request that it is tried for: by the socket, to read, unless told otherwise.
fn to_explain(body: &Value) -> Result<(Secret<String>, ExplainContext), Refusal> {
    let text = |name: &'static str| match &body[name] {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.as_str())),
        _ => Err(bad_value(name, "a string")),
    };
    let token = text("token")?.ok_or_else(|| bad_value("token", "a string"))?;
    let transport = text("transport")?.unwrap_or(Transport::Socket.as_str());
    let transport = Transport::ALL.into_iter().find(|t| t.as_str() == transport);
    let transport = transport.ok_or_else(|| bad_value("transport", "socket, tcp or mqtt"))?;
    let scope = text("scope")?.unwrap_or(Scope::Read.as_str());
    let scope = Scope::ALL.into_iter().find(|s| s.as_str() == scope);
    let context = ExplainContext {
        transport: Some(transport),
        model: text("model")?.map(str::to_owned),
        scope: scope.ok_or_else(|| bad_value("scope", "read, write, fine-tune or audit"))?,
    };
    Ok((Secret::new(token.to_owned()), context))
}

/// `None`: the present.
fn reset_to(body: &Value) -> Result<Option<Timestamp>, Refusal> {
    match &body["to"] {
        Value::String(now) if now == "now" => Ok(None),
        to => match to.as_u64().filter(|secs| *secs <= MAX_SECS) {
            Some(secs) => Ok(Some(Timestamp::from_secs(secs))),
            None => Err(bad_value(
                "to",
                "\"now\" or seconds since 1970, of the year 9999 at most",
            )),
        },
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

fn bad_value(name: &str, what: &str) -> Refusal {
    Refusal::new(RefuseReason::InvalidParameter)
        .detail(format!("`{name}` must be {what}"))
        .param(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_explained_for_the_request_that_is_named() {
        let body = serde_json::json!({"token": "a.b.c", "transport": "mqtt", "scope": "write"});
        let (token, context) = to_explain(&body).unwrap();
        assert_eq!(token.expose(), "a.b.c");
        assert_eq!(context.transport, Some(Transport::Mqtt));
        assert_eq!((context.scope, context.model), (Scope::Write, None));
        for bad in [
            serde_json::json!({}),
            serde_json::json!({"token": 1}),
            serde_json::json!({"token": "a", "transport": "pigeon"}),
            serde_json::json!({"token": "a", "scope": "all"}),
        ] {
            assert!(to_explain(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn routes_and_methods() {
        for (path, method) in [
            ("/status", Method::GET),
            ("/metrics", Method::GET),
            ("/reload", Method::POST),
            ("/keys", Method::GET),
            ("/keys/dev", Method::PUT),
            ("/keys/dev/fetch", Method::POST),
            ("/keys/dev/pin-held", Method::POST),
            ("/keys/dev/refresh", Method::POST),
            ("/keys/explain", Method::POST),
            ("/time/reset", Method::POST),
            ("/audit", Method::GET),
        ] {
            let route = Route::at(path).unwrap();
            assert!(route.check_method(&method).is_ok(), "{path}");
            assert!(route.check_method(&Method::DELETE).is_err(), "{path}");
        }
        assert_eq!(
            Route::at("/keys/a%2Fb"),
            Some(Route::PinKeys("a/b".to_owned()))
        );
        for path in [
            "/v1/models",
            "/keys/dev/",
            "/keys/dev/other",
            "/keys/dev/fetch/x",
        ] {
            assert_eq!(Route::at(path), None, "{path}");
        }
    }
}
