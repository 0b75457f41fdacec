//! DPoP proofs that were used (RFC 9449 section 11.1): each admits once, also across a restart.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::gauge::Gauge;

use crate::auth::ProofUse;
use crate::reason::{DenyReason, Refusal, RefuseReason};
use crate::store::{Store, StoreError, Tree};
use crate::telemetry::Registry;
use crate::time::Timestamp;

/// Proofs remembered. One that would be one more is refused: forgetting an earlier one could admit
/// that again.
const PROOFS: usize = 16_384;
/// Told to a client whose proof finds no room.
const RETRY: Duration = Duration::from_secs(30);

type Id = [u8; 32];
type EntriesGauge = Gauge<u64, AtomicU64>;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Replay {
    tree: Tree,
    used: Arc<Mutex<BTreeMap<Id, Use>>>,
    room: usize,
    entries: EntriesGauge,
}

/// Until when a proof is remembered.
#[derive(Debug, Clone, Copy)]
struct Use {
    expires_at: Timestamp,
    /// A clock that is stepped forward and back again must bring no proof back, so as much time
    /// must have passed as well. Known of this process's proofs only.
    kept_until: Option<Instant>,
}

/// The one use of a proof, reserved. Whatever becomes of the request, the proof stays used.
#[derive(Debug)]
pub(super) struct Claimed {
    tree: Tree,
    proof: ProofUse,
}

impl Replay {
    pub(super) fn open(store: &Store, registry: &mut Registry) -> Result<Replay, StoreError> {
        let replay = Replay::with_room(store, PROOFS)?;
        registry.register(
            "slmd_dpop_replay_entries",
            "DPoP proofs remembered as used",
            replay.entries.clone(),
        );
        Ok(replay)
    }

    fn with_room(store: &Store, room: usize) -> Result<Replay, StoreError> {
        let tree = store.tree("replay")?;
        let mut used = BTreeMap::new();
        for (id, expires_at) in tree.range(&[], usize::MAX)? {
            // Damage names no proof.
            if let (Ok(id), Ok(at)) = (id.try_into(), expires_at.try_into()) {
                let expires_at = Timestamp(u64::from_be_bytes(at));
                let kept_until = None;
                used.insert(
                    id,
                    Use {
                        expires_at,
                        kept_until,
                    },
                );
            }
        }
        let entries = EntriesGauge::default();
        entries.set(used.len() as u64);
        Ok(Replay {
            tree,
            used: Arc::new(Mutex::new(used)),
            room,
            entries,
        })
    }

    /// Of two claims to one proof only the first succeeds.
    pub(super) fn claim(
        &self,
        proof: &ProofUse,
        now: Timestamp,
        instant: Instant,
    ) -> Result<Claimed, Refusal> {
        let mut used = self.used();
        if used.contains_key(&proof.id) {
            return Err(DenyReason::ProofReplayed.into());
        }
        if used.len() >= self.room && self.forget(&mut used, now, instant).is_err() {
            tracing::error!("expired DPoP proofs could not be removed");
        }
        if used.len() >= self.room {
            return Err(Refusal::new(RefuseReason::ReplayStoreFull).retry_after(RETRY));
        }
        let expires_at = proof.expires_at;
        let kept_until = instant.checked_add(expires_at.since(now));
        used.insert(
            proof.id,
            Use {
                expires_at,
                kept_until,
            },
        );
        self.entries.set(used.len() as u64);
        Ok(Claimed {
            tree: self.tree.clone(),
            proof: *proof,
        })
    }

    /// Forgets what has expired. Blocks; called about once a second.
    pub(super) fn prune(&self, now: Timestamp, instant: Instant) -> Result<(), StoreError> {
        self.forget(&mut self.used(), now, instant)
    }

    fn forget(
        &self,
        used: &mut BTreeMap<Id, Use>,
        now: Timestamp,
        instant: Instant,
    ) -> Result<(), StoreError> {
        let expired = used.iter().filter(|(_, proof)| {
            proof.expires_at <= now && proof.kept_until.is_none_or(|until| until <= instant)
        });
        let expired: Vec<Id> = expired.map(|(id, _)| *id).collect();
        for id in expired {
            self.tree.remove(&id)?;
            used.remove(&id);
        }
        self.entries.set(used.len() as u64);
        Ok(())
    }

    fn used(&self) -> MutexGuard<'_, BTreeMap<Id, Use>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claimed {
    /// Rides on the sync of the permit's record.
    pub(super) fn write(&self) -> Result<(), StoreError> {
        let expires_at = self.proof.expires_at.0.to_be_bytes();
        self.tree.insert(&self.proof.id, &expires_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::instant;

    fn proof(id: u8, expires_at: u64) -> ProofUse {
        ProofUse {
            id: [id; 32],
            expires_at: Timestamp(expires_at),
        }
    }

    #[test]
    fn a_proof_is_used_once_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let replay = Replay::with_room(&store, 8).unwrap();
        let claimed = replay
            .claim(&proof(1, 100), Timestamp(0), instant())
            .unwrap();
        let refused = |replay: &Replay| {
            replay
                .claim(&proof(1, 100), Timestamp(1), instant())
                .unwrap_err()
        };
        assert_eq!(refused(&replay).reason, DenyReason::ProofReplayed.into());
        store.commit(|| claimed.write()).unwrap();
        drop((replay, claimed, store));
        let store = Store::open(folder.path()).unwrap();
        let replay = Replay::with_room(&store, 8).unwrap();
        assert_eq!(refused(&replay).reason, DenyReason::ProofReplayed.into());
    }

    #[test]
    fn a_clock_that_jumps_ahead_forgets_no_proof_of_this_process() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let replay = Replay::with_room(&store, 8).unwrap();
        let start = instant();
        let claim = |now, at| replay.claim(&proof(1, 1000), Timestamp(now), at);
        claim(0, start).unwrap();
        replay.prune(Timestamp(1_000_000), start).unwrap();
        assert!(claim(0, start).is_err());
        let passed = start + Duration::from_secs(1);
        replay.prune(Timestamp(999), passed).unwrap();
        assert!(claim(999, passed).is_err());
        replay.prune(Timestamp(1000), passed).unwrap();
        claim(1000, passed).unwrap();
    }

    #[test]
    fn a_full_store_refuses_until_something_expires() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let replay = Replay::with_room(&store, 2).unwrap();
        let start = instant();
        let claim =
            |proof, now| replay.claim(&proof, Timestamp(now), start + Duration::from_millis(now));
        claim(proof(1, 100), 0).unwrap();
        claim(proof(2, 200), 0).unwrap();
        let full = claim(proof(3, 300), 99).unwrap_err();
        assert_eq!(full.reason, RefuseReason::ReplayStoreFull.into());
        assert!(full.retry_after.is_some());
        claim(proof(3, 300), 100).unwrap();
        let end = start + Duration::from_secs(1);
        replay.prune(Timestamp(1000), end).unwrap();
        assert_eq!(replay.entries.get(), 0);
        assert!(replay.tree.is_empty());
    }
}
