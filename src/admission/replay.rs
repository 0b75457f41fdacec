//! DPoP proofs that were used (RFC 9449 section 11.1): each admits once, also across a restart.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::gauge::Gauge;

use crate::auth::ProofUse;
use crate::reason::{DenyReason, Refusal, RefuseReason};
use crate::share::{Full, Shares};
use crate::store::{Store, StoreError, Tree};
use crate::telemetry::Registry;
use crate::time::Timestamp;

/// Proofs remembered, shared between the principals. One that would be one more is refused:
/// forgetting an earlier one could admit that again.
const PROOFS: usize = 16_384;
/// Told to a client whose proof finds no room.
const RETRY: Duration = Duration::from_secs(30);

type Id = [u8; 32];
/// [`Principal::key`](crate::auth::Principal::key); `None` where an earlier version didn't note it.
type Owner = Option<[u8; 32]>;
type EntriesGauge = Gauge<u64, AtomicU64>;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Replay {
    tree: Tree,
    used: Arc<Mutex<Used>>,
    entries: EntriesGauge,
}

#[derive(Debug)]
struct Used {
    proofs: BTreeMap<Id, Use>,
    shares: Shares<Owner>,
}

/// Whose a proof is, and until when it is remembered.
#[derive(Debug, Clone, Copy)]
struct Use {
    owner: Owner,
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
    owner: [u8; 32],
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
        let mut used = Used {
            proofs: BTreeMap::new(),
            shares: Shares::new(room),
        };
        for (id, value) in tree.range(&[], usize::MAX)? {
            // Damage names no proof.
            if let (Ok(id), Some((expires_at, owner))) = (id.try_into(), read(&value)) {
                let kept_until = None;
                let proof = Use {
                    owner,
                    expires_at,
                    kept_until,
                };
                used.proofs.insert(id, proof);
                used.shares.restore(&owner);
            }
        }
        let entries = EntriesGauge::default();
        entries.set(used.proofs.len() as u64);
        Ok(Replay {
            tree,
            used: Arc::new(Mutex::new(used)),
            entries,
        })
    }

    /// Of two claims to one proof only the first succeeds. It counts in its principal's share.
    pub(super) fn claim(
        &self,
        proof: &ProofUse,
        owner: [u8; 32],
        now: Timestamp,
        instant: Instant,
    ) -> Result<Claimed, Refusal> {
        let mut used = self.used();
        if used.proofs.contains_key(&proof.id) {
            return Err(DenyReason::ProofReplayed.into());
        }
        let mut taken = used.shares.take(&Some(owner));
        if taken == Err(Full::Room) {
            if self.forget(&mut used, now, instant).is_err() {
                tracing::error!("expired DPoP proofs could not be removed");
            }
            taken = used.shares.take(&Some(owner));
        }
        taken.map_err(|full| full_store(full, &used.shares, &owner))?;
        let expires_at = proof.expires_at;
        let kept_until = instant.checked_add(expires_at.since(now));
        let owned = Use {
            owner: Some(owner),
            expires_at,
            kept_until,
        };
        used.proofs.insert(proof.id, owned);
        self.entries.set(used.proofs.len() as u64);
        Ok(Claimed {
            tree: self.tree.clone(),
            proof: *proof,
            owner,
        })
    }

    /// Forgets what has expired. Blocks; called about once a second.
    pub(super) fn prune(&self, now: Timestamp, instant: Instant) -> Result<(), StoreError> {
        self.forget(&mut self.used(), now, instant)
    }

    fn forget(&self, used: &mut Used, now: Timestamp, instant: Instant) -> Result<(), StoreError> {
        let expired = used.proofs.iter().filter(|(_, proof)| {
            proof.expires_at <= now && proof.kept_until.is_none_or(|until| until <= instant)
        });
        let expired: Vec<Id> = expired.map(|(id, _)| *id).collect();
        for id in expired {
            self.tree.remove(&id)?;
            if let Some(proof) = used.proofs.remove(&id) {
                used.shares.give_back(&proof.owner);
            }
        }
        self.entries.set(used.proofs.len() as u64);
        Ok(())
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claimed {
    /// Rides on the sync of the permit's record.
    pub(super) fn write(&self) -> Result<(), StoreError> {
        let expires_at = self.proof.expires_at.0.to_be_bytes();
        let value = [expires_at.as_slice(), &self.owner].concat();
        self.tree.insert(&self.proof.id, &value)
    }
}

/// The reverse of [`Claimed::write`]. The owner is missing where an earlier version wrote.
fn read(value: &[u8]) -> Option<(Timestamp, Owner)> {
    let (expires_at, owner) = value.split_first_chunk()?;
    let expires_at = Timestamp(u64::from_be_bytes(*expires_at));
    match owner {
        [] => Some((expires_at, None)),
        owner => Some((expires_at, Some(owner.try_into().ok()?))),
    }
}

/// Tells whether the whole store is full or the principal's share of it.
fn full_store(full: Full, shares: &Shares<Owner>, owner: &[u8; 32]) -> Refusal {
    let refusal = Refusal::new(RefuseReason::ReplayStoreFull).retry_after(RETRY);
    match full {
        Full::Room => refusal,
        Full::Share => refusal.detail(format!(
            "{} proofs of this principal are remembered, which is its share of {} while {} are; \
             the rest is for others",
            shares.held(&Some(*owner)),
            shares.room(),
            shares.taken(),
        )),
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

    const OWNER: [u8; 32] = [7; 32];

    #[test]
    fn a_proof_is_used_once_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let replay = Replay::with_room(&store, 8).unwrap();
        let claimed = replay
            .claim(&proof(1, 100), OWNER, Timestamp(0), instant())
            .unwrap();
        let refused = |replay: &Replay| {
            replay
                .claim(&proof(1, 100), OWNER, Timestamp(1), instant())
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
        let claim = |now, at| replay.claim(&proof(1, 1000), OWNER, Timestamp(now), at);
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
        // Each of a principal of its own.
        let claim = |proof: ProofUse, now| {
            let at = start + Duration::from_millis(now);
            replay.claim(&proof, proof.id, Timestamp(now), at)
        };
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

    /// Claims proofs numbered from `first` on until one is refused.
    fn flood(replay: &Replay, owner: u8, first: u8) -> (Vec<Claimed>, Refusal) {
        let mut claimed = Vec::new();
        for id in first.. {
            match replay.claim(&proof(id, 1000), [owner; 32], Timestamp(0), instant()) {
                Ok(claim) => claimed.push(claim),
                Err(refusal) => return (claimed, refusal),
            }
        }
        panic!("no refusal");
    }

    #[test]
    fn one_principal_fills_its_share_and_no_more_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let replay = Replay::with_room(&store, 16).unwrap();
        let (claimed, refused) = flood(&replay, 1, 0);
        assert_eq!(claimed.len(), 8);
        let told = refused.detail.as_deref().unwrap();
        assert!(told.starts_with("8 proofs of this principal"), "{told}");
        assert_eq!(refused.reason, RefuseReason::ReplayStoreFull.into());
        assert_eq!(refused.retry_after, Some(RETRY));
        let other = |id| replay.claim(&proof(id, 1000), [2; 32], Timestamp(0), instant());
        let others: Vec<Claimed> = (100..104).map(|id| other(id).unwrap()).collect();
        let write = || claimed.iter().chain(&others).try_for_each(Claimed::write);
        store.commit(write).unwrap();
        drop((claimed, others, replay, store));

        let store = Store::open(folder.path()).unwrap();
        let replay = Replay::with_room(&store, 16).unwrap();
        assert_eq!(flood(&replay, 1, 50).0.len(), 0);
        assert_eq!(flood(&replay, 3, 60).0.len(), 2);
        replay.prune(Timestamp(1000), instant()).unwrap();
        // What this process claimed must have got as old, too.
        assert_eq!(replay.entries.get(), 2);
        assert_eq!(flood(&replay, 1, 70).0.len(), 7);
    }

    #[test]
    fn proofs_of_an_earlier_version_count_and_are_in_nobodys_share() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let tree = store.tree("replay").unwrap();
        for id in 0..6 {
            tree.insert(&[id; 32], &1000u64.to_be_bytes()).unwrap();
        }
        tree.insert(&[9; 32], b"damage").unwrap();
        let replay = Replay::with_room(&store, 16).unwrap();
        let again = replay.claim(&proof(5, 1000), OWNER, Timestamp(0), instant());
        let again = again.unwrap_err();
        assert_eq!(again.reason, DenyReason::ProofReplayed.into());
        assert_eq!(flood(&replay, 1, 20).0.len(), 5);
        replay.prune(Timestamp(1000), instant()).unwrap();
        assert_eq!(replay.entries.get(), 5);
    }
}
