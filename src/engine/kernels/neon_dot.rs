//! Products for `aarch64` with the dot product instructions (`dotprod`: Cortex-A55, A76 and later)
//! and with the matrix instructions (`i8mm`: Neoverse N2, Cortex-A510 and later).
//!
//! The same rules and the same order of sums as in `neon`.

use core::arch::aarch64::{
    float32x4_t, int8x16_t, int32x4_t, vdupq_n_f32, vreinterpretq_f32_s32, vsubq_f32,
};
use core::arch::asm;

use super::layout::{Block, Format, LANES};
use super::neon::{
    Lanes, add_minima, add_scaled, load, nibbles, prefetch, scales, scales_minima, store,
};

/// Rows of activations that are multiplied together: as many as the registers hold.
pub(super) const ROWS: usize = 4;

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
    let tiles = rows.chunks(ROWS * blocks);
    for (rows, out) in tiles.zip(out.chunks_mut(ROWS * width)) {
        for (index, weights) in weights.chunks_exact(panel).enumerate() {
            let out = &mut out[index * LANES..];
            // SAFETY: `rows` has as many rows of `blocks` blocks as the arm says, `weights` is one
            // panel of as many blocks, and `out` has as many rows of `width` floats, of which the
            // first one's part before this panel has been cut off.
            unsafe {
                match (format, rows.len() / blocks) {
                    (Format::Q4_0, 1) => q4::<1, false>(weights, rows, blocks, out, width),
                    (Format::Q4_0, 2) => q4::<2, false>(weights, rows, blocks, out, width),
                    (Format::Q4_0, 3) => q4::<3, false>(weights, rows, blocks, out, width),
                    (Format::Q4_0, _) => q4::<4, false>(weights, rows, blocks, out, width),
                    (Format::Q4_1, 1) => q4::<1, true>(weights, rows, blocks, out, width),
                    (Format::Q4_1, 2) => q4::<2, true>(weights, rows, blocks, out, width),
                    (Format::Q4_1, 3) => q4::<3, true>(weights, rows, blocks, out, width),
                    (Format::Q4_1, _) => q4::<4, true>(weights, rows, blocks, out, width),
                    (Format::Q8_0, 1) => q8_0::<1>(weights, rows, blocks, out, width),
                    (Format::Q8_0, 2) => q8_0::<2>(weights, rows, blocks, out, width),
                    (Format::Q8_0, 3) => q8_0::<3>(weights, rows, blocks, out, width),
                    (Format::Q8_0, _) => q8_0::<4>(weights, rows, blocks, out, width),
                }
            }
        }
    }
}

/// One panel of Q4_1 (`MINIMA`) or Q4_0 times `M` rows.
#[target_feature(enable = "neon,dotprod")]
#[inline(never)]
unsafe fn q4<const M: usize, const MINIMA: bool>(
    weights: &[u8],
    rows: &[Block],
    blocks: usize,
    out: &mut [f32],
    width: usize,
) {
    let format = if MINIMA { Format::Q4_1 } else { Format::Q4_0 };
    let mut sums: [Lanes; M] = [[vdupq_n_f32(0.0); 2]; M];
    let mut w = weights.as_ptr();
    let mut x = rows.as_ptr();
    for _ in 0..blocks {
        if M == 1 {
            prefetch(w);
        }
        let mut totals: [_; M] = std::array::from_fn(|_| start());
        // SAFETY: `w` is at the begin of one of the panel's blocks; each of the `M` rows has one
        // at the same place.
        unsafe {
            let q = w.wrapping_add(format.quants());
            for half in 0..2 {
                let x = quants::<M>(x, blocks, half);
                let (low, high) = nibbles(q.wrapping_add(64 * half));
                dot::<0, M>(&mut totals, low, x);
                dot::<1, M>(&mut totals, high, x);
                let (low, high) = nibbles(q.wrapping_add(64 * half + 32));
                dot::<2, M>(&mut totals, low, x);
                dot::<3, M>(&mut totals, high, x);
            }
            let (scale, minimum) = scales_minima::<MINIMA>(w);
            for (t, sum) in sums.iter_mut().enumerate() {
                let x = &*x.wrapping_add(t * blocks);
                add_scaled(sum, unbiased(totals[t]), scale, x.scale);
                add_minima(sum, minimum, x.sum);
            }
        }
        w = w.wrapping_add(format.panel_block());
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
        let mut totals: [_; M] = std::array::from_fn(|_| start());
        // SAFETY: as in `q4`.
        unsafe {
            for half in 0..2 {
                let x = quants::<M>(x, blocks, half);
                let weights = |v: usize| {
                    let at = w.wrapping_add(Format::Q8_0.quants() + 128 * half + 32 * v);
                    [load(at), load(at.wrapping_add(16))]
                };
                dot::<0, M>(&mut totals, weights(0), x);
                dot::<1, M>(&mut totals, weights(1), x);
                dot::<2, M>(&mut totals, weights(2), x);
                dot::<3, M>(&mut totals, weights(3), x);
            }
            let scale = scales(w);
            for (t, sum) in sums.iter_mut().enumerate() {
                let x = &*x.wrapping_add(t * blocks);
                add_scaled(sum, unbiased(totals[t]), scale, x.scale);
            }
        }
        w = w.wrapping_add(Format::Q8_0.panel_block());
        x = x.wrapping_add(1);
    }
    for (t, sum) in sums.iter().enumerate() {
        store(sum, &mut out[t * width..]);
    }
}

/// One half of the block's quants of each row.
#[target_feature(enable = "neon,dotprod")]
#[inline]
unsafe fn quants<const M: usize>(x: *const Block, blocks: usize, half: usize) -> [int8x16_t; M] {
    // SAFETY: the caller has a block there in each of `M` rows.
    std::array::from_fn(|t| unsafe {
        let quants = (&raw const (*x.wrapping_add(t * blocks)).quants).cast::<u8>();
        load(quants.wrapping_add(16 * half))
    })
}

/// Adds the products of eight rows' four columns with group `N` of four activations of each row.
///
/// In the order in which they stand here, which needs the fewest registers.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn dot<const N: usize, const M: usize>(
    totals: &mut [[int32x4_t; 2]; M],
    weights: [int8x16_t; 2],
    x: [int8x16_t; M],
) {
    for (totals, x) in totals.iter_mut().zip(x) {
        for (total, weights) in totals.iter_mut().zip(weights) {
            // SAFETY: arithmetic between registers; the instruction comes with `dotprod`. The
            // standard library's own function isn't stable yet.
            unsafe {
                asm!("sdot {total:v}.4s, {weights:v}.16b, {x:v}.4b[{n}]",
                    total = inout(vreg) *total, weights = in(vreg) weights, x = in(vreg) x,
                    n = const N, options(nomem, nostack, preserves_flags));
            }
        }
    }
}

/// Where integer totals start: the bits of 1.5 × 2^23. Floats there are integers, and a total is at
/// most 32 × 128 × 127 < 2^22 away, so these bits plus a total are the bits of their sum as a float.
/// Subtracting is exact, and cheaper than a conversion, which only one of a core's pipes can do.
static BIAS: [f32; 4] = [12_582_912.0; 4];

/// Totals of `N` times four rows, which start at [`BIAS`]. It is loaded, because a copy from a
/// register would take the place of a product, and loads have places left.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn start<const N: usize>() -> [int32x4_t; N] {
    std::array::from_fn(|_| {
        let total: int32x4_t;
        // SAFETY: there are 16 bytes. Not `pure`, or the compiler would load once and copy.
        unsafe {
            asm!("ldr {total:q}, [{bias}]", total = lateout(vreg) total, bias = in(reg) &BIAS,
                options(readonly, nostack, preserves_flags));
        }
        total
    })
}

/// Totals without the bias, in float.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn unbiased<const N: usize>(totals: [int32x4_t; N]) -> [float32x4_t; N] {
    let bias = vdupq_n_f32(BIAS[0]);
    totals.map(|total| vsubq_f32(vreinterpretq_f32_s32(total), bias))
}
