//! slmd as an OAuth 2.0 client: discovery, the device grant, refresh, revocation, DPoP proofs.
//!
//! [`provider`] speaks with the authorization server, [`device`] is the grant of RFC 8628, [`dpop`]
//! the key that tokens are bound to, [`login`] what a grant has given and how it is prolonged.
//! Nothing here talks to people or keeps a file.

mod device;
mod dpop;
mod error;
#[cfg(test)]
pub(crate) mod fake;
mod login;
mod provider;
#[cfg(test)]
mod tests;

pub use device::Code;
pub use dpop::{KeyError, ProofKey};
pub use error::OauthError;
pub use login::Login;
pub use provider::{Client, Provider, Tokens};
