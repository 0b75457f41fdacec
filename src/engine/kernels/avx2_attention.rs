//! Attention for `x86_64` with AVX2, FMA and F16C: one pass over a chunk serves up to four
//! queries.
//!
//! As in `avx2`, the parent module asserts the lengths, and pointers stay inside of the slices.

use core::arch::x86_64::{
    __m256, _mm_loadu_si128, _mm256_add_ps, _mm256_castpd_ps, _mm256_castps_pd, _mm256_cvtph_ps,
    _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_permute2f128_ps, _mm256_permutevar8x32_ps,
    _mm256_set1_ps, _mm256_setr_epi32, _mm256_setzero_ps, _mm256_shuffle_ps, _mm256_storeu_ps,
    _mm256_unpackhi_pd, _mm256_unpacklo_pd,
};

use std::hint::black_box;

use super::attention::{CHUNK, partial_len, softmax_each};

/// Columns of the output that stay in registers during one pass over the values.
const STRIP: usize = 16;
/// Positions whose scores are made together.
const GROUP: usize = 8;

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
    // Unrolled, the sums would be computed one after the other, each waiting for its last product.
    let steps = black_box(D / 8);
    for first in (0..positions).step_by(GROUP) {
        let mut sums = [[_mm256_setzero_ps(); GROUP / 2]; G];
        for pair in 0..GROUP / 2 {
            // Scores past the last position are computed from it, and never used.
            let at = [0, 1].map(|i| (first + 2 * pair + i).min(positions - 1));
            let keys = at.map(|at| keys.as_ptr().wrapping_add(at * D));
            // SAFETY: each key is one of the positions' D halves, and there are G queries of D.
            let two = unsafe { products::<G, D>(queries, keys, steps) };
            for (sums, two) in sums.iter_mut().zip(two) {
                sums[pair] = two;
            }
        }
        for (scores, sums) in scores.iter_mut().zip(sums) {
            let scores = &mut scores[first..first + GROUP];
            // SAFETY: the slice has eight floats.
            unsafe { _mm256_storeu_ps(scores.as_mut_ptr(), totals(sums)) };
        }
    }
    softmax_each(&mut scores, visible, positions, out, D);
    // SAFETY: there are `positions` values of D halves, and room for G partial results.
    unsafe { weigh::<G, D>(&scores, values, positions, out) };
}

/// Two keys' products with each query, both halves of their lanes added: a key in each half.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn products<const G: usize, const D: usize>(
    queries: &[f32],
    keys: [*const u16; 2],
    steps: usize,
) -> [__m256; G] {
    let mut sums = [[_mm256_setzero_ps(); 2]; G];
    for c in 0..steps {
        // SAFETY: the caller has D halves at each key, in as many steps of eight.
        let k = keys.map(|key| unsafe { halves(key.wrapping_add(8 * c)) });
        for (i, sum) in sums.iter_mut().enumerate() {
            let query = queries.as_ptr().wrapping_add(i * D + 8 * c);
            // SAFETY: the caller has G queries of D.
            let q = unsafe { _mm256_loadu_ps(query) };
            *sum = [
                _mm256_fmadd_ps(k[0], q, sum[0]),
                _mm256_fmadd_ps(k[1], q, sum[1]),
            ];
        }
    }
    sums.map(|[a, b]| {
        _mm256_add_ps(
            _mm256_permute2f128_ps::<0x20>(a, b),
            _mm256_permute2f128_ps::<0x31>(a, b),
        )
    })
}

/// The scores of four pairs of keys, in their order.
#[target_feature(enable = "avx2")]
#[inline]
fn totals(pairs: [__m256; 4]) -> __m256 {
    let [a, b, c, d] = pairs.map(|pair| _mm256_castps_pd(pair));
    let add = |a, b| {
        let (low, high) = (_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b));
        _mm256_add_ps(_mm256_castpd_ps(low), _mm256_castpd_ps(high))
    };
    let (ab, cd) = (add(a, b), add(c, d));
    let sums = _mm256_add_ps(
        _mm256_shuffle_ps::<0x88>(ab, cd),
        _mm256_shuffle_ps::<0xdd>(ab, cd),
    );
    _mm256_permutevar8x32_ps(sums, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
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
