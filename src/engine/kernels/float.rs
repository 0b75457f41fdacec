//! Float kernels in plain Rust, written in fixed lanes so that a compiler can use vectors.
//!
//! AVX2 builds compile the same bodies with wider instructions; Rust never fuses a multiplication
//! and an addition by itself, so both give the same bits.

use super::layout::{BLOCK, Block};

/// Lanes of the sums; the order of additions is part of the result.
const LANES: usize = 32;

#[inline(always)]
pub(super) fn norm(row: &[f32], weights: &[f32], epsilon: f32, out: &mut [f32]) {
    let mut sums = [0f32; LANES];
    let chunks = row.chunks_exact(LANES);
    for (sum, x) in sums.iter_mut().zip(chunks.remainder()) {
        *sum += x * x;
    }
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += x * x;
        }
    }
    let mean = sums.iter().sum::<f32>() / row.len() as f32;
    let factor = 1.0 / (mean + epsilon).sqrt();
    for ((out, x), weight) in out.iter_mut().zip(row).zip(weights) {
        *out = x * factor * weight;
    }
}

#[inline(always)]
pub(super) fn rest(row: &[f32], blocks: &[Block], out: &mut [f32]) {
    let chunks = row.chunks_exact(BLOCK).zip(out.chunks_exact_mut(BLOCK));
    for ((row, out), block) in chunks.zip(blocks) {
        for ((x, out), quant) in row.iter().zip(out).zip(block.quants) {
            *out = x - block.scale * f32::from(quant);
        }
    }
}

#[inline(always)]
pub(super) fn swiglu(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + exp(-*gate)) * up;
    }
}

/// Rotates one head by its position's cosines and sines (Su et al. 2021), halves paired, and
/// multiplies it.
#[inline]
pub(crate) fn rotate(head: &[f32], cosines_sines: &[f32], factor: f32, out: &mut [f32]) {
    let half = head.len() / 2;
    let (cosines, sines) = cosines_sines.split_at(half);
    let (low, high) = head.split_at(half);
    let (out_low, out_high) = out.split_at_mut(half);
    for i in 0..half {
        out_low[i] = (low[i] * cosines[i] - high[i] * sines[i]) * factor;
        out_high[i] = (high[i] * cosines[i] + low[i] * sines[i]) * factor;
    }
}

/// e^x within 2 units in the last place from -87 to 87, where it stays beyond: 2^f on [-½, ½] as
/// its Taylor polynomial of degree 6, and the integer part into the exponent.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// Adding 1.5 × 2^23 rounds to the nearest integer, which then are the lowest bits;
    /// subtracting it gives that integer as a float. Casts would keep loops from using vectors.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 87.0);
    let t = x * std::f32::consts::LOG2_E;
    let rounded = t + ROUND;
    let f = t - (rounded - ROUND);
    let p = 0.001_333_36 + f * 0.000_154_03;
    let p = 0.055_504_11 + f * (0.009_618_13 + f * p);
    let p = 1.0 + f * (std::f32::consts::LN_2 + f * (0.240_226_5 + f * p));
    // The integer is from -126 to 126; or anything for NaN, and then the product is NaN too.
    let whole = rounded.to_bits().wrapping_sub(ROUND.to_bits());
    p * f32::from_bits(whole.wrapping_add(127) << 23)
}
