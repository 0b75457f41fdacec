//! A request's own span, by OpenTelemetry's semantic conventions for HTTP servers. Of what a client
//! chose it says nothing: a path that isn't ours, or a name in one, might hold anything.

use http_body_util::BodyExt;
use hyper::body::Body as _;
use hyper::{Method, Request, Response};

use super::reply::Body;
use super::request;
use crate::admission::Admission;
use crate::prompt::{Origin, RequestId, Transport};
use crate::trace::{Kind, Root};

/// Begins it. `path`: what the table of operations has, where the request means that.
pub(super) fn begin<B>(
    admission: &Admission,
    request: &Request<B>,
    path: Option<&'static str>,
    origin: &Origin,
) -> (Root, RequestId) {
    let parent = request::parent(request.headers());
    let root = admission.begin_trace(Kind::Server, parent.as_ref());
    let trace = parent.map(|parent| parent.trace).or(root.id());
    let id = request::id(request.headers()).of_trace(trace);
    if root.is_recorded() {
        let method = method(request.method());
        let verb = if method == OTHER { "HTTP" } else { method };
        root.call(path.map_or(verb.into(), |path| format!("{verb} {path}")));
        root.set("http.request.method", method);
        if let Some(path) = path {
            root.set("http.route", path);
        }
        if let Some(path) = path.filter(|path| !path.contains('{')) {
            root.set("url.path", path);
        }
        let is_tcp = origin.transport_kind() == Some(Transport::Tcp);
        root.set("network.transport", if is_tcp { "tcp" } else { "unix" });
        root.set("slmd.request_id", id.to_string());
    }
    (root, id)
}

/// Ends it with the response, which may be a stream that goes on.
pub(super) fn end(root: Root, response: Response<Body>) -> Response<Body> {
    if !root.is_recorded() {
        return response;
    }
    let status = response.status();
    root.set("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        root.fail();
    }
    if response.body().size_hint().exact().is_some() {
        return response;
    }
    let until_its_end = |body: Body| {
        let body = body.map_frame(move |frame| {
            let _open = &root;
            frame
        });
        body.boxed_unsync()
    };
    response.map(until_its_end)
}

/// Of no method that the conventions know.
const OTHER: &str = "_OTHER";

fn method(method: &Method) -> &'static str {
    const KNOWN: [&str; 10] = [
        "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE",
    ];
    let known = KNOWN.into_iter().find(|known| *known == method.as_str());
    known.unwrap_or(OTHER)
}
