//! What has been admitted and not finished, so that it can be stopped from outside.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::auth::{Permitted, Principal};
use crate::prompt::{Finish, Interrupt};

/// The requests in the engine or its queue, bounded by its slots.
#[derive(Debug, Default)]
pub(super) struct Running(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    next: u64,
    entries: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    permitted: Permitted,
    correlation: Option<Vec<u8>>,
    interrupt: Interrupt,
}

/// Names one running request in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RunKey(u64);

impl Running {
    pub(super) fn start(
        &self,
        permitted: Permitted,
        correlation: Option<Vec<u8>>,
    ) -> (RunKey, Interrupt) {
        let mut state = self.lock();
        let key = state.next;
        state.next += 1;
        let interrupt = Interrupt::default();
        let entry = Entry {
            permitted,
            correlation,
            interrupt: interrupt.clone(),
        };
        state.entries.insert(key, entry);
        (RunKey(key), interrupt)
    }

    pub(super) fn end(&self, key: RunKey) {
        self.lock().entries.remove(&key.0);
    }

    /// Cancels the principal's own requests with this correlation data.
    pub(super) fn cancel(&self, principal: &Principal, correlation: &[u8]) -> bool {
        let state = self.lock();
        let own = state.entries.values().filter(|entry| {
            entry.correlation.as_deref() == Some(correlation)
                && entry.permitted.grant().principal == *principal
        });
        own.map(|entry| entry.interrupt.raise(Finish::Cancelled))
            .count()
            > 0
    }

    /// Ends each request that there is a cause for.
    pub(super) fn interrupt_where(&self, cause: impl Fn(&Permitted) -> Option<Finish>) {
        for entry in self.lock().entries.values() {
            if let Some(cause) = cause(&entry.permitted) {
                entry.interrupt.raise(cause);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.lock().entries.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
