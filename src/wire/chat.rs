//! Chat completions: a conversation, and the assistant's next message.

use serde_json::{Value, json};

use super::members::Members;
use super::params::{self, Neutral, is_empty_list, is_false, is_zero};
use super::{Format, messages};
use crate::prompt::{Completion, Dialect, Input};
use crate::reason::Refusal;

pub(super) struct Chat;

const NEUTRAL: &[Neutral] = &[
    ("logprobs", "false", is_false),
    ("top_logprobs", "0", is_zero),
    ("response_format", r#"{"type":"text"}"#, |v| {
        *v == json!({"type": "text"})
    }),
    ("tools", "[]", is_empty_list),
    ("tool_choice", r#""none""#, |v| v == "none"),
    ("functions", "[]", is_empty_list),
    ("function_call", r#""none""#, |v| v == "none"),
    ("modalities", r#"["text"]"#, |v| *v == json!(["text"])),
];

impl Format for Chat {
    fn read(&self, members: &mut Members) -> Result<(Completion, Vec<String>), Refusal> {
        let (messages, named) = messages::messages(members)?;
        let completion = Completion {
            dialect: Dialect::Chat,
            input: Input::Messages(messages),
            sampling: params::sampling(members)?,
            seed: params::seed(members)?,
            max_completion_tokens: params::max_tokens(members)?,
            stop: params::stop(members)?,
        };
        let ignored = named.then(|| "messages.name".to_owned());
        Ok((completion, Vec::from_iter(ignored)))
    }

    fn neutral(&self) -> &'static [Neutral] {
        NEUTRAL
    }
    fn id_prefix(&self) -> &'static str {
        "chatcmpl-"
    }

    fn whole_object(&self) -> &'static str {
        "chat.completion"
    }

    fn chunk_object(&self) -> &'static str {
        "chat.completion.chunk"
    }

    fn whole(&self, text: &str) -> Value {
        json!({"message": {"role": "assistant", "content": text, "refusal": null}})
    }

    fn start(&self) -> Option<Value> {
        Some(json!({"delta": {"role": "assistant", "content": ""}}))
    }

    fn piece(&self, text: &str) -> Value {
        json!({"delta": {"content": text}})
    }

    fn end(&self) -> Value {
        json!({"delta": {}})
    }
}
