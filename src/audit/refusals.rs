//! How many refusals are recorded one by one, and the count of the rest.
//!
//! A flood of bad tokens must neither wear out the flash nor push out the evidence.

use std::collections::BTreeMap;
use std::time::Duration;

use super::record::{Access, Event};
use super::tag::Tag;
use crate::reason::{Reason, RefuseReason};
use crate::time::Timestamp;

const WINDOW: Duration = Duration::from_secs(60);

/// All refusals of a transport that name nobody are recorded one by one up to so many times what
/// one reason may have, and the first of each reason beyond.
const REASONS: u32 = 4;

/// Principals whose refusals have a rate of their own; those of more are taken as nobody's.
const PRINCIPALS: usize = 256;

/// How many were recorded one by one, and counts of the rest, for a minute. Bounded: transports and
/// reasons are closed enums.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    started: Timestamp,
    by_kind: BTreeMap<Kind, Count>,
    /// Recorded by themselves.
    by_transport: BTreeMap<&'static str, u32>,
    by_principal: BTreeMap<Tag, u32>,
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
    /// Whether one more refusal may be recorded by itself. A verified principal has a rate of its
    /// own, so that a flood of others hides none of its refusals.
    pub(super) fn admit(&mut self, access: &Access, limit: u32) -> bool {
        let room = self.by_principal.len() < PRINCIPALS;
        match access.tag() {
            Some(tag) if room || self.by_principal.contains_key(&tag) => {
                let recorded = self.by_principal.entry(tag).or_default();
                let fits = *recorded < limit;
                *recorded = recorded.saturating_add(1);
                fits
            }
            _ => self.admit_anybody(access, limit),
        }
    }

    fn admit_anybody(&mut self, access: &Access, limit: u32) -> bool {
        let transport = access.origin.transport();
        let all = *self.by_transport.get(transport).unwrap_or(&0);
        let count = self.count(transport, reason(access));
        let fits =
            count.recorded == 0 || (count.recorded < limit && all < limit.saturating_mul(REASONS));
        if fits {
            count.recorded += 1;
            *self.by_transport.entry(transport).or_default() += 1;
        }
        fits
    }

    pub(super) fn add(&mut self, access: &Access, now: Timestamp) {
        let count = self.count(access.origin.transport(), reason(access));
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
        self.by_transport.clear();
        self.by_principal.clear();
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

fn reason(access: &Access) -> Reason {
    let unknown = Reason::Refused(RefuseReason::Internal);
    access.reason.unwrap_or(unknown)
}
