//! The token decision: pure, offline, every check with a reason of its own.
//!
//! Start at [`decide`]. It reads no clock and does no I/O; time, keys, policy and deny-list are
//! arguments, so a decision can be replayed from the audit log. A token goes through three types,
//! each proving more than the one before: `token::Jws` is well-formed, `token::Proven` was signed
//! by a pinned key of its realm, [`Permitted`] allows its request now.

mod access;
mod authorization;
mod cache;
mod claims;
mod decide;
mod deny;
mod dpop;
mod explain;
mod judge;
mod jwk;
mod jws;
mod key;
mod keyset;
mod members;
mod mend;
mod peer;
mod policy;
mod token;
mod weak;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::identity::digest;
use crate::prompt::Scope;
use crate::secret::Secret;
use crate::time::{Mark, Moment, Timestamp, Uptime};

pub use cache::Cache;
pub use decide::{Decision, Denied, Permitted, decide, recheck};
pub use deny::{DenyList, Revocations, Revoked};
pub use dpop::{NONCE_MAX_AGE, PROOF_MAX_AGE};
pub use explain::{Check, ExplainContext, Explanation, Outcome, explain};
pub use jws::verify_jws;
pub use key::KeyInfo;
pub use keyset::{KeySet, KeySetError, Skipped};
pub use policy::{Endpoint, LimitClaims, Policy};
pub use token::algorithm_names;

/// What a client shows.
#[derive(Debug, Clone)]
pub enum Credential {
    None,
    Bearer(Secret<String>),
    Dpop {
        token: Secret<String>,
        proof: Secret<String>,
        binding: Binding,
    },
    LocalPeer {
        uid: u32,
        gid: u32,
        groups: Vec<u32>,
    },
}

/// What a DPoP proof must say of the request that it came with (RFC 9449 section 4.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// `htm`.
    pub method: &'static str,
    /// `htu` is one of these. They hold the device's name, so that a proof is of no use elsewhere.
    pub targets: Vec<String>,
    /// `msh`, where the transport hides no message from a third party (MQTT).
    pub message: Option<String>,
    pub nonce: NonceRule,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NonceRule {
    /// Whatever the proof says.
    None,
    OneOf(Vec<String>),
    /// One that was checked when this very message was first admitted.
    Checked,
}

/// The one use of a DPoP proof: whoever admits the request records it, or refuses
/// `proof_replayed` when it is recorded already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProofUse {
    /// A hash of the proof's key and `jti`.
    pub id: [u8; 32],
    pub until: Until,
}

/// For how long a proof could be used again, if nobody remembered it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// As long as its nonce is taken: for [`NONCE_MAX_AGE`] from its use at most, in this boot.
    Nonce,
    /// From then on it is refused for its age.
    Time(Timestamp),
}

/// The time as a decision sees it.
#[derive(Debug, Clone)]
pub struct Clock {
    pub now: Timestamp,
    /// A time that has certainly passed.
    pub floor: Timestamp,
    /// For the age of what this process has seen.
    pub uptime: Uptime,
    pub synchronised: bool,
    /// What tokens of single realms, by issuer, have told of the time while it wasn't
    /// synchronised.
    pub realm_floors: Arc<BTreeMap<String, RealmFloor>>,
}

/// What a realm's accepted tokens have told of the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RealmFloor {
    /// By the word of two clients: it counts for every token of the realm.
    pub floor: Timestamp,
    /// By the word of this client alone: it counts for no other's.
    pub ahead: Option<(String, Timestamp)>,
    /// The latest time that is taken from one more `iat`: bounded, so that a far-future token can't
    /// stop anybody.
    pub most: Timestamp,
}

impl RealmFloor {
    /// What counts for a token of `client`.
    pub fn of(&self, client: &str) -> Timestamp {
        match &self.ahead {
            Some((ahead, at)) if ahead == client => self.floor.max(*at),
            _ => self.floor,
        }
    }
}

impl Clock {
    /// The clock, held up by the floor: a clock that was stepped back, or restarted in 1970,
    /// brings no expired token back and makes no sound token look as if it came from the future.
    pub fn effective(&self) -> Timestamp {
        self.now.max(self.floor)
    }

    /// The effective time and the uptime.
    pub fn moment(&self) -> Moment {
        Moment {
            known: self.effective(),
            uptime: self.uptime,
        }
    }

    /// The effective time, held up by what the realm's tokens have told that count for `client`.
    pub(crate) fn held_up(&self, issuer: &str, client: &str) -> Timestamp {
        let floor = self.realm_floors.get(issuer);
        let floor = floor.map(|realm| realm.of(client));
        self.effective().max(floor.unwrap_or_default())
    }

    /// The time that counts for a token of `who` that was issued at `issued_at`: while nothing
    /// better tells the time, the token's own word does, as far as the realm's goes.
    pub(crate) fn of_token(&self, who: &Principal, issued_at: Timestamp) -> Timestamp {
        let now = self.held_up(&who.issuer, &who.client);
        match self.realm_floors.get(&who.issuer) {
            Some(realm) if !self.synchronised => now.max(issued_at.min(realm.most)),
            _ => now,
        }
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
    pub confirmed: Option<Mark>,
}

impl Realm {
    /// When the keys will be too old for the scope, if ever, by the clock of `now`.
    pub fn stops_at(&self, scope: Scope, now: Moment) -> Option<Timestamp> {
        let grace = self.policy.offline_grace.get(&scope)?;
        Some(self.confirmed?.shown(now).saturating_add(*grace))
    }
}

/// The issuer that a credential's token names, before anything of it is proven: good for nothing
/// but asking that issuer for its keys.
pub fn alleged_issuer(credential: &Credential) -> Option<String> {
    let (Credential::Bearer(token) | Credential::Dpop { token, .. }) = credential else {
        return None;
    };
    let mut room = token::Decoded::default();
    let jws = token::Jws::parse(token.expose(), &mut room).ok()?;
    jws.alleged.issuer().ok().map(str::to_owned)
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

impl Principal {
    /// Names the principal in a fixed size, whatever its issuer chose to call it.
    pub fn key(&self) -> [u8; 32] {
        digest(&[
            self.issuer.as_bytes(),
            self.subject.as_bytes(),
            self.client.as_bytes(),
        ])
    }
}

/// What a verified token allows.
#[derive(Debug, Clone)]
pub struct Grant {
    pub realm: String,
    pub principal: Principal,
    pub token_id: Option<String>,
    pub scope: Scope,
    pub expires_at: Timestamp,
    /// The lower of the token's and the realm's.
    pub tokens_per_minute: Option<u32>,
    /// Tokens of prompt and answer together, as the token limits them.
    pub max_context: Option<u32>,
    /// 0 to 9; the higher goes first.
    pub priority: u8,
    /// Granted to a local group, without a token.
    pub local_peer: bool,
}

/// Where a token says nothing of its priority.
pub const DEFAULT_PRIORITY: u8 = 5;
