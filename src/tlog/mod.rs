//! Transparency logs: what others can check of a log without trusting who keeps it.
//!
//! Formats and algorithms are those of RFC 6962, RFC 9162 and C2SP, so that software of others
//! reads ours. Pure: no I/O, no clock, no log of ours. [`tree`] is the Merkle tree with its proofs.

pub mod tree;
