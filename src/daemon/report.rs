//! What this device tells its fleet of itself: when, under which number, and what it says.
//!
//! A report is made once a connection, when what it says has changed, and once in a while as a sign
//! of life; the broker's connection publishes the last one that was made.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::State;
use crate::identity::Key;
use crate::store::{Store, StoreError, Tree};
use crate::time::Timestamp;
use crate::transport::mqtt::Reports;
use crate::trust::report::{Audit, Report, ReportError, sign};

/// Changes within so long are told together.
const AT_MOST_EVERY: Duration = Duration::from_secs(10);
/// A log grows all the time.
const HEAD_AT_MOST_EVERY: Duration = Duration::from_secs(600);
/// What hasn't changed is told all the same.
const AT_LEAST_EVERY: Duration = Duration::from_secs(3600);
/// So many numbers are written down as used with one write.
const BLOCK: u64 = 100;
const KEY: &[u8] = b"counter";

#[derive(Debug, thiserror::Error)]
pub(super) enum Untold {
    #[error("it can't be numbered: {0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Report(#[from] ReportError),
}

/// How far the audit log is.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Head {
    /// Epoch and size of its newest checkpoint.
    pub(super) signed: Option<(u64, u64)>,
    /// Sizes that witnesses have seen and that it can't have grown from. They are told soon, with the
    /// proofs by which a witness sees that.
    pub(super) disputed: Vec<u64>,
}

/// What there is to say of the audit log.
pub(super) struct Log<F> {
    pub(super) head: Head,
    /// With proofs, which are read when they are told.
    pub(super) say: F,
}

pub(super) struct Reporter {
    key: Key,
    telling: Mutex<Telling>,
    to: watch::Sender<Option<Arc<str>>>,
}

struct Telling {
    counter: Counter,
    pace: Pace,
}

impl Reporter {
    pub(super) fn new(state: &State) -> Result<(Reporter, Reports), StoreError> {
        let (to, reports) = watch::channel(None);
        let reporter = Reporter {
            key: state.key.clone(),
            telling: Mutex::new(Telling {
                counter: Counter::open(&state.store)?,
                pace: Pace::default(),
            }),
            to,
        };
        Ok((reporter, reports))
    }

    /// Tells it if it is due, and says what was told. `connection`: which one to the broker this is,
    /// where there is one.
    pub(super) fn tell(
        &self,
        mut report: Report,
        log: Log<impl FnOnce() -> Option<Audit>>,
        connection: Option<u64>,
        now: Instant,
    ) -> Result<Option<Report>, Untold> {
        let Telling { counter, pace } = &mut *self.telling.lock();
        if connection.is_none() {
            self.to.send_replace(None);
        }
        if !pace.is_due(&report, log.head, connection, now) {
            return Ok(None);
        }
        report.audit = (log.say)();
        report.counter = counter.take(report.floor)?;
        let signed = sign(&report, &self.key)?;
        self.to.send_replace(Some(signed.into()));
        Ok(Some(report))
    }
}

/// When the next report is due. Pure.
#[derive(Default)]
struct Pace {
    last: Option<Last>,
}

struct Last {
    at: Instant,
    connection: u64,
    said: Report,
    head: Head,
}

impl Pace {
    /// If it is, it counts as told, so that one that fails isn't tried at once again.
    fn is_due(
        &mut self,
        report: &Report,
        head: Head,
        connection: Option<u64>,
        now: Instant,
    ) -> bool {
        let Some(connection) = connection else {
            return false;
        };
        let said = without_times(report);
        if let Some(last) = &self.last {
            let passed = now.saturating_duration_since(last.at);
            let grown = last.head.signed != head.signed && passed >= HEAD_AT_MOST_EVERY;
            let disputed = last.head.disputed != head.disputed;
            let news = last.connection != connection || last.said != said || grown || disputed;
            if passed < AT_MOST_EVERY || !news && passed < AT_LEAST_EVERY {
                return false;
            }
        }
        self.last = Some(Last {
            at: now,
            connection,
            said,
            head,
        });
        true
    }
}

/// What is news when it differs: times go on by themselves.
fn without_times(report: &Report) -> Report {
    let mut report = report.clone();
    (report.counter, report.time, report.floor) = (0, Timestamp(0), Timestamp(0));
    for realm in report.realms.values_mut() {
        realm.confirmed = None;
    }
    report
}

/// Numbers that rise for ever, power cuts included: a block of them is on the disk as used before
/// the first is. Where the disk has lost that, they begin at the time in seconds, which is beyond all
/// that were used; so a device needn't be enrolled again for it.
struct Counter {
    store: Store,
    tree: Tree,
    next: u64,
    /// Of what is on the disk.
    end: u64,
}

impl Counter {
    fn open(store: &Store) -> Result<Counter, StoreError> {
        let tree = store.tree("report")?;
        let end = tree.get(KEY)?.and_then(|bytes| bytes.try_into().ok());
        let end = end.map_or(1, u64::from_be_bytes);
        Ok(Counter {
            store: store.clone(),
            tree,
            next: end,
            end,
        })
    }

    fn take(&mut self, now: Timestamp) -> Result<u64, StoreError> {
        if self.next >= self.end {
            let next = self.next.max(now.as_secs());
            let end = next.saturating_add(BLOCK);
            self.store
                .commit(|| self.tree.insert(KEY, &end.to_be_bytes()))?;
            (self.next, self.end) = (next, end);
        }
        let number = self.next;
        self.next += 1;
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Map;

    use super::*;
    use crate::time;
    use crate::trust::report::{Realm, VERSION};

    fn report() -> Report {
        let realm = Realm {
            keys: vec!["t".to_owned()],
            kids: vec!["k".to_owned()],
            confirmed: Some(Timestamp(5)),
            denied: 0,
            more: Map::new(),
        };
        Report {
            version: VERSION,
            device: "edge-1".to_owned(),
            counter: 0,
            time: Timestamp(0),
            synchronised: true,
            floor: Timestamp(0),
            slmd: "0.1.0".to_owned(),
            fleet: None,
            realms: [("prod".to_owned(), realm)].into(),
            models: BTreeMap::new(),
            error: None,
            audit: None,
            more: Map::new(),
        }
    }

    #[test]
    fn a_log_that_grows_is_told_now_and_then() {
        let (mut pace, start, report) = (Pace::default(), time::instant(), report());
        let mut due = |size, disputed: &[u64], secs| {
            let now = start + Duration::from_secs(secs);
            let head = Head {
                signed: Some((1, size)),
                disputed: disputed.to_vec(),
            };
            pace.is_due(&report, head, Some(0), now)
        };
        assert!(due(5, &[], 0));
        assert!(!due(6, &[], 11));
        assert!(!due(7, &[], 599));
        assert!(due(7, &[], 600));
        assert!(!due(7, &[], 1300), "nothing has come since");
        assert!(due(7, &[9], 1301), "a witness has seen another log");
        assert!(!due(8, &[9], 1400));
    }

    #[test]
    fn it_is_told_at_each_connection_when_it_changes_and_once_in_a_while() {
        let (mut pace, start) = (Pace::default(), time::instant());
        let mut due = |report: &Report, connection, secs| {
            pace.is_due(
                report,
                Head::default(),
                connection,
                start + Duration::from_secs(secs),
            )
        };
        let mut report = report();
        assert!(!due(&report, None, 0));
        assert!(due(&report, Some(0), 0), "a connection");
        report.time = Timestamp(9);
        report.floor = Timestamp(9);
        report.realms.get_mut("prod").unwrap().confirmed = Some(Timestamp(9));
        assert!(!due(&report, Some(0), 100), "times alone are no news");
        report.realms.get_mut("prod").unwrap().denied = 1;
        assert!(due(&report, Some(0), 101), "what is in force has changed");
        report.realms.get_mut("prod").unwrap().denied = 2;
        assert!(!due(&report, Some(0), 110), "too soon");
        report.realms.get_mut("prod").unwrap().denied = 3;
        assert!(due(&report, Some(0), 111), "both changes at once");
        assert!(!due(&report, Some(0), 121));
        assert!(due(&report, Some(1), 122), "another connection");
        assert!(!due(&report, Some(1), 122 + 3599));
        assert!(due(&report, Some(1), 122 + 3600), "a sign of life");
    }

    #[test]
    fn a_number_is_never_used_twice_and_seldom_written() {
        let folder = tempfile::tempdir().unwrap();
        let at = |secs| Timestamp::from_secs(secs);
        let (mut last, mut syncs) = (0, 0);
        for start in 0..3 {
            let store = Store::open(folder.path()).unwrap();
            let mut counter = Counter::open(&store).unwrap();
            let before = store.syncs();
            for _ in 0..150 {
                let number = counter.take(at(1000 - start)).unwrap();
                assert!(number > last, "{number} after {last}");
                last = number;
            }
            syncs += store.syncs() - before;
        }
        assert_eq!(syncs, 6);
        // The disk has lost it, and time has gone on.
        let anew = tempfile::tempdir().unwrap();
        let store = Store::open(anew.path()).unwrap();
        let mut counter = Counter::open(&store).unwrap();
        assert_eq!(counter.take(at(9000)).unwrap(), 9000);
    }
}
