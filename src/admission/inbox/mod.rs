//! At-least-once delivery: duplicates, redeliveries and second attempts.
//!
//! A delivery has two names. The *attempt* is made of the exact token, Response Topic,
//! correlation and body: only the same message, sent again by the broker, has it. The *duplicate*
//! is made of the verified principal instead of the token, so that a client that asks again with
//! a fresh token is recognised too. Both lead to one entry, kept in the store:
//!
//! - running in this process: nothing new is begun;
//! - answered within the window: the first run's answer is given again;
//! - begun, and not running: the second attempt, decided with the clock of the first admission,
//!   so that a token that has expired meanwhile doesn't refuse it. A third is refused with
//!   `attempts_exhausted`.
//!
//! Where the engine's queue is full, a delivery waits for a place ([`waiting`]); what is remembered
//! and what waits has a share for each principal.

mod delivery;
mod entry;
mod memory;
mod shelf;
mod waiting;

pub(super) use delivery::Begin;
pub use delivery::{Asker, Delivered, Delivery, Rejected, ReplyCheck, Ticket};
pub use entry::StoredAnswer;
pub(super) use shelf::Inbox;
pub(super) use waiting::Waiting;

/// The name of a delivery, or of an attempt.
type Key = [u8; 32];
/// A principal's key: only telling one from another matters here.
type Owner = [u8; 32];
