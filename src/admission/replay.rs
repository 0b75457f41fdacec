//! DPoP proofs that were used (RFC 9449 section 11.1): each admits once, also across a restart.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;

use crate::auth::{NONCE_MAX_AGE, ProofUse, Until};
use crate::reason::{DenyReason, Refusal, RefuseReason};
use crate::store::{Store, StoreError, Tree};
use crate::telemetry::Registry;
use crate::time::{self, Booted, Moment, Timestamp, Uptime};

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
    used: Arc<Mutex<Used>>,
    room: usize,
    entries: EntriesGauge,
}

/// Until when a proof is remembered.
#[derive(Debug, Clone, Copy)]
enum Kept {
    /// Its nonce isn't taken any more from this uptime on, nor in any other boot.
    Nonce(Uptime),
    /// It is refused for its age from then on, as long as no clock is set back: what is forgotten
    /// moves [`Used::forgotten`]. As much time must have passed as well, so that a clock that is
    /// stepped forward and back forgets nothing; known of this process's proofs only.
    Time(Timestamp, Option<Uptime>),
}

#[derive(Debug, Default)]
struct Used {
    proofs: BTreeMap<Id, Kept>,
    /// Of proofs that end by their age, one that ends no later may have been used.
    forgotten: Timestamp,
}

/// Where [`Used::forgotten`] is stored.
const FORGOTTEN: &[u8] = b"forgotten";

/// The one use of a proof, reserved. Whatever becomes of the request, the proof stays used.
#[derive(Debug)]
pub(super) struct Claimed {
    tree: Tree,
    id: Id,
    kept: Kept,
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
        let (mut used, now) = (Used::default(), time::booted());
        for (name, value) in tree.range(&[], usize::MAX)? {
            match Id::try_from(&name[..]) {
                Ok(id) => match Kept::from_bytes(&value, now) {
                    Some(kept) => drop(used.proofs.insert(id, kept)),
                    None => tree.remove(&name)?,
                },
                Err(_) if name == FORGOTTEN => used.forgotten = timestamp(&value),
                // Damage names no proof.
                Err(_) => {}
            }
        }
        let entries = EntriesGauge::default();
        entries.set(used.proofs.len() as u64);
        Ok(Replay {
            tree,
            used: Arc::new(Mutex::new(used)),
            room,
            entries,
        })
    }

    /// Of two claims to one proof only the first succeeds.
    pub(super) fn claim(&self, proof: &ProofUse, now: Moment) -> Result<Claimed, Refusal> {
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
        if used.proofs.len() >= self.room && self.forget(&mut used, now).is_err() {
            tracing::error!("expired DPoP proofs could not be removed");
        }
        if used.proofs.len() >= self.room {
            return Err(Refusal::new(RefuseReason::ReplayStoreFull).retry_after(RETRY));
        }
        let kept = match proof.until {
            Until::Nonce => Kept::Nonce(now.uptime + NONCE_MAX_AGE),
            Until::Time(at) => Kept::Time(at, Some(now.uptime + at.since(now.known))),
        };
        used.proofs.insert(proof.id, kept);
        self.entries.set(used.proofs.len() as u64);
        Ok(Claimed {
            tree: self.tree.clone(),
            id: proof.id,
            kept,
        })
    }

    /// Forgets what can't be used again. Blocks; called about once a second.
    pub(super) fn prune(&self, now: Moment, synchronised: bool) -> Result<(), StoreError> {
        if synchronised {
            self.mend(now.known)?;
        }
        self.forget(&mut self.used(), now)
    }

    /// The time is known to be `now`: proofs of a later one are refused for that.
    pub(super) fn mend(&self, now: Timestamp) -> Result<(), StoreError> {
        let mut used = self.used();
        match used.forgotten > now {
            true => self.set_forgotten(&mut used, now),
            false => Ok(()),
        }
    }

    fn forget(&self, used: &mut Used, now: Moment) -> Result<(), StoreError> {
        let ended = used.proofs.iter().filter(|(_, kept)| kept.is_over(now));
        let ended: Vec<(Id, Kept)> = ended.map(|(id, kept)| (*id, *kept)).collect();
        let times = ended.iter().filter_map(|(_, kept)| match kept {
            Kept::Time(at, _) => Some(*at),
            Kept::Nonce(_) => None,
        });
        // First, so that a crash in between forgets none that could come back.
        if let Some(last) = times.max()
            && last > used.forgotten
        {
            self.set_forgotten(used, last)?;
        }
        for (id, _) in ended {
            self.tree.remove(&id)?;
            used.proofs.remove(&id);
        }
        self.entries.set(used.proofs.len() as u64);
        Ok(())
    }

    fn set_forgotten(&self, used: &mut Used, to: Timestamp) -> Result<(), StoreError> {
        self.tree.insert(FORGOTTEN, &to.0.to_be_bytes())?;
        used.forgotten = to;
        Ok(())
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claimed {
    /// Rides on the sync of the permit's record.
    pub(super) fn write(&self) -> Result<(), StoreError> {
        self.tree
            .insert(&self.id, &self.kept.to_bytes(time::booted().boot))
    }
}

impl Kept {
    fn is_over(&self, now: Moment) -> bool {
        match self {
            Kept::Nonce(until) => *until <= now.uptime,
            Kept::Time(at, until) => {
                *at <= now.known && until.is_none_or(|until| until <= now.uptime)
            }
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
            return Some(Kept::Time(timestamp(bytes), None));
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

    fn code(refused: Result<Claimed, Refusal>) -> &'static str {
        refused.unwrap_err().reason.as_str()
    }

    #[test]
    fn a_proof_is_used_once_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let replay = Replay::with_room(&store, 8).unwrap();
        let now = time::uptime().0;
        let proofs = [dated(1, 100), proof(2, Until::Nonce)];
        for proof in &proofs {
            let claimed = replay.claim(proof, at(0, now)).unwrap();
            let again = replay.claim(proof, at(1, now));
            assert_eq!(code(again), "proof_replayed");
            store.commit(|| claimed.write()).unwrap();
        }
        drop((replay, store));
        let store = Store::open(folder.path()).unwrap();
        let replay = Replay::with_room(&store, 8).unwrap();
        for proof in &proofs {
            assert_eq!(code(replay.claim(proof, at(1, now))), "proof_replayed");
        }
    }

    #[test]
    fn a_clock_that_jumps_ahead_forgets_no_proof_of_this_process() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let replay = Replay::with_room(&store, 8).unwrap();
        let claim = |now| replay.claim(&dated(1, 1000), now);
        claim(at(0, 5000)).unwrap();
        replay.prune(at(1_000_000, 5000), false).unwrap();
        assert!(claim(at(0, 5000)).is_err());
        replay.prune(at(999, 6000), false).unwrap();
        assert_eq!(code(claim(at(999, 6000))), "proof_replayed");
    }

    #[test]
    fn what_is_forgotten_never_counts_again_whatever_the_clock_does() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let replay = Replay::with_room(&store, 8).unwrap();
        let claimed = replay.claim(&dated(1, 1000), at(0, 0)).unwrap();
        store.commit(|| claimed.write()).unwrap();
        replay.prune(at(1000, 1000), false).unwrap();
        assert_eq!(replay.entries.get(), 0);
        assert_eq!(
            code(replay.claim(&dated(1, 1000), at(500, 1000))),
            "proof_invalid"
        );
        store.sync().unwrap();
        drop((claimed, replay, store));
        // A power cut, and a clock that was set back.
        let store = Store::open(folder.path()).unwrap();
        let replay = Replay::with_room(&store, 8).unwrap();
        assert_eq!(
            code(replay.claim(&dated(1, 1000), at(500, 0))),
            "proof_invalid"
        );
        replay.claim(&dated(2, 1001), at(500, 0)).unwrap();
        // A clock that is known, and one that was mended, let later proofs pass again.
        replay.prune(at(600, 0), true).unwrap();
        replay.claim(&dated(3, 601), at(600, 0)).unwrap();
        assert!(replay.claim(&dated(3, 601), at(600, 0)).is_err());
    }

    #[test]
    fn a_nonces_proof_is_kept_by_the_uptime_alone_and_not_into_another_boot() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let replay = Replay::with_room(&store, 8).unwrap();
        let now = time::uptime();
        let claim = |moment| replay.claim(&proof(1, Until::Nonce), moment);
        let claimed = claim(at(0, now.0)).unwrap();
        let end = now + NONCE_MAX_AGE;
        replay.prune(at(u64::MAX, end.0 - 1), true).unwrap();
        assert!(claim(at(0, end.0 - 1)).is_err());
        store.commit(|| claimed.write()).unwrap();
        let other = Kept::Nonce(end).to_bytes(time::booted().boot.wrapping_add(1));
        replay.tree.insert(&[2; 32], &other).unwrap();
        let again = Replay::with_room(&store, 8).unwrap();
        assert_eq!(again.entries.get(), 1);
        replay.prune(at(0, end.0), false).unwrap();
        assert_eq!(replay.entries.get(), 0);
    }

    #[test]
    fn a_full_store_refuses_until_something_expires() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let replay = Replay::with_room(&store, 2).unwrap();
        let claim = |proof, now| replay.claim(&proof, at(now, now));
        claim(dated(1, 100), 0).unwrap();
        claim(dated(2, 200), 0).unwrap();
        let full = claim(dated(3, 300), 99).unwrap_err();
        assert_eq!(full.reason, RefuseReason::ReplayStoreFull.into());
        assert!(full.retry_after.is_some());
        claim(dated(3, 300), 100).unwrap();
        replay.prune(at(1000, 1000), false).unwrap();
        assert_eq!(replay.entries.get(), 0);
        assert_eq!(
            replay.tree.range(&[], 9).unwrap().len(),
            1,
            "what was forgotten last"
        );
    }
}
