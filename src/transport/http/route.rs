//! Which operation, or probe, a path means. The operations' paths come from their table.

use hyper::Method;

use super::reply::Refused;
use super::request;
use crate::prompt::{self, Dialect, Entry, Look};
use crate::reason::{Refusal, RefuseReason};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    Complete(Dialect),
    /// With what stands for the path's `{…}`.
    Look(Look, String),
    Probe(Probe),
}

/// What needs no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probe {
    Live,
    Ready,
}

impl Route {
    /// The route of `path`, whatever the method.
    pub(super) fn at(path: &str) -> Option<Route> {
        let complete = |dialect: &Dialect| {
            let (dialect, entry) = (*dialect, dialect.entry());
            matched(entry.path, path).map(|_| Route::Complete(dialect))
        };
        let look = |look: &Look| {
            let (look, entry) = (*look, look.entry());
            matched(entry.path, path).map(|name| Route::Look(look, name))
        };
        let probe = |probe: &Probe| (probe.path() == path).then_some(Route::Probe(*probe));
        let mut dialects = Dialect::ALL.iter();
        dialects
            .find_map(complete)
            .or_else(|| Look::ALL.iter().find_map(look))
            .or_else(|| [Probe::Live, Probe::Ready].iter().find_map(probe))
    }

    /// The name in metrics and logs.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Route::Complete(dialect) => dialect.entry().path,
            Route::Look(look, _) => look.entry().path,
            Route::Probe(probe) => probe.path(),
        }
    }

    pub(super) fn check_method(&self, method: &Method) -> Result<(), Refused> {
        let takes = match self {
            Route::Complete(dialect) => dialect.entry().method,
            Route::Look(look, _) => look.entry().method,
            Route::Probe(_) => prompt::Method::Get,
        };
        match takes.as_str() {
            takes if takes == method.as_str() => Ok(()),
            takes => Err(wrong_method(takes)),
        }
    }
}

impl Probe {
    fn path(self) -> &'static str {
        match self {
            Probe::Live => "/livez",
            Probe::Ready => "/readyz",
        }
    }
}

pub(super) fn wrong_method(allow: &'static str) -> Refused {
    Refused {
        allow: Some(allow),
        ..Refused::from(Refusal::new(RefuseReason::MethodNotAllowed).detail(format!("use {allow}")))
    }
}

/// Names the path that was probably meant: slashes too many, or a base URL without `/v1`.
pub(super) fn not_found(path: &str) -> Refusal {
    let refusal = Refusal::new(RefuseReason::NotFound);
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let parts = match parts.as_slice() {
        ["v1", "v1", rest @ ..] | ["v1", rest @ ..] | rest => rest,
    };
    let meant = format!("/v1/{}", parts.join("/"));
    let mut known = entries().filter(|entry| matched(entry.path, &meant).is_some());
    match (known.next(), parts) {
        (Some(entry), _) => {
            let path = entry.path;
            refusal.detail(format!("use `{path}`; a client's base URL ends in `/v1`"))
        }
        (None, ["responses", ..]) => {
            refusal.detail("chats are answered at `/v1/chat/completions` only")
        }
        _ => refusal,
    }
}

fn entries() -> impl Iterator<Item = &'static Entry> {
    let dialects = Dialect::ALL.iter().map(|dialect| dialect.entry());
    dialects.chain(Look::ALL.iter().map(|look| look.entry()))
}

/// What stands for the pattern's last segment where that is in braces; nothing elsewhere.
fn matched(pattern: &str, path: &str) -> Option<String> {
    let Some((before, _)) = pattern.split_once('{') else {
        return (pattern == path).then(String::new);
    };
    let name = path.strip_prefix(before)?;
    request::decoded(name).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes() {
        assert_eq!(
            Route::at("/v1/models/a%20b"),
            Some(Route::Look(Look::Model, "a b".to_owned()))
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
        ] {
            assert_eq!(Route::at(path), None, "{path}");
            let refusal = not_found(path);
            assert_eq!(refusal.status(), 404);
            assert!(refusal.message().contains(hint), "{path}: {refusal}");
        }
        assert_eq!(not_found("/favicon.ico").detail, None);
        let chat = Route::at("/v1/chat/completions").unwrap();
        assert!(chat.check_method(&Method::POST).is_ok());
        let refused = chat.check_method(&Method::GET).unwrap_err();
        let response = refused.into_response();
        assert_eq!(response.status(), 405);
        assert_eq!(response.headers()["allow"], "POST");
    }

    /// Each line of the table is found at its own path, by its own method.
    #[test]
    fn every_operation_has_its_route() {
        for entry in entries() {
            let route = Route::at(&entry.path.replace("{id}", "x")).unwrap();
            assert_eq!(route.name(), entry.path);
            let method = Method::from_bytes(entry.method.as_str().as_bytes()).unwrap();
            assert!(route.check_method(&method).is_ok());
        }
    }
}
