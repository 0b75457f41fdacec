//! Which operation a path means, or the probe. The operations' paths come from their table.

use super::reply::Refused;
use crate::prompt::{Dialect, Entry, Look, Place};
use crate::reason::{Refusal, RefuseReason};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    Complete(Dialect),
    Look(Look),
    /// Whether the daemon answers at all: for everybody.
    Live,
}

/// What there is at `path`.
pub(super) fn at(path: &str) -> Option<Place<Route>> {
    let operations = operations().map(|(entry, route)| (entry.method, entry.path, route));
    Place::find(operations.chain([("GET", "/livez", Route::Live)]), path)
}

/// What metrics call the routes.
#[cfg(any(test, feature = "for-tests"))]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    operations().map(|(entry, _)| entry.path).chain(["/livez"])
}

fn operations() -> impl Iterator<Item = (&'static Entry, Route)> {
    let dialects = Dialect::ALL
        .iter()
        .map(|it| (it.entry(), Route::Complete(*it)));
    dialects.chain(Look::ALL.iter().map(|it| (it.entry(), Route::Look(*it))))
}

pub(super) fn wrong_method(allow: String) -> Refused {
    let refusal = Refusal::new(RefuseReason::MethodNotAllowed).detail(format!("use {allow}"));
    Refused {
        allow: Some(allow.into()),
        ..Refused::from(refusal)
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
    match (at(&meant), parts) {
        (Some(Place { path, .. }), _) => {
            refusal.detail(format!("use `{path}`; a client's base URL ends in `/v1`"))
        }
        (None, ["responses", ..]) => {
            refusal.detail("chats are answered at `/v1/chat/completions` only")
        }
        _ => refusal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes() {
        let model = at("/v1/models/a%20b").unwrap();
        assert_eq!(model.named, "a b");
        assert_eq!(model.take("HEAD").unwrap(), Route::Look(Look::Model));
        assert!(at("/livez").unwrap().take("HEAD").is_ok());
        for unknown in [
            "/",
            "/v1",
            "/v1/chat/completions/",
            "/v1/Models",
            "/v1/models/%zz",
            "/v1/models/",
            "*",
        ] {
            assert!(at(unknown).is_none(), "{unknown}");
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
            assert!(at(path).is_none(), "{path}");
            let refusal = not_found(path);
            assert_eq!(refusal.status(), 404);
            assert!(refusal.message().contains(hint), "{path}: {refusal}");
        }
        assert_eq!(not_found("/favicon.ico").detail, None);
        let allow = at("/v1/models").unwrap().take("POST").unwrap_err();
        let response = wrong_method(allow).into_response();
        assert_eq!(response.status(), 405);
        assert_eq!(response.headers()["allow"], "GET, HEAD");
    }

    /// Each line of the table is found at its own path, by its own method.
    #[test]
    fn every_operation_has_its_route() {
        for (entry, route) in operations() {
            let path = match entry.path.split_once('{') {
                Some((before, _)) => format!("{before}x"),
                None => entry.path.to_owned(),
            };
            let place = at(&path).unwrap();
            assert_eq!(place.path, entry.path);
            assert_eq!(place.take(entry.method), Ok(route));
        }
    }
}
