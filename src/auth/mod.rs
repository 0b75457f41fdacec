//! The token decision: pure, offline, every check with a reason of its own.
//!
//! Start at [`decide`]. It reads no clock and does no I/O; time, keys, policy and deny-list are
//! arguments, so a decision can be replayed from the audit log. A token goes through three types,
//! each proving more than the one before: `token::Jws` is well-formed, `token::Proven` was signed
//! by a pinned key of its realm, [`Permitted`] allows its request now.

mod access;
mod cache;
mod claims;
mod decide;
mod deny;
mod jwk;
mod key;
mod keyset;
mod policy;
mod token;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::prompt::Scope;
use crate::secret::Secret;
use crate::time::Timestamp;

pub use cache::Cache;
pub use decide::{Decision, Denied, Permitted, decide, recheck};
pub use deny::{DenyList, Revocations};
pub use key::KeyInfo;
pub use keyset::{KeySet, KeySetError, Skipped};
pub use policy::{Endpoint, Policy};

/// What a client shows.
#[derive(Debug, Clone)]
pub enum Credential {
    None,
    Bearer(Secret<String>),
    Dpop {
        token: Secret<String>,
        proof: Secret<String>,
    },
    LocalPeer {
        uid: u32,
        gid: u32,
        groups: Vec<u32>,
    },
}

/// The time as a decision sees it.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    pub now: Timestamp,
    /// A time that has certainly passed.
    pub floor: Timestamp,
    pub synchronised: bool,
}

impl Clock {
    /// The clock, held up by the floor: a clock that was stepped back, or restarted in 1970,
    /// brings no expired token back and makes no sound token look as if it came from the future.
    pub fn effective(&self) -> Timestamp {
        self.now.max(self.floor)
    }
}

/// Everything but the time that a decision depends on. Two snapshots of one epoch are the same.
#[derive(Debug)]
pub struct Snapshot {
    pub epoch: u64,
    /// By issuer.
    pub realms: BTreeMap<String, Realm>,
    pub deny: DenyList,
}

impl Snapshot {
    pub fn new(epoch: u64, realms: Vec<Realm>, deny: DenyList) -> Snapshot {
        let by_issuer = |realm: Realm| (realm.issuer.clone(), realm);
        Snapshot {
            epoch,
            realms: realms.into_iter().map(by_issuer).collect(),
            deny,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Realm {
    pub name: String,
    pub issuer: String,
    pub policy: Policy,
    pub endpoints: Vec<Arc<Endpoint>>,
    pub keys: KeySet,
    /// When the keys were last confirmed.
    pub confirmed_at: Option<Timestamp>,
}

impl Realm {
    pub fn endpoint(&self, client_id: &str) -> Option<&Arc<Endpoint>> {
        self.endpoints.iter().find(|e| e.client_id == client_id)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Principal {
    pub issuer: String,
    pub subject: String,
    /// `azp`: the client that acts. Keycloak lets it hold `/`, `+`, `#` and control characters;
    /// whoever puts it into a topic or a file name must check it (`identity::is_topic_level`).
    pub client: String,
}

/// What a verified token allows.
#[derive(Debug, Clone)]
pub struct Grant {
    pub realm: String,
    pub principal: Principal,
    pub token_id: Option<String>,
    pub scope: Scope,
    pub expires_at: Timestamp,
    pub tokens_per_minute: Option<u32>,
}
