//! Delivery at least once, as far as it is pure: one [`Machine`] says what is to be done with each
//! message. Its parts are the order of PUBACKs (`ledger`) and what is remembered (`memory`).
//!
//! A message has two names, because two may repeat it:
//!
//! - [`Exact`] is all that its publisher sent, its properties, token and proof included, without
//!   what a broker changes on its way (DUP, the expiry). Only the broker sends that again (MQTT 5
//!   section 3.3.2.3.7 has it pass on each user property unaltered), so it is decided as it was the
//!   first time. What a publisher sends with one property more is another message, and a run of
//!   it wants a proof of its own.
//! - [`Question`] is what is asked and where the answer goes: Response Topic, Correlation Data, and
//!   the body without its token. A publisher that asks again with a fresh token asks the same.
//!   Without Correlation Data there is none, and nothing but a redelivery is a repeat.
//!
//! What is remembered goes by a [`Key`]: the question of one principal, for others may ask the same.

mod ledger;
mod machine;
mod memory;
#[cfg(test)]
mod tests;

pub use ledger::Id;
pub use machine::{Arrival, Arrived, End, Machine, Verdict};
pub use memory::Known;

use serde::{Deserialize, Serialize};

use crate::digest::digest;
use crate::identity::random;

/// A message as the broker would send it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Exact(pub [u8; 32]);

/// What makes two messages repeats of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Question([u8; 32]);

/// What a delivery is remembered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(pub [u8; 32]);

/// A principal's key: only telling one from another matters here.
pub type Owner = [u8; 32];

impl Question {
    pub fn new(reply_to: &str, correlation: &[u8], body_hash: &[u8; 32]) -> Question {
        Question(digest(&[reply_to.as_bytes(), correlation, body_hash]))
    }
}

impl Key {
    /// `recognised`: what this very message began.
    pub fn of(question: Option<&Question>, recognised: Option<Key>, owner: &Owner) -> Key {
        match question {
            Some(Question(question)) => Key(digest(&[b"slmd delivery", owner, question])),
            // Nothing but a redelivery repeats it.
            None => recognised.unwrap_or_else(|| Key(random())),
        }
    }
}
