//! What is decided is on record before it is told or done.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use super::inbox::{Attempt, StoredAnswer};
use super::metrics::Metrics;
use super::records;
use super::replay::FirstUse;
use crate::audit::{self, Access, AuditError, Finished, Noted};
use crate::auth::{Denied, Permitted};
use crate::keysync::Floor;
use crate::prompt::{Operation, Origin, Request, RequestId};
use crate::reason::{Refusal, RefuseReason};
use crate::store::Store;
use crate::telemetry;

/// When to come again while nothing can be recorded.
const RETRY: Duration = Duration::from_secs(5);

/// Proof that the audit has what this holds, or the permit that it belongs to; a refusal that is
/// one of a flood, or that can't be written, is counted there. Only the recorder makes one, and
/// nothing else is told to a client.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded<T>(T);

impl<T> Recorded<T> {
    /// What else is told of the same request.
    pub fn with<U>(&self, other: U) -> Recorded<U> {
        Recorded(other)
    }

    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Recorded<U> {
        Recorded(change(self.0))
    }
}

impl<T> Deref for Recorded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Recorder {
    pub(super) log: audit::Log,
    pub(super) store: Store,
    pub(super) floor: Floor,
    pub(super) metrics: Metrics,
}

impl Recorder {
    /// A request that was refused before it could be decided.
    pub(super) fn unread(
        &self,
        origin: Origin,
        id: &RequestId,
        refusal: Refusal,
    ) -> Recorded<Refusal> {
        self.note(&records::unread(origin, id, &refusal));
        Recorded(refusal)
    }

    /// A use of the admin socket by who may not.
    pub(super) fn admin(&self, origin: Origin, what: String, refusal: &Refusal) -> Noted {
        self.note(&records::admin(origin, what, refusal))
    }

    /// A request that the token doesn't allow.
    pub(super) fn denied(&self, request: &Request, denied: Denied) -> Recorded<Refusal> {
        self.note(&records::denied(request, &denied));
        let mut refusal = Refusal::new(denied.reason);
        refusal.detail = denied.detail;
        if refusal.status() == 503 {
            refusal.retry_after = denied.retry_after.or(Some(RETRY));
        }
        Recorded(refusal)
    }

    /// A request that the token allows and that is refused all the same.
    pub(super) fn refused(&self, permitted: &Permitted, refusal: Refusal) -> Recorded<Refusal> {
        self.note(&records::refused(permitted, &refusal));
        permitted.request().trace.decided(Err(refusal.reason));
        Recorded(refusal)
    }

    /// A remembered answer that is told once more.
    pub(super) fn remembered(
        &self,
        permitted: &Permitted,
        answer: StoredAnswer,
    ) -> Recorded<StoredAnswer> {
        self.repeated(records::again(permitted, &answer.request_id));
        Recorded(answer)
    }

    /// The same request runs already, and its answer is for both.
    pub(super) fn joined(&self, permitted: &Permitted) {
        self.repeated(records::joined(permitted));
    }

    /// What it repeats is on record, so it needn't wait for the disk.
    fn repeated(&self, access: Access) {
        if let Err(error) = self.log.repeat(access, self.log.clocks().now()) {
            tracing::error!(%error, "a repeated request could not be recorded");
        }
    }

    /// A prompt's permit, with what is written beside it; durable when this returns, and where.
    pub(super) async fn permit(
        &self,
        permitted: &Permitted,
        (access, salt): (Access, [u8; 16]),
        attempt: Option<Arc<Attempt>>,
        proof: Option<FirstUse>,
    ) -> Result<Recorded<u64>, Refusal> {
        let log = self.log.clone();
        let append = move || {
            if let Some(attempt) = &attempt {
                attempt.write()?;
            }
            if let Some(proof) = &proof {
                proof.write()?;
            }
            let now = log.clocks().now();
            log.append_permit(access, salt, now)
        };
        let index = self.commit(append).await?;
        self.metrics.permitted(permitted);
        Ok(Recorded(index))
    }

    /// What needs no engine. Of reads the first is recorded and the rest are counted.
    pub(super) async fn operation(
        &self,
        permitted: Permitted,
        mut proof: Option<FirstUse>,
    ) -> Result<Recorded<Permitted>, Refusal> {
        let access = records::permitted(&permitted);
        let log = self.log.clone();
        let is_read = matches!(permitted.request().asks, Operation::Look(_));
        if is_read
            && log.is_counting(&access, log.clocks().now())
            && let Some(used) = proof.take()
        {
            // It counts only when its proof can't be used again.
            self.commit(move || Ok(used.write()?)).await?;
        }
        // A proof that is left is written with the record.
        let counted = is_read && proof.is_none() && log.count_read(&access, log.clocks().now());
        if !counted {
            let record = access.clone();
            self.commit(move || {
                if let Some(proof) = &proof {
                    proof.write()?;
                }
                log.append_read(record, log.clocks().now()).map(drop)
            })
            .await?;
            if is_read {
                let now = self.log.clocks().now();
                self.log.begin_counting(&access, now);
            }
        }
        self.metrics.permitted(&permitted);
        Ok(Recorded(permitted))
    }

    pub(super) fn finished(&self, transport: &'static str, finished: Finished) {
        self.metrics.finished(transport, finished.finish);
        if let Err(error) = self.log.finish(finished, self.log.clocks().now()) {
            // The permit is on record, so the access isn't hidden; the operator must know.
            tracing::error!(%error, "a finish could not be recorded");
        }
    }

    /// Refusals ride on the next sync, so that a flood of them can't wear out the flash.
    fn note(&self, access: &Access) -> Noted {
        let decision = access.reason.map_or(Ok(()), Err);
        let (transport, realm) = (access.origin.transport(), access.realm.as_deref());
        self.metrics.decided(transport, realm, decision);
        self.log.refuse(access, self.log.clocks().now())
    }

    /// Runs what writes, with what is known of the time: what was when a request was admitted stays
    /// known after a power cut. Durable when this returns.
    async fn commit<T: Send + 'static>(
        &self,
        write: impl FnOnce() -> Result<T, AuditError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (store, floor, clocks) = (
            self.store.clone(),
            self.floor.clone(),
            self.log.clocks().clone(),
        );
        let written = telemetry::blocking(move || {
            store.commit(|| {
                floor.write_along(clocks.booted())?;
                write()
            })
        });
        match written.await {
            Ok(Ok(written)) => Ok(written),
            Ok(Err(error)) => {
                tracing::error!(%error, "a permit could not be recorded");
                Err(Refusal::new(RefuseReason::AuditUnavailable).retry_after(RETRY))
            }
            Err(_) => Err(RefuseReason::Internal.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::admission::running::tests::permitted;
    use crate::audit::tests::{open_in, settings};
    use crate::reason::Reason;

    fn recorder(folder: &TempDir, refusals_per_minute: u32) -> Recorder {
        let store = Store::open(&folder.path().join("db")).unwrap();
        let settings = audit::Settings {
            refusals_per_minute,
            ..settings()
        };
        let log = open_in(&store, folder, settings);
        Recorder {
            floor: Floor::open(&store, log.clocks().booted()).unwrap(),
            log,
            metrics: Metrics::default(),
            store,
        }
    }

    fn reasons(recorder: &Recorder) -> Vec<Option<&'static str>> {
        let lines = recorder.log.read(0, 100).unwrap();
        let records = lines.iter().filter_map(audit::Line::record);
        let accesses = records.filter_map(|record| match record.event {
            audit::Event::Access(access) => Some(access.reason.map(Reason::as_str)),
            _ => None,
        });
        accesses.collect()
    }

    #[test]
    fn a_refusal_is_on_record_when_it_is_told_and_a_flood_of_them_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let recorder = recorder(&folder, 2);
        let (own, other) = (permitted(1), permitted(2));
        let refuse = |of| recorder.refused(of, RefuseReason::Overloaded.into());
        for told in 1..=5 {
            assert_eq!(refuse(&own).reason, RefuseReason::Overloaded.into());
            assert_eq!(reasons(&recorder).len(), told.min(2));
        }
        let _told = refuse(&other);
        assert_eq!(reasons(&recorder), [Some("overloaded"); 3]);
    }

    #[tokio::test]
    async fn what_is_permitted_is_durable_and_a_second_look_costs_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let recorder = recorder(&folder, 2);
        let before = recorder.store.syncs();
        let own = permitted(1);
        let _read = recorder.operation(own.clone(), None).await.unwrap();
        let after = recorder.store.syncs();
        assert!(after > before);
        assert_eq!(reasons(&recorder), [None]);
        let _again = recorder.operation(own, None).await.unwrap();
        assert_eq!(recorder.store.syncs(), after);
        assert_eq!(reasons(&recorder), [None], "it is counted");
    }
}
