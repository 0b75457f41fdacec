//! Text completions (OpenAI's legacy API): a text, and what the model writes after it.

use serde_json::{Value, json};

use super::Format;
use super::members::Members;
use super::params::{self, Neutral, is_false, is_one};
use crate::prompt::{Completion, Dialect, Input};
use crate::reason::Refusal;
use crate::secret::Secret;

/// OpenAI's.
const DEFAULT_MAX_TOKENS: u32 = 16;

pub(super) struct Text;

const NEUTRAL: &[Neutral] = &[
    ("best_of", "1", is_one),
    ("echo", "false", is_false),
    ("suffix", r#""""#, |v| v == ""),
    // Already 0 asks for the likelihood of each token.
    ("logprobs", "null", |_| false),
];

impl Format for Text {
    fn read(&self, members: &mut Members) -> Result<(Completion, Vec<String>), Refusal> {
        let completion = Completion {
            dialect: Dialect::Text,
            input: Input::Text(prompt(members)?),
            sampling: params::sampling(members)?,
            seed: params::seed(members)?,
            max_completion_tokens: members
                .integer("max_tokens", 1)?
                .or(Some(DEFAULT_MAX_TOKENS)),
            stop: params::stop(members)?,
        };
        Ok((completion, Vec::new()))
    }

    fn neutral(&self) -> &'static [Neutral] {
        NEUTRAL
    }

    fn id_prefix(&self) -> &'static str {
        "cmpl-"
    }

    fn whole_object(&self) -> &'static str {
        "text_completion"
    }

    fn chunk_object(&self) -> &'static str {
        "text_completion"
    }

    fn whole(&self, text: &str) -> Value {
        json!({"text": text})
    }

    fn start(&self) -> Option<Value> {
        None
    }

    fn piece(&self, text: &str) -> Value {
        json!({"text": text})
    }

    fn end(&self) -> Value {
        json!({"text": ""})
    }
}

/// One text, also as a list of one. No error shows it.
fn prompt(members: &mut Members) -> Result<Secret<String>, Refusal> {
    let value = match members.take("prompt") {
        None => return Err(members.invalid("prompt", "is missing")),
        Some(Value::Array(mut list)) if list.len() == 1 => list.remove(0),
        Some(value) => value,
    };
    let is_tokens = |list: &[Value]| list.iter().any(|v| v.is_number() || v.is_array());
    match value {
        Value::String(text) if !text.is_empty() => Ok(Secret::new(text)),
        Value::String(_) => Err(members.invalid("prompt", "must not be empty")),
        Value::Number(_) => Err(members.unsupported("prompt", "can't be token ids; send text")),
        Value::Array(list) if is_tokens(&list) => {
            Err(members.unsupported("prompt", "can't be token ids; send text"))
        }
        Value::Array(list) if list.len() > 1 => {
            Err(members.unsupported("prompt", "can hold one text; ask once for each"))
        }
        _ => Err(members.invalid("prompt", "must be a string")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::{Finish, Outcome, RequestId, Usage};
    use crate::reason::{Reason, RefuseReason};
    use crate::time::Timestamp;
    use crate::wire::{Body, Framing, parse};

    fn read(body: &Value) -> Result<Body, Refusal> {
        parse(Dialect::Text, body.to_string().as_bytes())
    }

    #[test]
    fn a_prompt_is_one_text() {
        for prompt in [json!("Once"), json!(["Once"])] {
            let body = read(&json!({"prompt": prompt, "stop": "\n"})).unwrap();
            let Input::Text(text) = &body.completion.input else {
                panic!("no text");
            };
            assert_eq!(text.expose(), "Once");
            assert_eq!(body.completion.max_completion_tokens, Some(16));
            assert_eq!(body.completion.stop, ["\n"]);
            assert!(!format!("{body:?}").contains("Once"));
        }
        let body = read(&json!({"prompt": "x", "max_tokens": 7})).unwrap();
        assert_eq!(body.completion.max_completion_tokens, Some(7));
    }

    #[test]
    fn what_cannot_be_honoured_is_named() {
        use RefuseReason::{InvalidParameter, UnsupportedParameter};
        for (members, reason, param) in [
            (json!({}), InvalidParameter, "prompt"),
            (json!({"prompt": ""}), InvalidParameter, "prompt"),
            (json!({"prompt": []}), InvalidParameter, "prompt"),
            (json!({"prompt": {}}), InvalidParameter, "prompt"),
            (json!({"prompt": [1, 2]}), UnsupportedParameter, "prompt"),
            (json!({"prompt": [1]}), UnsupportedParameter, "prompt"),
            (json!({"prompt": [[1, 2]]}), UnsupportedParameter, "prompt"),
            (
                json!({"prompt": ["a", "b"]}),
                UnsupportedParameter,
                "prompt",
            ),
            (
                json!({"prompt": "x", "echo": true}),
                UnsupportedParameter,
                "echo",
            ),
            (
                json!({"prompt": "x", "suffix": "y"}),
                UnsupportedParameter,
                "suffix",
            ),
            (
                json!({"prompt": "x", "best_of": 2}),
                UnsupportedParameter,
                "best_of",
            ),
            (json!({"prompt": "x", "n": 2}), UnsupportedParameter, "n"),
            (
                json!({"prompt": "x", "logprobs": 0}),
                UnsupportedParameter,
                "logprobs",
            ),
            (
                json!({"prompt": "x", "messages": []}),
                UnsupportedParameter,
                "messages",
            ),
            (
                json!({"prompt": "x", "max_tokens": 0}),
                InvalidParameter,
                "max_tokens",
            ),
        ] {
            let refusal = read(&members).unwrap_err();
            assert_eq!(refusal.reason, Reason::Refused(reason), "{members}");
            assert_eq!(refusal.param.as_deref(), Some(param), "{members}");
        }
        let neutral =
            json!({"prompt": "x", "echo": false, "suffix": null, "best_of": 1, "logprobs": null});
        assert!(read(&neutral).is_ok());
    }

    #[test]
    fn answers_have_the_clients_shape() {
        let outcome = Outcome {
            finish: Finish::Length,
            usage: Usage {
                prompt_tokens: 3,
                completion_tokens: 5,
            },
        };
        for stream in [false, true] {
            let framing = Framing {
                dialect: Dialect::Text,
                stream,
                include_usage: true,
            };
            let framer = framing.framer(&RequestId::random(), "slm", Timestamp(0));
            assert_eq!(framer.start(), None);
            let mut bodies = Vec::from_iter(framer.piece("up"));
            bodies.extend(framer.end("up", &outcome).unwrap());
            let bodies: Vec<Value> = bodies
                .iter()
                .map(|body| serde_json::from_slice(body).unwrap())
                .collect();
            for body in &bodies {
                assert_eq!(body["object"], "text_completion");
                assert!(body["id"].as_str().unwrap().starts_with("cmpl-"), "{body}");
            }
            assert_eq!(bodies.len(), if stream { 3 } else { 1 });
            assert_eq!(bodies[0]["choices"][0]["text"], "up");
            let end = &bodies[usize::from(stream)]["choices"][0];
            assert_eq!(end["finish_reason"], "length");
            assert_eq!(bodies[bodies.len() - 1]["usage"]["total_tokens"], 8);
        }
    }
}
