//! A model's text side: its tokenizer and its chat template, read from a bundle.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::LoadError;
use super::template::{self, Template, TemplateError};
use super::tokenizer::{EncodeError, Tokenizer};
use crate::json;
use crate::prompt::{Input, Message, Role};
use crate::reason::{Refusal, RefuseReason};
use crate::secret::Secret;
use crate::time::Timestamp;

/// The largest known `tokenizer.json` (262,144 tokens) has 33 MB.
const MAX_TOKENIZER: u64 = 64 << 20;
/// The longest known templates (with tools) have 20 KB.
const MAX_TEMPLATE: u64 = 256 << 10;
const MAX_CONFIG: u64 = 1 << 20;

/// Turns chats into token ids; holds no state between them.
#[derive(Debug)]
pub struct Text {
    tokenizer: Tokenizer,
    template: Template,
}

/// A prompt as the model reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    pub ids: Vec<u32>,
    /// The template asked what time it is, so another time may give other ids.
    pub dated: bool,
}

impl Text {
    /// Reads `tokenizer.json`, `chat_template.jinja` and the names of the first and last token
    /// (`config.json`) from a bundle's folder.
    pub fn load(folder: &Path) -> Result<Text, LoadError> {
        let read = |name: &str, most| {
            let bytes = read_bounded(&folder.join(name), most);
            bytes.map_err(|e| LoadError(format!("{name}: {e}")))
        };
        let tokenizer = read("tokenizer.json", MAX_TOKENIZER)?;
        let template = read("chat_template.jinja", MAX_TEMPLATE)?;
        let config = read("config.json", MAX_CONFIG)?;
        Text::parse(&tokenizer, template, &config).map_err(LoadError)
    }

    /// Proves the template on chats that everybody has.
    pub fn parse(tokenizer: &[u8], template: Vec<u8>, config: &[u8]) -> Result<Text, String> {
        let tokenizer =
            Tokenizer::parse(tokenizer).map_err(|what| format!("tokenizer.json: {what}"))?;
        let config = json::parse(config).map_err(|what| format!("config.json: {what}"))?;
        let name = |member: &str| match config.get(member) {
            None | Some(serde_json::Value::Null) => Ok(None),
            Some(id) => {
                named(&tokenizer, id).map_err(|what| format!("config.json: {member} {what}"))
            }
        };
        let (bos, eos) = (name("bos_token_id")?, name("eos_token_id")?);
        let source = String::from_utf8(template);
        let source = source.map_err(|_| "chat_template.jinja: not UTF-8")?;
        let template = Template::compile(&source, bos, eos).and_then(Template::proven);
        let template = template.map_err(|what| format!("chat_template.jinja: {what}"))?;
        Ok(Text {
            tokenizer,
            template,
        })
    }

    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    pub fn encode(&self, input: &Input, now: Timestamp) -> Result<Encoded, Refusal> {
        match input {
            Input::Messages(messages) => self.encode_chat(messages, now),
            Input::Text(text) => {
                let ids = self.tokenizer.encode_text(text.expose()).map_err(failed)?;
                Ok(Encoded { ids, dated: false })
            }
        }
    }

    /// A chat at the time `now`, with the beginning of the assistant's turn.
    pub fn encode_chat(&self, messages: &[Message], now: Timestamp) -> Result<Encoded, Refusal> {
        let is_control = |text: &str| self.tokenizer.names_control(text);
        let rendered = self.template.render(messages, now, is_control);
        let rendered = rendered.map_err(|error| {
            let reason = match error {
                TemplateError::Refused(_) => RefuseReason::BadRequest,
                TemplateError::Mixed | TemplateError::TooLong => RefuseReason::InvalidParameter,
                TemplateError::Failed(_) => RefuseReason::TemplateFailed,
            };
            let refusal = Refusal::new(reason).detail(error.to_string());
            match error {
                TemplateError::Failed(_) => refusal,
                _ => refusal.param("messages"),
            }
        })?;
        let ids = self.tokenizer.encode(&rendered.pieces).map_err(failed)?;
        Ok(Encoded {
            ids,
            dated: rendered.dated,
        })
    }

    /// Whether chats may begin with these instructions, or what is wrong with them for this model.
    pub fn check_instructions(&self, instructions: &str, context: u32) -> Result<(), String> {
        let message = |role, text: &str| Message {
            role,
            content: Secret::new(text.to_owned()),
        };
        let chat = [
            message(Role::System, instructions),
            message(Role::User, "?"),
        ];
        let encoded = self.encode_chat(&chat, Timestamp::default());
        let encoded = encoded.map_err(|refusal| {
            let why = refusal.detail.unwrap_or_default();
            format!("is not for this model, whose chat template refuses it: {why}")
        })?;
        match encoded.ids.len() < context as usize {
            true => Ok(()),
            false => Err(format!(
                "leaves no room in the context: a short question with it has {} of {context} tokens",
                encoded.ids.len()
            )),
        }
    }

    /// A short chat that the template takes, as token ids.
    pub(super) fn trial(&self) -> Result<Vec<u32>, Refusal> {
        let [asked, ..] = template::trials();
        let encoded = self.encode_chat(&asked, Timestamp::default())?;
        Ok(encoded.ids)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: EncodeError) -> Refusal {
    Refusal::new(RefuseReason::Internal).detail(error.to_string())
}

/// The name of the token with this id, as the template may write it.
fn named(tokenizer: &Tokenizer, id: &serde_json::Value) -> Result<Option<String>, String> {
    let known = id.as_u64().and_then(|id| u32::try_from(id).ok());
    let known = known.filter(|id| (*id as usize) < tokenizer.ids());
    let known = known.ok_or_else(|| {
        let tokens = tokenizer.ids();
        format!("is {id}, which is none of the {tokens} tokens")
    })?;
    let bytes = || String::from_utf8(tokenizer.bytes(known).to_vec()).ok();
    Ok(tokenizer
        .control_name(known)
        .map(str::to_owned)
        .or_else(bytes))
}

/// The file's content, if it is not larger than `most`.
fn read_bounded(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::other(format!("larger than {most} bytes")));
    }
    Ok(bytes)
}
