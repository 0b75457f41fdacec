//! The public sockets: OpenAI's operations and the probes.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderName};
use hyper::{Request, Response, StatusCode};
use tracing::Instrument;

use super::connections::{Peer, Service};
use super::door::TcpPeer;
use super::metrics::Metrics;
use super::reply::{self, Body, JSON, Refused, TEXT};
use super::request::Sender;
use super::route::{Route, not_found, wrong_method};
use super::{Control, Settings, accept, answer, auditor, evidence, host, request, route, spans};
use crate::admission::{Admission, Recorded};
use crate::audit::View;
use crate::auth::{Credential, Permitted};
use crate::prompt::{self, Dialect, Look, Origin, Place, RequestId, Transport};
use crate::reason::{Refusal, RefuseReason};
use crate::trace::Trace;
use crate::wire::{self, Body as Prompt};

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
    /// Where the spans of what is asked go.
    trace: Trace,
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
/// To who asks for more than may be told without a token.
const TOKEN_WANTED: &str = "over TCP `?verbose` wants a token with the scope `audit`\n";
const IGNORED: HeaderName = HeaderName::from_static("slmd-ignored-parameters");

impl Public {
    /// `checked`: whether the request may be for this appliance at all.
    async fn respond(
        &self,
        mut caller: Caller,
        checked: Result<(), Refusal>,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let place = route::at(request.uri().path());
        let path = place.as_ref().map(|place| place.path);
        let (root, id) = spans::begin(&self.admission, &request, path, &caller.origin);
        caller.trace = root.trace();
        let lines = id.log_span();
        let answered = async {
            let answer = match (checked, place) {
                (Err(refusal), _) => Err(refusal.into()),
                (Ok(()), Some(place)) => self.handle(place, caller.clone(), &id, request).await,
                (Ok(()), None) => Err(not_found(request.uri().path()).into()),
            };
            let answer = answer.unwrap_or_else(|refused| self.refuse(refused, caller, &id));
            let (name, status) = (path.unwrap_or("other"), answer.status().as_u16());
            self.metrics.answered(name, status);
            tracing::debug!(route = name, status, "answered");
            answer
        };
        let mut response = answered.instrument(lines).await;
        reply::set(response.headers_mut(), REQUEST_ID, id.echoed());
        spans::end(root, response)
    }

    fn refuse(&self, refused: Refused, caller: Caller, id: &RequestId) -> Response<Body> {
        let Caller { origin, trace, .. } = caller;
        refused.respond(|refusal| {
            trace.decided(Err(refusal.reason));
            self.admission.refuse_unread(origin, id, refusal)
        })
    }

    fn refuse_connection(&self, caller: Caller, refusal: &Refusal) {
        let id = RequestId::random();
        let refusal = refusal.clone();
        let refusal = self.admission.refuse_unread(caller.origin, &id, refusal);
        self.metrics.answered("other", refusal.status());
    }

    async fn handle(
        &self,
        place: Place<Route>,
        caller: Caller,
        id: &RequestId,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refused> {
        let named = place.named.clone();
        match place
            .take(request.method().as_str())
            .map_err(wrong_method)?
        {
            Route::Complete(dialect) => self.complete(dialect, caller, id, request).await,
            Route::Look(look) => self.look(look, &named, caller, id, &request).await,
            Route::Live => Ok(reply::full(StatusCode::OK, TEXT, "ok\n")),
        }
    }

    async fn look(
        &self,
        look: Look,
        name: &str,
        caller: Caller,
        id: &RequestId,
        request: &Request<Incoming>,
    ) -> Result<Response<Body>, Refused> {
        let json = |body| Ok(reply::full(StatusCode::OK, JSON, body));
        match look {
            Look::Models => {
                let permitted = self.authorized(look, caller, id, request).await?;
                json(wire::models(&names(&permitted)))
            }
            Look::Model => {
                let permitted = self.authorized(look, caller, id, request).await?;
                if !names(&permitted).contains(&name) {
                    let refusal = Refusal::new(RefuseReason::NotFound).param("model");
                    let refusal = permitted.with(refusal);
                    return Err(Refused::recorded(refusal, look.entry().scope));
                }
                json(wire::model(name))
            }
            Look::Metrics => {
                if is_tcp(&caller.origin) {
                    let _read = self.authorized(look, caller, id, request).await?;
                }
                let format = accept::format(request.headers());
                let control = Arc::clone(&self.control);
                let text = tokio::task::spawn_blocking(move || control.metrics(format)).await;
                let text = text.map_err(|_| Refusal::new(RefuseReason::Internal))?;
                Ok(accept::metrics(format, text))
            }
            Look::Status => self.status(caller, id, request).await,
            Look::Audit | Look::Checkpoint | Look::Proof | Look::Consistency => {
                self.audit(look, name, caller, id, request).await
            }
        }
    }

    /// Records of the realm that the token is of, and what proves them.
    async fn audit(
        &self,
        look: Look,
        name: &str,
        caller: Caller,
        id: &RequestId,
        request: &Request<Incoming>,
    ) -> Result<Response<Body>, Refused> {
        let permitted = self.authorized(look, caller, id, request).await?;
        let log = self.control.audit();
        let answer = match look {
            Look::Checkpoint => evidence::checkpoint(&log),
            Look::Proof => evidence::proof(log, name, false).await,
            Look::Consistency => evidence::consistency(log, name).await,
            _ => {
                let view = View::Realm(permitted.grant().realm.clone());
                auditor::answer(log, view, request).await
            }
        };
        answer.map_err(|refusal| Refused::recorded(permitted.with(refusal), look.entry().scope))
    }

    async fn complete(
        &self,
        dialect: Dialect,
        caller: Caller,
        id: &RequestId,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refused> {
        let credential = credential(&caller, &request, &self.settings.public_urls)?;
        let sender = match credential {
            Credential::Bearer(_) | Credential::Dpop { .. } if caller.local.is_some() => {
                Sender::LocalWithToken
            }
            _ => Sender::Unknown,
        };
        request::require_json(request.headers(), sender)?;
        let Settings {
            max_body,
            body_timeout,
            ..
        } = *self.settings;
        let body = request::body(request, max_body, body_timeout).await?;
        let body = wire::parse(dialect, &body)?;
        if body.authorization.is_some() {
            let refusal = Refusal::new(RefuseReason::UnsupportedParameter)
                .detail("over HTTP the token goes into the `Authorization` header")
                .param("authorization");
            return Err(refusal.into());
        }
        self.admitted(credential, caller, id, body).await
    }

    async fn admitted(
        &self,
        credential: Credential,
        Caller { origin, trace, .. }: Caller,
        id: &RequestId,
        body: Prompt,
    ) -> Result<Response<Body>, Refused> {
        let request = prompt::Request {
            id: id.clone(),
            origin,
            model: body.model,
            deadline: None,
            trace,
            asks: body.completion,
        };
        let scope = request.asks.dialect.entry().scope;
        let admitted = self
            .admission
            .submit(credential, request)
            .await
            .map_err(|refusal| Refused::recorded(refusal, scope))?;
        let framing = body.framing;
        let framer = framing.framer(&admitted.id, &admitted.model, admitted.created);
        let mut response = if framer.is_stream() {
            answer::streamed(admitted, framer, self.settings.keep_alive)
        } else {
            let whole = answer::whole(admitted, framer).await;
            whole.map_err(|refusal| Refused::recorded(refusal, scope))?
        };
        if !body.ignored.is_empty() {
            reply::set(response.headers_mut(), IGNORED, &body.ignored.join(", "));
        }
        Ok(response)
    }

    /// Admission's leave for what needs no engine.
    async fn authorized(
        &self,
        look: Look,
        caller: Caller,
        id: &RequestId,
        request: &Request<Incoming>,
    ) -> Result<Recorded<Permitted>, Refused> {
        let credential = credential(&caller, request, &self.settings.public_urls)?;
        let request = prompt::Request {
            id: id.clone(),
            origin: caller.origin,
            model: None,
            deadline: None,
            trace: caller.trace,
            asks: look,
        };
        let permitted = self.admission.authorize(credential, request).await;
        permitted.map_err(|refusal| Refused::recorded(refusal, look.entry().scope))
    }

    /// Ready or not; and what is inside, for this machine and for whom a token allows it.
    async fn status(
        &self,
        caller: Caller,
        id: &RequestId,
        request: &Request<Incoming>,
    ) -> Result<Response<Body>, Refused> {
        let (is_tcp, verbose) = (is_tcp(&caller.origin), request::query(request, "verbose"));
        let shows_token = request.headers().contains_key(AUTHORIZATION);
        let all = verbose.is_some() && (!is_tcp || shows_token);
        if all && is_tcp {
            let _read = self.authorized(Look::Status, caller, id, request).await?;
        }
        let ready = self.control.ready();
        let status = match ready {
            Ok(()) => StatusCode::OK,
            Err(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        if all {
            return Ok(reply::json(status, &self.control.status()));
        }
        let mut text = match ready {
            Ok(()) => "ready\n".to_owned(),
            // The reason names realms and folders.
            Err(_) if is_tcp => "not ready\n".to_owned(),
            Err(why) => format!("not ready: {why}\n"),
        };
        if verbose.is_some() {
            text.push_str(TOKEN_WANTED);
        }
        Ok(reply::full(status, TEXT, text))
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
            trace: Trace::default(),
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
            trace: Trace::default(),
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
        let showing = |value| {
            let shown = Request::get("/v1/models").header("authorization", value);
            shown.body(()).unwrap()
        };
        let bearer = of(&local(), &showing("Bearer t"));
        assert!(matches!(bearer, Credential::Bearer(_)));
        assert!(credential(&local(), &showing("Basic t"), &[]).is_err());
    }
}
