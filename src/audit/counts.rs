//! Accesses that are counted rather than recorded one by one: who looks often is on record, and
//! can't fill the log by it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::record::Summary;
use crate::time::Timestamp;

/// Accesses of one kind within so much time after one that was recorded by itself are counted. Then
/// comes the summary, and counting goes on from there until nothing came for as long. What a power
/// cut can take is what was counted since the last summary.
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
    /// The one that was recorded by itself, or the last summary.
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

    /// Whether one more is counted: a summary is on its way, or there was a record lately. A clock
    /// that was set back ends it.
    fn goes_on(&self, now: Timestamp) -> bool {
        now >= self.since && (self.counted.is_some() || !self.is_over(now))
    }

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
        count.is_some_and(|count| count.goes_on(now))
    }

    /// Counts one more of a kind that is counted now; `false` where it isn't.
    pub(super) fn count(&mut self, one: &Summary, now: Timestamp) -> bool {
        let count = self.by_kind.get_mut(&key(one));
        let Some(count) = count.filter(|count| count.goes_on(now)) else {
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
            if !count.goes_on(now) {
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
    pub(super) fn summarised(&mut self, summary: &Summary, now: Timestamp) {
        if let Some(count) = self.by_kind.get_mut(&key(summary)) {
            (count.since, count.counted) = (now, None);
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

#[cfg(test)]
mod tests {
    use crate::audit::tests::{access, all, later, open, settings};
    use crate::audit::{Change, Event, Verdict};
    use crate::prompt::Origin;

    /// Keycloak may let people be called otherwise; they stay who they are.
    #[test]
    fn a_new_name_begins_no_new_count_and_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let log = open(&folder, settings());
        let read = |name: Option<&str>| {
            let mut read = access(Verdict::Permit);
            read.username = name.map(str::to_owned);
            read
        };
        log.begin_counting(&read(None), later(0));
        for name in [Some("alice"), Some("alice.b"), None] {
            assert!(log.count_read(&read(name), later(1)));
        }
        log.close(later(2)).unwrap();
        let records = all(&log);
        let [Event::AccessesSummary(summary)] = &[records[0].event.clone()] else {
            panic!("{records:?}");
        };
        assert_eq!(summary.count, 3);
        assert_eq!(summary.username.as_deref(), Some("alice.b"));
    }

    /// Whoever asks the same again, as often as it likes: with a crowd of others too.
    #[test]
    fn repeats_are_counted_even_where_there_is_no_room_for_whose_they_are() {
        const PRINCIPALS: u64 = 600;
        let folder = tempfile::tempdir().unwrap();
        let log = open(&folder, settings());
        for round in 0..5 {
            for principal in 0..PRINCIPALS {
                let mut again = access(Verdict::Permit);
                again.action = "chat again".to_owned();
                again.subject = Some(principal.to_string());
                log.repeat(again, later(round)).unwrap();
            }
        }
        log.close(later(600)).unwrap();
        let records = all(&log);
        let (mut alone, mut of_anybody, mut told) = (0, 0, 0);
        for record in &records {
            match &record.event {
                Event::Access(_) => (alone, told) = (alone + 1, told + 1),
                Event::AccessesSummary(summary) => {
                    told += summary.count;
                    of_anybody += u32::from(summary.subject.is_none());
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(told, 5 * PRINCIPALS, "each is told of");
        assert_eq!((alone, of_anybody), (512 + 1, 1));
    }

    /// A look of each kind every 15 seconds, in the middle of a crowd of readers.
    #[test]
    fn a_monitors_day_costs_a_record_in_ten_minutes_and_tells_of_every_look() {
        const DAY: u64 = 86_400;
        let folder = tempfile::tempdir().unwrap();
        let log = open(&folder, settings());
        for reader in 0..600 {
            let mut read = access(Verdict::Permit);
            read.subject = Some(reader.to_string());
            log.begin_counting(&read, later(0));
        }
        for secs in (0..DAY).step_by(15) {
            log.tick(later(secs), false).unwrap();
            for what in [Change::AskedStatus, Change::AskedKeys, Change::AskedAudit] {
                let (uid, gid, pid) = (0, 0, None);
                log.look(Origin::Admin { uid, gid, pid }, &what.into(), later(secs))
                    .unwrap();
            }
        }
        log.close(later(DAY)).unwrap();
        let records = all(&log);
        let told = records.iter().map(|record| match &record.event {
            Event::AccessesSummary(summary) => summary.count,
            _ => 1,
        });
        assert_eq!(told.sum::<u64>(), 3 * DAY / 15);
        let most = 3 * (1 + DAY / 600);
        assert!(records.len() as u64 <= most, "{} records", records.len());
    }
}
