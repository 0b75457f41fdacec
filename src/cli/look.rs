//! Looking at the running daemon: over the admin socket, and for who may not over the public one.

use std::path::PathBuf;

use super::client::{Client, Problem};
use super::exit::Failure;
use super::{Sockets, output};
use crate::admin::{Status, route};

/// What was seen, and of what it is only a part.
pub(super) struct Seen<T> {
    pub(super) what: T,
    /// The public socket, where the admin socket was closed.
    pub(super) public: Option<PathBuf>,
}

impl<T> Seen<T> {
    pub(super) fn map<U>(self, of: impl FnOnce(T) -> U) -> Seen<U> {
        let Seen { what, public } = self;
        let what = of(what);
        Seen { what, public }
    }

    /// Where the answer is for a script, people are told beside it.
    pub(super) fn warn(&self, left_out: &str) {
        if let Some(note) = self.note(left_out) {
            eprintln!("slmd: {note}");
        }
    }

    /// What isn't in it, and how to get that.
    pub(super) fn note(&self, left_out: &str) -> Option<String> {
        let socket = self.public.as_ref()?.display();
        let socket = output::printable(&socket.to_string());
        Some(format!("seen over the public socket {socket}, {left_out}"))
    }
}

/// The daemon's status: whole over the admin socket, else what anybody on the public one may see.
pub(super) fn status(sockets: &Sockets) -> Result<Seen<Status>, Problem> {
    seen(sockets, route::STATUS, |status| status)
}

/// `call`, or where the admin socket is closed what `of` makes of the public socket's status.
pub(super) fn seen<A: serde::de::DeserializeOwned>(
    sockets: &Sockets,
    call: crate::admin::Call<A>,
    of: impl FnOnce(Status) -> A,
) -> Result<Seen<A>, Problem> {
    let public = match Client::new(sockets.admin.clone()).call(call) {
        Err(Problem::Denied(_)) => sockets.public.clone(),
        answer => {
            return answer.map(|what| Seen { what, public: None });
        }
    };
    let told = Client::new(public.clone()).tell("/readyz?verbose");
    let what = told.map_err(|problem| match problem {
        Problem::Denied(denied) => Problem::Denied(Failure::new(
            denied.exit,
            format!(
                "neither socket is open to you: the admin socket is for root and the daemon's user \
                 (try sudo), {} for members of its group (usermod --append --groups slmd USER, then \
                 log in again)",
                public.display()
            ),
        )),
        other => other,
    })?;
    let public = Some(public);
    Ok(Seen { what, public }.map(of))
}
