//! The time floor: a saved lower bound of the time, so that a power cut on a box without a clock
//! of its own can't bring expired tokens back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::store::{Store, StoreError, Tree};
use crate::time::Timestamp;

/// When this release was made, where its build doesn't say (`SOURCE_DATE_EPOCH`):
/// 2026-11-24T00:00:00Z.
const RELEASED: u64 = 1_795_478_400;

/// The floor is saved when it has moved by this much: seldom, for the flash's sake.
const SAVE_EVERY: Duration = Duration::from_secs(600);

const KEY: &[u8] = b"floor";

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Floor {
    store: Store,
    tree: Tree,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    floor: Timestamp,
    saved: Timestamp,
}

impl Floor {
    pub fn open(store: &Store) -> Result<Floor, StoreError> {
        let tree = store.tree("time")?;
        let saved = tree.get(KEY)?.and_then(|bytes| bytes.try_into().ok());
        let saved = Timestamp(saved.map_or(0, u64::from_be_bytes));
        let floor = saved.max(build_time());
        Ok(Floor {
            store: store.clone(),
            tree,
            state: Arc::new(Mutex::new(State { floor, saved })),
        })
    }

    /// No moment from now on is earlier.
    pub fn get(&self) -> Timestamp {
        self.state().floor
    }

    /// Follows the clock while it is synchronised. Never goes back. May block to save.
    pub fn advance(&self, now: Timestamp, synchronised: bool) -> Result<(), StoreError> {
        let due = {
            let mut state = self.state();
            if synchronised {
                state.floor = state.floor.max(now);
            }
            state.floor.since(state.saved) >= SAVE_EVERY
        };
        if due { self.save() } else { Ok(()) }
    }

    /// Saves the floor; durable when this returns. For the stop. Blocks.
    pub fn save(&self) -> Result<(), StoreError> {
        let floor = self.get();
        if floor != self.state().saved {
            self.write(floor)?;
        }
        Ok(())
    }

    /// Sets the floor, also back, but never before the build. Durable when this returns; the
    /// caller audits it. Blocks.
    pub fn reset(&self, to: Timestamp) -> Result<(), StoreError> {
        let to = to.max(build_time());
        self.write(to)?;
        self.state().floor = to;
        Ok(())
    }

    fn write(&self, floor: Timestamp) -> Result<(), StoreError> {
        let bytes = floor.0.to_be_bytes();
        self.store.commit(|| self.tree.insert(KEY, &bytes))?;
        self.state().saved = floor;
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When this binary was built, as far as the build tells.
fn build_time() -> Timestamp {
    let told = option_env!("SOURCE_DATE_EPOCH").and_then(|secs| secs.parse().ok());
    Timestamp::from_secs(told.unwrap_or(RELEASED))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floor_in(folder: &tempfile::TempDir) -> Floor {
        Floor::open(&Store::open(folder.path()).unwrap()).unwrap()
    }

    #[test]
    fn follows_a_synchronised_clock_only_and_survives() {
        let folder = tempfile::tempdir().unwrap();
        let built = build_time();
        let later = |secs| built.saturating_add(Duration::from_secs(secs));
        let floor = floor_in(&folder);
        assert_eq!(floor.get(), built);
        floor.advance(later(9_999_999), false).unwrap();
        assert_eq!(floor.get(), built);
        floor.advance(later(1000), true).unwrap();
        floor.advance(later(1100), true).unwrap();
        floor.advance(later(50), true).unwrap();
        assert_eq!(floor.get(), later(1100));
        drop(floor);
        // 100 seconds weren't worth a write.
        let floor = floor_in(&folder);
        assert_eq!(floor.get(), later(1000));
        floor.advance(later(1001), true).unwrap();
        floor.save().unwrap();
        drop(floor);
        let floor = floor_in(&folder);
        assert_eq!(floor.get(), later(1001));
        floor.reset(Timestamp(0)).unwrap();
        assert_eq!(floor.get(), built);
        drop(floor);
        assert_eq!(floor_in(&folder).get(), built);
    }
}
