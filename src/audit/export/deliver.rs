//! Bringing records to a collector: at least once, in order.
//!
//! A connection is kept while records come, and ended when it has brought enough or none have come for a
//! while: its end is what confirms them ([`Collector::end`]). After one that broke all that isn't
//! confirmed is sent again, at first less at a time, so that also a collector that is slow, or dies now
//! and then, gets on.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::collector::Collector;
use super::failure::Failure;
use super::feed::{Feed, PAGE, Piece};
use super::syslog::Form;
use super::{Parts, Syslog};
use crate::identity::chance;
use crate::link::{self, Backoff};
use crate::shutdown::Shutdown;
use crate::time::{self, Clocks, Known};

/// Records on one connection.
const MOST: usize = 1024;

/// A connection is ended when nothing has come for so long,
const QUIET: Duration = Duration::from_secs(5);
/// or when it is so old.
const OLD: Duration = Duration::from_secs(60);

/// Pauses after failures.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// To end a connection in order when the daemon stops.
const LAST_WORDS: Duration = Duration::from_secs(2);

pub(super) struct Delivery {
    feed: Feed,
    form: Form,
    settings: Syslog,
    known: Known,
    clocks: Clocks,
    shutdown: Shutdown,
    /// Records that the next connection may bring.
    most: usize,
}

impl Delivery {
    pub(super) fn new(feed: Feed, settings: Syslog, parts: &Parts) -> Delivery {
        Delivery {
            feed,
            form: Form::new(&parts.device, settings.facility, settings.enterprise),
            settings,
            known: parts.known.clone(),
            clocks: parts.log.clocks().clone(),
            shutdown: parts.shutdown.clone(),
            most: MOST,
        }
    }

    pub(super) async fn run(mut self) {
        let shutdown = self.shutdown.clone();
        tokio::select! {
            () = self.deliver() => {}
            () = async { shutdown.ended().await; sleep(LAST_WORDS).await } => {}
        }
        self.feed.save().await;
    }

    async fn deliver(&mut self) {
        let mut backoff = Backoff::new(SHORTEST, LONGEST);
        loop {
            tokio::select! {
                () = self.feed.ready() => {}
                () = self.shutdown.ended() => return,
            }
            let begun = time::instant();
            let Err(failure) = self.connection().await else {
                self.most = (self.most * 2).min(MOST);
                backoff = Backoff::new(SHORTEST, LONGEST);
                continue;
            };
            self.feed.back();
            self.feed.progress().failed(&failure);
            let ended = match failure {
                Failure::Files(_) | Failure::Unreachable(_) | Failure::Tls(_) => {
                    link::Failure::Unreachable
                }
                _ => link::Failure::Ended(time::instant().saturating_duration_since(begun)),
            };
            tokio::select! {
                () = sleep(backoff.pause(ended, chance())) => {}
                () = self.shutdown.ended() => return,
            }
        }
    }

    /// One connection, from its begin to its confirmed end.
    async fn connection(&mut self) -> Result<(), Failure> {
        let begun = time::instant();
        let mut collector = Collector::connect(&self.settings, &self.known).await?;
        let (most, mut sent) = (self.most, 0);
        // Until it is confirmed, the next connection brings less.
        self.most = (most / 2).max(1);
        while sent < most && time::instant().saturating_duration_since(begun) < OLD {
            let page = self.feed.page((most - sent).min(PAGE)).await?;
            if page.is_empty() {
                match self.wait(&mut collector).await? {
                    true => continue,
                    false => break,
                }
            }
            sent += self.tell(&mut collector, &page).await?;
        }
        let reached = self.feed.at();
        collector.end().await?;
        self.most = most;
        self.feed.progress().well();
        self.feed.confirm(reached).await;
        Ok(())
    }

    /// Whether there is more to send.
    async fn wait(&self, collector: &mut Collector) -> Result<bool, Failure> {
        tokio::select! {
            more = timeout(QUIET, self.feed.ready()) => Ok(more.is_ok()),
            disturbed = collector.disturbed() => Err(disturbed),
            () = self.shutdown.ended() => Ok(false),
        }
    }

    /// How many records it was told.
    async fn tell(&self, collector: &mut Collector, page: &[Piece]) -> Result<usize, Failure> {
        let (mut bytes, mut records) = (Vec::new(), 0);
        let (epoch, base) = self.feed.epoch();
        for piece in page {
            match piece {
                Piece::Record(line) => {
                    self.form
                        .record(line, (line.index >= base).then_some(epoch), &mut bytes);
                    records += 1;
                }
                Piece::Gap(gap) => self.form.gap(*gap, self.clocks.now(), &mut bytes),
            }
        }
        collector.send(&bytes).await?;
        self.feed.progress().sent(records);
        Ok(records)
    }
}
