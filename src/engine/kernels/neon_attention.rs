//! Attention for `aarch64`: one pass over a chunk serves up to four queries.
//!
//! As in `neon`, the parent module asserts the lengths, and sums are taken in the order of the
//! AVX2 kernels.

use core::arch::aarch64::{
    float32x4_t, vadd_f32, vaddq_f32, vaddv_f32, vdupq_n_f32, vfmaq_f32, vfmaq_n_f32,
    vget_high_f32, vget_low_f32, vld1q_f32, vld1q_u8, vst1q_f32,
};

use super::attention::{CHUNK, partial_len, softmax_each};
use super::neon::{Lanes, wide};

/// Columns of the output that stay in registers during one pass over the values.
const STRIP: usize = 16;

pub(super) fn attend(
    dimension: usize,
    queries: &[f32],
    keys: &[u16],
    values: &[u16],
    visible: &[usize],
    out: &mut [f32],
) {
    // SAFETY: the slices have the lengths that the parent module asserts for as many queries and
    // this dimension.
    unsafe {
        match (dimension, visible.len()) {
            (64, 1) => chunk::<1, 64>(queries, keys, values, visible, out),
            (64, 2) => chunk::<2, 64>(queries, keys, values, visible, out),
            (64, 3) => chunk::<3, 64>(queries, keys, values, visible, out),
            (64, _) => chunk::<4, 64>(queries, keys, values, visible, out),
            (_, 1) => chunk::<1, 128>(queries, keys, values, visible, out),
            (_, 2) => chunk::<2, 128>(queries, keys, values, visible, out),
            (_, 3) => chunk::<3, 128>(queries, keys, values, visible, out),
            (_, _) => chunk::<4, 128>(queries, keys, values, visible, out),
        }
    }
}

unsafe fn chunk<const G: usize, const D: usize>(
    queries: &[f32],
    keys: &[u16],
    values: &[u16],
    visible: &[usize],
    out: &mut [f32],
) {
    let positions = visible.iter().copied().max().unwrap_or(0);
    let mut scores = [[0f32; CHUNK]; G];
    let (queries, mut key) = (queries.as_ptr(), keys.as_ptr());
    for position in 0..positions {
        // SAFETY: `key` is one of the positions' D halves, and there are G queries of D; NEON is
        // part of aarch64.
        unsafe {
            let mut sums: [Lanes; G] = [[vdupq_n_f32(0.0); 2]; G];
            for c in 0..D / 8 {
                let k = halves(key.wrapping_add(8 * c));
                for (i, sum) in sums.iter_mut().enumerate() {
                    let q = queries.wrapping_add(i * D + 8 * c);
                    sum[0] = vfmaq_f32(sum[0], k[0], vld1q_f32(q));
                    sum[1] = vfmaq_f32(sum[1], k[1], vld1q_f32(q.wrapping_add(4)));
                }
            }
            for (scores, sum) in scores.iter_mut().zip(sums) {
                scores[position] = total(sum);
            }
        }
        key = key.wrapping_add(D);
    }
    softmax_each(&mut scores, visible, positions, out, D);
    // SAFETY: there are `positions` values of D halves, and room for G partial results.
    unsafe { weigh::<G, D>(&scores, values, positions, out) };
}

/// The weighted sums of the values, a strip of columns after the other.
#[inline]
unsafe fn weigh<const G: usize, const D: usize>(
    scores: &[[f32; CHUNK]; G],
    values: &[u16],
    positions: usize,
    out: &mut [f32],
) {
    for strip in 0..D / STRIP {
        // SAFETY: `value` is at a strip of one of the positions; NEON is part of aarch64.
        unsafe {
            let mut sums: [[float32x4_t; 4]; G] = [[vdupq_n_f32(0.0); 4]; G];
            let mut value = values.as_ptr().wrapping_add(strip * STRIP);
            for position in 0..positions {
                let [a, b] = halves(value);
                let [c, d] = halves(value.wrapping_add(8));
                for (sum, scores) in sums.iter_mut().zip(scores) {
                    for (sum, v) in sum.iter_mut().zip([a, b, c, d]) {
                        *sum = vfmaq_n_f32(*sum, v, scores[position]);
                    }
                }
                value = value.wrapping_add(D);
            }
            for (sum, out) in sums.iter().zip(out.chunks_exact_mut(partial_len(D))) {
                let out = &mut out[2 + strip * STRIP..][..STRIP];
                for (sum, out) in sum.iter().zip(out.chunks_exact_mut(4)) {
                    vst1q_f32(out.as_mut_ptr(), *sum);
                }
            }
        }
    }
}

#[inline]
unsafe fn halves(at: *const u16) -> Lanes {
    // SAFETY: the caller has eight halves there.
    wide(unsafe { vld1q_u8(at.cast()) })
}

/// The sum of eight lanes, in the order that halving 256 and then 128 bits gives.
#[inline]
fn total(x: Lanes) -> f32 {
    // SAFETY: NEON is part of aarch64.
    unsafe {
        let x = vaddq_f32(x[0], x[1]);
        vaddv_f32(vadd_f32(vget_low_f32(x), vget_high_f32(x)))
    }
}
