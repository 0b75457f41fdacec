//! Signed documents of a fleet: bytes in, decisions out. Pure: time is a parameter, and nothing here
//! reads a clock or a file.
//!
//! [`report`] is what a device says of itself.

pub mod report;
