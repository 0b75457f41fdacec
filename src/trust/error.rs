//! Why nothing new is trusted: one closed list for audit, metrics, the device's report and people.

use sigstore_tuf::Error;

use crate::time::Timestamp;

use super::mirror::MirrorError;

/// A refusal. What was trusted before still is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// Neither JSON that all parsers read alike nor what TUF writes.
    #[error("{what:?} can't be read: {why}")]
    Malformed { what: String, why: String },
    #[error("{role:?} is {found:?} metadata; each role's file has its own type")]
    WrongType { role: String, found: String },
    #[error(
        "{role:?} is written by version {found:?} of TUF's specification; this program knows 1.0"
    )]
    Specification { role: String, found: String },
    /// No key of the role has signed it: another repository's, or nobody's.
    #[error("{role:?} is signed by none of its keys")]
    ForeignSigner { role: String },
    #[error("{role:?} is signed by {found} of its keys, and {threshold} must")]
    TooFewSignatures {
        role: String,
        found: usize,
        threshold: usize,
    },
    #[error("{role:?} is signed twice by key {key:?}; each signs once")]
    DuplicateSignature { role: String, key: String },
    #[error("the keys {one:?} and {other:?} of {role:?} are one and the same; name it once")]
    SharedKey {
        role: String,
        one: String,
        other: String,
    },
    #[error("key id {key:?} isn't its key's; use the SHA-256 of the key's canonical JSON")]
    ForeignKeyId { key: String },
    #[error("{role:?} has a threshold of 0; at least one key must sign")]
    NoThreshold { role: String },
    #[error("root version {found} can't follow {trusted}; roots follow one by one")]
    RootVersion { trusted: u64, found: u64 },
    #[error("{role:?} version {found} is older than {trusted}, which is trusted")]
    Rollback {
        role: String,
        trusted: u64,
        found: u64,
    },
    #[error("the snapshot no longer lists {role:?}, which the trusted one does")]
    Dropped { role: String },
    #[error("{role:?} expired at {at}; if the clock is right, the mirror is out of date")]
    Expired { role: String, at: Timestamp },
    #[error("{role:?} has version {found}, and {pinned} is what belongs to the rest")]
    Mixed {
        role: String,
        pinned: u64,
        found: u64,
    },
    #[error("{what:?} has {found} bytes instead of {signed}")]
    Length {
        what: String,
        signed: u64,
        found: u64,
    },
    #[error("{what:?} isn't what was signed: its hash is another")]
    Hash { what: String },
    #[error("{what:?} is larger than {limit} bytes")]
    TooLarge { what: String, limit: u64 },
    #[error("the mirror lacks {what:?}")]
    Missing { what: String },
    #[error("the mirror can't be read: {0}")]
    Unreachable(String),
    #[error("{role:?} isn't listed by {by:?}")]
    Unlisted { role: String, by: &'static str },
    #[error("more than {0} new roots at once; the next refresh goes on")]
    TooManyRoots(u64),
    #[error("more than {0} delegated roles")]
    TooManyDelegations(usize),
    #[error("{role:?} lists {path:?}, which it wasn't delegated")]
    BeyondDelegation { role: String, path: String },
    #[error("{role:?} is a top-level role; nobody can delegate it")]
    ReservedRole { role: String },
    /// The last refresh didn't end well, or there was none.
    #[error("what is trusted isn't complete; refresh first")]
    Incomplete,
}

impl TrustError {
    /// The one name in audit, metrics and report.
    pub fn name(&self) -> &'static str {
        match self {
            TrustError::Malformed { .. } => "malformed",
            TrustError::WrongType { .. } => "wrong_type",
            TrustError::Specification { .. } => "specification",
            TrustError::ForeignSigner { .. } => "foreign_signer",
            TrustError::TooFewSignatures { .. } => "too_few_signatures",
            TrustError::DuplicateSignature { .. } => "duplicate_signature",
            TrustError::SharedKey { .. } => "shared_key",
            TrustError::ForeignKeyId { .. } => "foreign_key_id",
            TrustError::NoThreshold { .. } => "no_threshold",
            TrustError::RootVersion { .. } => "root_version",
            TrustError::Rollback { .. } => "rollback",
            TrustError::Dropped { .. } => "dropped",
            TrustError::Expired { .. } => "expired",
            TrustError::Mixed { .. } => "mixed",
            TrustError::Length { .. } => "length",
            TrustError::Hash { .. } => "hash",
            TrustError::TooLarge { .. } => "too_large",
            TrustError::Missing { .. } => "missing",
            TrustError::Unreachable(_) => "unreachable",
            TrustError::Unlisted { .. } => "unlisted",
            TrustError::TooManyRoots(_) => "too_many_roots",
            TrustError::TooManyDelegations(_) => "too_many_delegations",
            TrustError::BeyondDelegation { .. } => "beyond_delegation",
            TrustError::ReservedRole { .. } => "reserved_role",
            TrustError::Incomplete => "incomplete",
        }
    }

    pub(super) fn malformed(what: &str, why: &impl ToString) -> TrustError {
        TrustError::Malformed {
            what: what.to_owned(),
            why: why.to_string(),
        }
    }

    pub(super) fn of_mirror(what: &str, error: MirrorError) -> TrustError {
        match error {
            MirrorError::Unreachable(why) => TrustError::Unreachable(why),
            MirrorError::TooLarge(limit) => TrustError::TooLarge {
                what: what.to_owned(),
                limit,
            },
        }
    }

    /// The verifier's word on `role`. What it says in free text only is found before it is asked.
    pub(super) fn of_verifier(role: &str, error: Error) -> TrustError {
        let role = role.to_owned();
        match error {
            Error::ThresholdNotMet { found: 0, .. } => TrustError::ForeignSigner { role },
            Error::ThresholdNotMet {
                found, threshold, ..
            } => TrustError::TooFewSignatures {
                role,
                found,
                threshold,
            },
            Error::DuplicateSignature { key_id, .. } => {
                TrustError::DuplicateSignature { role, key: key_id }
            }
            // What it calls the role says how it was found out, too.
            Error::Rollback {
                role, trusted, new, ..
            } => {
                let role = role.split(' ').next().unwrap_or_default();
                let role = role.strip_suffix(".json").unwrap_or(role).to_owned();
                TrustError::Rollback {
                    role,
                    trusted,
                    found: new,
                }
            }
            Error::BadRootVersion { trusted, new } => TrustError::RootVersion {
                trusted,
                found: new,
            },
            Error::Expired { role, expires } => TrustError::Expired {
                role,
                at: super::moment::stamp(expires),
            },
            Error::UnknownRole(role) => TrustError::Unlisted { role, by: "root" },
            other => TrustError::malformed(&role, &chain(&other)),
        }
    }
}

/// An error and what it came from: the verifier's own text names no cause.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}
