//! DPoP proofs that were used (RFC 9449 section 11.1): each admits once, also across a restart.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use prometheus_client::metrics::gauge::Gauge;

use crate::auth::{NONCE_MAX_AGE, PROOF_MAX_AGE, ProofUse, Until};
use crate::reason::{DenyReason, Refusal, RefuseReason};
use crate::share::{Full, Shares};
use crate::store::{Batch, Store, StoreError, Tree};
use crate::telemetry::Registry;
use crate::time::{Booted, Moment, Timestamp, Uptime};

/// Proofs remembered, shared between the principals. One that would be one more is refused:
/// forgetting an earlier one could admit that again.
const PROOFS: usize = 16_384;
/// A proof that ends by its age is kept for so long by the uptime, from its use or from the start:
/// then it is over by a right clock too, whatever ours has said.
const LEAST: Duration = PROOF_MAX_AGE.saturating_add(Duration::from_secs(30));
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
    /// Held while something is forgotten.
    forgetting: Arc<Mutex<()>>,
    entries: EntriesGauge,
    boot: u64,
}

/// Until when a proof is remembered.
#[derive(Debug, Clone, Copy)]
enum Kept {
    /// Its nonce isn't taken any more from this uptime on, nor in any other boot.
    Nonce(Uptime),
    /// It is refused for its age from then on, as long as no clock is set back: what is forgotten
    /// moves [`Used::forgotten`]. As much time must have passed as well, so that a clock that is
    /// stepped forward and back forgets nothing.
    Time(Timestamp, Uptime),
}

#[derive(Debug)]
struct Used {
    proofs: BTreeMap<Id, (Owner, Kept)>,
    shares: Shares<Owner>,
    /// Of proofs that end by their age, one that ends no later may have been used.
    forgotten: Timestamp,
}

/// Where [`Used::forgotten`] is stored.
const FORGOTTEN: &[u8] = b"forgotten";

/// The one use of a proof, reserved. Whatever becomes of the request, the proof stays used.
#[derive(Debug)]
pub(super) struct FirstUse {
    tree: Tree,
    id: Id,
    owner: [u8; 32],
    kept: Kept,
    boot: u64,
}

impl Replay {
    pub(super) fn open(
        store: &Store,
        now: Booted,
        registry: &mut Registry,
    ) -> Result<Replay, StoreError> {
        let replay = Replay::with_room(store, PROOFS, now)?;
        registry.register(
            "slmd_dpop_replay_entries",
            "DPoP proofs remembered as used",
            replay.entries.clone(),
        );
        Ok(replay)
    }

    fn with_room(store: &Store, room: usize, now: Booted) -> Result<Replay, StoreError> {
        let tree = store.tree("replay")?;
        let mut used = Used {
            proofs: BTreeMap::new(),
            shares: Shares::new(room),
            forgotten: Timestamp(0),
        };
        for (name, value) in tree.range(&[], usize::MAX)? {
            let Ok(id) = Id::try_from(&name[..]) else {
                if name == FORGOTTEN {
                    used.forgotten = timestamp(&value);
                }
                continue;
            };
            // Damage names no proof.
            let Some((owner, kept)) = split(&value) else {
                continue;
            };
            match Kept::from_bytes(kept, now) {
                Some(kept) => used.restore(id, owner, kept),
                None => tree.remove(&name)?,
            }
        }
        let entries = EntriesGauge::default();
        entries.set(used.proofs.len() as u64);
        Ok(Replay {
            tree,
            used: Arc::new(Mutex::new(used)),
            forgetting: Arc::default(),
            entries,
            boot: now.boot,
        })
    }

    /// Of two claims to one proof only the first succeeds. It counts in its principal's share.
    pub(super) fn claim(
        &self,
        proof: &ProofUse,
        owner: [u8; 32],
        now: Moment,
    ) -> Result<FirstUse, Refusal> {
        let mut used = self.used();
        if used.proofs.contains_key(&proof.id) {
            return Err(DenyReason::ProofReplayed.into());
        }
        if let Until::Time(at) = proof.until
            && at <= used.forgotten
        {
            let why = "iat: as old as proofs that aren't remembered any more; compare the clocks";
            return Err(Refusal::new(DenyReason::ProofInvalid).detail(why));
        }
        let taken = used.shares.take(&Some(owner));
        taken.map_err(|full| full_store(full, &used.shares, &owner))?;
        let kept = match proof.until {
            Until::Nonce => Kept::Nonce(now.uptime + NONCE_MAX_AGE),
            Until::Time(at) => Kept::Time(at, now.uptime + at.since(now.known).max(LEAST)),
        };
        used.proofs.insert(proof.id, (Some(owner), kept));
        self.entries.set(used.proofs.len() as u64);
        Ok(FirstUse {
            tree: self.tree.clone(),
            id: proof.id,
            owner,
            kept,
            boot: self.boot,
        })
    }

    /// Forgets what can't be used again. Blocks; called about once a second.
    pub(super) fn prune(&self, now: Moment, synchronised: bool) -> Result<(), StoreError> {
        if synchronised {
            self.mend(now.known)?;
        }
        self.forget(now)
    }

    /// The time is known to be `now`: proofs of a later one are refused for that.
    pub(super) fn mend(&self, now: Timestamp) -> Result<(), StoreError> {
        let _forgetting = self.forgetting();
        if self.used().forgotten > now {
            self.tree.insert(FORGOTTEN, &now.0.to_be_bytes())?;
            self.used().forgotten = now;
        }
        Ok(())
    }

    /// No claim waits for the disk meanwhile: what has ended stays used until it is forgotten there.
    fn forget(&self, now: Moment) -> Result<(), StoreError> {
        let _forgetting = self.forgetting();
        let (ended, forgotten) = self.used().ended(now);
        if ended.is_empty() {
            return Ok(());
        }
        // At once, so that a crash forgets none that could come back.
        let mut batch = Batch::default();
        ended.iter().for_each(|id| batch.remove(id));
        batch.insert(FORGOTTEN, &forgotten.0.to_be_bytes());
        self.tree.apply(batch)?;
        let mut used = self.used();
        used.forgotten = forgotten;
        for id in ended {
            if let Some((owner, _)) = used.proofs.remove(&id) {
                used.shares.give_back(&owner);
            }
        }
        self.entries.set(used.proofs.len() as u64);
        Ok(())
    }

    fn forgetting(&self) -> MutexGuard<'_, ()> {
        self.forgetting.lock()
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock()
    }
}

impl Used {
    fn restore(&mut self, id: Id, owner: Owner, kept: Kept) {
        self.shares.restore(&owner);
        self.proofs.insert(id, (owner, kept));
    }

    /// What can't be used again, and [`Used::forgotten`] without it.
    fn ended(&self, now: Moment) -> (Vec<Id>, Timestamp) {
        let (mut ended, mut forgotten) = (Vec::new(), self.forgotten);
        for (id, (_, kept)) in self
            .proofs
            .iter()
            .filter(|(_, (_, kept))| kept.is_over(now))
        {
            ended.push(*id);
            if let Kept::Time(at, _) = kept {
                forgotten = forgotten.max(*at);
            }
        }
        (ended, forgotten)
    }
}

impl FirstUse {
    /// Rides on the sync of the permit's record.
    pub(super) fn write(&self) -> Result<(), StoreError> {
        let kept = self.kept.to_bytes(self.boot);
        let value = [kept.as_slice(), &self.owner].concat();
        self.tree.insert(&self.id, &value)
    }
}

/// The reverse of [`FirstUse::write`]: whose, and the bytes of [`Kept`]. `None`: damage.
fn split(value: &[u8]) -> Option<(Owner, &[u8])> {
    match value.len() {
        // As an earlier version wrote it.
        8 => Some((None, value)),
        40 | 48 => {
            let (kept, owner) = value.split_last_chunk()?;
            Some((Some(*owner), kept))
        }
        _ => None,
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

impl Kept {
    fn is_over(&self, now: Moment) -> bool {
        match self {
            Kept::Nonce(until) => *until <= now.uptime,
            Kept::Time(at, until) => *at <= now.known && *until <= now.uptime,
        }
    }

    /// A time, or boot and uptime.
    fn to_bytes(self, boot: u64) -> Vec<u8> {
        match self {
            Kept::Nonce(until) => [boot.to_be_bytes(), until.0.to_be_bytes()].concat(),
            Kept::Time(at, _) => at.0.to_be_bytes().to_vec(),
        }
    }

    /// `None`: of another boot, whose nonces are over.
    fn from_bytes(bytes: &[u8], now: Booted) -> Option<Kept> {
        let Some((boot, uptime)) = bytes
            .split_at_checked(8)
            .filter(|(_, rest)| !rest.is_empty())
        else {
            return Some(Kept::Time(timestamp(bytes), now.uptime + LEAST));
        };
        (timestamp(boot).0 == now.boot).then(|| Kept::Nonce(Uptime(timestamp(uptime).0)))
    }
}

/// Damage never ends.
fn timestamp(bytes: &[u8]) -> Timestamp {
    Timestamp(bytes.try_into().map_or(u64::MAX, u64::from_be_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Clocks;

    const OWNER: [u8; 32] = [7; 32];

    fn booted() -> Booted {
        Clocks::default().booted()
    }

    fn proof(id: u8, until: Until) -> ProofUse {
        ProofUse {
            id: [id; 32],
            until,
        }
    }

    fn dated(id: u8, expires_at: u64) -> ProofUse {
        proof(id, Until::Time(Timestamp(expires_at)))
    }

    fn at(known: u64, uptime: u64) -> Moment {
        Moment {
            known: Timestamp(known),
            uptime: Uptime(uptime),
        }
    }

    fn code(refused: Result<FirstUse, Refusal>) -> &'static str {
        refused.unwrap_err().reason.as_str()
    }

    #[test]
    fn a_proof_is_used_once_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let replay = Replay::with_room(&store, 8, booted()).unwrap();
        let now = booted().uptime.0;
        let proofs = [dated(1, 100), proof(2, Until::Nonce)];
        for proof in &proofs {
            let claimed = replay.claim(proof, OWNER, at(0, now)).unwrap();
            let again = replay.claim(proof, OWNER, at(1, now));
            assert_eq!(code(again), "proof_replayed");
            store.commit(|| claimed.write()).unwrap();
        }
        drop((replay, store));
        let store = Store::open(folder.path()).unwrap();
        let replay = Replay::with_room(&store, 8, booted()).unwrap();
        for proof in &proofs {
            assert_eq!(
                code(replay.claim(proof, OWNER, at(1, now))),
                "proof_replayed"
            );
        }
    }

    #[test]
    fn a_clock_that_jumps_ahead_forgets_no_proof_of_this_process() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let replay = Replay::with_room(&store, 8, booted()).unwrap();
        let claim = |now| replay.claim(&dated(1, 1000), OWNER, now);
        claim(at(0, 5000)).unwrap();
        replay.prune(at(1_000_000, 5000), false).unwrap();
        assert!(claim(at(0, 5000)).is_err());
        replay.prune(at(999, 6000), false).unwrap();
        assert_eq!(code(claim(at(999, 6000))), "proof_replayed");
    }

    /// This clock was ahead, and is set right while the client's clock still takes the proof.
    #[test]
    fn a_clock_that_was_ahead_and_is_mended_forgets_no_proof() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let replay = Replay::with_room(&store, 8, booted()).unwrap();
        let now = booted().uptime.0;
        let claim = |replay: &Replay, moment| replay.claim(&dated(1, 1_000_000), OWNER, moment);
        let claimed = claim(&replay, at(980_000, now)).unwrap();
        store.commit(|| claimed.write()).unwrap();
        replay.prune(at(1_020_000, now + 40_000), false).unwrap();
        replay.prune(at(920_000, now + 41_000), true).unwrap();
        assert_eq!(
            code(claim(&replay, at(920_000, now + 41_000))),
            "proof_replayed"
        );
        drop((claimed, replay, store));
        // The same over a restart with the clock far ahead.
        let store = Store::open(folder.path()).unwrap();
        let replay = Replay::with_room(&store, 8, booted()).unwrap();
        replay.prune(at(1_600_000, now + 60_000), false).unwrap();
        replay.prune(at(940_000, now + 61_000), true).unwrap();
        assert_eq!(
            code(claim(&replay, at(940_000, now + 61_000))),
            "proof_replayed"
        );
    }

    #[test]
    fn what_is_forgotten_never_counts_again_whatever_the_clock_does() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let replay = Replay::with_room(&store, 8, booted()).unwrap();
        let claimed = replay.claim(&dated(1, 1_000_000), OWNER, at(0, 0)).unwrap();
        store.commit(|| claimed.write()).unwrap();
        replay.prune(at(1_000_000, 1_000_000), false).unwrap();
        assert_eq!(replay.entries.get(), 0);
        assert_eq!(
            code(replay.claim(&dated(1, 1_000_000), OWNER, at(500_000, 1_000_000))),
            "proof_invalid"
        );
        store.sync().unwrap();
        drop((claimed, replay, store));
        // A power cut, and a clock that was set back.
        let store = Store::open(folder.path()).unwrap();
        let replay = Replay::with_room(&store, 8, booted()).unwrap();
        assert_eq!(
            code(replay.claim(&dated(1, 1_000_000), OWNER, at(500_000, 0))),
            "proof_invalid"
        );
        replay
            .claim(&dated(2, 1_001_000), OWNER, at(500_000, 0))
            .unwrap();
        // A clock that is known, and one that was mended, let later proofs pass again.
        replay.prune(at(600_000, 0), true).unwrap();
        replay
            .claim(&dated(3, 601_000), OWNER, at(600_000, 0))
            .unwrap();
        assert!(
            replay
                .claim(&dated(3, 601_000), OWNER, at(600_000, 0))
                .is_err()
        );
    }

    #[test]
    fn a_nonces_proof_is_kept_by_the_uptime_alone_and_not_into_another_boot() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let replay = Replay::with_room(&store, 8, booted()).unwrap();
        let now = booted().uptime;
        let claim = |moment| replay.claim(&proof(1, Until::Nonce), OWNER, moment);
        let claimed = claim(at(0, now.0)).unwrap();
        let end = now + NONCE_MAX_AGE;
        replay.prune(at(u64::MAX, end.0 - 1), true).unwrap();
        assert!(claim(at(0, end.0 - 1)).is_err());
        store.commit(|| claimed.write()).unwrap();
        let other = Kept::Nonce(end).to_bytes(booted().boot.wrapping_add(1));
        let other = [other.as_slice(), &OWNER].concat();
        replay.tree.insert(&[2; 32], &other).unwrap();
        let again = Replay::with_room(&store, 8, booted()).unwrap();
        assert_eq!(again.entries.get(), 1);
        replay.prune(at(0, end.0), false).unwrap();
        assert_eq!(replay.entries.get(), 0);
    }

    #[test]
    fn a_full_store_refuses_until_something_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let replay = Replay::with_room(&store, 2, booted()).unwrap();
        // Each of a principal of its own.
        let claim = |proof: ProofUse, now| replay.claim(&proof, proof.id, at(now, now));
        claim(dated(1, 200_000), 0).unwrap();
        claim(dated(2, 400_000), 0).unwrap();
        let full = claim(dated(3, 600_000), 199_000).unwrap_err();
        assert_eq!(full.reason, RefuseReason::ReplayStoreFull.into());
        assert!(full.retry_after.is_some());
        claim(dated(3, 600_000), 200_000).unwrap_err();
        replay.prune(at(200_000, 200_000), false).unwrap();
        claim(dated(3, 600_000), 200_000).unwrap();
        replay.prune(at(1_000_000, 1_000_000), false).unwrap();
        assert_eq!(replay.entries.get(), 0);
        assert_eq!(
            replay.tree.range(&[], 9).unwrap().len(),
            1,
            "what was forgotten last"
        );
    }

    #[test]
    fn no_claim_waits_for_the_disk_while_proofs_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let replay = Replay::with_room(&store, 8, booted()).unwrap();
        replay.claim(&dated(1, 100), OWNER, at(0, 0)).unwrap();
        std::thread::scope(|scope| {
            let pruning = store.write(|_| {
                let pruning = scope.spawn(|| replay.prune(at(1_000_000, 1_000_000), false));
                while replay.forgetting.try_lock().is_some() {
                    std::thread::yield_now();
                }
                let again = replay.claim(&dated(1, 100), OWNER, at(0, 0));
                assert_eq!(code(again), "proof_replayed");
                replay.claim(&dated(2, 2_000_000), OWNER, at(0, 0)).unwrap();
                Ok::<_, StoreError>(pruning)
            });
            pruning.unwrap().join().unwrap().unwrap();
        });
        assert_eq!(replay.entries.get(), 1);
    }

    /// Claims proofs numbered from `first` on until one is refused.
    fn flood(replay: &Replay, owner: u8, first: u8) -> (Vec<FirstUse>, Refusal) {
        let mut claimed = Vec::new();
        let now = booted().uptime.0;
        for id in first.. {
            match replay.claim(&dated(id, 1_000_000), [owner; 32], at(0, now)) {
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
        let replay = Replay::with_room(&store, 16, booted()).unwrap();
        let (claimed, refused) = flood(&replay, 1, 0);
        assert_eq!(claimed.len(), 8);
        let told = refused.detail.as_deref().unwrap();
        assert!(told.starts_with("8 proofs of this principal"), "{told}");
        assert_eq!(refused.reason, RefuseReason::ReplayStoreFull.into());
        assert_eq!(refused.retry_after, Some(RETRY));
        let other = |id| replay.claim(&dated(id, 1_000_000), [2; 32], at(0, 0));
        let others: Vec<FirstUse> = (100..104).map(|id| other(id).unwrap()).collect();
        let write = || claimed.iter().chain(&others).try_for_each(FirstUse::write);
        store.commit(write).unwrap();
        drop((claimed, others, replay, store));

        let store = Store::open(folder.path()).unwrap();
        let replay = Replay::with_room(&store, 16, booted()).unwrap();
        assert_eq!(flood(&replay, 1, 50).0.len(), 0);
        assert_eq!(flood(&replay, 3, 60).0.len(), 2);
        let later = booted().uptime.0 + LEAST.as_millis() as u64 + 1;
        replay.prune(at(1_000_000, later), false).unwrap();
        // What this process claimed must have got as old, too.
        assert_eq!(replay.entries.get(), 2);
        let later = |id| replay.claim(&dated(id, 2_000_000), [1; 32], at(1_000_000, later));
        assert_eq!((70..90).map_while(|id| later(id).ok()).count(), 7);
    }

    #[test]
    fn proofs_of_an_earlier_version_count_and_are_in_nobodys_share() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let tree = store.tree("replay").unwrap();
        for id in 0..6 {
            tree.insert(&[id; 32], &1_000_000u64.to_be_bytes()).unwrap();
        }
        tree.insert(&[9; 32], b"damage").unwrap();
        let replay = Replay::with_room(&store, 16, booted()).unwrap();
        let again = replay.claim(&dated(5, 1_000_000), OWNER, at(0, 0));
        assert_eq!(code(again), "proof_replayed");
        assert_eq!(flood(&replay, 1, 20).0.len(), 5);
        let later = booted().uptime.0 + LEAST.as_millis() as u64 + 1;
        replay.prune(at(1_000_000, later), false).unwrap();
        assert_eq!(replay.entries.get(), 5);
    }
}
