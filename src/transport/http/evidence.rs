//! Checkpoints of the audit log and the proofs that go with them: hashes alone, so whoever may read
//! any record may have all of them.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::{Response, StatusCode};

use super::query::bad_value;
use super::reply::{self, Body, TEXT};
use crate::audit::{AuditError, Log, ProofError, Signed};
use crate::reason::{Refusal, RefuseReason};

/// The newest checkpoint, a signed note.
pub(super) fn checkpoint(log: &Log) -> Result<Response<Body>, Refusal> {
    Ok(note(&*newest(log)?))
}

pub(super) fn note(signed: &Signed) -> Response<Body> {
    reply::full(StatusCode::OK, TEXT, signed.note.clone())
}

/// The proof that a record is in the log that the newest checkpoint speaks of. `signs`: a new one is
/// made where the newest doesn't cover the record.
pub(super) async fn proof(log: Log, index: &str, signs: bool) -> Result<Response<Body>, Refusal> {
    let index = number("index", index)?;
    let proof = blocking(move || {
        let signed = match signs {
            true => log
                .checkpoint_over(index, log.clocks().now())
                .map_err(failed)?,
            false => log.proving(index).map_or_else(|| newest(&log), Ok)?,
        };
        log.proof(index, &signed).map_err(unproven)
    });
    let proof = proof.await?;
    Ok(reply::full(StatusCode::OK, TEXT, proof.to_string()))
}

/// The proof that the log of `from` records is the beginning of that which the newest checkpoint
/// speaks of: a hash a line, in base64.
pub(super) async fn consistency(log: Log, from: &str) -> Result<Response<Body>, Refusal> {
    let from = number("from", from)?;
    let hashes = blocking(move || log.consistency(from, &*newest(&log)?).map_err(unproven));
    let lines = hashes.await?.into_iter();
    let text: String = lines.map(|hash| STANDARD.encode(hash) + "\n").collect();
    Ok(reply::full(StatusCode::OK, TEXT, text))
}

fn newest(log: &Log) -> Result<Arc<Signed>, Refusal> {
    log.shown().ok_or_else(|| {
        let refusal = Refusal::new(RefuseReason::NotFound);
        refusal.detail("the log has no checkpoint yet; one is signed with its first records")
    })
}

fn number(name: &str, text: &str) -> Result<u64, Refusal> {
    text.parse().map_err(|_| bad_value(name, "a number"))
}

#[expect(clippy::needless_pass_by_value, reason = "what `map_err` hands over")]
pub(super) fn failed(error: AuditError) -> Refusal {
    tracing::error!(%error, "the audit log could not be read or signed");
    RefuseReason::AuditUnavailable.into()
}

fn unproven(error: ProofError) -> Refusal {
    match error {
        ProofError::Store(_) | ProofError::Damaged(..) => failed(error.into()),
        ProofError::Beyond => Refusal::new(RefuseReason::NotFound).detail(
            "the newest checkpoint doesn't cover it: it is newer, or of an epoch before this one",
        ),
        ProofError::OtherEpoch | ProofError::Gone => {
            Refusal::new(RefuseReason::NotFound).detail(error.to_string())
        }
    }
}

/// Reads off the async threads.
pub(super) async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let read = tokio::task::spawn_blocking(read).await;
    read.unwrap_or_else(|error| {
        tracing::error!(%error, "a task on the audit log failed");
        Err(RefuseReason::Internal.into())
    })
}
