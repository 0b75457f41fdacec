//! Durable permits a second, against those of the log as it was before it had a tree.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use slmd::for_tests::audit::{Access, AuditError, Event, Log, Record};
use slmd::for_tests::identity::{random, random_hex};
use slmd::for_tests::store::Store;
use slmd::for_tests::time::{Timestamp, instant, now};

use crate::records::{self, permit};
use crate::{folder, full_or, median};

/// The daemon's housekeeping comes so often.
const TICK: Duration = Duration::from_secs(1);
/// Unsynced records in memory, as the log had and has them.
const MAX_PENDING: usize = 1024 * 1024;

trait Appends: Send + Sync {
    /// Durable when this returns.
    fn append(&self, access: Access, now: Timestamp);
    fn tick(&self);
}

pub fn measure() {
    let rounds = full_or(5, 1);
    for writers in [1, 8] {
        let (mut ours, mut before, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        // The first isn't counted: it warms.
        for round in 0..=rounds {
            // In turns, and so is who comes first.
            let mut both = [0.0; 2];
            for turn in 0..2 {
                let which = usize::from((round + turn) % 2 == 1);
                both[which] = rate(writers, which == 1);
            }
            if round > 0 {
                ours.push(both[0]);
                before.push(both[1]);
                ratios.push(both[0] / both[1]);
            }
        }
        ratios.sort_by(f64::total_cmp);
        println!(
            "durable appends, writers: {writers}: {:.0}/s, before the tree {:.0}/s; ratio {:.2} \
             ({:.2} to {:.2}); must 0.9, aim 1",
            median(ours),
            median(before),
            median(ratios.clone()),
            ratios[0],
            ratios[ratios.len() - 1],
        );
    }
}

/// Appends a second by so many at the same time, each of which waits for its own.
fn rate(writers: u64, is_before: bool) -> f64 {
    let folder = folder();
    let store = Store::open(&folder.path().join("db")).expect("a new store opens");
    let log: Arc<dyn Appends> = match is_before {
        false => Arc::new(Now::open(&store, folder.path())),
        true => Arc::new(Before::open(&store)),
    };
    let (count, ended) = (AtomicU64::new(0), AtomicBool::new(false));
    let (start, round) = (instant(), Duration::from_secs(full_or(4, 2)));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                log.tick();
                thread::sleep(TICK);
            }
        });
        let writers: Vec<_> = (0..writers)
            .map(|_| {
                scope.spawn(|| {
                    while start.elapsed() < round {
                        let number = count.fetch_add(1, Ordering::Relaxed);
                        log.append(permit(number), now());
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|w| w.join().expect("no end"));
        ended.store(true, Ordering::Relaxed);
        count.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64()
    })
}

struct Now(Store, Log);

impl Now {
    fn open(store: &Store, folder: &Path) -> Now {
        Now(store.clone(), records::open(store, folder))
    }
}

impl Appends for Now {
    fn append(&self, access: Access, now: Timestamp) {
        let append = || self.1.append_permit(access, random(), now);
        self.0.commit(append).expect("the disk takes it");
    }

    fn tick(&self) {
        self.1.tick(now(), true).expect("the disk takes it");
    }
}

/// What an append was in 0b9b347, by the same store and with the same record: its salt and its JSON
/// are inserted in one turn of the writer, a copy stays in memory until a sync, and the caller waits for
/// a sync that it shares. No leaf, no tile, no head, no account of whose it is, and no checkpoint.
struct Before {
    store: Store,
    write: Box<Write>,
    boot_id: String,
    state: Mutex<State>,
}

/// Index, JSON and salt.
type Write = dyn Fn(u64, &[u8], &[u8; 16]) -> Result<(), AuditError> + Send + Sync;

#[derive(Default)]
struct State {
    next: u64,
    pending: VecDeque<(u64, Vec<u8>, [u8; 16])>,
    bytes: usize,
}

impl State {
    fn settle(&mut self, next: u64) {
        while let Some((_, json, _)) = self.pending.pop_front_if(|pending| pending.0 < next) {
            self.bytes -= json.len();
        }
    }
}

impl Before {
    fn open(store: &Store) -> Before {
        let tree = |name| store.tree(name).expect("a new tree");
        let (records, salts, of) = (tree("audit"), tree("audit_salts"), store.clone());
        let write = move |index: u64, json: &[u8], salt: &[u8; 16]| {
            let key = index.to_be_bytes();
            of.write(|writer| {
                writer.insert(&salts, &key, salt)?;
                writer.insert(&records, &key, json)?;
                Ok(())
            })
        };
        Before {
            store: store.clone(),
            write: Box::new(write),
            boot_id: random_hex::<16>(),
            state: Mutex::default(),
        }
    }

    fn append_one(&self, access: Access, now: Timestamp) -> Result<(), AuditError> {
        let mut state = self.state.lock();
        if state.bytes > MAX_PENDING {
            self.store.sync()?;
            let next = state.next;
            state.settle(next);
        }
        let (index, salt) = (state.next, random::<16>());
        let record = Record {
            version: 1,
            index,
            time: now,
            synchronised: true,
            boot_id: self.boot_id.clone(),
            event: Event::Access(Box::new(access)),
        };
        let json = serde_json::to_vec(&record).expect("a record is JSON");
        (self.write)(index, &json, &salt)?;
        state.next += 1;
        state.bytes += json.len();
        state.pending.push_back((index, json, salt));
        Ok(())
    }
}

impl Appends for Before {
    fn append(&self, access: Access, now: Timestamp) {
        let append = || self.append_one(access, now);
        self.store.commit(append).expect("the disk takes it");
    }

    fn tick(&self) {
        let next = self.state.lock().next;
        self.store.sync().expect("the disk takes it");
        self.state.lock().settle(next);
    }
}
