//! A pool of threads that share one job's chunks with the thread that brings it.
//!
//! The caller works too, takes every chunk that nobody has taken, and then waits only for chunks
//! that are being worked on. So a worker whose core is busy with something else slows a job but
//! never stalls it. A second caller finds the pool busy and does its chunks alone. Workers spin
//! for a moment after a job, because the next operator brings one, then sleep: idle costs nothing.

use std::any::Any;
use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// Spins before sleeping: some tens of microseconds, longer than tract takes between operators.
const SPINS: u32 = 20_000;
/// More than the cores of any machine this runs on.
const MAX_THREADS: usize = 64;

/// Threads that help with jobs.
#[derive(Debug)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

/// A part of a matrix: some rows, some columns.
pub(crate) struct Tile<'a, T> {
    first: *mut T,
    width: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    matrix: PhantomData<&'a mut [T]>,
}

#[derive(Debug)]
struct Shared {
    /// Generation (32 bits), chunks taken (16), chunks of the job (16).
    ticket: AtomicU64,
    job: UnsafeCell<Option<Job>>,
    /// Chunks finished.
    done: AtomicUsize,
    /// Held by the caller whose job the pool has.
    busy: AtomicBool,
    stop: AtomicBool,
    sleeping: Box<[AtomicBool]>,
    /// The caller sleeps until `done` is complete.
    waiting: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    lock: Mutex<()>,
    finished: Condvar,
}

/// The closure, with its lifetime forgotten.
#[derive(Debug, Clone, Copy)]
struct Job(*const (dyn Fn(usize) + Sync));

// SAFETY: `job` is written only by the caller that holds `busy`, while no chunk can be taken, and
// read only by threads that have taken a chunk of the job: taking acquires what the caller
// released with the ticket, and the next write comes after that chunk is done. The closure behind
// the pointer is `Sync`, so that it may be called from all of them.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer says nothing about the thread that made it.
unsafe impl Send for Shared {}

impl Pool {
    /// A pool for jobs on `threads` threads: the caller's and as many workers as are missing.
    pub(crate) fn new(threads: usize) -> std::io::Result<Pool> {
        let helpers = threads.clamp(1, MAX_THREADS) - 1;
        let shared = Arc::new(Shared {
            ticket: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            done: AtomicUsize::new(0),
            busy: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            sleeping: (0..helpers).map(|_| AtomicBool::new(false)).collect(),
            waiting: AtomicBool::new(false),
            panic: Mutex::new(None),
            lock: Mutex::new(()),
            finished: Condvar::new(),
        });
        let mut pool = Pool {
            shared,
            workers: Vec::with_capacity(helpers),
        };
        for index in 0..helpers {
            let shared = Arc::clone(&pool.shared);
            let worker = thread::Builder::new()
                .name(format!("slmd-compute-{}", index + 1))
                .spawn(move || shared.serve(index))?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `job` once with each number below `chunks`, on any threads; returns when all calls
    /// have returned. A panic in one of them goes on here.
    pub(crate) fn run(&self, chunks: usize, job: &(dyn Fn(usize) + Sync)) {
        const MOST: usize = u16::MAX as usize;
        for first in (0..chunks).step_by(MOST) {
            let count = (chunks - first).min(MOST);
            let alone = self.workers.is_empty() || count == 1;
            if alone || self.shared.busy.swap(true, Ordering::Acquire) {
                (first..first + count).for_each(job);
            } else {
                self.share(count, &|i| job(first + i));
            }
        }
    }

    /// Cuts a matrix of rows of `width` into tiles and calls `job` once with each. The cut is the
    /// same whatever the number of threads, unless `tile` says otherwise.
    pub(crate) fn tiles<T: Send>(
        &self,
        matrix: &mut [T],
        width: usize,
        tile: (usize, usize),
        job: &(dyn Fn(Tile<'_, T>) + Sync),
    ) {
        let rows = matrix.len() / width;
        assert!(matrix.len() == rows * width && tile.0 > 0 && tile.1 > 0);
        let across = width.div_ceil(tile.1);
        let down = rows.div_ceil(tile.0);
        let first = Shareable(matrix.as_mut_ptr());
        self.run(across * down, &|index| {
            let (row, column) = (index / across * tile.0, index % across * tile.1);
            job(Tile {
                first: first.pointer(),
                width,
                rows: row..(row + tile.0).min(rows),
                columns: column..(column + tile.1).min(width),
                matrix: PhantomData,
            });
        });
    }

    /// Runs a job with the workers; `busy` is held, and freed at the end.
    fn share(&self, chunks: usize, job: &(dyn Fn(usize) + Sync)) {
        let shared = &*self.shared;
        let forgotten: *const (dyn Fn(usize) + Sync) = job;
        // SAFETY: only the lifetime changes. Nobody uses the pointer after this function: chunks
        // are taken only of the current generation, all of them are taken when `work` returns,
        // and `wait` returns when all of them are done. Neither unwinds.
        let forgotten = unsafe {
            std::mem::transmute::<*const (dyn Fn(usize) + Sync), *const (dyn Fn(usize) + Sync)>(
                forgotten,
            )
        };
        shared.done.store(0, Ordering::Relaxed);
        // SAFETY: this caller holds `busy`, and the last job's chunks are all done.
        unsafe { *shared.job.get() = Some(Job(forgotten)) };
        let generation = (shared.ticket.load(Ordering::Relaxed) >> 32).wrapping_add(1);
        let ticket = generation << 32 | chunks as u64;
        shared.ticket.store(ticket, Ordering::SeqCst);
        for (sleeping, worker) in shared.sleeping.iter().zip(&self.workers) {
            if sleeping.load(Ordering::SeqCst) && sleeping.swap(false, Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        shared.work();
        shared.wait(chunks);
        let panic = hold(&shared.panic).take();
        shared.busy.store(false, Ordering::Release);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches its jobs' panics, so there is nothing to learn from it.
            let _ = worker.join();
        }
    }
}

impl<T> Tile<'_, T> {
    pub(crate) fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    pub(crate) fn columns(&self) -> Range<usize> {
        self.columns.clone()
    }

    /// The tile's columns of one of its rows.
    pub(crate) fn row(&mut self, row: usize) -> &mut [T] {
        assert!(self.rows.contains(&row));
        let start = self
            .first
            .wrapping_add(row * self.width + self.columns.start);
        // SAFETY: row and columns are inside of the matrix that `tiles` borrows until all jobs
        // have returned; no other tile has this row and these columns, and `self` is borrowed as
        // long as the slice.
        unsafe { std::slice::from_raw_parts_mut(start, self.columns.len()) }
    }
}

/// A pointer that several threads may have; what they do with it is [`Tile`]'s matter.
#[derive(Clone, Copy)]
struct Shareable<T>(*mut T);

impl<T> Shareable<T> {
    fn pointer(&self) -> *mut T {
        self.0
    }
}

// SAFETY: tiles are disjoint, so that each element is used by one thread at a time; `T: Send`
// lets it be another one than the owner's.
unsafe impl<T: Send> Sync for Shareable<T> {}

impl Shared {
    /// A worker's life.
    fn serve(&self, index: usize) {
        while !self.stop.load(Ordering::SeqCst) {
            if self.work() {
                continue;
            }
            let awake = (0..SPINS).any(|_| {
                std::hint::spin_loop();
                self.has_work()
            });
            if !awake {
                self.sleep(index);
            }
        }
    }

    fn has_work(&self) -> bool {
        let ticket = self.ticket.load(Ordering::Relaxed);
        taken(ticket) < total(ticket)
    }

    fn sleep(&self, index: usize) {
        let sleeping = &self.sleeping[index];
        sleeping.store(true, Ordering::SeqCst);
        // Whoever publishes work does so before looking at `sleeping`: one of both sees the other.
        let ticket = self.ticket.load(Ordering::SeqCst);
        while taken(ticket) == total(ticket)
            && sleeping.load(Ordering::SeqCst)
            && !self.stop.load(Ordering::SeqCst)
        {
            thread::park();
        }
        sleeping.store(false, Ordering::SeqCst);
    }

    /// Takes chunks until none is left; says whether there was one.
    fn work(&self) -> bool {
        let mut worked = false;
        let mut ticket = self.ticket.load(Ordering::Acquire);
        while taken(ticket) < total(ticket) {
            // The generation is in the ticket, so a chunk of another job can't be taken by
            // mistake: 2^32 jobs would have to pass between these two lines.
            let claim = self.ticket.compare_exchange_weak(
                ticket,
                ticket + (1 << 16),
                Ordering::AcqRel,
                Ordering::Acquire,
            );
            match claim {
                Ok(_) => {
                    self.call(taken(ticket), total(ticket));
                    worked = true;
                    ticket = self.ticket.load(Ordering::Acquire);
                }
                Err(current) => ticket = current,
            }
        }
        worked
    }

    /// Runs a chunk that this thread has taken.
    fn call(&self, chunk: usize, total: usize) {
        // SAFETY: the chunk is taken and not done, so the job is this one and stays in place.
        if let Some(Job(job)) = unsafe { *self.job.get() } {
            // SAFETY: `share` keeps the closure alive until this chunk is done.
            let job = unsafe { &*job };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| job(chunk))) {
                hold(&self.panic).get_or_insert(panic);
            }
        }
        let last = self.done.fetch_add(1, Ordering::SeqCst) + 1 == total;
        if last && self.waiting.load(Ordering::SeqCst) {
            drop(hold(&self.lock));
            self.finished.notify_all();
        }
    }

    /// Waits for chunks that workers have taken: spins, then sleeps, so that a worker that has
    /// lost its core can have this one.
    fn wait(&self, chunks: usize) {
        let complete = || self.done.load(Ordering::SeqCst) == chunks;
        let soon = (0..SPINS).any(|_| {
            std::hint::spin_loop();
            complete()
        });
        if soon {
            return;
        }
        let mut guard = hold(&self.lock);
        self.waiting.store(true, Ordering::SeqCst);
        while !complete() {
            guard = self
                .finished
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.waiting.store(false, Ordering::SeqCst);
    }
}

fn taken(ticket: u64) -> usize {
    (ticket >> 16 & 0xffff) as usize
}

fn total(ticket: u64) -> usize {
    (ticket & 0xffff) as usize
}

/// The locks guard nothing that a panic could leave half done.
fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
