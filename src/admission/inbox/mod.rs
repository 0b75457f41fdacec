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

mod delivery;
mod entry;
mod shelf;

pub(super) use delivery::Begin;
pub use delivery::{Delivered, Delivery, Rejected, ReplyCheck, Ticket};
pub use entry::StoredAnswer;
pub(super) use shelf::Inbox;
