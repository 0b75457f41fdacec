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
mod clock;
mod credential;
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
mod principal;
mod publish;
mod realm;
mod token;
mod verdict;
mod weak;

pub use cache::Cache;
pub use clock::{Clock, RealmFloor};
pub use credential::{Binding, Credential, NonceRule, ProofUse, Until};
pub use decide::{alleged_issuer, decide, recheck};
pub use deny::{DenyList, Revocations, Revoked};
pub use dpop::{NONCE_MAX_AGE, PROOF_MAX_AGE};
pub use explain::{Check, ExplainContext, Explanation, Outcome, explain};
pub use jws::verify_jws;
pub use key::KeyInfo;
pub use keyset::{KeySet, KeySetError, Skipped};
pub use policy::{Endpoint, LimitClaims, Policy};
pub use principal::{DEFAULT_PRIORITY, Grant, Principal};
pub use publish::Published;
pub use realm::{Realm, Snapshot};
pub use verdict::{Decision, Denied, Permitted};
