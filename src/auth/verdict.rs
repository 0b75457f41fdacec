//! What a decision comes to, and what it stands on.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::claims::Claims;
use super::clock::Moved;
use super::credential::ProofUse;
use super::peer::Peer;
use super::policy::Endpoint;
use super::principal::{Grant, Principal};
use crate::prompt::Request;
use crate::reason::DenyReason;
use crate::time::Timestamp;

#[must_use]
#[derive(Debug)]
pub enum Decision {
    Permit(Permitted),
    Deny(Denied),
}

#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    pub reason: DenyReason,
    /// Nothing that the token says of itself, but times; what is said of its key is of the realm's.
    pub detail: Option<String>,
    /// Without what earlier tokens have told of the time it wouldn't be refused for this reason.
    pub moved: Option<Moved>,
    /// Its name, known once the signature is verified.
    pub realm: Option<String>,
    pub principal: Option<Principal>,
    /// Where the realm has it recorded.
    pub username: Option<String>,
    pub token_id: Option<String>,
    /// When asking again may help.
    pub retry_after: Option<Duration>,
}

/// Proof that a request was allowed: only `decide` makes one.
#[must_use]
#[derive(Debug, Clone)]
pub struct Permitted {
    pub(super) request: Arc<Request>,
    pub(super) grant: Arc<Grant>,
    /// Never empty.
    pub(super) endpoints: Vec<Arc<Endpoint>>,
    pub(super) ground: Ground,
    pub(super) proof: Option<ProofUse>,
}

/// What a permission stands on.
#[derive(Debug, Clone)]
pub(super) enum Ground {
    Token(Arc<Verified>),
    Peer(Peer),
}

/// A well-formed access token, signed by a pinned key of its realm. It may have expired, be
/// revoked, or open nothing.
#[must_use]
#[derive(Debug)]
pub struct Verified {
    pub(super) claims: Claims,
    /// Of the key that signed it.
    pub(super) thumbprint: String,
    /// Of the key that it is bound to, once a proof has shown that.
    pub(super) proof_key_strong: OnceLock<bool>,
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

    /// The proof that came with the request, to be recorded as used.
    pub fn proof(&self) -> Option<&ProofUse> {
        self.proof.as_ref()
    }

    /// When the token was issued: a time that has passed, as far as the realm's word goes. `None`
    /// for a local peer.
    pub fn issued_at(&self) -> Option<Timestamp> {
        self.token().map(|token| token.claims.issued.latest)
    }

    /// `None` for a local peer.
    pub(super) fn token(&self) -> Option<&Arc<Verified>> {
        match &self.ground {
            Ground::Token(token) => Some(token),
            Ground::Peer(_) => None,
        }
    }
}

/// A refusal before anything of the token is proven.
impl From<DenyReason> for Denied {
    fn from(reason: DenyReason) -> Denied {
        Denied {
            reason,
            detail: None,
            moved: None,
            realm: None,
            principal: None,
            username: None,
            token_id: None,
            retry_after: None,
        }
    }
}

impl From<DenyReason> for Box<Denied> {
    fn from(reason: DenyReason) -> Box<Denied> {
        Box::new(reason.into())
    }
}
