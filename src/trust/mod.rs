//! Signed documents of a fleet: bytes in, decisions out. Pure: time is a parameter, and nothing here
//! reads a clock or a file. The only module that names `sigstore-tuf`.
//!
//! [`report`] is what a device says of itself, [`targets`] what the fleet says to devices.

mod canonical;
pub mod report;
#[allow(
    dead_code,
    reason = "what a device reads of it comes with the follower"
)]
pub mod targets;

pub use canonical::canonical;
