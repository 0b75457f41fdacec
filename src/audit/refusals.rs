//! How many refusals are recorded one by one, and the count of the rest.
//!
//! A flood of bad tokens must neither wear out the flash nor push out the evidence.

use std::collections::BTreeMap;
use std::time::Duration;

use super::record::Event;
use crate::reason::Reason;
use crate::time::Timestamp;

const WINDOW: Duration = Duration::from_secs(60);

/// Bounded: transports and reasons are closed enums.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    started: Timestamp,
    by_kind: BTreeMap<Kind, Count>,
}

/// Transport and name of the reason.
type Kind = (&'static str, &'static str);

#[derive(Debug)]
struct Count {
    reason: Reason,
    recorded: u32,
    /// Refusals counted only, and the time of the first.
    counted: u64,
    since: Timestamp,
}

impl Refusals {
    /// Whether one more refusal may be recorded by itself.
    pub(super) fn admit(&mut self, transport: &'static str, reason: Reason, limit: u32) -> bool {
        let count = self.count(transport, reason);
        let fits = count.recorded < limit;
        count.recorded = count.recorded.saturating_add(1);
        fits
    }

    pub(super) fn add(&mut self, transport: &'static str, reason: Reason, now: Timestamp) {
        let count = self.count(transport, reason);
        if count.counted == 0 {
            count.since = now;
        }
        count.counted += 1;
    }

    /// Whether the minute is over. A clock that was set back ends it too.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        now < self.started || now.since(self.started) >= WINDOW
    }

    /// What was counted and isn't in the log yet.
    pub(super) fn next_summary(&self) -> Option<(Kind, Event)> {
        let (kind, count) = self.by_kind.iter().find(|(_, count)| count.counted > 0)?;
        let summary = Event::RefusalsSummary {
            transport: kind.0.to_owned(),
            reason: count.reason,
            count: count.counted,
            since: count.since,
        };
        Some((*kind, summary))
    }

    /// The summary of `kind` is in the log.
    pub(super) fn summarised(&mut self, kind: Kind) {
        if let Some(count) = self.by_kind.get_mut(&kind) {
            count.counted = 0;
        }
    }

    /// Starts a new minute.
    pub(super) fn restart(&mut self, now: Timestamp) {
        self.started = now;
        self.by_kind.clear();
    }

    fn count(&mut self, transport: &'static str, reason: Reason) -> &mut Count {
        let fresh = || Count {
            reason,
            recorded: 0,
            counted: 0,
            since: Timestamp::default(),
        };
        self.by_kind
            .entry((transport, reason.as_str()))
            .or_insert_with(fresh)
    }
}
