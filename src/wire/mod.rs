//! Bytes ↔ requests and fragments, in OpenAI's shapes. Pure; shared by HTTP and MQTT.

use crate::prompt::{Chat, Outcome};
use crate::reason::Refusal;

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
    pub authorization: Option<crate::secret::Secret<String>>,
    /// SHA-256 of the body without `authorization` (canonical: members in received order).
    pub body_hash: [u8; 32],
}

/// `POST …/chat/completions`. Unknown and unsupported parameters are refused by name.
pub fn parse_chat(_body: &[u8]) -> Result<ChatBody, Refusal> {
    todo!()
}

/// What all bodies of one answer share.
#[derive(Debug, Clone)]
pub struct Head {
    /// `chatcmpl-…`, made from the request id.
    pub id: String,
    pub model: String,
    pub created_secs: u64,
}

/// The whole answer as one `chat.completion` object.
pub fn completion(_: &Head, _text: &str, _: &Outcome) -> Vec<u8> {
    todo!()
}
/// The first chunk (`delta.role`).
pub fn chunk_start(_: &Head) -> Vec<u8> {
    todo!()
}
/// A `chat.completion.chunk` object with `delta.content`.
pub fn chunk_text(_: &Head, _text: &str) -> Vec<u8> {
    todo!()
}
/// The chunk with `finish_reason`.
pub fn chunk_end(_: &Head, _: &Outcome) -> Vec<u8> {
    todo!()
}
/// The chunk of `stream_options.include_usage`: no choices, `usage`.
pub fn chunk_usage(_: &Head, _: &Outcome) -> Vec<u8> {
    todo!()
}
/// `{"error":{"message","type","param","code"}}`.
pub fn error(_: &Refusal) -> Vec<u8> {
    todo!()
}
/// The refusal that stands for an answer which ended before it was whole; `None` for stop/length.
pub fn unfinished(_: &Outcome) -> Option<Refusal> {
    todo!()
}
