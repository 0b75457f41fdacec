//! A pool of threads that share one job's chunks with the thread that brings it.
//!
//! Each thread has a part of the chunks, in a cache line of its own, and takes from the others'
//! when it is done with them: a line that two cores write costs as much as some chunks do. The
//! caller works too, takes every chunk that nobody has taken, and then waits only for chunks that
//! are being worked on. So a worker whose core is busy with something else slows a job but never
//! stalls it. A second caller finds the pool busy and does its chunks alone. Workers spin for a
//! moment after a job, because the next operator brings one, then sleep: idle costs nothing.

use std::any::Any;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::PoisonError;

use super::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use super::sync::{Arc, Condvar, Mutex, MutexGuard, UnsafeCell};
use super::sync::{CALLER_LOOKS, LOOKS};
use super::sync::{hint, thread};

/// Looks between two pauses. Hypervisors take a core from whoever pauses often.
const PAUSE: u32 = 64;
/// More than the cores of any machine this runs on.
const MAX_THREADS: usize = 64;

/// Threads that help with jobs.
#[derive(Debug)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<thread::JoinHandle<()>>,
    /// Callers keep their jobs to themselves.
    alone: AtomicBool,
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
    /// The caller's part, then the workers'.
    parts: Box<[Part]>,
    /// Chunks that each of them has finished.
    finished: Box<[Finished]>,
    /// Held by the caller whose job the pool has.
    busy: AtomicBool,
    stop: AtomicBool,
    sleeping: Box<[AtomicBool]>,
    /// The caller sleeps until the job's chunks are finished.
    waiting: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    lock: Mutex<()>,
    complete: Condvar,
}

/// Chunks that a thread takes first. Two cache lines, because CPUs fetch them in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Part {
    /// Generation of the job (32 bits), next chunk (16), end of the chunks (16).
    ticket: AtomicU64,
    job: UnsafeCell<Option<Job>>,
}

/// Generation of the job (32 bits) and how many of its chunks a thread has finished.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Finished(AtomicU64);

/// The closure, with its lifetime forgotten.
#[derive(Debug, Clone, Copy)]
struct Job(*const (dyn Fn(usize) + Sync));

// SAFETY: a part's `job` is written only by the caller that holds `busy`, while no chunk can be
// taken, and read only by threads that have taken a chunk of the part: taking acquires what the
// caller released with the ticket, and the next write comes after that chunk is finished. The
// closure behind the pointer is `Sync`, so that it may be called from all of them.
unsafe impl Sync for Part {}
// SAFETY: as above; the pointer says nothing about the thread that made it.
unsafe impl Send for Part {}

impl Pool {
    /// A pool for jobs on `threads` threads: the caller's and as many workers as are missing.
    pub(crate) fn new(threads: usize) -> std::io::Result<Pool> {
        let threads = threads.clamp(1, MAX_THREADS);
        let shared = Arc::new(Shared {
            parts: (0..threads).map(|_| Part::new()).collect(),
            finished: (0..threads).map(|_| Finished::default()).collect(),
            busy: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            sleeping: (1..threads).map(|_| AtomicBool::new(false)).collect(),
            waiting: AtomicBool::new(false),
            panic: Mutex::new(None),
            lock: Mutex::new(()),
            complete: Condvar::new(),
        });
        let mut pool = Pool {
            shared,
            workers: Vec::with_capacity(threads - 1),
            alone: AtomicBool::new(false),
        };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let worker = thread::Builder::new()
                .name(format!("slmd-compute-{index}"))
                .spawn(move || shared.serve(index))?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Whether callers share their jobs from now on.
    pub(crate) fn share_jobs(&self, share: bool) {
        self.alone.store(!share, Ordering::Relaxed);
    }

    /// Calls `job` once with each number below `chunks`, on any threads; returns when all calls
    /// have returned. A panic in one of them goes on here.
    pub(crate) fn run(&self, chunks: usize, job: &(dyn Fn(usize) + Sync)) {
        const MOST: usize = u16::MAX as usize;
        let alone = self.workers.is_empty() || self.alone.load(Ordering::Relaxed);
        for first in (0..chunks).step_by(MOST) {
            let count = (chunks - first).min(MOST);
            if alone || count == 1 || self.shared.busy.swap(true, Ordering::Acquire) {
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
        // and `wait` returns when all of them are finished. Neither unwinds.
        let forgotten = unsafe {
            std::mem::transmute::<*const (dyn Fn(usize) + Sync), *const (dyn Fn(usize) + Sync)>(
                forgotten,
            )
        };
        let threads = self.threads();
        let last = generation(shared.parts[0].ticket.load(Ordering::Relaxed));
        let generation = (last + 1) & 0xffff_ffff;
        if generation == 0 {
            // What a thread has finished of a job long ago must not count for this one.
            for finished in &shared.finished {
                finished.0.store(0, Ordering::Relaxed);
            }
        }
        for (index, part) in shared.parts.iter().enumerate().rev() {
            let [next, end] = [index, index + 1].map(|i| (chunks * i / threads) as u64);
            // SAFETY: this caller holds `busy`, and the last job's chunks are all finished.
            part.job
                .with_mut(|job| unsafe { *job = Some(Job(forgotten)) });
            let ticket = generation << 32 | next << 16 | end;
            part.ticket.store(ticket, Ordering::Release);
        }
        // Whoever goes to sleep says so before its last look: one of both sees the other.
        fence(Ordering::SeqCst);
        for (sleeping, worker) in shared.sleeping.iter().zip(&self.workers) {
            if sleeping.load(Ordering::Relaxed) && sleeping.swap(false, Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        shared.work(0);
        shared.wait(generation, chunks as u64);
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
        self.part(row, self.columns.clone())
    }

    /// Some of the tile's columns of one of its rows.
    pub(crate) fn part(&mut self, row: usize, columns: Range<usize>) -> &mut [T] {
        assert!(self.rows.contains(&row) && self.columns.start <= columns.start);
        assert!(columns.start <= columns.end && columns.end <= self.columns.end);
        let start = self.first.wrapping_add(row * self.width + columns.start);
        // SAFETY: row and columns are inside of the matrix that `tiles` borrows until all jobs
        // have returned; no other tile has this row and these columns, and `self` is borrowed as
        // long as the slice.
        unsafe { std::slice::from_raw_parts_mut(start, columns.len()) }
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
        while !self.stop.load(Ordering::Relaxed) {
            if self.work(index) {
                continue;
            }
            // A job has a chunk for this part, or it is not worth coming.
            let part = &self.parts[index];
            if !look(LOOKS, || has_chunk(part.ticket.load(Ordering::Relaxed))) {
                self.sleep(index);
            }
        }
    }

    fn sleep(&self, index: usize) {
        let sleeping = &self.sleeping[index - 1];
        sleeping.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        while !has_chunk(self.parts[index].ticket.load(Ordering::SeqCst))
            && sleeping.load(Ordering::SeqCst)
            && !self.stop.load(Ordering::SeqCst)
        {
            thread::park();
        }
        sleeping.store(false, Ordering::SeqCst);
    }

    /// Takes chunks, of its own part first, until none is left; says whether there was one.
    fn work(&self, index: usize) -> bool {
        let mut finished = self.finished[index].0.load(Ordering::Relaxed);
        let before = finished;
        let (others, own) = self.parts.split_at(index);
        for part in own.iter().chain(others) {
            while let Some((generation, chunk)) = part.take() {
                self.call(part, chunk);
                finished = match finished >> 32 == generation {
                    true => finished + 1,
                    false => generation << 32 | 1,
                };
                self.finished[index].0.store(finished, Ordering::Release);
            }
        }
        if finished == before {
            return false;
        }
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) {
            drop(hold(&self.lock));
            self.complete.notify_all();
        }
        true
    }

    /// Runs a chunk that this thread has taken.
    fn call(&self, part: &Part, chunk: usize) {
        // SAFETY: the chunk is taken and not finished, so the job is this one and stays in place.
        if let Some(Job(job)) = part.job.with(|job| unsafe { *job }) {
            // SAFETY: `share` keeps the closure alive until this chunk is finished.
            let job = unsafe { &*job };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| job(chunk))) {
                hold(&self.panic).get_or_insert(panic);
            }
        }
    }

    /// Waits for chunks that workers have taken: spins, then sleeps.
    fn wait(&self, generation: u64, chunks: u64) {
        let complete = || {
            let finished = self.finished.iter().map(|finished| {
                let finished = finished.0.load(Ordering::Acquire);
                match finished >> 32 == generation {
                    true => finished & 0xffff_ffff,
                    false => 0,
                }
            });
            finished.sum::<u64>() == chunks
        };
        if look(CALLER_LOOKS, complete) {
            return;
        }
        let mut guard = hold(&self.lock);
        self.waiting.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        while !complete() {
            guard = self
                .complete
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.waiting.store(false, Ordering::SeqCst);
    }
}

impl Part {
    fn new() -> Part {
        Part {
            ticket: AtomicU64::new(0),
            job: UnsafeCell::new(None),
        }
    }

    /// Takes the next chunk; gives the job's generation and the chunk's number.
    fn take(&self) -> Option<(u64, usize)> {
        let mut ticket = self.ticket.load(Ordering::Acquire);
        while has_chunk(ticket) {
            // The generation is in the ticket, so a chunk of another job can't be taken by
            // mistake: 2^32 jobs would have to pass between these two lines.
            let claim = self.ticket.compare_exchange_weak(
                ticket,
                ticket + (1 << 16),
                Ordering::AcqRel,
                Ordering::Acquire,
            );
            match claim {
                Ok(_) => return Some((generation(ticket), next(ticket))),
                Err(current) => ticket = current,
            }
        }
        None
    }
}

/// Looks up to so many times whether something has come.
fn look(times: u32, has_come: impl Fn() -> bool) -> bool {
    (0..times).any(|time| {
        if time % PAUSE == PAUSE - 1 {
            hint::spin_loop();
        }
        has_come()
    })
}

fn generation(ticket: u64) -> u64 {
    ticket >> 32
}

fn next(ticket: u64) -> usize {
    (ticket >> 16 & 0xffff) as usize
}

fn has_chunk(ticket: u64) -> bool {
    next(ticket) < (ticket & 0xffff) as usize
}

/// The locks guard nothing that a panic could leave half done.
fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
