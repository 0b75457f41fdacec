//! The public sockets: OpenAI's routes and the probes.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderName};
use hyper::{Method, Request, Response, StatusCode};

use super::connections::{Peer, Service};
use super::door::TcpPeer;
use super::metrics::Metrics;
use super::reply::{self, Body, JSON, Refused};
use super::{Control, Settings, chat, host, request};
use crate::admission::Admission;
use crate::auth::{Credential, Permitted};
use crate::prompt::{self, Action, Origin, RequestId, Scope, Transport};
use crate::reason::{Refusal, RefuseReason};
use crate::wire::{self, ChatBody};

pub(super) const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
pub(super) const TEXT: &str = "text/plain; charset=utf-8";

pub(super) struct Public {
    pub(super) settings: Arc<Settings>,
    pub(super) admission: Admission,
    pub(super) control: Arc<dyn Control>,
    pub(super) metrics: Metrics,
}

/// Who asks.
#[derive(Debug, Clone)]
struct Caller {
    origin: Origin,
    /// On the Unix socket only.
    local: Option<Peer>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Route {
    Chat,
    Models,
    Model(String),
    Live,
    Ready,
    Metrics,
}

impl Service for Public {
    async fn answer(&self, peer: Peer, request: Request<Incoming>) -> Response<Body> {
        let checked = host::single(&request);
        self.respond(peer.into(), checked, request).await
    }

    async fn turned_away(&self, peer: Peer, refusal: &Refusal) {
        self.refuse_connection(peer.into(), refusal);
    }
}

impl Service<TcpPeer> for Public {
    async fn answer(&self, peer: TcpPeer, request: Request<Incoming>) -> Response<Body> {
        let checked = host::single(&request)
            .and_then(|()| host::check(&request, peer.local.ip(), &self.settings));
        self.respond(peer.into(), checked, request).await
    }

    async fn turned_away(&self, peer: TcpPeer, refusal: &Refusal) {
        self.refuse_connection(peer.into(), refusal);
    }
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const IGNORED: HeaderName = HeaderName::from_static("slmd-ignored-parameters");

impl Public {
    /// `checked`: whether the request may be for this appliance at all.
    async fn respond(
        &self,
        caller: Caller,
        checked: Result<(), Refusal>,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let id = request::id(request.headers());
        let route = Route::at(request.uri().path());
        let name = route.as_ref().map_or("other", Route::name);
        let answer = match (checked, route) {
            (Err(refusal), _) => Err(refusal.into()),
            (Ok(()), Some(route)) => self.handle(&route, caller.clone(), &id, request).await,
            (Ok(()), None) => Err(Route::not_found(request.uri().path()).into()),
        };
        let mut response = match answer {
            Ok(response) => response,
            Err(refused) => {
                if !refused.recorded {
                    self.admission
                        .refuse_unread(caller.origin, &id, &refused.refusal);
                }
                refused.into_response()
            }
        };
        let status = response.status();
        reply::set(response.headers_mut(), REQUEST_ID, id.echoed());
        self.metrics.answered(name, status.as_u16());
        tracing::debug!(request_id = %id, route = name, status = status.as_u16(), "answered");
        response
    }

    fn refuse_connection(&self, caller: Caller, refusal: &Refusal) {
        let id = RequestId::random();
        self.admission.refuse_unread(caller.origin, &id, refusal);
        self.metrics.answered("other", refusal.status());
    }

    async fn handle(
        &self,
        route: &Route,
        caller: Caller,
        id: &RequestId,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refused> {
        route.check_method(request.method())?;
        match route {
            Route::Chat => self.chat(caller, id, request).await,
            Route::Models => {
                let permitted = self
                    .authorized(Action::ListModels, caller, id, &request)
                    .await?;
                Ok(reply::full(
                    StatusCode::OK,
                    JSON,
                    wire::models(&names(&permitted)),
                ))
            }
            Route::Model(name) => {
                let permitted = self
                    .authorized(Action::ListModels, caller, id, &request)
                    .await?;
                if !names(&permitted).contains(&name.as_str()) {
                    let refusal = Refusal::new(RefuseReason::NotFound).param("model");
                    return Err(Refused::recorded(refusal, Scope::Read));
                }
                Ok(reply::full(StatusCode::OK, JSON, wire::model(name)))
            }
            Route::Live => Ok(reply::full(StatusCode::OK, TEXT, "ok\n")),
            Route::Ready => {
                // What is inside is for this machine only.
                let verbose =
                    !is_tcp(&caller.origin) && request::query(&request, "verbose").is_some();
                Ok(self.readiness(verbose))
            }
            Route::Metrics => {
                if is_tcp(&caller.origin) {
                    let action = Action::ReadMetrics;
                    self.authorized(action, caller, id, &request).await?;
                }
                let text = self.control.metrics();
                Ok(reply::full(StatusCode::OK, OPENMETRICS, text))
            }
        }
    }

    async fn chat(
        &self,
        caller: Caller,
        id: &RequestId,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refused> {
        let credential = credential(&caller, &request, &self.settings.public_urls)?;
        request::require_json(request.headers())?;
        let Settings {
            max_body,
            body_timeout,
            ..
        } = *self.settings;
        let body = wire::parse_chat(&request::body(request, max_body, body_timeout).await?)?;
        if body.authorization.is_some() {
            let refusal = Refusal::new(RefuseReason::UnsupportedParameter)
                .detail("over HTTP the token goes into the `Authorization` header")
                .param("authorization");
            return Err(refusal.into());
        }
        self.admitted(credential, caller.origin, id, body).await
    }

    async fn admitted(
        &self,
        credential: Credential,
        origin: Origin,
        id: &RequestId,
        body: ChatBody,
    ) -> Result<Response<Body>, Refused> {
        let request = prompt::Request {
            id: id.clone(),
            origin,
            model: body.model,
            action: Action::Chat(body.chat),
            deadline: None,
        };
        let admitted = self
            .admission
            .submit(credential, request)
            .await
            .map_err(|refusal| Refused::recorded(refusal, Scope::Read))?;
        let mut response = if body.stream {
            chat::streamed(admitted, body.include_usage, self.settings.keep_alive)
        } else {
            chat::whole(admitted).await?
        };
        if !body.ignored.is_empty() {
            reply::set(response.headers_mut(), IGNORED, &body.ignored.join(", "));
        }
        Ok(response)
    }

    /// Admission's leave for what needs no engine.
    async fn authorized(
        &self,
        action: Action,
        caller: Caller,
        id: &RequestId,
        request: &Request<Incoming>,
    ) -> Result<Permitted, Refused> {
        let credential = credential(&caller, request, &self.settings.public_urls)?;
        let scope = action.scope();
        let request = prompt::Request {
            id: id.clone(),
            origin: caller.origin,
            model: None,
            action,
            deadline: None,
        };
        let permitted = self.admission.authorize(credential, request).await;
        permitted.map_err(|refusal| Refused::recorded(refusal, scope))
    }

    fn readiness(&self, verbose: bool) -> Response<Body> {
        let ready = self.control.ready();
        let status = match ready {
            Ok(()) => StatusCode::OK,
            Err(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        if verbose {
            return reply::json(status, &self.control.status());
        }
        let text = match ready {
            Ok(()) => "ready\n".to_owned(),
            Err(why) => format!("not ready: {why}\n"),
        };
        reply::full(status, TEXT, text)
    }
}

impl Route {
    fn at(path: &str) -> Option<Route> {
        Some(match path {
            "/v1/chat/completions" => Route::Chat,
            "/v1/models" => Route::Models,
            "/livez" => Route::Live,
            "/readyz" => Route::Ready,
            "/metrics" => Route::Metrics,
            _ => {
                let name = path.strip_prefix("/v1/models/")?;
                Route::Model(request::decoded(name).filter(|name| !name.is_empty())?)
            }
        })
    }

    /// Names the path that was probably meant: slashes too many, or a base URL without `/v1`.
    fn not_found(path: &str) -> Refusal {
        let refusal = Refusal::new(RefuseReason::NotFound);
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let parts = match parts.as_slice() {
            ["v1", "v1", rest @ ..] | ["v1", rest @ ..] | rest => rest,
        };
        let meant = match parts {
            ["chat", "completions"] => "`/v1/chat/completions`",
            ["models"] => "`/v1/models`",
            ["models", _] => "`/v1/models/{id}`",
            ["completions" | "responses", ..] => {
                return refusal.detail("chats are answered at `/v1/chat/completions` only");
            }
            _ => return refusal,
        };
        refusal.detail(format!("use {meant}; a client's base URL ends in `/v1`"))
    }

    /// The name in metrics and logs.
    fn name(&self) -> &'static str {
        match self {
            Route::Chat => "/v1/chat/completions",
            Route::Models => "/v1/models",
            Route::Model(_) => "/v1/models/{id}",
            Route::Live => "/livez",
            Route::Ready => "/readyz",
            Route::Metrics => "/metrics",
        }
    }

    fn check_method(&self, method: &Method) -> Result<(), Refused> {
        let (allowed, allow) = match self {
            Route::Chat => (Method::POST, "POST"),
            _ => (Method::GET, "GET"),
        };
        if *method == allowed {
            return Ok(());
        }
        Err(wrong_method(allow))
    }
}

pub(super) fn wrong_method(allow: &'static str) -> Refused {
    Refused {
        allow: Some(allow),
        ..Refused::from(Refusal::new(RefuseReason::MethodNotAllowed).detail(format!("use {allow}")))
    }
}

fn names(permitted: &Permitted) -> Vec<&str> {
    let endpoints = permitted.endpoints().iter();
    endpoints
        .map(|endpoint| endpoint.client_id.as_str())
        .collect()
}

impl From<Peer> for Caller {
    fn from(peer: Peer) -> Caller {
        let origin = Origin::Socket {
            uid: peer.uid,
            gid: peer.gid,
            pid: peer.pid,
        };
        Caller {
            origin,
            local: Some(peer),
        }
    }
}

impl From<TcpPeer> for Caller {
    fn from(peer: TcpPeer) -> Caller {
        let origin = Origin::Tcp {
            peer: peer.address,
            certificate: peer.certificate,
        };
        Caller {
            origin,
            local: None,
        }
    }
}

/// What a request shows; who shows nothing on the Unix socket is who the kernel says.
fn credential<B>(
    caller: &Caller,
    request: &Request<B>,
    origins: &[String],
) -> Result<Credential, Refusal> {
    match &caller.local {
        Some(local) if !request.headers().contains_key(AUTHORIZATION) => {
            Ok(Credential::LocalPeer {
                uid: local.uid,
                gid: local.gid,
                groups: local.groups.to_vec(),
            })
        }
        _ => request::credential(request, origins),
    }
}

fn is_tcp(origin: &Origin) -> bool {
    origin.transport_kind() == Some(Transport::Tcp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_shows_nothing_on_the_unix_socket_is_a_local_peer() {
        let local = || {
            Caller::from(Peer {
                uid: 1000,
                gid: 100,
                pid: None,
                groups: [7, 8].into(),
            })
        };
        let address = || std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let remote = Caller::from(TcpPeer {
            address: address(),
            local: address(),
            certificate: None,
        });
        let bare = Request::get("/v1/models").body(()).unwrap();
        let of = |caller: &Caller, request: &Request<()>| credential(caller, request, &[]).unwrap();
        let Credential::LocalPeer { uid, gid, groups } = of(&local(), &bare) else {
            panic!("no local peer");
        };
        assert_eq!((uid, gid, groups), (1000, 100, vec![7, 8]));
        assert!(matches!(of(&remote, &bare), Credential::None));
        for (value, is_bearer) in [("Bearer t", true), ("Basic t", false)] {
            let shown = Request::get("/v1/models").header("authorization", value);
            let shown = shown.body(()).unwrap();
            let found = of(&local(), &shown);
            assert_eq!(matches!(found, Credential::Bearer(_)), is_bearer, "{value}");
            assert!(!matches!(found, Credential::LocalPeer { .. }), "{value}");
        }
    }

    #[test]
    fn routes() {
        assert_eq!(
            Route::at("/v1/models/a%20b"),
            Some(Route::Model("a b".to_owned()))
        );
        for unknown in [
            "/",
            "/v1",
            "/v1/chat/completions/",
            "/v1/Models",
            "/v1/models/%zz",
            "/v1/models/",
            "*",
        ] {
            assert_eq!(Route::at(unknown), None, "{unknown}");
        }
        for (path, hint) in [
            ("//v1/chat/completions", "use `/v1/chat/completions`; "),
            ("/v1//chat/completions", "use `/v1/chat/completions`; "),
            ("/v1/v1/chat/completions", "use `/v1/chat/completions`; "),
            ("/v1/chat/completions/", "use `/v1/chat/completions`; "),
            ("/chat/completions", "ends in `/v1`"),
            ("/models", "use `/v1/models`; "),
            ("//v1/models/a", "use `/v1/models/{id}`; "),
            ("/v1/models/", "use `/v1/models`; "),
            ("/v1/responses", "`/v1/chat/completions` only"),
            ("/completions", "`/v1/chat/completions` only"),
        ] {
            assert_eq!(Route::at(path), None, "{path}");
            let refusal = Route::not_found(path);
            assert_eq!(refusal.status(), 404);
            assert!(refusal.message().contains(hint), "{path}: {refusal}");
        }
        assert_eq!(Route::not_found("/favicon.ico").detail, None);
        let chat = Route::at("/v1/chat/completions").unwrap();
        assert!(chat.check_method(&Method::POST).is_ok());
        let refused = chat.check_method(&Method::GET).unwrap_err();
        let response = refused.into_response();
        assert_eq!(response.status(), 405);
        assert_eq!(response.headers()["allow"], "POST");
    }
}
