//! Prompts that wait for a realm's keys: none is verified yet, so their number is bounded, and
//! shared by who sent them.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use crate::prompt::Origin;
use crate::share::Shares;

/// Prompts that may wait at once: a flood of unknown keys stalls nobody else.
const WAITERS: usize = 32;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Waiters(Arc<Mutex<Shares<String>>>);

/// Leave to wait; given back when dropped.
#[derive(Debug)]
pub(super) struct Waiter {
    waiters: Waiters,
    who: String,
}

impl Waiters {
    pub(super) fn new() -> Waiters {
        Waiters(Arc::new(Mutex::new(Shares::new(WAITERS))))
    }

    /// `None` where the sender's share, or the whole, is waiting already.
    pub(super) fn enter(&self, origin: &Origin) -> Option<Waiter> {
        let who = origin.sender();
        self.lock().take(&who).ok()?;
        let waiters = self.clone();
        Some(Waiter { waiters, who })
    }

    fn lock(&self) -> MutexGuard<'_, Shares<String>> {
        self.0.lock()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.waiters.lock().give_back(&self.who);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(user: u32) -> Origin {
        Origin::Socket {
            uid: user,
            gid: 0,
            pid: None,
        }
    }

    #[test]
    fn a_flood_of_unknown_keys_leaves_others_room_to_wait() {
        let waiters = Waiters::new();
        let flood: Vec<Waiter> = std::iter::from_fn(|| waiters.enter(&of(1))).collect();
        assert_eq!(flood.len(), WAITERS / 2);
        let other = waiters.enter(&of(2)).unwrap();
        let topic = "slm/edge-1/v1/chat/completions".to_owned();
        let device = waiters.enter(&Origin::Mqtt { topic }).unwrap();
        drop((flood, other, device));
        assert_eq!(waiters.lock().taken(), 0);
    }
}
