//! A model's text side: its tokenizer and its chat template, read from a bundle.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::LoadError;
use super::template::{Template, TemplateError};
use super::tokenizer::Tokenizer;
use crate::json;
use crate::prompt::Message;
use crate::reason::{Refusal, RefuseReason};

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

impl Text {
    /// Reads `tokenizer.json`, `chat_template.jinja` and the names of the first and last token
    /// (`config.json`) from a bundle's folder.
    pub fn load(folder: &Path) -> Result<Text, LoadError> {
        let read = |name: &str, most| {
            let path = folder.join(name);
            read_bounded(&path, most).map_err(|e| LoadError(format!("{}: {e}", path.display())))
        };
        let tokenizer = read("tokenizer.json", MAX_TOKENIZER)?;
        let template = read("chat_template.jinja", MAX_TEMPLATE)?;
        let config = read("config.json", MAX_CONFIG)?;
        Text::parse(&tokenizer, template, &config)
            .map_err(|what| LoadError(format!("{}: {what}", folder.display())))
    }

    pub fn parse(tokenizer: &[u8], template: Vec<u8>, config: &[u8]) -> Result<Text, String> {
        let tokenizer =
            Tokenizer::parse(tokenizer).map_err(|what| format!("tokenizer.json: {what}"))?;
        let config = json::parse(config).map_err(|what| format!("config.json: {what}"))?;
        let name = |member: &str| {
            let id = config.get(member).and_then(serde_json::Value::as_u64);
            let id = id.and_then(|id| u32::try_from(id).ok());
            let name = id.and_then(|id| tokenizer.control_name(id));
            name.unwrap_or_default().to_owned()
        };
        let (bos, eos) = (name("bos_token_id"), name("eos_token_id"));
        let source = String::from_utf8(template);
        let source = source.map_err(|_| "chat_template.jinja: not UTF-8")?;
        let template = Template::compile(source, bos, eos)
            .map_err(|what| format!("chat_template.jinja: {what}"))?;
        Ok(Text {
            tokenizer,
            template,
        })
    }

    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// A chat as token ids, with the beginning of the assistant's turn.
    pub fn encode(&self, messages: &[Message]) -> Result<Vec<u32>, Refusal> {
        let is_control = |text: &str| self.tokenizer.names_control(text);
        let pieces = self
            .template
            .render(messages, is_control)
            .map_err(|error| {
                let reason = match error {
                    TemplateError::Render(_) => RefuseReason::BadRequest,
                    TemplateError::Mixed => RefuseReason::InvalidParameter,
                };
                Refusal::new(reason)
                    .detail(error.to_string())
                    .param("messages")
            })?;
        let ids = self.tokenizer.encode(&pieces);
        ids.map_err(|error| Refusal::new(RefuseReason::Internal).detail(error.to_string()))
    }
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
