//! Attention for `x86_64` with AVX2, FMA and F16C: one pass over a chunk serves up to four
//! queries.
//!
//! As in `avx2`, the parent module asserts the lengths, and pointers stay inside of the slices.

use core::arch::x86_64::{
    __m256, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_loadu_si128, _mm_movehdup_ps, _mm_movehl_ps,
    _mm256_castps256_ps128, _mm256_cvtph_ps, _mm256_extractf128_ps, _mm256_fmadd_ps,
    _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
};

use super::attention::{CHUNK, partial_len, softmax};

/// Columns of the output that stay in registers during one pass over the values.
const STRIP: usize = 16;

#[target_feature(enable = "avx2,fma,f16c")]
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

#[target_feature(enable = "avx2,fma,f16c")]
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
        let mut sums = [_mm256_setzero_ps(); G];
        for c in 0..D / 8 {
            // SAFETY: `key` is one of the positions' D halves, and there are G queries of D.
            let k = unsafe { halves(key.wrapping_add(8 * c)) };
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: as above.
                let q = unsafe { _mm256_loadu_ps(queries.wrapping_add(i * D + 8 * c)) };
                *sum = _mm256_fmadd_ps(k, q, *sum);
            }
        }
        for (scores, sum) in scores.iter_mut().zip(sums) {
            scores[position] = total(sum);
        }
        key = key.wrapping_add(D);
    }
    for ((scores, visible), out) in scores
        .iter_mut()
        .zip(visible)
        .zip(out.chunks_exact_mut(partial_len(D)))
    {
        (out[0], out[1]) = softmax(scores, *visible);
        scores[*visible..positions].fill(0.0);
    }
    // SAFETY: there are `positions` values of D halves, and room for G partial results.
    unsafe { weigh::<G, D>(&scores, values, positions, out) };
}

/// The weighted sums of the values, a strip of columns after the other.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn weigh<const G: usize, const D: usize>(
    scores: &[[f32; CHUNK]; G],
    values: &[u16],
    positions: usize,
    out: &mut [f32],
) {
    for strip in 0..D / STRIP {
        let mut sums = [[_mm256_setzero_ps(); 2]; G];
        let mut value = values.as_ptr().wrapping_add(strip * STRIP);
        for position in 0..positions {
            // SAFETY: `value` is at a strip of one of the positions.
            let v = unsafe { [halves(value), halves(value.wrapping_add(8))] };
            for (sum, scores) in sums.iter_mut().zip(scores) {
                let score = _mm256_set1_ps(scores[position]);
                sum[0] = _mm256_fmadd_ps(score, v[0], sum[0]);
                sum[1] = _mm256_fmadd_ps(score, v[1], sum[1]);
            }
            value = value.wrapping_add(D);
        }
        for (sum, out) in sums.iter().zip(out.chunks_exact_mut(partial_len(D))) {
            let out = out[2 + strip * STRIP..][..STRIP].as_mut_ptr();
            // SAFETY: the slice just taken has room for both.
            unsafe {
                _mm256_storeu_ps(out, sum[0]);
                _mm256_storeu_ps(out.wrapping_add(8), sum[1]);
            }
        }
    }
}

#[target_feature(enable = "avx2,f16c")]
#[inline]
unsafe fn halves(at: *const u16) -> __m256 {
    // SAFETY: the caller has eight halves there.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(at.cast()) })
}

#[target_feature(enable = "avx2")]
#[inline]
fn total(x: __m256) -> f32 {
    let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
}
