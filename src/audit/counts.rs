//! Accesses that are counted rather than recorded one by one: who looks often is on record, and
//! can't fill the log by it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::record::Summary;
use crate::time::Timestamp;

/// Accesses of one kind within so much time after one that was recorded by itself are counted; then
/// comes the summary. What a power cut can take is what was counted meanwhile.
pub const COUNTED_FOR: Duration = Duration::from_secs(600);
/// A count so large is written at once.
const LARGE: u64 = 65_536;

/// Transport, action, reason, and who.
type Key = (String, String, &'static str, u64);

/// Bounded: a kind for which there is no room isn't counted.
#[derive(Debug)]
pub(super) struct Counts {
    most: usize,
    by_kind: BTreeMap<Key, Count>,
}

#[derive(Debug)]
struct Count {
    since: Timestamp,
    /// What was counted and isn't in the log yet.
    counted: Option<Summary>,
}

impl Count {
    fn add(&mut self, one: Summary) {
        match &mut self.counted {
            Some(counted) => counted.add(one),
            none => *none = Some(one),
        }
    }

    /// A clock that was set back ends it too.
    fn is_over(&self, now: Timestamp) -> bool {
        now < self.since || now.since(self.since) >= COUNTED_FOR
    }

    fn is_due(&self, now: Timestamp) -> bool {
        let large = |counted: &Summary| counted.count >= LARGE;
        self.is_over(now) || self.counted.as_ref().is_some_and(large)
    }
}

impl Counts {
    pub(super) fn new(most: usize) -> Counts {
        Counts {
            most,
            by_kind: BTreeMap::new(),
        }
    }

    pub(super) fn is_counting(&self, one: &Summary, now: Timestamp) -> bool {
        let count = self.by_kind.get(&key(one));
        count.is_some_and(|count| !count.is_over(now))
    }

    /// Counts one more of a kind that is counted now; `false` where it isn't.
    pub(super) fn count(&mut self, one: &Summary, now: Timestamp) -> bool {
        let count = self.by_kind.get_mut(&key(one));
        let Some(count) = count.filter(|count| !count.is_over(now)) else {
            return false;
        };
        count.add(one.clone());
        true
    }

    /// From now on accesses like this one are counted, as far as there is room; `false` where there
    /// is none.
    pub(super) fn begin(&mut self, like: &Summary, now: Timestamp) -> bool {
        let key = key(like);
        if let Some(count) = self.by_kind.get_mut(&key) {
            if count.is_over(now) {
                count.since = now;
            }
            return true;
        }
        if self.by_kind.len() >= self.most {
            return false;
        }
        let counted = None;
        self.by_kind.insert(
            key,
            Count {
                since: now,
                counted,
            },
        );
        true
    }

    /// A summary that is due; of any count where it is the end.
    pub(super) fn next_summary(&self, now: Timestamp, end: bool) -> Option<Summary> {
        let due = |count: &&Count| count.counted.is_some() && (end || count.is_due(now));
        self.by_kind.values().find(due)?.counted.clone()
    }

    /// The summary is in the log.
    pub(super) fn summarised(&mut self, summary: &Summary) {
        if let Some(count) = self.by_kind.get_mut(&key(summary)) {
            count.counted = None;
        }
    }

    /// Forgets kinds whose time is over.
    pub(super) fn prune(&mut self, now: Timestamp) {
        self.by_kind
            .retain(|_, count| count.counted.is_some() || !count.is_over(now));
    }
}

fn key(summary: &Summary) -> Key {
    let who = summary.tag().map(super::tag::Tag::bits);
    (
        summary.transport.clone(),
        summary.action.clone(),
        summary.reason.map_or("", |reason| reason.as_str()),
        who.or(summary.uid.map(u64::from)).unwrap_or_default(),
    )
}
