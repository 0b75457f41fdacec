//! Where an export stands in the log: what comes next, and what its receiver has for certain.
//!
//! The log itself is the buffer. Of the place only a cursor is kept, and that is written seldom: after
//! a crash what came since is told again. Records are read once they are durable, and nobody waits for
//! a disk because of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::progress::Progress;
use super::syslog::Gap;
use crate::audit::{AuditError, Line, Log};
use crate::store::{StoreError, Tree};
use crate::time;

/// Records read at once.
pub(super) const PAGE: usize = 64;

/// Records that come within so long are read together, by when they are durable, too: what rides on a
/// sync is synced once a second.
const LINGER: Duration = Duration::from_secs(1);

/// The cursor is written at most this often, for the flash's sake.
const SAVE: Duration = Duration::from_secs(60);

/// What an export tells next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Record(Line),
    Gap(Gap),
}

#[derive(Debug)]
pub(super) struct Feed {
    log: Log,
    cursors: Tree,
    progress: Arc<Progress>,
    /// The next to be told.
    at: u64,
    /// The receiver has all before this.
    confirmed: u64,
    /// All that is missing before this has been counted.
    missed: u64,
    /// What the disk knows of what is confirmed.
    saved: u64,
    saved_at: Instant,
}

impl Feed {
    /// Goes on where it was; the first time at the oldest record.
    pub(super) fn open(log: &Log, progress: Arc<Progress>) -> Result<Feed, AuditError> {
        let cursors = log.0.store.tree("audit_export")?;
        let stored = cursors.get(progress.to().as_bytes())?;
        let stored = stored.and_then(|bytes| bytes.try_into().ok());
        let (first, next) = (log.state().first, log.next_index());
        let at = match stored.map(u64::from_be_bytes) {
            Some(at) if at <= next => at,
            // The log begins anew.
            Some(_) | None => first,
        };
        progress.confirmed(at);
        Ok(Feed {
            log: log.clone(),
            cursors,
            progress,
            at,
            confirmed: at,
            missed: at,
            saved: at,
            saved_at: time::instant(),
        })
    }

    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Resolves when there may be something to tell.
    pub(super) async fn ready(&self) {
        loop {
            self.log.wait(self.at).await;
            // Enough to tell without.
            if self.log.state().durable() >= self.at.saturating_add(PAGE as u64) {
                return;
            }
            tokio::time::sleep(LINGER).await;
            if self.log.state().durable() > self.at {
                return;
            }
        }
    }

    /// What comes next, `most` records at most, and moves on behind it. Nothing: there is none yet.
    pub(super) async fn page(&mut self, most: usize) -> Result<Vec<Piece>, AuditError> {
        let (log, from) = (self.log.clone(), self.at);
        let lines = blocking(move || log.read_durable(from, most)).await?;
        let mut pieces = Vec::with_capacity(lines.len());
        for line in lines {
            if line.index > self.at {
                let (first, last) = (self.at, line.index - 1);
                self.miss(first.max(self.missed), last);
                pieces.push(Piece::Gap(Gap { first, last }));
            }
            self.at = line.index + 1;
            pieces.push(Piece::Record(line));
        }
        Ok(pieces)
    }

    /// Counts once what is told again after a failure.
    fn miss(&mut self, first: u64, last: u64) {
        if first <= last {
            self.progress.missing(Gap { first, last });
            self.missed = last + 1;
        }
    }

    /// The receiver has all that was told before `index`.
    pub(super) async fn confirm(&mut self, index: u64) {
        self.confirmed = index;
        self.progress.confirmed(index);
        let now = time::instant();
        if now.saturating_duration_since(self.saved_at) >= SAVE {
            self.save().await;
        }
    }

    /// The log's epoch and the index that it begins with.
    pub(super) fn epoch(&self) -> (u64, u64) {
        let state = self.log.state();
        (state.epoch.number, state.epoch.base)
    }

    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Tells again what the receiver may not have.
    pub(super) fn back(&mut self) {
        self.at = self.confirmed;
    }

    /// Rides on the next sync. What can't be written now is written the next time.
    pub(super) async fn save(&mut self) {
        let (cursors, at) = (self.cursors.clone(), self.confirmed);
        self.saved_at = time::instant();
        if at == self.saved {
            return;
        }
        let key = self.progress.to().as_bytes();
        let saved = blocking(move || Ok(cursors.insert(key, &at.to_be_bytes())?)).await;
        match saved {
            Ok(()) => self.saved = at,
            Err(error) => tracing::error!(%error, "how far records were exported isn't kept"),
        }
    }
}

/// Where it may wait for the disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AuditError> + Send + 'static,
) -> Result<T, AuditError> {
    let panicked = |_| Err(StoreError::Io("it panicked".into()).into());
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(panicked)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tempfile::TempDir;

    use super::super::progress::Metrics;
    use super::*;
    use crate::audit::tests::{START, access, later, open, open_at, settings};
    use crate::audit::{Settings, Verdict};
    use crate::store::Store;
    use crate::time::{Clocks, Reading};

    fn feed(log: &Log) -> Feed {
        let progress = Progress::new("syslog", &Metrics::default());
        Feed::open(log, Arc::new(progress)).unwrap()
    }

    /// With so many permits, by a clock that is synchronised.
    fn log(count: usize) -> (TempDir, Log) {
        let folder = tempfile::tempdir().unwrap();
        let clocks = Clocks::at(Reading {
            now: START,
            at: Clocks::default().booted(),
            synchronised: true,
        });
        let store = Store::open(&folder.path().join("db")).unwrap();
        let log = open_at(&store, &folder, settings(), clocks);
        for _ in 0..count {
            let access = access(Verdict::Permit);
            log.permit(access, [0; 16], START).unwrap();
        }
        log.0.sync().unwrap();
        (folder, log)
    }

    fn told(pieces: &[Piece]) -> Vec<String> {
        let told = pieces.iter().map(|piece| match piece {
            Piece::Record(line) => line.index.to_string(),
            Piece::Gap(gap) => format!("{}-{}", gap.first, gap.last),
        });
        told.collect()
    }

    #[tokio::test]
    async fn what_isnt_confirmed_is_told_again_also_after_a_restart() {
        let (folder, log) = log(5);
        let mut first = feed(&log);
        assert_eq!(told(&first.page(3).await.unwrap()), ["0", "1", "2"]);
        first.back();
        assert_eq!(told(&first.page(2).await.unwrap()), ["0", "1"]);
        first.confirm(first.at()).await;
        assert_eq!(told(&first.page(9).await.unwrap()), ["2", "3", "4"]);
        assert!(first.page(9).await.unwrap().is_empty());
        first.back();
        assert_eq!(told(&first.page(1).await.unwrap()), ["2"]);
        // Nothing is written for a while.
        assert_eq!(told(&feed(&log).page(1).await.unwrap()), ["0"]);
        first.save().await;
        log.close(START).unwrap();
        drop((first, log));
        let log = open(&folder, settings());
        assert_eq!(told(&feed(&log).page(1).await.unwrap()), ["2"]);
    }

    #[tokio::test]
    async fn what_isnt_durable_isnt_told() {
        let (_folder, log) = log(1);
        log.append_read(access(Verdict::Permit), START).unwrap();
        let (mut feed, syncs) = (feed(&log), log.0.store.syncs());
        assert_eq!(told(&feed.page(9).await.unwrap()), ["0"]);
        assert_eq!(log.0.store.syncs(), syncs);
        log.tick(START, true).unwrap();
        assert_eq!(told(&feed.page(9).await.unwrap()), ["1"]);
    }

    #[tokio::test]
    async fn who_has_a_page_to_tell_waits_for_no_more() {
        let (_folder, log) = log(PAGE);
        let feed = feed(&log);
        assert!(feed.ready().now_or_never().is_some());
        let (_folder, log) = self::log(PAGE - 1);
        let feed = self::feed(&log);
        assert!(feed.ready().now_or_never().is_none());
    }

    #[tokio::test]
    async fn what_was_removed_before_it_was_told_is_named_and_counted_once() {
        let (_folder, log) = log(4);
        let mut feed = feed(&log);
        assert_eq!(told(&feed.page(1).await.unwrap()), ["0"]);
        feed.confirm(1).await;
        log.set_settings(Settings {
            retention: Duration::from_secs(1),
            ..settings()
        });
        log.tick(later(60), true).unwrap();
        for _ in 0..2 {
            assert_eq!(told(&feed.page(9).await.unwrap()), ["1-3", "4"]);
            assert_eq!(feed.progress().standing().missing, 3);
            feed.back();
        }
        // Who begins now has missed nothing.
        let mut late = self::feed(&log);
        assert_eq!(told(&late.page(9).await.unwrap()), ["4"]);
    }

    #[tokio::test]
    async fn a_log_that_begins_anew_is_told_from_its_beginning() {
        let (_folder, log) = log(2);
        let mut first = feed(&log);
        first.confirm(9).await;
        first.save().await;
        assert_eq!(told(&feed(&log).page(9).await.unwrap()), ["0", "1"]);
    }
}
