//! The kernels for `x86_64` with AVX2, FMA and F16C.
//!
//! Every function needs these instructions and the lengths that its caller in the parent module
//! asserts; pointers stay inside of the slices that they come from. They advance by
//! `wrapping_add`, which costs nothing in builds with debug assertions.

use core::arch::x86_64::{
    __m256, __m256i, _MM_FROUND_TO_NEAREST_INT, _MM_HINT_T0, _mm_add_epi32, _mm_cvtsi128_si32,
    _mm_cvtss_f32, _mm_loadu_si32, _mm_loadu_si128, _mm_max_ps, _mm_max_ss, _mm_movehdup_ps,
    _mm_movehl_ps, _mm_prefetch, _mm_shuffle_epi32, _mm_storeu_si128, _mm256_abs_epi8,
    _mm256_add_epi16, _mm256_add_epi32, _mm256_and_si256, _mm256_andnot_ps,
    _mm256_broadcastd_epi32, _mm256_castps256_ps128, _mm256_castsi256_si128, _mm256_cvtepi32_ps,
    _mm256_cvtph_ps, _mm256_cvtps_epi32, _mm256_cvtps_ph, _mm256_extractf128_ps,
    _mm256_extracti128_si256, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256,
    _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_max_ps, _mm256_min_ps, _mm256_mul_ps,
    _mm256_packs_epi16, _mm256_packs_epi32, _mm256_permutevar8x32_epi32, _mm256_set1_epi8,
    _mm256_set1_epi16, _mm256_set1_ps, _mm256_setr_epi32, _mm256_setzero_ps, _mm256_setzero_si256,
    _mm256_sign_epi8, _mm256_srli_epi16, _mm256_storeu_ps, _mm256_storeu_si256,
};

use std::hint::black_box;

use super::STREAMS;
use super::float;
use super::layout::{BLOCK, Block, Format, LANES};
use super::scalar;

/// How far ahead of the block in work products with one or two rows fetch, in bytes.
const AHEAD: usize = 512;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn norm(row: &[f32], weights: &[f32], epsilon: f32, out: &mut [f32]) {
    float::norm(row, weights, epsilon, out);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn rest(row: &[f32], blocks: &[Block], out: &mut [f32]) {
    float::rest(row, blocks, out);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn swiglu(gate: &mut [f32], up: &[f32]) {
    float::swiglu(gate, up);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn to_half(from: &[f32], to: &mut [u16]) {
    let (low, high) = (
        _mm256_set1_ps(-scalar::HALF_MAX),
        _mm256_set1_ps(scalar::HALF_MAX),
    );
    let mut from = from.chunks_exact(8);
    let mut to = to.chunks_exact_mut(8);
    for (from, to) in from.by_ref().zip(to.by_ref()) {
        // SAFETY: both chunks have eight elements.
        unsafe {
            let x = _mm256_loadu_ps(from.as_ptr());
            // The operand order lets NaN through, as the scalar clamp does.
            let x = _mm256_max_ps(low, _mm256_min_ps(high, x));
            let half = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x);
            _mm_storeu_si128(to.as_mut_ptr().cast(), half);
        }
    }
    scalar::to_half(from.remainder(), to.into_remainder());
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn quantise(row: &[f32], out: &mut [Block]) {
    let sign = _mm256_set1_ps(-0.0);
    for (values, block) in row.chunks_exact(BLOCK).zip(out) {
        // SAFETY: a chunk has 32 floats.
        let x: [__m256; 4] =
            [0, 8, 16, 24].map(|at| unsafe { _mm256_loadu_ps(values.as_ptr().wrapping_add(at)) });
        let a: [__m256; 4] = x.map(|x| _mm256_andnot_ps(sign, x));
        let largest = _mm256_max_ps(_mm256_max_ps(a[0], a[1]), _mm256_max_ps(a[2], a[3]));
        let m = _mm_max_ps(
            _mm256_castps256_ps128(largest),
            _mm256_extractf128_ps::<1>(largest),
        );
        let m = _mm_max_ps(m, _mm_movehl_ps(m, m));
        let largest = _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
        block.scale = largest / 127.0;
        let inverse = if block.scale >= f32::MIN_POSITIVE {
            1.0 / block.scale
        } else {
            0.0
        };
        let inverse = _mm256_set1_ps(inverse);
        let q: [__m256i; 4] = x.map(|x| _mm256_cvtps_epi32(_mm256_mul_ps(x, inverse)));
        block.sum = block.scale * sum(&q) as f32;
        let packed = _mm256_packs_epi16(
            _mm256_packs_epi32(q[0], q[1]),
            _mm256_packs_epi32(q[2], q[3]),
        );
        // Packing works within halves; this puts the columns back in order.
        let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        let packed = _mm256_permutevar8x32_epi32(packed, order);
        // SAFETY: `quants` has 32 bytes.
        unsafe { _mm256_storeu_si256(block.quants.as_mut_ptr().cast(), packed) };
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn linear(
    format: Format,
    weights: &[u8],
    rows: &[Block],
    blocks: usize,
    out: &mut [f32],
) {
    let bytes = blocks * format.panel_block();
    let count = weights.len() / bytes;
    let mut single = 0..count;
    if rows.len() <= 2 * blocks {
        let apart = count / STREAMS;
        single.start = apart * STREAMS;
        for index in 0..apart {
            let mut panels = [weights; STREAMS];
            for (s, panel) in panels.iter_mut().enumerate() {
                *panel = &weights[(index + s * apart) * bytes..][..bytes];
            }
            let out = Places {
                out: &mut out[index * LANES..],
                width: count * LANES,
                apart: apart * LANES,
            };
            match (format, rows.len() / blocks) {
                (Format::Q4_0, 1) => q4::<_, 1, false>(panels, rows, blocks, out),
                (Format::Q4_0, _) => q4::<_, 2, false>(panels, rows, blocks, out),
                (Format::Q4_1, 1) => q4::<_, 1, true>(panels, rows, blocks, out),
                (Format::Q4_1, _) => q4::<_, 2, true>(panels, rows, blocks, out),
                (Format::Q8_0, 1) => q8_0::<_, 1>(panels, rows, blocks, out),
                (Format::Q8_0, _) => q8_0::<_, 2>(panels, rows, blocks, out),
            }
        }
    }
    for index in single {
        let panel = [&weights[index * bytes..][..bytes]];
        let out = Places {
            out: &mut out[index * LANES..],
            width: count * LANES,
            apart: 0,
        };
        match (format, rows.len() / blocks) {
            (Format::Q4_0, 1) => q4::<_, 1, false>(panel, rows, blocks, out),
            (Format::Q4_0, 2) => q4::<_, 2, false>(panel, rows, blocks, out),
            (Format::Q4_0, 3) => q4::<_, 3, false>(panel, rows, blocks, out),
            (Format::Q4_0, _) => q4::<_, 4, false>(panel, rows, blocks, out),
            (Format::Q4_1, 1) => q4::<_, 1, true>(panel, rows, blocks, out),
            (Format::Q4_1, 2) => q4::<_, 2, true>(panel, rows, blocks, out),
            (Format::Q4_1, 3) => q4::<_, 3, true>(panel, rows, blocks, out),
            (Format::Q4_1, _) => q4::<_, 4, true>(panel, rows, blocks, out),
            (Format::Q8_0, 1) => q8_0::<_, 1>(panel, rows, blocks, out),
            (Format::Q8_0, 2) => q8_0::<_, 2>(panel, rows, blocks, out),
            (Format::Q8_0, 3) => q8_0::<_, 3>(panel, rows, blocks, out),
            (Format::Q8_0, _) => q8_0::<_, 4>(panel, rows, blocks, out),
        }
    }
}

/// Where products go: the first panel's of the first row to the begin of `out`.
struct Places<'a> {
    out: &'a mut [f32],
    /// From a row's products to the next row's.
    width: usize,
    /// From a panel's products to the next panel's.
    apart: usize,
}

/// `S` panels of Q4_1 (`MINIMA`) or Q4_0 times `M` rows. A sum of eight products of 4 and 8 bits'
/// pairs stays below 2^15: 8 × 2 × 15 × 127 = 30,480.
///
/// Out of line, as those of the other families, so that each has the registers for itself.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline(never)]
fn q4<const S: usize, const M: usize, const MINIMA: bool>(
    panels: [&[u8]; S],
    rows: &[Block],
    blocks: usize,
    out: Places<'_>,
) {
    let format = if MINIMA { Format::Q4_1 } else { Format::Q4_0 };
    let mut x = apart::<M>(rows, blocks);
    let (mask, ones) = (_mm256_set1_epi8(15), _mm256_set1_epi16(1));
    let mut sums = [[_mm256_setzero_ps(); M]; S];
    // Unrolled, so many sums would not stay in registers.
    let groups = match S * M {
        0..=4 => BLOCK / 8,
        _ => black_box(BLOCK / 8),
    };
    let mut at = panels.map(<[u8]>::as_ptr);
    for _ in 0..blocks {
        if M <= 2 {
            prefetch::<3, S>(at);
        }
        let mut totals = [[_mm256_setzero_si256(); M]; S];
        for v in 0..groups {
            for (totals, at) in totals.iter_mut().zip(at) {
                // SAFETY: `at` is at one of the panel's blocks.
                let both = unsafe { load(at.wrapping_add(format.quants() + 32 * v)) };
                let low = _mm256_and_si256(both, mask);
                let high = _mm256_and_si256(_mm256_srli_epi16::<4>(both), mask);
                for (total, x) in totals.iter_mut().zip(x) {
                    // SAFETY: each row has as many blocks as the panels.
                    let x = unsafe { &*x };
                    let low = _mm256_maddubs_epi16(low, quad(x, 2 * v));
                    let high = _mm256_maddubs_epi16(high, quad(x, 2 * v + 1));
                    *total = _mm256_add_epi16(*total, _mm256_add_epi16(low, high));
                }
            }
        }
        for ((sums, totals), at) in sums.iter_mut().zip(totals).zip(&mut at) {
            // SAFETY: as above.
            let scale = unsafe { halves(*at) };
            let minimum = match MINIMA {
                // SAFETY: as above; this format has minima.
                true => unsafe { halves(at.wrapping_add(2 * LANES)) },
                false => _mm256_mul_ps(scale, _mm256_set1_ps(-8.0)),
            };
            for ((sum, total), x) in sums.iter_mut().zip(totals).zip(x) {
                // SAFETY: each row has as many blocks as the panels.
                let x = unsafe { &*x };
                let total = _mm256_cvtepi32_ps(_mm256_madd_epi16(total, ones));
                let factor = _mm256_mul_ps(scale, _mm256_set1_ps(x.scale));
                *sum = _mm256_fmadd_ps(total, factor, *sum);
                *sum = _mm256_fmadd_ps(minimum, _mm256_set1_ps(x.sum), *sum);
            }
            *at = at.wrapping_add(format.panel_block());
        }
        for x in &mut x {
            *x = x.wrapping_add(1);
        }
    }
    store(&sums, out);
}

/// `S` Q8_0 panels times `M` rows. A pair's sum is at most 2 × 128 × 127, below 2^15.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline(never)]
fn q8_0<const S: usize, const M: usize>(
    panels: [&[u8]; S],
    rows: &[Block],
    blocks: usize,
    out: Places<'_>,
) {
    let format = Format::Q8_0;
    let mut x = apart::<M>(rows, blocks);
    let ones = _mm256_set1_epi16(1);
    let mut sums = [[_mm256_setzero_ps(); M]; S];
    // Unrolled, several rows would be computed one after the other, each waiting for its last sum.
    let groups = match M {
        1 => BLOCK / 4,
        _ => black_box(BLOCK / 4),
    };
    let mut at = panels.map(<[u8]>::as_ptr);
    for _ in 0..blocks {
        if M <= 2 {
            prefetch::<5, S>(at);
        }
        let mut totals = [[_mm256_setzero_si256(); M]; S];
        for v in 0..groups {
            for (totals, at) in totals.iter_mut().zip(at) {
                // SAFETY: `at` is at one of the panel's blocks.
                let quants = unsafe { load(at.wrapping_add(format.quants() + 32 * v)) };
                let absolute = _mm256_abs_epi8(quants);
                for (total, x) in totals.iter_mut().zip(x) {
                    // SAFETY: each row has as many blocks as the panels.
                    let x = unsafe { &*x };
                    let signed = _mm256_sign_epi8(quad(x, v), quants);
                    let pairs = _mm256_maddubs_epi16(absolute, signed);
                    *total = _mm256_add_epi32(*total, _mm256_madd_epi16(pairs, ones));
                }
            }
        }
        for ((sums, totals), at) in sums.iter_mut().zip(totals).zip(&mut at) {
            // SAFETY: as above.
            let scale = unsafe { halves(*at) };
            for ((sum, total), x) in sums.iter_mut().zip(totals).zip(x) {
                // SAFETY: each row has as many blocks as the panels.
                let x = unsafe { &*x };
                let factor = _mm256_mul_ps(scale, _mm256_set1_ps(x.scale));
                *sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total), factor, *sum);
            }
            *at = at.wrapping_add(format.panel_block());
        }
        for x in &mut x {
            *x = x.wrapping_add(1);
        }
    }
    store(&sums, out);
}

/// Where each row begins. Not by `std::array::from_fn`: functions without the instructions of
/// their callers may not be inlined into those.
#[inline]
fn apart<const M: usize>(rows: &[Block], blocks: usize) -> [*const Block; M] {
    let mut list = [rows.as_ptr(); M];
    for (index, row) in list.iter_mut().enumerate() {
        *row = row.wrapping_add(index * blocks);
    }
    list
}

/// Brings `N` cache lines of each panel near that come soon. Any address may be named.
#[target_feature(enable = "avx2")]
#[inline]
fn prefetch<const N: usize, const S: usize>(panels: [*const u8; S]) {
    for at in panels {
        for i in 0..N {
            _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD + 64 * i).cast());
        }
    }
}

/// 32 bytes.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn load(at: *const u8) -> __m256i {
    // SAFETY: the caller has 32 bytes there.
    unsafe { _mm256_loadu_si256(at.cast()) }
}

/// Eight half-precision numbers.
#[target_feature(enable = "avx2,f16c")]
#[inline]
unsafe fn halves(at: *const u8) -> __m256 {
    // SAFETY: the caller has 16 bytes there.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(at.cast()) })
}

/// Group `index` of four activations, in all lanes.
#[target_feature(enable = "avx2")]
#[inline]
fn quad(x: &Block, index: usize) -> __m256i {
    // SAFETY: the block has eight such groups.
    let four = unsafe { _mm_loadu_si32(x.quants.as_ptr().wrapping_add(4 * index).cast()) };
    _mm256_broadcastd_epi32(four)
}

#[target_feature(enable = "avx2")]
#[inline]
fn store<const S: usize, const M: usize>(
    sums: &[[__m256; M]; S],
    Places { out, width, apart }: Places<'_>,
) {
    for (s, sums) in sums.iter().enumerate() {
        for (t, sum) in sums.iter().enumerate() {
            let out = &mut out[s * apart + t * width..][..LANES];
            // SAFETY: the slice has room for eight floats.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), *sum) };
        }
    }
}

/// The sum of 32 integers.
#[target_feature(enable = "avx2")]
#[inline]
fn sum(q: &[__m256i; 4]) -> i32 {
    let t = _mm256_add_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3]));
    let t = _mm_add_epi32(_mm256_castsi256_si128(t), _mm256_extracti128_si256::<1>(t));
    let t = _mm_add_epi32(t, _mm_shuffle_epi32::<0x4e>(t));
    _mm_cvtsi128_si32(_mm_add_epi32(t, _mm_shuffle_epi32::<0xb1>(t)))
}
