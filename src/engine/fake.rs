//! For tests: a model whose logits are a function of its tokens, and a vocabulary of bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::generate::Forward;
use super::gguf::Value;
use super::text::Text;
use super::thread::{Loaded, OpenSequence};
use super::tokenizer::files_from_gguf;
use super::{EngineError, Family, Prompt, ServedModel};
use crate::auth::Endpoint;
use crate::prompt::{Completion, Dialect, Input, Message, Role, Sampling, SamplingOptions};
use crate::secret::Secret;

/// Ids: 0 `<|im_start|>`, 1 `<|im_end|>`, then the bytes from 2 on.
pub(super) const END: u32 = 1;
pub(super) const CONTEXT: u32 = 512;
const VOCABULARY: usize = 258;
/// The bundle's.
pub(super) const SAMPLING: SamplingOptions = SamplingOptions {
    temperature: Some(0.25),
    top_p: Some(0.75),
    top_k: None,
    min_p: None,
    repetition_penalty: None,
    frequency_penalty: None,
    presence_penalty: None,
};

const TEMPLATE: &str = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] \
    + '<|im_end|>' + '\n' }}{% endfor %}{{ '<|im_start|>assistant\n' }}";

/// The id of a byte's token.
pub(super) fn id(byte: u8) -> u32 {
    u32::from(byte) + 2
}

pub(super) fn text() -> Text {
    text_with(TEMPLATE)
}

pub(super) fn text_with(template: &str) -> Text {
    parse(template, b"{}").unwrap()
}

pub(super) fn parse(template: &str, config: &[u8]) -> Result<Text, String> {
    // GPT-2's letters again, but only those that are needed to list them in the order of bytes.
    let letters = super::tokenizer::alphabet().map(|letter| Value::String(letter.to_string()));
    let names = ["<|im_start|>", "<|im_end|>"].map(|name| Value::String(name.to_owned()));
    let kinds = (0..VOCABULARY).map(|id| Value::U64(if id < 2 { 3 } else { 1 }));
    let string = |text: &str| Value::String(text.to_owned());
    let metadata = BTreeMap::from([
        ("tokenizer.ggml.model".to_owned(), string("gpt2")),
        ("tokenizer.ggml.pre".to_owned(), string("smollm")),
        (
            "tokenizer.ggml.tokens".to_owned(),
            Value::Array([names.to_vec(), letters.to_vec()].concat()),
        ),
        ("tokenizer.ggml.merges".to_owned(), Value::Array(Vec::new())),
        (
            "tokenizer.ggml.token_type".to_owned(),
            Value::Array(kinds.collect()),
        ),
        ("tokenizer.chat_template".to_owned(), string(template)),
    ]);
    let [(_, tokenizer), (_, template)] = files_from_gguf(&metadata)?;
    Text::parse(&tokenizer, template, config)
}

/// A model that goes on with what `next` makes of all tokens so far.
pub(super) struct FakeForward<F> {
    tokens: Vec<u32>,
    logits: Vec<f32>,
    next: F,
}

impl<F: FnMut(&[u32]) -> Result<u32, EngineError>> FakeForward<F> {
    pub(super) fn new(next: F) -> FakeForward<F> {
        FakeForward {
            tokens: Vec::new(),
            logits: Vec::new(),
            next,
        }
    }
}

impl<F: FnMut(&[u32]) -> Result<u32, EngineError>> Forward for FakeForward<F> {
    fn feed(&mut self, tokens: &[u32]) -> Result<&[f32], EngineError> {
        self.tokens.extend_from_slice(tokens);
        let next = (self.next)(&self.tokens)?;
        self.logits = vec![0.0; VOCABULARY];
        self.logits[next as usize] = 10.0;
        Ok(&self.logits)
    }

    fn len(&self) -> usize {
        self.tokens.len()
    }

    fn reset(&mut self) {
        self.tokens.clear();
    }
}

/// A model for [`super::Engine::start`]; each sequence gets its own copy of `next`.
pub(super) fn loaded<F>(next: F) -> Loaded
where
    F: FnMut(&[u32]) -> Result<u32, EngineError> + Clone + Send + 'static,
{
    let open: OpenSequence = Box::new(move |_| Ok(Box::new(FakeForward::new(next.clone()))));
    let model = ServedModel {
        name: "fake".to_owned(),
        text: text(),
        digest: "d1".to_owned(),
        eos: vec![END],
        context: CONTEXT,
        sampling: SAMPLING,
    };
    Loaded {
        model: Arc::new(model),
        open,
    }
}

/// What it is asked at; `limit` is the longest answer. A default is no bound here.
pub(super) fn endpoint(limit: Option<u32>) -> Endpoint {
    Endpoint {
        model: "fake".to_owned(),
        max_completion_tokens: limit,
        default_completion_tokens: u32::MAX,
        ..Endpoint::default()
    }
}

/// One user message.
pub(super) fn chat(text: &str) -> Completion {
    let message = Message {
        role: Role::User,
        content: Secret::new(text.to_owned()),
    };
    Completion {
        dialect: Dialect::Chat,
        input: Input::Messages(vec![message]),
        sampling: SamplingOptions::default(),
        seed: None,
        max_completion_tokens: None,
        stop: Vec::new(),
    }
}

/// Greedy, for the prompt `text`.
pub(super) fn prompt(text: &str, max_completion_tokens: u32, stop: &[&str]) -> Prompt {
    Prompt {
        dialect: Dialect::Chat,
        model: "fake".to_owned(),
        tokens: text.bytes().map(id).collect(),
        max_completion_tokens,
        sampling: Sampling {
            temperature: 0.0,
            ..Sampling::default()
        },
        stop: stop.iter().map(|stop| (*stop).to_owned()).collect(),
        model_digest: "d1".to_owned(),
        kernels: Family::Scalar,
        time: None,
        text: None,
    }
}

/// Says `line`, beginning anew when it is through; `END` for its character `$`. It reads off the
/// number of tokens since the prompt how far it is; the prompt ends with its last `>`.
pub(super) fn saying(
    line: &'static [u8],
) -> impl FnMut(&[u32]) -> Result<u32, EngineError> + Clone {
    move |tokens| {
        let prompt = tokens
            .iter()
            .rposition(|token| *token == id(b'>'))
            .map_or(0, |at| at + 1);
        let byte = line[(tokens.len() - prompt) % line.len()];
        Ok(if byte == b'$' { END } else { id(byte) })
    }
}
