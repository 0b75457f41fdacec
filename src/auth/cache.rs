//! Verified tokens by their hash, so that a token's second use costs a lookup.
//!
//! Only what `verify` finds is remembered; time, policy and request are judged at every use. Only
//! tokens that were permitted are remembered, so a flood of bad ones can't push good ones out.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::clock::Clock;
use super::credential::Credential;
use super::decide::decide;
use super::snapshot::Snapshot;
use super::token::MAX_LEN;
use super::verdict::Decision;
use super::verdict::Verified;
use crate::digest::digest;
use crate::prompt::Request;

/// Verified tokens, each good for one epoch; bounded. Same answers as [`super::decide`].
#[derive(Debug)]
pub struct Cache(Mutex<Tokens>);

/// What a cache holds, and how often it was asked since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uses {
    pub entries: usize,
    pub lookups: u64,
    pub hits: u64,
}

type Hash = [u8; 32];

/// A ring of tokens with a hand that passes over those used since its last round (the "clock" or
/// second-chance algorithm): nearly least-recently-used, without moving anything at a hit.
#[derive(Debug)]
struct Tokens {
    capacity: usize,
    ring: Vec<Cached>,
    places: HashMap<Hash, usize>,
    hand: usize,
    lookups: u64,
    hits: u64,
}

#[derive(Debug)]
struct Cached {
    hash: Hash,
    epoch: u64,
    token: Arc<Verified>,
    used: bool,
}

impl Cache {
    /// A token takes up to about twice its own size, so `capacity` tokens at most 32 KiB each.
    pub fn new(capacity: usize) -> Cache {
        let tokens = Tokens {
            capacity,
            ring: Vec::new(),
            places: HashMap::new(),
            hand: 0,
            lookups: 0,
            hits: 0,
        };
        Cache(Mutex::new(tokens))
    }

    pub fn uses(&self) -> Uses {
        let tokens = self.tokens();
        Uses {
            entries: tokens.ring.len(),
            lookups: tokens.lookups,
            hits: tokens.hits,
        }
    }

    pub fn decide(
        &self,
        credential: &Credential,
        request: &Arc<Request>,
        snapshot: &Snapshot,
        clock: &Clock,
    ) -> Decision {
        let hash = hash(credential);
        let known = hash.and_then(|hash| self.tokens().look_up(&hash, snapshot.epoch));
        let fresh = known.is_none();
        let decision = decide(known, credential, request, snapshot, clock);
        if let (Decision::Permit(permitted), Some(hash), true) = (&decision, hash, fresh)
            && let Some(token) = permitted.token()
        {
            self.tokens().put(hash, snapshot.epoch, token);
        }
        decision
    }

    /// Nothing between two locks depends on the other, so a panic elsewhere leaves a sound map.
    fn tokens(&self) -> MutexGuard<'_, Tokens> {
        self.0.lock()
    }
}

impl Tokens {
    fn look_up(&mut self, hash: &Hash, epoch: u64) -> Option<Arc<Verified>> {
        let known = self.get(hash, epoch);
        self.lookups += 1;
        self.hits += u64::from(known.is_some());
        known
    }

    fn get(&mut self, hash: &Hash, epoch: u64) -> Option<Arc<Verified>> {
        let kept = &mut self.ring[*self.places.get(hash)?];
        if kept.epoch != epoch {
            return None;
        }
        kept.used = true;
        Some(Arc::clone(&kept.token))
    }

    fn put(&mut self, hash: Hash, epoch: u64, token: &Arc<Verified>) {
        let kept = Cached {
            hash,
            epoch,
            token: Arc::clone(token),
            used: false,
        };
        if let Some(place) = self.places.get(&hash) {
            self.ring[*place] = kept;
        } else if self.ring.len() < self.capacity {
            self.places.insert(hash, self.ring.len());
            self.ring.push(kept);
        } else if let Some(place) = self.next_place() {
            self.places.remove(&self.ring[place].hash);
            self.places.insert(hash, place);
            self.ring[place] = kept;
        }
    }

    /// The place to give up: of the first that wasn't used since the hand last passed it.
    fn next_place(&mut self) -> Option<usize> {
        while let Some(kept) = self.ring.get_mut(self.hand) {
            let place = self.hand;
            self.hand = (self.hand + 1) % self.capacity;
            if !std::mem::take(&mut kept.used) {
                return Some(place);
            }
        }
        None
    }
}

/// Of the credential's token, where it has one of a size worth hashing.
fn hash(credential: &Credential) -> Option<Hash> {
    match credential {
        Credential::Bearer(token) | Credential::Dpop { token, .. } => {
            let token = token.expose().as_bytes();
            (token.len() <= MAX_LEN).then(|| digest(&[token]))
        }
        Credential::None | Credential::LocalPeer { .. } => None,
    }
}
