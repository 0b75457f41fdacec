//! The model: loads a bundle, turns chats into tokens, runs tract on a thread of its own, and
//! streams text back.

pub mod gguf;
mod graph;
mod graph_node;
mod import;
mod import_llama;
mod kernels;
mod model;
mod ops;
mod tokenizer;

use std::sync::Arc;
use std::time::Duration;

pub use import::{ImportError, import};
pub use kernels::Family;
pub use model::{EngineError, Info, LoadOptions, Model, PREFILL, Sequence};

use crate::auth::Permitted;
use crate::prompt::{AnswerSender, Chat, Interrupt, Outcome, Sampling};
use crate::reason::Refusal;

#[derive(Debug, Clone)]
pub struct Settings {
    /// Worker threads for one forward pass.
    pub threads: usize,
    /// Context in tokens; at most the model's.
    pub context: u32,
    /// Requests that may wait, beyond the one that runs.
    pub queue: usize,
}

/// A handle to the engine thread. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {}

/// A reserved place in the queue; dropped, it is free again.
#[derive(Debug)]
pub struct Slot {}

/// A chat as token ids, checked against the context.
#[derive(Debug, Clone)]
pub struct Prompt {
    pub model: String,
    pub tokens: Arc<[u32]>,
    /// The answer's bound: asked for, endpoint's and context's, whichever is least.
    pub max_completion_tokens: u32,
    /// With the seed filled in.
    pub sampling: Sampling,
    pub stop: Vec<String>,
    pub model_digest: String,
}

pub struct Job {
    pub permitted: Permitted,
    pub prompt: Prompt,
    pub answer: AnswerSender,
    pub interrupt: Interrupt,
    /// Called once, from the engine thread, before the answer's end is sent.
    pub done: Box<dyn FnOnce(&Report) + Send>,
}

/// What is known when an answer has ended.
#[derive(Debug, Clone)]
pub struct Report {
    pub outcome: Outcome,
    /// SHA-256 of the answer's text.
    pub answer_hash: [u8; 32],
    pub queued: Duration,
    pub first_token: Option<Duration>,
    pub total: Duration,
}

impl Engine {
    pub fn reserve(&self) -> Result<Slot, Refusal> {
        todo!()
    }
    /// Renders, tokenises and checks the context. CPU-bound (milliseconds).
    pub fn prepare(
        &self,
        _model: &str,
        _chat: &Chat,
        _limit: Option<u32>,
    ) -> Result<Prompt, Refusal> {
        todo!()
    }
}

impl Slot {
    pub fn submit(self, _job: Job) {
        todo!()
    }
}

/// CONTRACT between model (kernels) and generation, both inside `engine`:
/// `Model::load(&catalog::Bundle, threads) -> Result<Model, LoadError>`; `Model::info()` gives
/// context, vocabulary size, end-of-sequence ids, digest; `Model::sequence(context)` makes a
/// `Sequence` with `feed(&mut self, &[u32]) -> Result<&[f32], EngineError>` (logits of the last
/// position), `len()`, `reset()`. `Engine::start(Vec<catalog::Bundle>, Settings)` loads and spawns.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LoadError(pub String);

impl Engine {
    /// Loads every bundle and starts the engine thread; returns when it can serve.
    pub fn start(
        _bundles: Vec<crate::catalog::Bundle>,
        _settings: Settings,
    ) -> Result<Engine, LoadError> {
        todo!()
    }
    /// Waiting and running requests, for status and metrics.
    pub fn load(&self) -> (usize, usize) {
        todo!()
    }
    /// A beat that the watchdog looks at: changes while the engine makes progress or is idle.
    pub fn heartbeat(&self) -> u64 {
        todo!()
    }
    /// Takes no new work; running work goes on. `stop` ends the thread after the current token.
    pub fn stop(&self) {
        todo!()
    }
}
