//! At-least-once delivery: what I/O there is around [`Machine`](crate::delivery::Machine), which
//! says what is to be done with a message.
//!
//! A message leads to a delivery by either of its names ([`crate::delivery`]), and that to one entry,
//! kept in the store ([`shelf`]):
//!
//! - running in this process: nothing new is begun;
//! - answered within the window: the first run's answer is given again;
//! - begun, and not running: the second attempt, decided with the clock of the first admission,
//!   so that a token that has expired meanwhile doesn't refuse it. A third is refused with
//!   `attempts_exhausted`.
//!
//! Where the engine's queue is full, a delivery waits for a place ([`waiting`]); what is remembered
//! and what waits has a share for each principal.

mod attempt;
mod delivery;
mod entry;
mod shelf;
mod waiting;

pub(super) use attempt::Attempt;
pub use delivery::{Asker, Delivered, Delivery, Rejected, Ticket};
pub use entry::StoredAnswer;
pub(super) use shelf::Inbox;
pub(super) use waiting::Waiting;
