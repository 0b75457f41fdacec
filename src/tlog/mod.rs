//! Transparency logs: what others can check of a log without trusting who keeps it.
//!
//! Formats and algorithms are those of RFC 6962, RFC 9162 and C2SP, so that software of others
//! reads ours. Pure: no I/O, no clock, no log of ours. [`tree`] is the Merkle tree with its proofs. A log
//! signs a [`checkpoint`] of it as a [`note`]; a [`witness`] judges whether it has only grown, and adds a
//! [`cosignature`]; a [`proof`] carries all that to who wants to see one entry, and a [`policy`] says which
//! witnesses are enough.

pub mod checkpoint;
pub mod cosignature;
#[cfg(test)]
pub mod leaves;
pub mod note;
pub mod policy;
pub mod proof;
pub mod text;
pub mod tree;
pub mod witness;
