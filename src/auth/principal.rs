//! Who acts, and what it may.

use crate::digest::digest;
use crate::prompt::Scope;

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
    /// Where the realm has it recorded. No part of the principal: Keycloak may let it be changed.
    pub username: Option<String>,
    pub token_id: Option<String>,
    pub scope: Scope,
    /// The lower of the token's and the realm's.
    pub tokens_per_minute: Option<u32>,
    /// Whatever else holds: the fleet's.
    pub tokens_per_minute_at_most: Option<u32>,
    /// Tokens of prompt and answer together, as the token limits them.
    pub max_context: Option<u32>,
    /// 0 to 9; the higher goes first.
    pub priority: u8,
    /// Granted to a local group, without a token.
    pub local_peer: bool,
}

/// Where a token says nothing of its priority.
pub const DEFAULT_PRIORITY: u8 = 5;
