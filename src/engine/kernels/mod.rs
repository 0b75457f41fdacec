//! The arithmetic: everything in the engine that is `unsafe` is in this folder.
//!
//! What needs it, and the rule that keeps each sound:
//! - [`map`] shows a file as bytes: bundles' files are replaced by rename, never changed.
//! - [`pool`] lends a closure to other threads: it returns only when none of them runs it.
//! - `avx2`, `neon_dot` and `neon_i8mm` use instructions that not every CPU has: only a [`Kernels`]
//!   value reaches them, and it is made after asking the CPU. The loops of all vector families leave
//!   bounds unchecked; the lengths that they rely on are asserted once per call, in the safe
//!   functions here.
//!
//! A row's arithmetic is the same whatever the batch, the chunk and the number of threads.

#![allow(unsafe_code)]

mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_attention;
mod float;
pub(crate) mod layout;
pub(crate) mod map;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neon_attention;
#[cfg(target_arch = "aarch64")]
mod neon_dot;
#[cfg(target_arch = "aarch64")]
mod neon_i8mm;
pub(crate) mod pool;
#[cfg(test)]
mod pool_tests;
mod scalar;
mod sync;
#[cfg(test)]
mod tests;

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
    /// Every `aarch64`.
    Neon,
    /// `aarch64` with the dot product instructions.
    NeonDotprod,
    /// `aarch64` with the matrix instructions.
    NeonI8mm,
}

impl Family {
    /// From the slowest.
    pub const ALL: [Family; 5] = [
        Family::Scalar,
        Family::Avx2,
        Family::Neon,
        Family::NeonDotprod,
        Family::NeonI8mm,
    ];

    /// The fastest family that this CPU has.
    #[must_use]
    pub fn detect() -> Family {
        Family::usable().last().unwrap_or(Family::Scalar)
    }

    /// The families that this CPU has, from the slowest.
    pub fn usable() -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(|family| family.available())
    }

    /// One of them by its name.
    #[must_use]
    pub fn usable_as(name: &str) -> Option<Family> {
        Family::usable().find(|family| family.as_str() == name)
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Family::Scalar => "scalar",
            Family::Avx2 => "avx2",
            Family::Neon => "neon",
            Family::NeonDotprod => "neon-dotprod",
            Family::NeonI8mm => "neon-i8mm",
        }
    }

    /// Whether this CPU has the family's instructions.
    #[must_use]
    #[cfg(target_arch = "x86_64")]
    pub fn available(self) -> bool {
        match self {
            Family::Scalar => true,
            Family::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            _ => false,
        }
    }

    /// Whether this CPU has the family's instructions.
    #[must_use]
    #[cfg(target_arch = "aarch64")]
    pub fn available(self) -> bool {
        use std::arch::is_aarch64_feature_detected;
        let dotprod = is_aarch64_feature_detected!("dotprod");
        match self {
            Family::Scalar | Family::Neon => true,
            Family::NeonDotprod => dotprod,
            Family::NeonI8mm => dotprod && is_aarch64_feature_detected!("i8mm"),
            Family::Avx2 => false,
        }
    }

    /// Whether this CPU has the family's instructions.
    #[must_use]
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub fn available(self) -> bool {
        self == Family::Scalar
    }
}

/// Kernels of a family; holding the value proves that the CPU has its instructions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kernels(Family);

/// Most activation rows that one call of [`Kernels::linear`] takes.
pub(crate) const TILE_ROWS: usize = 4;
/// Panels that products with one or two rows read at once. Decode waits for memory, and a core
/// follows several streams faster than one: each stops for a moment at the end of a page.
pub(crate) const STREAMS: usize = 4;
/// Most queries that one call of [`Kernels::attend`] takes.
pub(crate) const TILE_QUERIES: usize = 4;

/// Runs the family's version of a function: scalar, AVX2, and NEON's three. A family of another
/// architecture is never available, so its arm is never reached.
macro_rules! dispatch {
    ($self:ident, $scalar:expr, $avx2:expr, $neon:expr) => {
        dispatch!($self, $scalar, $avx2, $neon, $neon, $neon)
    };
    ($self:ident, $scalar:expr, $avx2:expr, $neon:expr, $dotprod:expr, $i8mm:expr) => {
        match $self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a `Kernels` of this family is made only when the CPU has AVX2, FMA and
            // F16C; each caller asserts the lengths that the function names.
            Family::Avx2 => unsafe { $avx2 },
            #[cfg(target_arch = "aarch64")]
            Family::Neon => $neon,
            #[cfg(target_arch = "aarch64")]
            // SAFETY: as above, with `dotprod`.
            #[allow(unused_unsafe)]
            Family::NeonDotprod => unsafe { $dotprod },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: as above, with `dotprod` and `i8mm`.
            #[allow(unused_unsafe)]
            Family::NeonI8mm => unsafe { $i8mm },
            _ => $scalar,
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
        dispatch!(
            self,
            scalar::quantise(row, out),
            avx2::quantise(row, out),
            neon::quantise(row, out)
        );
    }

    /// What a quantised row leaves out.
    pub(crate) fn rest(self, row: &[f32], blocks: &[Block], out: &mut [f32]) {
        assert!(row.len() == blocks.len() * BLOCK && row.len() == out.len());
        dispatch!(
            self,
            float::rest(row, blocks, out),
            avx2::rest(row, blocks, out),
            float::rest(row, blocks, out)
        );
    }

    /// Root mean square normalisation of one row (Zhang and Sennrich 2019).
    pub(crate) fn norm(self, row: &[f32], weights: &[f32], epsilon: f32, out: &mut [f32]) {
        assert!(row.len() == weights.len() && row.len() == out.len());
        dispatch!(
            self,
            float::norm(row, weights, epsilon, out),
            avx2::norm(row, weights, epsilon, out),
            float::norm(row, weights, epsilon, out)
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
            avx2::linear(matrix.format(), weights, rows, blocks, out),
            neon::linear(matrix.format(), weights, rows, blocks, out),
            neon_dot::linear(matrix.format(), weights, rows, blocks, out),
            neon_i8mm::linear(matrix.format(), weights, rows, blocks, out)
        );
    }

    /// `gate = silu(gate) × up` (Shazeer 2020).
    pub(crate) fn swiglu(self, gate: &mut [f32], up: &[f32]) {
        assert_eq!(gate.len(), up.len());
        dispatch!(
            self,
            float::swiglu(gate, up),
            avx2::swiglu(gate, up),
            float::swiglu(gate, up)
        );
    }

    /// To half precision, saturating, so that one huge value can't turn other rows into NaN.
    pub(crate) fn to_half(self, from: &[f32], to: &mut [u16]) {
        assert_eq!(from.len(), to.len());
        dispatch!(
            self,
            scalar::to_half(from, to),
            avx2::to_half(from, to),
            neon::to_half(from, to)
        );
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
            avx2_attention::attend(dimension, queries, keys, values, visible, out),
            neon_attention::attend(dimension, queries, keys, values, visible, out)
        );
    }
}
