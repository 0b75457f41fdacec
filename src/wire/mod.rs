//! Bytes ↔ requests and fragments, in OpenAI's shapes. Pure; shared by HTTP and MQTT.
//!
//! [`parse`] reads a body strictly: what can't be honoured is refused by name, never silently
//! dropped. [`Framer`] writes an answer's bodies. What one [`Dialect`] has of its own is in a file of
//! its own ([`Format`]).

mod answer;
mod body;
mod chat;
mod completions;
mod framer;
mod members;
mod messages;
mod params;
#[cfg(test)]
mod tests;

pub use answer::{error, model, models};
pub use body::parse;
pub use framer::{Framer, Framing};

use serde_json::Value;

use crate::prompt::{Completion, Dialect};
use crate::reason::Refusal;
use crate::secret::Secret;
use members::Members;
use params::Neutral;

/// A prompt as parsed from its body.
#[derive(Debug, Clone)]
pub struct Body {
    pub model: Option<String>,
    pub completion: Completion,
    pub framing: Framing,
    /// Known parameters that have no effect here, for the `slmd-ignored-parameters` header.
    pub ignored: Vec<String>,
    /// MQTT 3.1.1: the token as the body's `authorization` member. HTTP refuses it.
    pub authorization: Option<Secret<String>>,
    /// [`crate::digest::digest`] (SHA-256) of the body without `authorization`, written
    /// compactly with its members in received order: white space and escapes don't count, order
    /// and `null` members do.
    pub body_hash: [u8; 32],
}

/// How one dialect is written in bytes.
trait Format: Sync {
    /// Takes what is the dialect's own; also the names of what has no effect here.
    fn read(&self, members: &mut Members) -> Result<(Completion, Vec<String>), Refusal>;

    /// Parameters of its own that aren't honoured.
    fn neutral(&self) -> &'static [Neutral];

    fn id_prefix(&self) -> &'static str;

    /// What `object` says of a whole answer, and of a chunk.
    fn whole_object(&self) -> &'static str;
    fn chunk_object(&self) -> &'static str;

    /// The choice of a whole answer; then those of a stream: before the text, each piece, and with
    /// the reason of the end.
    fn whole(&self, text: &str) -> Value;
    fn start(&self) -> Option<Value>;
    fn piece(&self, text: &str) -> Value;
    fn end(&self) -> Value;
}

fn format(dialect: Dialect) -> &'static dyn Format {
    match dialect {
        Dialect::Chat => &chat::Chat,
        Dialect::Text => &completions::Text,
    }
}
