//! `Attention`: rotary positions, appending to the cache, and causal attention over it.
//!
//! The cache is the operator's state: half precision, in blocks of [`CHUNK`] positions, so that
//! it grows without moving and a chunk is one contiguous piece for each head.

use std::sync::Arc;

use tract_onnx::tract_core::{as_op, not_out_of_plan, op_as_typed_op};
use tract_onnx::tract_hir::internal::{
    EvalContext, EvalOp, LaneId, Op, OpState, StaticName, TValue, TVec, TractResult, TypedFact,
    TypedOp, bail,
};

use super::super::kernels::{CHUNK, TILE_QUERIES, merge, partial_len, rotate};
use super::{Machine, Rope, bound, float_rows, operator, output};

/// Rows of one job of a prefill.
const TILE: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct AttentionSpec {
    pub(crate) heads: usize,
    pub(crate) cached_heads: usize,
    pub(crate) dimension: usize,
    pub(crate) rope_base: f32,
    /// Positions that the model was made for.
    pub(crate) context: usize,
}

#[derive(Debug, Clone)]
pub(crate) struct Attention {
    spec: AttentionSpec,
    parts: Option<Parts>,
}

#[derive(Debug, Clone)]
struct Parts {
    rope: Arc<Rope>,
    machine: Arc<Machine>,
}

/// One layer's keys and values.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    spec: AttentionSpec,
    parts: Parts,
    /// Each [`CHUNK`] positions: for each cached head keys, then values.
    blocks: Vec<Box<[u16]>>,
    len: usize,
}

impl AttentionSpec {
    pub(super) fn width(&self) -> usize {
        self.heads * self.dimension
    }

    #[expect(clippy::unused_self, reason = "the operators' common shape")]
    pub(super) fn last(&self) -> bool {
        false
    }

    /// Floats of an input row: queries, keys, values.
    pub(crate) fn input_width(&self) -> usize {
        (self.heads + 2 * self.cached_heads) * self.dimension
    }
}

impl Attention {
    pub(crate) fn new(spec: AttentionSpec) -> Attention {
        Attention { spec, parts: None }
    }

    pub(crate) fn spec(&self) -> AttentionSpec {
        self.spec
    }

    pub(crate) fn bind(&mut self, rope: Arc<Rope>, machine: Arc<Machine>) {
        self.parts = Some(Parts { rope, machine });
    }
}

operator!(Attention, "Attention");

impl EvalOp for Attention {
    not_out_of_plan!();

    fn state(&self, _context: &EvalContext) -> TractResult<Option<Box<dyn OpState>>> {
        let parts = bound(self.parts.as_ref())?.clone();
        TractResult::Ok(Some(Box::new(Cache {
            spec: self.spec,
            parts,
            blocks: Vec::new(),
            len: 0,
        })))
    }
}

impl OpState for Cache {
    fn reset_lanes(&mut self, _lanes: &[LaneId]) -> TractResult<()> {
        self.truncate(0);
        TractResult::Ok(())
    }

    fn eval(
        &mut self,
        _context: &EvalContext,
        _op: &dyn Op,
        inputs: TVec<TValue>,
    ) -> TractResult<TVec<TValue>> {
        let spec = self.spec;
        let x = float_rows(&inputs[0], spec.input_width())?;
        let count = x.len() / spec.input_width();
        let past = self.len;
        if past + count > spec.context {
            bail!("the context of {} positions is full", spec.context);
        }
        self.append(x);
        output(count, spec.width(), |out| {
            if count == 1 {
                self.decode(x, past, out);
            } else {
                self.prefill(x, past, out);
            }
            TractResult::Ok(())
        })
    }
}

impl Cache {
    /// Forgets all positions from `len` on. The memory stays for the next ones.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Rotates the rows' keys and puts them and the values at the cache's end.
    fn append(&mut self, x: &[f32]) {
        let AttentionSpec {
            heads,
            cached_heads,
            dimension,
            ..
        } = self.spec;
        let kernels = self.parts.machine.kernels;
        let mut key = vec![0.0; dimension];
        for row in x.chunks_exact(self.spec.input_width()) {
            if self.len == self.blocks.len() * CHUNK {
                let len = 2 * cached_heads * CHUNK * dimension;
                self.blocks.push(vec![0; len].into_boxed_slice());
            }
            let block = &mut self.blocks[self.len / CHUNK];
            let cosines_sines = self.parts.rope.row(self.len);
            let (keys, values) = row[heads * dimension..].split_at(cached_heads * dimension);
            let pairs = keys
                .chunks_exact(dimension)
                .zip(values.chunks_exact(dimension));
            for (head, (from, value)) in pairs.enumerate() {
                rotate(from, cosines_sines, 1.0, &mut key);
                let (keys, values) =
                    block[2 * head * CHUNK * dimension..].split_at_mut(CHUNK * dimension);
                let at = self.len % CHUNK * dimension;
                kernels.to_half(&key, &mut keys[at..at + dimension]);
                kernels.to_half(value, &mut values[at..at + dimension]);
            }
            self.len += 1;
        }
    }

    /// The keys and values of a head in a chunk, of `seen` positions in all.
    fn chunk(&self, head: usize, chunk: usize, seen: usize) -> (&[u16], &[u16]) {
        let dimension = self.spec.dimension;
        let len = (seen - chunk * CHUNK).min(CHUNK) * dimension;
        let (keys, values) =
            self.blocks[chunk][2 * head * CHUNK * dimension..].split_at(CHUNK * dimension);
        (&keys[..len], &values[..len])
    }

    /// A head's query of the row at a position, scaled for the softmax.
    fn query(&self, row: &[f32], head: usize, position: usize, out: &mut [f32]) {
        let dimension = self.spec.dimension;
        let scale = 1.0 / (dimension as f32).sqrt();
        let query = &row[head * dimension..][..dimension];
        rotate(query, self.parts.rope.row(position), scale, out);
    }

    /// One row: a job takes a chunk of a cached head for all queries that share it.
    fn decode(&self, row: &[f32], past: usize, out: &mut [f32]) {
        let AttentionSpec {
            heads,
            cached_heads,
            dimension,
            ..
        } = self.spec;
        let Parts { machine, .. } = &self.parts;
        let (seen, group) = (past + 1, heads / cached_heads);
        let chunks = seen.div_ceil(CHUNK);
        let mut queries = vec![0.0; heads * dimension];
        for (head, query) in queries.chunks_exact_mut(dimension).enumerate() {
            self.query(row, head, past, query);
        }
        let (partial, width) = (partial_len(dimension), group * partial_len(dimension));
        let mut partials = vec![0.0; cached_heads * chunks * width];
        let job = |index: usize, out: &mut [f32]| {
            let (head, chunk) = (index / chunks, index % chunks);
            let (keys, values) = self.chunk(head, chunk, seen);
            let visible = [keys.len() / dimension; TILE_QUERIES];
            let queries = &queries[head * group * dimension..][..group * dimension];
            let parts = queries
                .chunks(TILE_QUERIES * dimension)
                .zip(out.chunks_mut(TILE_QUERIES * partial));
            for (queries, out) in parts {
                let visible = &visible[..queries.len() / dimension];
                machine
                    .kernels
                    .attend(dimension, queries, keys, values, visible, out);
            }
        };
        if chunks == 1 {
            // Too little work to share.
            for (index, out) in partials.chunks_exact_mut(width).enumerate() {
                job(index, out);
            }
        } else {
            machine
                .pool
                .tiles(&mut partials, width, (1, width), &|mut tile| {
                    let index = tile.rows().start;
                    job(index, tile.row(index));
                });
        }
        for (head, out) in out.chunks_exact_mut(dimension).enumerate() {
            let first = head / group * chunks * width + head % group * partial;
            let parts = (0..chunks).map(|chunk| &partials[first + chunk * width..][..partial]);
            merge(parts, out);
        }
    }

    /// Many rows: a job takes some rows of one head.
    fn prefill(&self, x: &[f32], past: usize, out: &mut [f32]) {
        let (width, dimension) = (self.spec.width(), self.spec.dimension);
        let tile = (TILE, dimension);
        let pool = &self.parts.machine.pool;
        pool.tiles(out, width, tile, &|mut tile| {
            let head = tile.columns().start / dimension;
            let mut queries = vec![0.0; TILE_QUERIES * dimension];
            let chunks = (past + tile.rows().end).div_ceil(CHUNK);
            let mut partials = vec![0.0; chunks * TILE_QUERIES * partial_len(dimension)];
            for first in tile.rows().step_by(TILE_QUERIES) {
                let rows = first..(first + TILE_QUERIES).min(tile.rows().end);
                for (row, query) in rows.clone().zip(queries.chunks_exact_mut(dimension)) {
                    let from = &x[row * self.spec.input_width()..];
                    self.query(from, head, past + row, query);
                }
                let queries = &queries[..rows.len() * dimension];
                self.attend(head, queries, past + first, &mut partials);
                for (i, row) in rows.clone().enumerate() {
                    let chunks = (past + row + 1).div_ceil(CHUNK);
                    merge(
                        partials
                            .chunks_exact(rows.len() * partial_len(dimension))
                            .map(|p| &p[i * partial_len(dimension)..][..partial_len(dimension)])
                            .take(chunks),
                        tile.row(row),
                    );
                }
            }
        });
    }

    /// All chunks that neighbouring queries of one head see, the first of them at `position`.
    fn attend(&self, head: usize, queries: &[f32], position: usize, partials: &mut [f32]) {
        let dimension = self.spec.dimension;
        let count = queries.len() / dimension;
        let cached = head / (self.spec.heads / self.spec.cached_heads);
        let seen = position + count;
        let parts = partials.chunks_exact_mut(count * partial_len(dimension));
        for (chunk, out) in parts.take(seen.div_ceil(CHUNK)).enumerate() {
            let (keys, values) = self.chunk(cached, chunk, seen);
            let positions = keys.len() / dimension;
            let mut visible = [0; TILE_QUERIES];
            for (i, visible) in visible.iter_mut().enumerate() {
                *visible = (position + i + 1)
                    .saturating_sub(chunk * CHUNK)
                    .min(positions);
            }
            let visible = &visible[..count];
            self.parts
                .machine
                .kernels
                .attend(dimension, queries, keys, values, visible, out);
        }
    }
}
