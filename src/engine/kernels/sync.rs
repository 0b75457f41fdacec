//! What the pool synchronises by: std's. `tests/loom` has loom's in its place, to try every order.

pub(super) use std::sync::{Arc, Condvar, Mutex, MutexGuard, atomic};
pub(super) use std::{hint, thread};

/// Looks for work before a worker sleeps: some hundred microseconds, longer than it takes to
/// choose a token.
pub(super) const LOOKS: u32 = 200_000;
/// Looks for the last chunks' end before a caller sleeps: a worker that has lost its core can
/// have this one then.
pub(super) const CALLER_LOOKS: u32 = 40_000;

/// std's, by loom's methods: nobody keeps a reference to what is inside.
#[derive(Debug)]
pub(super) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

impl<T> UnsafeCell<T> {
    pub(super) fn new(value: T) -> UnsafeCell<T> {
        UnsafeCell(std::cell::UnsafeCell::new(value))
    }

    pub(super) fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
        read(self.0.get())
    }

    pub(super) fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
        write(self.0.get())
    }
}
