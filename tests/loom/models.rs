//! What the pool must do in every order of its threads' steps: each chunk once, its effects seen by
//! the caller, nobody left asleep. Loom fails on a data race, on a deadlock and on a leak.
//!
//! A thread that loses its core in the midst of something is a preemption. Their number is bounded,
//! because time grows exponentially with it and known bugs need one or two. Each model names two
//! bounds: the usual one, and that of `SLMD_TEST_MORE`.

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Notify};
use loom::thread;

use crate::pool::Pool;

/// Cells that chunks write without a lock: loom sees one that two threads write at once, or that is
/// read before it is written.
struct Chunks(Vec<UnsafeCell<u32>>);

// SAFETY: loom checks each access.
unsafe impl Sync for Chunks {}

impl Chunks {
    fn new(count: usize) -> Chunks {
        Chunks((0..count).map(|_| UnsafeCell::new(0)).collect())
    }

    /// Runs a job of these chunks, for the `time`th time.
    fn run(&self, pool: &Pool, time: u32) {
        pool.run(self.0.len(), &|chunk| {
            // SAFETY: loom checks that nobody else is here.
            self.0[chunk].with_mut(|n| unsafe { *n += 1 });
        });
        for n in &self.0 {
            // SAFETY: as above.
            n.with(|n| assert_eq!(unsafe { *n }, time));
        }
    }
}

fn explore((usual, more): (usize, usize), model: impl Fn() + Sync + Send + 'static) {
    let preemptions = match std::env::var_os("SLMD_TEST_MORE") {
        Some(_) => more,
        None => usual,
    };
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

fn pool(threads: usize) -> Pool {
    Pool::new(threads).unwrap()
}

#[test]
fn a_job_begins_and_ends() {
    explore((4, 5), || Chunks::new(2).run(&pool(2), 1));
}

#[test]
fn a_job_follows_another() {
    explore((3, 4), || {
        let (pool, chunks) = (pool(2), Chunks::new(2));
        chunks.run(&pool, 1);
        chunks.run(&pool, 2);
    });
}

#[test]
fn two_workers_share_a_job() {
    explore((2, 2), || Chunks::new(3).run(&pool(3), 1));
}

#[test]
fn three_workers_share_a_job() {
    explore((0, 1), || Chunks::new(4).run(&pool(4), 1));
}

#[test]
fn a_job_wakes_whoever_sleeps() {
    explore((3, 4), || {
        let second_is_done = Notify::new();
        // The first chunk's thread can't do the second one too.
        pool(2).run(2, &|chunk| match chunk {
            0 => second_is_done.wait(),
            _ => second_is_done.notify(),
        });
    });
}

#[test]
fn who_finds_the_pool_busy_works_alone() {
    explore((2, 3), || {
        let pool = Arc::new(pool(2));
        let same = Arc::clone(&pool);
        let other = thread::spawn(move || Chunks::new(2).run(&same, 1));
        Chunks::new(2).run(&pool, 1);
        other.join().unwrap();
    });
}

#[test]
fn jobs_are_shared_or_not_at_any_time() {
    explore((4, 5), || {
        let pool = Arc::new(pool(2));
        let same = Arc::clone(&pool);
        let other = thread::spawn(move || {
            same.share_jobs(false);
            same.share_jobs(true);
        });
        Chunks::new(2).run(&pool, 1);
        other.join().unwrap();
    });
}

#[test]
fn the_pool_stops_whatever_its_workers_do() {
    explore((5, 6), || drop(pool(3)));
}
