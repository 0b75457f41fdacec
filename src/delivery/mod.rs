//! Delivery at least once, as far as it is pure: which message is which, which PUBACK is owed
//! ([`ledger`]), and what is remembered and forgotten ([`memory`]).
//!
//! A message has two names, because two may repeat it:
//!
//! - [`Exact`] is all that its publisher sent, token and proof included, without what a broker
//!   changes on the way. Only the broker sends that again, so it is decided as it was the first time.
//! - [`Question`] is what is asked and where the answer goes: Response Topic, Correlation Data, and
//!   the body without its token. A publisher that asks again with a fresh token asks the same.
//!   Without Correlation Data there is none, and nothing but a redelivery is a repeat.
//!
//! What is remembered goes by a [`Key`]: the question of one principal, for others may ask the same.

pub mod ledger;
pub mod memory;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::identity::{digest, random};

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

    pub fn of(&self, owner: &Owner) -> Key {
        Key(digest(&[b"slmd delivery", owner, &self.0]))
    }
}

impl Key {
    /// Of a message that nothing but its redelivery repeats.
    pub fn unique() -> Key {
        Key(random())
    }
}
