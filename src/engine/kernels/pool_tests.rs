//! The pool on real threads; `tests/loom` tries every order of its steps.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::pool::Pool;

#[test]
fn every_chunk_is_done_once_whoever_does_it() {
    let pool = Pool::new(3).unwrap();
    for chunks in [1, 2, 7, 100] {
        let done: Vec<AtomicUsize> = (0..chunks).map(|_| AtomicUsize::new(0)).collect();
        for job in 1..=200 {
            pool.run(chunks, &|chunk| {
                done[chunk].fetch_add(1, Ordering::Relaxed);
            });
            assert!(done.iter().all(|n| n.load(Ordering::Relaxed) == job));
        }
    }
}

#[test]
fn a_panic_comes_to_the_caller_and_the_pool_goes_on() {
    let pool = Pool::new(2).unwrap();
    let job = |chunk: usize| assert!(chunk != 3, "the fourth");
    assert!(catch_unwind(AssertUnwindSafe(|| pool.run(8, &job))).is_err());
    pool.run(3, &job);
}

#[test]
fn whoever_is_late_keeps_only_the_chunk_at_hand() {
    let pool = Pool::new(2).unwrap();
    let caller = thread::current().id();
    for _ in 0..20 {
        let done = AtomicUsize::new(0);
        pool.run(16, &|_| {
            // Whichever chunk a worker takes first: it ends after all others.
            let mut looks = 0;
            while thread::current().id() != caller && done.load(Ordering::SeqCst) < 15 {
                looks += 1;
                assert!(looks < 100_000_000, "nobody took the rest");
                thread::yield_now();
            }
            done.fetch_add(1, Ordering::SeqCst);
        });
        assert_eq!(done.into_inner(), 16);
    }
}

#[test]
fn a_caller_can_be_asked_to_work_alone() {
    let pool = Pool::new(2).unwrap();
    pool.share_jobs(false);
    let caller = thread::current().id();
    pool.run(100, &|_| assert_eq!(thread::current().id(), caller));
}

#[test]
fn tiles_are_the_matrix() {
    let pool = Pool::new(2).unwrap();
    let (rows, width) = (7, 5);
    let mut matrix = vec![0; rows * width];
    pool.tiles(&mut matrix, width, (3, 2), &|mut tile| {
        for row in tile.rows() {
            tile.row(row).iter_mut().for_each(|cell| *cell += 1);
        }
    });
    assert_eq!(matrix, [1; 35]);
}
