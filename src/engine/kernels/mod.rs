//! The arithmetic: everything in the engine that is `unsafe` is in this folder.
//!
//! What needs it, and the rule that keeps each sound:
//! - [`map`] shows a file as bytes: bundles' files are replaced by rename, never changed.
//! - [`pool`] lends a closure to other threads: it returns only when none of them runs it.
//! - `avx2` uses instructions that not every CPU has: only a [`Kernels`] value reaches them, and
//!   it is made after asking the CPU. Its loops use raw pointers; the lengths that they rely on
//!   are asserted once per call, in the safe functions here.
//!
//! A row's arithmetic is the same whatever the batch, the chunk and the number of threads.

mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_attention;
mod float;
pub(crate) mod layout;
pub(crate) mod map;
pub(crate) mod pool;
mod scalar;

use std::ops::Range;

pub(crate) use attention::{CHUNK, HEAD_DIMENSIONS, merge, partial_len};
pub(crate) use float::rotate;
use layout::{BLOCK, Block, LANES, Matrix};

/// A set of instructions that the kernels are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Plain Rust, for every CPU.
    Scalar,
    /// `x86_64` with AVX2, FMA and F16C.
    Avx2,
}

impl Family {
    /// The fastest family that this CPU has.
    #[must_use]
    pub fn detect() -> Family {
        if Family::Avx2.available() {
            Family::Avx2
        } else {
            Family::Scalar
        }
    }

    #[must_use]
    pub fn available(self) -> bool {
        match self {
            Family::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Family::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Family::Avx2 => false,
        }
    }
}

/// Kernels of a family; holding the value proves that the CPU has its instructions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kernels(Family);

/// Most activation rows that one call of [`Kernels::linear`] takes.
pub(crate) const TILE_ROWS: usize = 4;
/// Most queries that one call of [`Kernels::attend`] takes.
pub(crate) const TILE_QUERIES: usize = 4;

/// Runs the family's version of a function; the AVX2 arm is reachable only when it is available.
macro_rules! dispatch {
    ($self:ident, $scalar:expr, $avx2:expr) => {
        match $self.0 {
            Family::Scalar => $scalar,
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a `Kernels` of this family is made only when the CPU has AVX2, FMA and
            // F16C; each caller asserts the lengths that the function names.
            Family::Avx2 => unsafe { $avx2 },
            #[cfg(not(target_arch = "x86_64"))]
            Family::Avx2 => $scalar,
        }
    };
}

impl Kernels {
    /// `None` when the CPU lacks the family's instructions.
    pub(crate) fn new(family: Family) -> Option<Kernels> {
        family.available().then_some(Kernels(family))
    }

    /// One row to int8 in groups of 32, each with its scale.
    pub(crate) fn quantise(self, row: &[f32], out: &mut [Block]) {
        assert_eq!(row.len(), out.len() * BLOCK);
        dispatch!(self, scalar::quantise(row, out), avx2::quantise(row, out));
    }

    /// Root mean square normalisation of one row (Zhang and Sennrich 2019).
    pub(crate) fn norm(self, row: &[f32], weights: &[f32], epsilon: f32, out: &mut [f32]) {
        assert!(row.len() == weights.len() && row.len() == out.len());
        dispatch!(
            self,
            float::norm(row, weights, epsilon, out),
            avx2::norm(row, weights, epsilon, out)
        );
    }

    /// Products of up to [`TILE_ROWS`] quantised rows with the matrix rows of `panels` (eight
    /// each); `out` gets one row of `8 × panels` products after the other.
    pub(crate) fn linear(
        self,
        matrix: &Matrix,
        panels: Range<usize>,
        rows: &[Block],
        out: &mut [f32],
    ) {
        let blocks = matrix.columns() / BLOCK;
        let count = rows.len() / blocks;
        assert!((1..=TILE_ROWS).contains(&count) && rows.len() == count * blocks);
        assert_eq!(out.len(), count * panels.len() * LANES);
        let weights = matrix.panels(panels);
        dispatch!(
            self,
            scalar::linear(matrix.format(), weights, rows, blocks, out),
            avx2::linear(matrix.format(), weights, rows, blocks, out)
        );
    }

    /// `gate = silu(gate) × up` (Shazeer 2020).
    pub(crate) fn swiglu(self, gate: &mut [f32], up: &[f32]) {
        assert_eq!(gate.len(), up.len());
        dispatch!(self, float::swiglu(gate, up), avx2::swiglu(gate, up));
    }

    /// To half precision, saturating, so that one huge value can't turn other rows into NaN.
    pub(crate) fn to_half(self, from: &[f32], to: &mut [u16]) {
        assert_eq!(from.len(), to.len());
        dispatch!(self, scalar::to_half(from, to), avx2::to_half(from, to));
    }

    /// One chunk of at most [`CHUNK`] positions of one cached head, for as many queries as
    /// `visible` has entries: query `i` sees the first `visible[i]` positions. `out` gets for each
    /// query its maximum, its sum and its unnormalised output (`partial_len` floats).
    pub(crate) fn attend(
        self,
        dimension: usize,
        queries: &[f32],
        keys: &[u16],
        values: &[u16],
        visible: &[usize],
        out: &mut [f32],
    ) {
        let positions = keys.len() / dimension;
        assert!(HEAD_DIMENSIONS.contains(&dimension) && keys.len() == positions * dimension);
        assert!((1..=CHUNK).contains(&positions) && values.len() == keys.len());
        assert!((1..=TILE_QUERIES).contains(&visible.len()));
        assert!(visible.iter().all(|n| *n <= positions));
        assert_eq!(queries.len(), visible.len() * dimension);
        assert_eq!(out.len(), visible.len() * partial_len(dimension));
        dispatch!(
            self,
            attention::attend(dimension, queries, keys, values, visible, out),
            avx2_attention::attend(dimension, queries, keys, values, visible, out)
        );
    }
}
