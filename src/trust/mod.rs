//! What a fleet's signed metadata says (The Update Framework, 1.0): bytes in, decisions out.
//!
//! Pure: time is a parameter, and nothing is read or fetched here. The only module that names
//! `sigstore-tuf`.

mod canonical;
#[allow(
    dead_code,
    reason = "what a device reads of it comes with the follower"
)]
pub mod targets;

pub use canonical::canonical;
