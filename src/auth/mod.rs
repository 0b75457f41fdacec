//! The token decision: pure, offline, every check with a reason of its own.
//!
//! Start at [`decide::decide`]. It reads no clock and does no I/O; time, keys, policy and deny-list are
//! arguments, so a decision can be replayed from the audit log. A token goes through three types,
//! each proving more than the one before: `token::Jws` is well-formed, `token::Proven` was signed
//! by a pinned key of its realm, [`Permitted`] allows its request now.

mod access;
mod authorization;
mod cache;
mod claims;
mod clock;
mod credential;
pub mod decide;
mod deny;
mod dpop;
pub mod explain;
mod finding;
mod judge;
mod jwk;
mod jws;
mod key;
mod keyset;
mod members;
mod mend;
mod peer;
mod policy;
mod principal;
mod publish;
mod realm;
mod snapshot;
mod tested;
mod token;
mod verdict;
mod weak;

pub use cache::{Cache, Uses};
pub use clock::{Clock, Moved, RealmFloor};
pub use credential::{Binding, Credential, NonceRule, ProofUse, Until};
pub use decide::{alleged_issuer, recheck};
pub use deny::{DenyList, Revocations};
pub use dpop::{NONCE_MAX_AGE, PROOF_MAX_AGE};
pub use explain::{Explanation, Outcome, ToExplain, explain};
pub use jws::verify_jws;
pub use key::KeyInfo;
pub use keyset::{KeySet, KeySetError, Skipped};
pub use policy::{Endpoint, LimitClaims, Policy};
pub use principal::{Grant, Principal};
pub use publish::Published;
pub use realm::Realm;
pub use snapshot::Snapshot;
pub use verdict::{Decision, Denied, Permitted};
