//! The model: loads a bundle, turns chats into tokens, runs tract on a thread of its own, and
//! streams text back.
//!
//! [`Engine::prepare`] is the text side ([`prepare`]: defaults and bounds; [`text`]: chat template,
//! then tokenizer), on the caller's thread. [`Reservation::submit`] puts the prompt into the [`queue`]; the
//! engine [`thread`] runs one answer at a time ([`generate`]): the model's logits → [`penalty`] →
//! [`sample`] → [`detokenise`] → [`stop`] → the answer's channel.

pub mod gguf;
pub mod sample;
pub mod text;
pub mod tokenizer;

mod check;
mod detokenise;
#[cfg(test)]
mod fake;
mod generate;
mod graph;
mod graph_node;
mod import;
mod import_llama;
mod import_sampling;
mod import_weights;
mod kernels;
mod metrics;
mod model;
mod ops;
mod pace;
mod penalty;
mod prepare;
mod queue;
mod replay;
mod stop;
mod template;
mod thread;
mod totals;
mod turns;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use self::queue::{Place, Queue, Work};
pub use self::text::Text;
use self::thread::{Loaded, OpenSequence};
use crate::auth::{Permitted, Principal};
use crate::catalog::Bundle;
use crate::prompt::{AnswerSender, Dialect, Interrupt, Outcome, Sampling, SamplingOptions};
use crate::reason::Refusal;
use crate::secret::Secret;
use crate::telemetry::Registry;
use crate::time::{self, Timestamp};

pub use self::check::check;
pub use self::import::import;
pub use self::import_sampling::of_generation_config;
pub use self::kernels::Family;
#[cfg(any(test, feature = "for-tests"))]
pub use self::metrics::fill as fill_metrics;
pub use self::metrics::{Metrics, PROVIDER};
pub use self::model::{EngineError, LoadOptions, Model, Sequence};
pub use self::prepare::Allowance;
pub use self::queue::Ticket;
pub use self::replay::{Replay, Replayed, replay};
pub use self::totals::Done;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Worker threads for one forward pass; 0: as many as there are cores.
    pub threads: usize,
    /// Cores left to others, where `threads` is 0.
    pub spare_cores: usize,
    /// Context in tokens; at most the model's.
    pub context: u32,
    /// Requests that may wait, beyond the one that runs.
    pub queue: usize,
    /// `None`: the fastest that the CPU has.
    pub kernels: Option<Family>,
}

impl Settings {
    /// One at least.
    #[must_use]
    pub fn threads(&self) -> usize {
        if self.threads > 0 {
            return self.threads;
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        cores.saturating_sub(self.spare_cores).max(1)
    }
}

/// A handle to the engine thread, which ends with the last of them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

/// A reserved place in the queue; dropped, it is free again.
#[derive(Debug)]
pub struct Reservation {
    place: Place,
}

/// A prompt as token ids, checked against the context.
#[derive(Clone)]
pub struct Prompt {
    pub dialect: Dialect,
    pub model: String,
    pub tokens: Arc<[u32]>,
    /// The answer's bound: asked for, endpoint's and context's, whichever is least.
    pub max_completion_tokens: u32,
    /// With the seed filled in.
    pub sampling: Sampling,
    pub stop: Vec<String>,
    pub model_digest: String,
    /// What it is computed with.
    pub kernels: Family,
    /// The time that the template was told, if it asked.
    pub time: Option<Timestamp>,
    /// What was asked, where its endpoint has texts kept; the answer's is, then, too.
    pub text: Option<Secret<String>>,
}

pub struct Job {
    pub permitted: Permitted,
    pub prompt: Prompt,
    pub answer: AnswerSender,
    pub interrupt: Interrupt,
    /// Called once, from the engine thread, before the answer's end is sent. (After
    /// [`Engine::stop`] it may be the thread that submits.)
    pub done: Box<dyn FnOnce(&Report) + Send>,
}

/// What is known when an answer has ended. Durations count from [`Reservation::submit`].
#[derive(Debug, Clone)]
pub struct Report {
    pub outcome: Outcome,
    /// SHA-256 of the answer's text.
    pub answer_hash: [u8; 32],
    /// The text itself, where its endpoint has it kept.
    pub answer: Option<Secret<String>>,
    pub queued: Duration,
    pub first_token: Option<Duration>,
    pub total: Duration,
}

/// Why a model can't be served.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LoadError(pub String);

#[derive(Debug)]
struct Shared {
    queue: Arc<Queue>,
    models: BTreeMap<String, Arc<ServedModel>>,
    kernels: Family,
    threads: usize,
}

/// What both sides, callers and thread, know of a model.
#[derive(Debug)]
struct ServedModel {
    name: String,
    text: Text,
    digest: String,
    /// Tokens that end an answer.
    eos: Vec<u32>,
    /// The lesser of the settings' and the model's own.
    context: u32,
    /// The bundle's.
    sampling: SamplingOptions,
}

/// Models that are loaded, for [`Engine::start`].
pub struct Models(Vec<Loaded>);

impl Settings {
    fn family(&self) -> Family {
        self.kernels.unwrap_or_else(Family::detect)
    }
}

impl Models {
    /// Reads every bundle; its hashes are its opener's matter.
    pub fn load(bundles: &[Bundle], settings: &Settings) -> Result<Models, LoadError> {
        let options = LoadOptions {
            threads: settings.threads(),
            family: settings.family(),
        };
        let models = bundles
            .iter()
            .map(|bundle| load(bundle, &options, settings.context));
        let models = models.collect::<Result<Vec<Loaded>, LoadError>>()?;
        tracing::info!(kernels = options.family.as_str(), "models loaded");
        Ok(Models(models))
    }
}

impl Engine {
    /// Starts the thread with models that are loaded, and waits until each has its sequence.
    pub fn start(
        Models(models): Models,
        settings: &Settings,
        registry: &mut Registry,
    ) -> Result<Engine, LoadError> {
        let queue = Arc::new(Queue::new(settings.queue, Metrics::register(registry)));
        let served = models.iter().map(|loaded| &loaded.model);
        let served = served.map(|model| (model.name.clone(), Arc::clone(model)));
        let shared = Arc::new(Shared {
            queue: Arc::clone(&queue),
            models: served.collect(),
            kernels: settings.family(),
            threads: settings.threads(),
        });
        let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
        let body = move || {
            let (seats, result) = match thread::seats(models) {
                Ok(seats) => (seats, Ok(())),
                Err(error) => (BTreeMap::new(), Err(LoadError(error.to_string()))),
            };
            // A caller that doesn't wait any more drops the queue's other end.
            let _ = ready.send(result);
            thread::serve(&queue, seats);
        };
        std::thread::Builder::new()
            .name("engine".to_owned())
            .spawn(body)
            .map_err(|error| LoadError(format!("can't start the engine thread: {error}")))?;
        let result = is_ready.recv();
        result.unwrap_or_else(|_| Err(LoadError("the engine thread failed".to_owned())))?;
        Ok(Engine { shared })
    }

    /// Takes a place in the queue of the principal's share, or says when to try again.
    pub fn reserve(&self, principal: &Principal) -> Result<Reservation, Refusal> {
        let place = self.shared.queue.reserve(principal.key())?;
        Ok(Reservation { place })
    }

    /// Resolves when a place gets free after this call, for who found none.
    pub fn room(&self) -> tokio::sync::futures::Notified<'_> {
        self.shared.queue.room()
    }

    /// Waiting and running requests, for status and metrics.
    #[must_use]
    pub fn load(&self) -> (usize, usize) {
        self.shared.queue.load()
    }

    /// The models by name, with the digests of their bundles.
    pub fn digests(&self) -> impl Iterator<Item = (&str, &str)> {
        let models = self.shared.models.values();
        models.map(|model| (model.name.as_str(), model.digest.as_str()))
    }

    /// What it computes with: the kernels' family and the number of threads.
    #[must_use]
    pub fn kernels(&self) -> (Family, usize) {
        (self.shared.kernels, self.shared.threads)
    }

    /// What it has done since its start.
    #[must_use]
    pub fn done(&self) -> Done {
        self.shared.queue.totals.get()
    }

    /// A beat that the watchdog looks at: changes with each step while the engine makes progress,
    /// and every ten seconds while it is idle (a chunk of the prompt may take longer on a slow core).
    #[must_use]
    pub fn heartbeat(&self) -> u64 {
        self.shared.queue.beats()
    }

    /// Takes no new work, ends what waits and, after its current token, what runs with
    /// [`Finish::Shutdown`](crate::prompt::Finish::Shutdown); then the thread ends. To let running
    /// work finish, wait until [`Engine::load`] is (0, 0) before.
    pub fn stop(&self) {
        self.shared.queue.close();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl Reservation {
    /// Puts the job where its turn will be. Its end comes by `done` and the answer's channel.
    pub fn submit(self, job: Job) -> Ticket {
        let queue = Arc::clone(self.place.queue());
        queue.push(Work {
            deadline: job.permitted.request().deadline,
            priority: job.permitted.grant().priority,
            prompt: job.prompt,
            answer: job.answer,
            interrupt: job.interrupt,
            done: job.done,
            permitted: Some(job.permitted),
            lines: tracing::Span::current(),
            submitted: time::instant(),
            place: self.place,
        })
    }
}

/// Loads a bundle: kernels' side and, beside it, text side, which must agree on the vocabulary.
fn load(bundle: &Bundle, options: &LoadOptions, context: u32) -> Result<Loaded, LoadError> {
    let (text, model) = std::thread::scope(|scope| {
        let model = scope.spawn(|| Model::load(bundle, options));
        (Text::load(&bundle.folder), model.join())
    });
    let name = &bundle.name;
    let text = text.map_err(|what| LoadError(format!("can't load model {name:?}: {what}")))?;
    let model = model.unwrap_or_else(|_| Err(panicked()))?;
    let info = model.info();
    let tokens = text.tokenizer().ids();
    if tokens > info.vocabulary {
        let rows = info.vocabulary;
        let what = format!("can't load model {name:?}: {tokens} tokens, but {rows} rows for them");
        return Err(LoadError(what));
    }
    let served = ServedModel {
        name: info.name.clone(),
        text,
        digest: info.digest.clone(),
        eos: info.ends.clone(),
        context: context.min(u32::try_from(info.context).unwrap_or(u32::MAX)),
        sampling: bundle.manifest.sampling,
    };
    let open: OpenSequence =
        Box::new(move |context| Ok(Box::new(model.sequence(context as usize)?)));
    Ok(Loaded {
        model: Arc::new(served),
        open,
    })
}

fn panicked() -> LoadError {
    LoadError("loading a model panicked; the log has it".to_owned())
}

/// Neither the tokens nor the stop sequences: they are the prompt.
impl fmt::Debug for Prompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prompt")
            .field("model", &self.model)
            .field("tokens", &self.tokens.len())
            .field("max_completion_tokens", &self.max_completion_tokens)
            .field("sampling", &self.sampling)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
