//! Bytes ↔ requests and fragments, in OpenAI's shapes. Pure; shared by HTTP and MQTT.
//!
//! [`parse_chat`] reads a body strictly: what can't be honoured is refused by name, never
//! silently dropped. The writers below it make answers, chunks and errors.

mod answer;
mod chat;
mod members;
mod messages;
mod params;
#[cfg(test)]
mod tests;

pub use answer::{
    Head, chunk_end, chunk_start, chunk_text, chunk_usage, completion, error, model, models,
    unfinished,
};
pub use chat::parse_chat;

use crate::prompt::Chat;
use crate::secret::Secret;

/// A chat completion request as parsed from its body.
#[derive(Debug, Clone)]
pub struct ChatBody {
    pub model: Option<String>,
    pub chat: Chat,
    pub stream: bool,
    pub include_usage: bool,
    /// Known parameters that have no effect here, for the `slmd-ignored-parameters` header.
    pub ignored: Vec<String>,
    /// MQTT 3.1.1: the token as the body's `authorization` member. HTTP refuses it.
    pub authorization: Option<Secret<String>>,
    /// [`crate::identity::digest`] (SHA-256) of the body without `authorization`, written
    /// compactly with its members in received order: white space and escapes don't count, order
    /// and `null` members do.
    pub body_hash: [u8; 32],
}
