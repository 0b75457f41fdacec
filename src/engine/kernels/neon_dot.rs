//! Products for `aarch64` with the dot product instructions (`dotprod`: Cortex-A55, A76 and later)
//! and with the matrix instructions (`i8mm`: Neoverse N2, Cortex-A510 and later).
//!
//! The same rules and the same order of sums as in `neon`.

use core::arch::aarch64::{int8x16_t, int32x4_t, vdupq_n_f32, vdupq_n_s32};
use core::arch::asm;

use super::layout::{Block, Format, LANES};
use super::neon::{Lanes, add_minima, add_scaled, load, nibbles, prefetch, scales, store};

#[target_feature(enable = "neon,dotprod")]
pub(super) fn linear(
    format: Format,
    weights: &[u8],
    rows: &[Block],
    blocks: usize,
    out: &mut [f32],
) {
    let panel = blocks * format.panel_block();
    let width = weights.len() / panel * LANES;
    for (index, weights) in weights.chunks_exact(panel).enumerate() {
        let out = &mut out[index * LANES..];
        // SAFETY: `rows` has as many rows of `blocks` blocks as the arm says, `weights` is one
        // panel of as many blocks, and `out` has as many rows of `width` floats, of which the
        // first one's part before this panel has been cut off.
        unsafe {
            match (format, rows.len() / blocks) {
                (Format::Q4_1, 1) => q4_1::<1>(weights, rows, blocks, out, width),
                (Format::Q4_1, 2) => q4_1::<2>(weights, rows, blocks, out, width),
                (Format::Q4_1, 3) => q4_1::<3>(weights, rows, blocks, out, width),
                (Format::Q4_1, _) => q4_1::<4>(weights, rows, blocks, out, width),
                (Format::Q8_0, 1) => q8_0::<1>(weights, rows, blocks, out, width),
                (Format::Q8_0, 2) => q8_0::<2>(weights, rows, blocks, out, width),
                (Format::Q8_0, 3) => q8_0::<3>(weights, rows, blocks, out, width),
                (Format::Q8_0, _) => q8_0::<4>(weights, rows, blocks, out, width),
            }
        }
    }
}

/// One Q4_1 panel times `M` rows.
#[target_feature(enable = "neon,dotprod")]
#[inline(never)]
unsafe fn q4_1<const M: usize>(
    weights: &[u8],
    rows: &[Block],
    blocks: usize,
    out: &mut [f32],
    width: usize,
) {
    let mut sums: [Lanes; M] = [[vdupq_n_f32(0.0); 2]; M];
    let mut w = weights.as_ptr();
    let mut x = rows.as_ptr();
    for _ in 0..blocks {
        if M == 1 {
            prefetch(w);
        }
        let mut totals = [[vdupq_n_s32(0); 2]; M];
        // SAFETY: `w` is at the begin of one of the panel's blocks; each of the `M` rows has one
        // at the same place.
        unsafe {
            let quads = [0, 1].map(|v| nibbles(w.wrapping_add(32 + 32 * v)));
            for (t, total) in totals.iter_mut().enumerate() {
                let x = load((*x.wrapping_add(t * blocks)).quants.as_ptr().cast());
                dot::<0>(total, quads[0].0, x);
                dot::<1>(total, quads[0].1, x);
                dot::<2>(total, quads[1].0, x);
                dot::<3>(total, quads[1].1, x);
            }
            let quads = [2, 3].map(|v| nibbles(w.wrapping_add(32 + 32 * v)));
            for (t, total) in totals.iter_mut().enumerate() {
                let x = &(&(*x.wrapping_add(t * blocks)).quants)[16..];
                let x = load(x.as_ptr().cast());
                dot::<0>(total, quads[0].0, x);
                dot::<1>(total, quads[0].1, x);
                dot::<2>(total, quads[1].0, x);
                dot::<3>(total, quads[1].1, x);
            }
            let (scale, minimum) = (scales(w), scales(w.wrapping_add(16)));
            for (t, sum) in sums.iter_mut().enumerate() {
                let x = &*x.wrapping_add(t * blocks);
                add_scaled(sum, totals[t], scale, x.scale);
                add_minima(sum, minimum, x.sum);
            }
        }
        w = w.wrapping_add(Format::Q4_1.panel_block());
        x = x.wrapping_add(1);
    }
    for (t, sum) in sums.iter().enumerate() {
        store(sum, &mut out[t * width..]);
    }
}

/// One Q8_0 panel times `M` rows.
#[target_feature(enable = "neon,dotprod")]
#[inline(never)]
unsafe fn q8_0<const M: usize>(
    weights: &[u8],
    rows: &[Block],
    blocks: usize,
    out: &mut [f32],
    width: usize,
) {
    let mut sums: [Lanes; M] = [[vdupq_n_f32(0.0); 2]; M];
    let mut w = weights.as_ptr();
    let mut x = rows.as_ptr();
    for _ in 0..blocks {
        if M == 1 {
            prefetch(w);
        }
        let mut totals = [[vdupq_n_s32(0); 2]; M];
        // SAFETY: as in `q4_1`.
        unsafe {
            for half in 0..2 {
                let at = w.wrapping_add(16 + 128 * half);
                let quads: [[int8x16_t; 2]; 4] = std::array::from_fn(|v| {
                    let at = at.wrapping_add(32 * v);
                    [load(at), load(at.wrapping_add(16))]
                });
                for (t, total) in totals.iter_mut().enumerate() {
                    let x = &(&(*x.wrapping_add(t * blocks)).quants)[16 * half..];
                    let x = load(x.as_ptr().cast());
                    dot::<0>(total, quads[0], x);
                    dot::<1>(total, quads[1], x);
                    dot::<2>(total, quads[2], x);
                    dot::<3>(total, quads[3], x);
                }
            }
            let scale = scales(w);
            for (t, sum) in sums.iter_mut().enumerate() {
                add_scaled(sum, totals[t], scale, (*x.wrapping_add(t * blocks)).scale);
            }
        }
        w = w.wrapping_add(Format::Q8_0.panel_block());
        x = x.wrapping_add(1);
    }
    for (t, sum) in sums.iter().enumerate() {
        store(sum, &mut out[t * width..]);
    }
}

/// Adds the products of eight rows' four columns with group `N` of four activations.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn dot<const N: usize>(totals: &mut [int32x4_t; 2], weights: [int8x16_t; 2], x: int8x16_t) {
    for (total, weights) in totals.iter_mut().zip(weights) {
        // SAFETY: arithmetic between registers; the instruction comes with `dotprod`. The
        // standard library's own function isn't stable yet.
        unsafe {
            asm!("sdot {total:v}.4s, {weights:v}.16b, {x:v}.4b[{n}]",
                total = inout(vreg) *total, weights = in(vreg) weights, x = in(vreg) x,
                n = const N, options(pure, nomem, nostack, preserves_flags));
        }
    }
}
