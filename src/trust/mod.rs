//! The fleet's trust: The Update Framework 1.0, its client workflow (specification section 5).
//!
//! Bytes in, decisions out: a [`Mirror`] hands over files, which nobody has to believe, and [`Client`]
//! says what of them is signed, whole, the newest and belongs together. Time is a parameter. What is
//! signed is verified by the crate `sigstore-tuf`, which is named here alone. [`targets`] reads what a
//! fleet signs, [`report`] what a device says of itself.

mod check;
mod client;
mod error;
mod key;
mod limits;
mod mirror;
mod moment;
pub mod report;
pub mod targets;

pub use client::{Client, Target, Versions};
pub use error::TrustError;
pub use key::canonical;
pub use limits::Limits;
pub use mirror::{Mirror, MirrorError};
