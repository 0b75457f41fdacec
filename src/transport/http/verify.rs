//! `POST /audit/verify` of the admin socket: what a verification of the audit log finds, as the last
//! line; until then empty lines are its signs of life.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use hyper::Response;

use super::reply::{self, Body, JSON_LINES, Refused};
use crate::audit::Log;
use crate::audit::verify::Verifier;
use crate::reason::{Refusal, RefuseReason};
use crate::shutdown::Shutdown;
use crate::time;

pub(super) fn answer(
    log: &Log,
    given: Option<String>,
    keep_alive: Duration,
    shutdown: Shutdown,
) -> Result<Response<Body>, Refused> {
    let verifier = log.verifier(given.map(String::into_bytes));
    let verifier = verifier.map_err(|error| {
        tracing::error!(%error, "the audit log can't be verified");
        Refusal::new(RefuseReason::Internal)
    })?;
    let under_way = UnderWay {
        verifier: Some(verifier),
        keep_alive,
        said: time::instant(),
        shutdown,
    };
    let lines = stream::unfold(under_way, async |mut under_way| {
        let bytes = under_way.next().await?;
        Some((bytes, under_way))
    });
    Ok(reply::streamed(JSON_LINES, lines))
}

struct UnderWay {
    /// `None`: the report is given.
    verifier: Option<Verifier>,
    keep_alive: Duration,
    said: Instant,
    shutdown: Shutdown,
}

impl UnderWay {
    /// The next line; `None` at the end, or when it can't go on.
    async fn next(&mut self) -> Option<Bytes> {
        while !self.shutdown.is_draining() {
            let mut verifier = self.verifier.take()?;
            let stepped = tokio::task::spawn_blocking(move || (verifier.step(), verifier)).await;
            match stepped {
                Ok((Ok(None), verifier)) => self.verifier = Some(verifier),
                Ok((Ok(Some(report)), _)) => {
                    let line = serde_json::to_vec(&report).ok()?;
                    return Some([&line[..], b"\n"].concat().into());
                }
                Ok((Err(error), _)) => {
                    tracing::error!(%error, "the audit log can't be verified");
                    return None;
                }
                Err(error) => {
                    tracing::error!(%error, "a verification failed");
                    return None;
                }
            }
            if self.said.elapsed() >= self.keep_alive {
                self.said = time::instant();
                return Some(Bytes::from_static(b"\n"));
            }
        }
        None
    }
}
