//! What becomes of a message that its token allows; an attempt at it, what is written when that
//! begins and when it ends.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use super::entry::{Entry, FirstClock, Stage, StoredAnswer};
use super::shelf::Inbox;
use crate::auth::{Clock, Principal};
use crate::delivery::{Exact, Id, Key, Verdict};
use crate::store::StoreError;
use crate::{telemetry, time};

/// How long a repeat waits for a run whose last message is on its way.
const ENDING: Duration = Duration::from_secs(10);

/// Pauses before what could not be written is tried again: a full disk may have been trimmed.
const WRITE_AGAIN: [Duration; 3] = [
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
];

/// While this is held, its delivery runs in this process.
#[derive(Debug)]
pub(in crate::admission) struct Attempt {
    inbox: Inbox,
    key: Key,
    entry: Entry,
    /// This exact message, with its proof, has been admitted before.
    recognised: bool,
}

/// What becomes of a message that its token allows.
#[derive(Debug)]
pub(super) enum Next {
    Run(Arc<Attempt>),
    Tell(StoredAnswer),
    GiveUp,
    Join,
}

/// A message that its token allows.
pub(super) struct Asked<'a> {
    pub(super) id: Id,
    pub(super) key: Key,
    pub(super) message: Exact,
    pub(super) recognised: bool,
    pub(super) principal: &'a Principal,
    /// What it was decided by.
    pub(super) clock: &'a Clock,
}

impl Inbox {
    /// Waits where the answer of a run is about to end.
    pub(super) async fn permitted(&self, asked: &Asked<'_>) -> Result<Next, StoreError> {
        let (until, mut waited) = (time::instant() + ENDING, false);
        loop {
            let mut released = pin!(self.released());
            // Before the question, so that none is missed in between.
            released.as_mut().enable();
            if let Some(next) = self.next(asked, waited)? {
                return Ok(next);
            }
            waited = tokio::time::timeout_at(until.into(), released)
                .await
                .is_err();
        }
    }

    /// `None`: it has to wait.
    fn next(&self, asked: &Asked<'_>, waited: bool) -> Result<Option<Next>, StoreError> {
        let key = asked.key;
        let mut machine = self.machine();
        let next = match machine.permitted(asked.id, key, waited) {
            Verdict::Run(attempt) => {
                drop(machine);
                let begun = self.attempt(asked, attempt);
                Next::Run(begun.inspect_err(|_| self.release(key))?)
            }
            // Under the lock, so that nothing forgets it in between.
            Verdict::Tell => match self.get(&key)?.map(|entry| entry.stage) {
                Some(Stage::Answered(answer)) => Next::Tell(answer),
                _ => return Err(StoreError::Corrupt("an answer is missing".to_owned())),
            },
            Verdict::GiveUp => Next::GiveUp,
            Verdict::Join => Next::Join,
            Verdict::Wait => return Ok(None),
        };
        Ok(Some(next))
    }

    fn attempt(&self, asked: &Asked<'_>, attempt: u32) -> Result<Arc<Attempt>, StoreError> {
        let before = self.get(&asked.key)?;
        let now = || FirstClock::new(asked.clock, asked.principal);
        let entry = Entry {
            stage: Stage::Begun,
            attempts: attempt,
            clock: before.map_or_else(now, |before| before.clock),
            touched: self.now(),
            message: asked.message,
            owner: Some(asked.principal.key()),
        };
        Ok(Arc::new(Attempt {
            inbox: self.clone(),
            key: asked.key,
            entry,
            recognised: asked.recognised,
        }))
    }
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
        let written = telemetry::blocking(write);
        written.await.unwrap_or_else(lost)
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.inbox.release(self.key);
    }
}
