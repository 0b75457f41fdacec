//! A loaded model and its sequences.
//!
//! A [`Model`] is the plan bound to the mapped weights; a [`Sequence`] is one stream of tokens
//! with its cache. Sequences of one model may be fed on different threads.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tract_onnx::prelude::{IntoTValue, TValue, Tensor, TypedSimpleState, tvec};
use tract_onnx::tract_hir::internal::{TractError, TractResult};

use super::LoadError;
use super::graph::{self, Graph};
use super::kernels::map::Map;
use super::kernels::pool::Pool;
use super::kernels::{Family, Kernels};
use super::ops::{Cache, Machine};
use super::pace::Pace;
use crate::catalog::{Bundle, GRAPH, WEIGHTS};
use crate::{json, time};

/// Tokens of one pass through the graph: bounds the activations' memory, and how long a prompt
/// keeps others waiting.
pub const PREFILL: usize = 256;
/// `generation_config.json` has a few lines.
const MAX_GENERATION: u64 = 64 << 10;
const MAX_ENDS: usize = 16;

#[derive(Debug, Clone, Copy)]
pub struct LoadOptions {
    /// Threads of one forward pass; 0: as many as there are cores.
    pub threads: usize,
    pub family: Family,
}

impl Default for LoadOptions {
    fn default() -> LoadOptions {
        LoadOptions {
            threads: 0,
            family: Family::detect(),
        }
    }
}

/// What is worth knowing about a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    pub name: String,
    /// The bundle's canonical digest.
    pub digest: String,
    /// Positions that the model was made for.
    pub context: usize,
    pub vocabulary: usize,
    pub layers: usize,
    pub beginning: Option<u32>,
    /// Tokens that end an answer.
    pub ends: Vec<u32>,
}

#[derive(Debug)]
pub struct Model {
    info: Info,
    graph: Graph,
    machine: Arc<Machine>,
    pace: Arc<Mutex<Pace>>,
}

/// One stream of tokens and its cache.
#[derive(Debug)]
pub struct Sequence {
    state: TypedSimpleState,
    machine: Arc<Machine>,
    pace: Arc<Mutex<Pace>>,
    logits: TValue,
    len: usize,
    context: usize,
    vocabulary: usize,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EngineError {
    #[error("{needed} tokens don't fit into the context of {context}")]
    ContextLength { needed: usize, context: usize },
    #[error("token {0} is not in the model's vocabulary")]
    UnknownToken(u32),
    #[error("no token was given")]
    Empty,
    #[error("the model can't run: {0}")]
    Failed(String),
}

impl Model {
    pub fn load(bundle: &Bundle, options: &LoadOptions) -> Result<Model, LoadError> {
        Model::read(bundle, options)
            .map_err(|what| LoadError(format!("can't load model {:?}: {what}", bundle.name)))
    }

    #[must_use]
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// A new, empty sequence of at most `context` tokens. Its cache grows with it.
    pub fn sequence(&self, context: usize) -> Result<Sequence, EngineError> {
        if context > self.info.context {
            return Err(EngineError::ContextLength {
                needed: context,
                context: self.info.context,
            });
        }
        let plan = &self.graph.plan;
        Ok(Sequence {
            state: plan.spawn().map_err(failed)?,
            machine: self.machine.clone(),
            pace: self.pace.clone(),
            logits: Tensor::zero::<f32>(&[0]).map_err(failed)?.into_tvalue(),
            len: 0,
            context,
            vocabulary: self.info.vocabulary,
        })
    }

    fn read(bundle: &Bundle, options: &LoadOptions) -> Result<Model, String> {
        let kernels = Kernels::new(options.family)
            .ok_or_else(|| format!("this CPU has no {:?}", options.family))?;
        let threads = match options.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let pool = Pool::new(threads).map_err(|e| format!("can't start threads: {e}"))?;
        let machine = Arc::new(Machine { kernels, pool });
        let weights = Map::open(&bundle.folder.join(WEIGHTS)).map_err(|e| e.to_string())?;
        let graph = graph::load(&bundle.folder.join(GRAPH), &weights, &machine)
            .map_err(|what| format!("{GRAPH}: {what}"))?;
        let path = bundle.folder.join("generation_config.json");
        let (beginning, ends) = generation(&path, graph.shape.vocabulary)
            .map_err(|what| format!("generation_config.json: {what}"))?;
        let info = Info {
            name: bundle.name.clone(),
            digest: bundle.digest.clone(),
            context: graph.shape.context,
            vocabulary: graph.shape.vocabulary,
            layers: graph.shape.layers,
            beginning,
            ends,
        };
        Ok(Model {
            info,
            graph,
            machine,
            pace: Arc::default(),
        })
    }
}

impl Sequence {
    /// Appends tokens; gives the logits of what follows the last one. After an error the sequence
    /// is as it was.
    pub fn feed(&mut self, tokens: &[u32]) -> Result<&[f32], EngineError> {
        let needed = self.len.saturating_add(tokens.len());
        if needed > self.context {
            let context = self.context;
            return Err(EngineError::ContextLength { needed, context });
        }
        if let Some(unknown) = tokens.iter().find(|t| **t as usize >= self.vocabulary) {
            return Err(EngineError::UnknownToken(*unknown));
        }
        if tokens.is_empty() {
            return Err(EngineError::Empty);
        }
        let before = self.len;
        for part in tokens.chunks(PREFILL) {
            if let Err(e) = self.pass(part) {
                self.truncate(before);
                return Err(failed(e));
            }
        }
        self.logits().map_err(failed)
    }

    /// Tokens fed.
    #[must_use]
    pub fn fed(&self) -> usize {
        self.len
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.truncate(0);
    }

    /// Forgets the tokens from position `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        for state in self.state.op_states.iter_mut().flatten() {
            if let Some(cache) = state.downcast_mut::<Cache>() {
                cache.truncate(len);
            }
        }
    }

    fn pass(&mut self, tokens: &[u32]) -> TractResult<()> {
        let ids: Vec<i64> = tokens.iter().copied().map(i64::from).collect();
        let input = Tensor::from_shape(&[1, ids.len()], &ids)?;
        let measured = tokens.len() == 1 && self.machine.pool.threads() > 1;
        let share = !measured || self.pace().share();
        self.machine.pool.share_jobs(share);
        let begin = time::instant();
        let mut outputs = self.state.run(tvec!(input.into_tvalue()))?;
        if measured {
            self.pace().note(share, begin.elapsed());
        }
        self.logits = outputs.swap_remove(0);
        self.len += tokens.len();
        TractResult::Ok(())
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock()
    }

    fn logits(&self) -> TractResult<&[f32]> {
        self.logits.try_as_plain_ram()?.as_slice::<f32>()
    }
}

/// The ids that begin a text and end an answer.
fn generation(path: &Path, vocabulary: usize) -> Result<(Option<u32>, Vec<u32>), String> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_GENERATION).read_to_end(&mut bytes))
        .map_err(|e| e.to_string())?;
    let value = json::parse(&bytes).map_err(|e| e.to_string())?;
    let id = |value: &serde_json::Value| {
        value
            .as_u64()
            .filter(|id| *id < vocabulary as u64)
            .map(|id| id as u32)
            .ok_or_else(|| format!("{value} is not a token of the vocabulary"))
    };
    let beginning = match &value["bos_token_id"] {
        serde_json::Value::Null => None,
        value => Some(id(value)?),
    };
    let ends = match &value["eos_token_id"] {
        serde_json::Value::Null => Vec::new(),
        serde_json::Value::Array(list) if list.len() <= MAX_ENDS => {
            list.iter().map(id).collect::<Result<_, _>>()?
        }
        value => vec![id(value)?],
    };
    Ok((beginning, ends))
}

/// tract's errors are chains; the whole chain says what was wrong.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(e: TractError) -> EngineError {
    EngineError::Failed(format!("{e:#}"))
}
