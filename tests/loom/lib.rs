//! The engine's pool with loom's threads and atomics.

// Its users are in the daemon.
#![allow(dead_code)]

/// As in `src/engine/kernels/sync.rs`.
mod sync {
    pub(crate) use loom::cell::UnsafeCell;
    pub(crate) use loom::sync::{Arc, Condvar, Mutex, MutexGuard, atomic};
    pub(crate) use loom::{hint, thread};

    /// Each look is a step that loom tries in every order.
    pub(crate) const LOOKS: u32 = 1;
    pub(crate) const CALLER_LOOKS: u32 = 1;
}

#[path = "../../src/engine/kernels/pool.rs"]
mod pool;

#[cfg(test)]
mod models;
