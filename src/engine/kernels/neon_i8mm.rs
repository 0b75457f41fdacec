//! Products of several rows for `aarch64` with the matrix instructions (`i8mm`: Neoverse N2,
//! Cortex-A510 and later). One `smmla` multiplies two rows of weights with two of activations.
//!
//! The same rules and the same order of sums as in `neon`; single rows are `neon_dot`'s.

use core::arch::aarch64::{
    int8x16_t, int32x4_t, vcombine_s8, vdupq_n_f32, vld1_s8, vreinterpretq_s8_s32,
    vreinterpretq_s32_s8, vuzp1q_s32, vuzp2q_s32, vzip1q_s32, vzip2q_s32,
};
use core::arch::asm;

use super::layout::{Block, Format, LANES};
use super::neon::{Lanes, add_minima, add_scaled, load, nibbles, scales, store};
use super::neon_dot::{self, start, unbiased};

/// Eight rows of eight columns, by two rows.
type Octet = [int8x16_t; 4];

#[target_feature(enable = "neon,dotprod,i8mm")]
pub(super) fn linear(
    format: Format,
    weights: &[u8],
    rows: &[Block],
    blocks: usize,
    out: &mut [f32],
) {
    let panel = blocks * format.panel_block();
    let width = weights.len() / panel * LANES;
    let count = rows.len() / blocks;
    if count == 1 {
        return neon_dot::linear(format, weights, rows, blocks, out);
    }
    for (index, weights) in weights.chunks_exact(panel).enumerate() {
        let out = &mut out[index * LANES..];
        // SAFETY: `rows` has two to four rows of `blocks` blocks, `weights` is one panel of as
        // many blocks, and `out` has as many rows of `width` floats, of which the first one's
        // part before this panel has been cut off.
        unsafe {
            match (format, count) {
                (Format::Q4_1, 2) => product::<true, 1>(weights, rows, blocks, out, width),
                (Format::Q4_1, _) => product::<true, 2>(weights, rows, blocks, out, width),
                (Format::Q8_0, 2) => product::<false, 1>(weights, rows, blocks, out, width),
                (Format::Q8_0, _) => product::<false, 2>(weights, rows, blocks, out, width),
            }
        }
    }
}

/// One panel (Q4_1 where `NIBBLES`, else Q8_0) times up to `P` pairs of rows; the last row of an
/// odd number stands for its missing neighbour too.
#[target_feature(enable = "neon,dotprod,i8mm")]
#[inline(never)]
unsafe fn product<const NIBBLES: bool, const P: usize>(
    weights: &[u8],
    rows: &[Block],
    blocks: usize,
    out: &mut [f32],
    width: usize,
) {
    let last = rows.len() / blocks - 1;
    let format = if NIBBLES { Format::Q4_1 } else { Format::Q8_0 };
    let mut sums: [[Lanes; 2]; P] = [[[vdupq_n_f32(0.0); 2]; 2]; P];
    let mut w = weights.as_ptr();
    for block in 0..blocks {
        let pairs: [[&Block; 2]; P] = std::array::from_fn(|p| {
            [2 * p, (2 * p + 1).min(last)].map(|row| &rows[row * blocks + block])
        });
        let mut totals: [[_; 4]; P] = std::array::from_fn(|_| start());
        for group in 0..4 {
            // SAFETY: `w` is at the begin of one of the panel's blocks.
            let octet = unsafe { octet::<NIBBLES>(w, group) };
            for (totals, pair) in totals.iter_mut().zip(&pairs) {
                let x = columns(pair, group);
                for (total, weights) in totals.iter_mut().zip(octet) {
                    *total = multiply(*total, weights, x);
                }
            }
        }
        // SAFETY: as above; the minima are Q4_1's.
        let (scale, minimum) = unsafe { (scales(w), scales(w.wrapping_add(16))) };
        for ((sums, totals), pair) in sums.iter_mut().zip(totals).zip(&pairs) {
            for ((sum, totals), x) in sums.iter_mut().zip(apart(totals)).zip(pair) {
                add_scaled(sum, unbiased(totals), scale, x.scale);
                if NIBBLES {
                    add_minima(sum, minimum, x.sum);
                }
            }
        }
        w = w.wrapping_add(format.panel_block());
    }
    for (row, sum) in sums.as_flattened().iter().take(last + 1).enumerate() {
        store(sum, &mut out[row * width..]);
    }
}

/// Columns `8 × group` to `8 × group + 7` of a panel's block.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn octet<const NIBBLES: bool>(block: *const u8, group: usize) -> Octet {
    // SAFETY: the caller has a block there; groups are 0 to 3.
    let (first, second) = unsafe {
        if NIBBLES {
            nibbles(block.wrapping_add(32 + 32 * group))
        } else {
            let at = |i: usize| block.wrapping_add(16 + 64 * group + 16 * i);
            ([load(at(0)), load(at(1))], [load(at(2)), load(at(3))])
        }
    };
    let zip = |a, b| {
        let (a, b) = (vreinterpretq_s32_s8(a), vreinterpretq_s32_s8(b));
        [vzip1q_s32(a, b), vzip2q_s32(a, b)].map(|pair| vreinterpretq_s8_s32(pair))
    };
    let ([a, b], [c, d]) = (zip(first[0], second[0]), zip(first[1], second[1]));
    [a, b, c, d]
}

/// The same columns of two rows of activations.
#[target_feature(enable = "neon")]
#[inline]
fn columns(pair: &[&Block; 2], group: usize) -> int8x16_t {
    let [a, b] = pair.map(|x| {
        let quants = &x.quants[8 * group..8 * group + 8];
        // SAFETY: the slice has eight bytes.
        unsafe { vld1_s8(quants.as_ptr()) }
    });
    vcombine_s8(a, b)
}

/// Products of two rows with two columns, added to each of the four totals.
#[target_feature(enable = "neon,i8mm")]
#[inline]
fn multiply(mut total: int32x4_t, weights: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: arithmetic between registers; the instruction comes with `i8mm`. The standard
    // library's own function isn't stable yet.
    unsafe {
        asm!("smmla {total:v}.4s, {weights:v}.16b, {x:v}.16b",
            total = inout(vreg) total, weights = in(vreg) weights, x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags));
    }
    total
}

/// The totals of a pair of rows, each row's own.
#[target_feature(enable = "neon")]
#[inline]
fn apart(t: [int32x4_t; 4]) -> [[int32x4_t; 2]; 2] {
    [
        [vuzp1q_s32(t[0], t[1]), vuzp1q_s32(t[2], t[3])],
        [vuzp2q_s32(t[0], t[1]), vuzp2q_s32(t[2], t[3])],
    ]
}
