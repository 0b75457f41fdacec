//! The token decision: pure, offline, every check with a reason of its own.
//!
//! Start at [`decide`]. It reads no clock and does no I/O; time, keys, policy and deny-list are
//! arguments, so a decision can be replayed from the audit log.

// CONTRACT (names and signatures that other modules rely on; the bodies and the split into
// files decide.rs, token.rs, keyset.rs, claims.rs, policy.rs, deny.rs, cache.rs are auth's own).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::prompt::{Request, Scope};
use crate::reason::DenyReason;
use crate::secret::Secret;
use crate::time::Timestamp;

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
    pub floor: Timestamp,
    pub synchronised: bool,
}

#[derive(Debug)]
pub struct Snapshot {
    pub epoch: u64,
    /// By issuer.
    pub realms: BTreeMap<String, Realm>,
    pub deny: DenyList,
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

#[derive(Debug, Clone)]
pub struct Policy {
    pub default_endpoint: Option<String>,
    pub max_lifetime: Duration,
    pub max_lifetime_by_client: BTreeMap<String, Duration>,
    pub max_age: Option<Duration>,
    pub leeway: Duration,
    /// Absent scope: no limit (`offline_grace = "none"` explicitly).
    pub offline_grace: BTreeMap<Scope, Duration>,
    /// Scopes that may be used while the clock isn't synchronised.
    pub unsynchronised_scopes: Vec<Scope>,
    /// Role name → scopes. Empty: roles `read`, `write`, `fine-tune`, `audit` mean themselves.
    pub roles: BTreeMap<String, Vec<Scope>>,
    pub tokens_per_minute: Option<u32>,
}

#[derive(Debug, Clone)]
pub struct Endpoint {
    pub client_id: String,
    /// The bundle's name in the catalog.
    pub model: String,
    pub max_completion_tokens: Option<u32>,
}

/// Pinned keys of a realm, parsed one by one; what isn't ours is skipped with a note.
#[derive(Debug, Clone, Default)]
pub struct KeySet {}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct KeySetError(pub String);

#[derive(Debug, Clone)]
pub struct KeyInfo {
    pub kid: String,
    pub algorithms: Vec<&'static str>,
    /// RFC 7638, base64url.
    pub thumbprint: String,
}

impl KeySet {
    /// Also refuses a set without one usable key.
    pub fn parse(_jwks: &[u8]) -> Result<KeySet, KeySetError> {
        todo!()
    }
    pub fn keys(&self) -> Vec<KeyInfo> {
        todo!()
    }
    pub fn is_empty(&self) -> bool {
        todo!()
    }
}

#[derive(Debug, Clone, Default)]
pub struct DenyList {}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Principal {
    pub issuer: String,
    pub subject: String,
    /// `azp`: the client that acts.
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

#[must_use]
#[derive(Debug)]
pub enum Decision {
    Permit(Permitted),
    Deny(Denied),
}

#[derive(Debug, Clone)]
pub struct Denied {
    pub reason: DenyReason,
    pub detail: Option<String>,
    /// Known once the signature is verified.
    pub realm: Option<String>,
    pub principal: Option<Principal>,
    pub token_id: Option<String>,
}

/// Proof that a request was allowed: only `auth` makes one.
#[derive(Debug, Clone)]
pub struct Permitted {
    request: Arc<Request>,
    grant: Arc<Grant>,
    endpoints: Vec<Arc<Endpoint>>,
}

impl Permitted {
    pub fn request(&self) -> &Arc<Request> {
        &self.request
    }
    pub fn grant(&self) -> &Arc<Grant> {
        &self.grant
    }
    /// The endpoint that a chat is for; the first visible one otherwise.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoints[0]
    }
    /// All endpoints of the realm that the token opens for this scope (model listing).
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }
}

pub fn decide(_: &Credential, _: &Arc<Request>, _: &Snapshot, _: &Clock) -> Decision {
    todo!()
}

/// What an epoch can change for a running request.
pub fn recheck(_: &Permitted, _: &Snapshot) -> Result<(), DenyReason> {
    todo!()
}

/// Verified tokens by hash, good for one epoch; bounded. Same answers as [`decide`].
#[derive(Debug)]
pub struct Cache {}

impl Cache {
    pub fn new(_capacity: usize) -> Cache {
        todo!()
    }
    pub fn decide(&self, _: &Credential, _: &Arc<Request>, _: &Snapshot, _: &Clock) -> Decision {
        todo!()
    }
}
