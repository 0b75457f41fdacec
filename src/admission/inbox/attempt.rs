//! An attempt at a delivery: what is written when it begins and when it ends.

use std::sync::Arc;
use std::time::Duration;

use super::entry::{Entry, Stage};
use super::shelf::Inbox;
use crate::delivery::Key;
use crate::store::StoreError;

/// Pauses before what could not be written is tried again: a full disk may have been trimmed.
const WRITE_AGAIN: [Duration; 3] = [
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
];

/// While this is held, its delivery runs in this process.
#[derive(Debug)]
pub(in crate::admission) struct Attempt {
    pub(super) inbox: Inbox,
    pub(super) key: Key,
    pub(super) entry: Entry,
    /// This exact message, with its proof, has been admitted before.
    pub(super) recognised: bool,
}

impl Attempt {
    pub(in crate::admission) fn number(&self) -> u32 {
        self.entry.attempts
    }

    pub(in crate::admission) fn is_recognised(&self) -> bool {
        self.recognised
    }

    /// Rides on the sync of the permit's record.
    pub(in crate::admission) fn write(&self) -> Result<(), StoreError> {
        self.inbox.put(&self.key, &self.entry)
    }

    /// The last message of the answer is about to be sent.
    pub(super) fn ends(&self) {
        self.inbox.machine().ends(&self.key);
    }

    /// Durable when this returns. It ends only when that is on record, or given up.
    pub(super) async fn close(
        self: Arc<Self>,
        stage: Stage,
        attempts: u32,
    ) -> Result<(), StoreError> {
        let entry = Entry {
            stage,
            attempts,
            touched: self.inbox.now(),
            ..self.entry.clone()
        };
        for pause in WRITE_AGAIN {
            match self.put_durably(&entry).await {
                Ok(()) => return Ok(()),
                Err(error) => tracing::warn!(%error, "a delivery is to be recorded again"),
            }
            tokio::time::sleep(pause).await;
        }
        self.put_durably(&entry).await
    }

    async fn put_durably(self: &Arc<Self>, entry: &Entry) -> Result<(), StoreError> {
        let (attempt, entry) = (Arc::clone(self), entry.clone());
        let write = move || attempt.inbox.put_durably(&attempt.key, &entry);
        let lost = |_| Err(StoreError::Io("the writing task ended early".to_owned()));
        let written = tokio::task::spawn_blocking(write);
        written.await.unwrap_or_else(lost)
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.inbox.released(self.key);
    }
}
