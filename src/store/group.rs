//! Group commit: callers that wait at the same time share one run of an expensive action.

use std::sync::{Arc, OnceLock};

use parking_lot::{Condvar, Mutex};

use super::StoreError;

/// Whoever comes first leads a round for all that came before it started; who comes while it
/// runs waits for the next one, because the running one may have missed their writes.
#[derive(Default)]
pub(super) struct Group {
    state: Mutex<Rounds>,
    ended: Condvar,
}

#[derive(Default)]
struct Rounds {
    running: bool,
    next: Arc<Round>,
}

type Round = OnceLock<Result<(), StoreError>>;

impl Group {
    /// Returns the result of a run of `action` that started after this call.
    pub(super) fn run(
        &self,
        action: impl FnOnce() -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        let round = Arc::clone(&state.next);
        while state.running && round.get().is_none() {
            self.ended.wait(&mut state);
        }
        if let Some(result) = round.get() {
            return result.clone();
        }
        state.running = true;
        state.next = Arc::default();
        drop(state);
        // Also ends the round when `action` panics, or the others would wait for ever.
        let end = End { group: self, round };
        let result = action();
        let _ = end.round.set(result.clone());
        result
    }
}

struct End<'a> {
    group: &'a Group,
    round: Arc<Round>,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        let panicked = || Err(StoreError::Io("a sync panicked".into()));
        self.round.get_or_init(panicked);
        self.group.state.lock().running = false;
        self.group.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn those_who_wait_share_the_next_round() {
        let (group, runs) = (Group::default(), AtomicU32::new(0));
        let (started, is_started) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let (group, runs) = (&group, &runs);
            scope.spawn(move || {
                group.run(|| {
                    started.send(()).unwrap();
                    released.recv().unwrap();
                    runs.fetch_add(1, Ordering::SeqCst);
                    Ok(())
                })
            });
            is_started.recv().unwrap();
            let followers: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(move || {
                        group.run(|| {
                            runs.fetch_add(1, Ordering::SeqCst);
                            Err(StoreError::Full)
                        })
                    })
                })
                .collect();
            // All eight hold a reference to the next round: they wait.
            while Arc::strong_count(&group.state.lock().next) < 9 {
                thread::yield_now();
            }
            assert_eq!(runs.load(Ordering::SeqCst), 0);
            release.send(()).unwrap();
            for follower in followers {
                assert!(matches!(follower.join().unwrap(), Err(StoreError::Full)));
            }
        });
        assert_eq!(runs.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_panic_ends_its_round() {
        let group = Group::default();
        let panicked = thread::scope(|scope| scope.spawn(|| group.run(|| panic!())).join());
        assert!(panicked.is_err());
        assert!(group.run(|| Ok(())).is_ok());
    }
}
