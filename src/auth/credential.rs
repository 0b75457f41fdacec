//! What a client shows, and what of it is used up.

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
    pub method: String,
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
    /// As long as its nonce is taken: for [`super::NONCE_MAX_AGE`] from its use at most, in this boot.
    Nonce,
    /// From then on it is refused for its age.
    Time(Timestamp),
}
