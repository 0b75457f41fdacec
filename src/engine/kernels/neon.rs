//! The kernels for `aarch64`: what all its families share, and the products of CPUs without the
//! dot product instructions (Cortex-A53, A72).
//!
//! As in `avx2`, the parent module asserts the lengths, pointers stay inside of the slices that
//! they come from, and they advance by `wrapping_add`. Sums are taken in the order of the AVX2
//! kernels, with the same fused steps, so that both give the same bits.

use core::arch::aarch64::{
    float32x4_t, int8x8_t, int8x16_t, int16x8_t, int32x4_t, uint8x16_t, vabsq_f32, vaddq_s32,
    vaddvq_s32, vandq_u8, vbslq_f32, vcgtq_f32, vcltq_f32, vcombine_s16, vcvtnq_s32_f32,
    vcvtq_f32_s32, vdupq_n_f32, vdupq_n_s32, vdupq_n_u8, vfmaq_f32, vfmaq_n_f32, vget_high_s8,
    vget_low_s8, vld1q_dup_s32, vld1q_f32, vld1q_s8, vld1q_u8, vmaxq_f32, vmaxvq_f32, vmlal_s8,
    vmovn_s32, vmull_s8, vmulq_n_f32, vpadalq_s16, vpaddlq_s16, vpaddq_s32, vqmovn_s16,
    vreinterpretq_s8_s32, vreinterpretq_s8_u8, vshrq_n_u8, vst1_s8, vst1q_f32,
};
use core::arch::asm;

use super::layout::{BLOCK, Block, Format, LANES};
use super::scalar;

/// How far ahead of the block in work one-row products fetch, in bytes. Decode waits for memory.
const AHEAD: usize = 1280;

/// Eight floats: a value for each row of a panel.
pub(super) type Lanes = [float32x4_t; 2];

pub(super) fn quantise(row: &[f32], out: &mut [Block]) {
    for (values, block) in row.chunks_exact(BLOCK).zip(out) {
        // SAFETY: a chunk has 32 floats and `quants` 32 bytes; NEON is part of aarch64.
        unsafe {
            let x: [float32x4_t; 8] =
                std::array::from_fn(|i| vld1q_f32(values.as_ptr().wrapping_add(4 * i)));
            let a = x.map(|x| vabsq_f32(x));
            let a: [float32x4_t; 4] = std::array::from_fn(|i| vmaxq_f32(a[2 * i], a[2 * i + 1]));
            let a = vmaxq_f32(vmaxq_f32(a[0], a[1]), vmaxq_f32(a[2], a[3]));
            block.scale = vmaxvq_f32(a) / 127.0;
            let inverse = if block.scale >= f32::MIN_POSITIVE {
                1.0 / block.scale
            } else {
                0.0
            };
            let q = x.map(|x| vcvtnq_s32_f32(vmulq_n_f32(x, inverse)));
            let sum = q.iter().fold(vdupq_n_s32(0), |sum, q| vaddq_s32(sum, *q));
            block.sum = block.scale * vaddvq_s32(sum) as f32;
            for (i, pair) in q.chunks_exact(2).enumerate() {
                let narrow = vcombine_s16(vmovn_s32(pair[0]), vmovn_s32(pair[1]));
                let to = block.quants.as_mut_ptr().wrapping_add(8 * i);
                vst1_s8(to, vqmovn_s16(narrow));
            }
        }
    }
}

pub(super) fn to_half(from: &[f32], to: &mut [u16]) {
    let mut from = from.chunks_exact(4);
    let mut to = to.chunks_exact_mut(4);
    for (from, to) in from.by_ref().zip(to.by_ref()) {
        // SAFETY: both chunks have four elements; NEON is part of aarch64.
        unsafe {
            let x = vld1q_f32(from.as_ptr());
            let (low, high) = (
                vdupq_n_f32(-scalar::HALF_MAX),
                vdupq_n_f32(scalar::HALF_MAX),
            );
            // Comparisons with NaN are false, so it passes, as it does in the scalar clamp.
            let x = vbslq_f32(vcltq_f32(x, low), low, x);
            let x = vbslq_f32(vcgtq_f32(x, high), high, x);
            let half: u64;
            asm!("fcvtn {x:v}.4h, {x:v}.4s", "fmov {half}, {x:d}", x = inout(vreg) x => _,
                half = out(reg) half, options(pure, nomem, nostack, preserves_flags));
            to.as_mut_ptr().cast::<u64>().write_unaligned(half);
        }
    }
    scalar::to_half(from.remainder(), to.into_remainder());
}

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
        for (row, x) in rows.chunks_exact(blocks).enumerate() {
            let out = &mut out[row * width + index * LANES..];
            // SAFETY: `weights` is one panel of as many blocks as `x` has, and `out` has at least
            // the eight floats of this panel's rows.
            unsafe {
                match format {
                    Format::Q4_1 => q4_1(weights, x, out),
                    Format::Q8_0 => q8_0(weights, x, out),
                }
            }
        }
    }
}

/// One Q4_1 panel times a row. A lane sums eight products: 8 × 15 × 127 = 15,240, below 2^15.
#[inline(never)]
unsafe fn q4_1(weights: &[u8], row: &[Block], out: &mut [f32]) {
    let mut w = weights.as_ptr();
    // SAFETY: `w` is at the begin of one of the panel's blocks, of which there is one for each
    // block of the row; NEON is part of aarch64.
    unsafe {
        let mut sums = [vdupq_n_f32(0.0); 2];
        for x in row {
            prefetch::<3>(w);
            let mut pairs: Option<[int16x8_t; 4]> = None;
            for v in 0..4 {
                let (low, high) = nibbles(w.wrapping_add(32 + 32 * v));
                for (bytes, quad) in [(low, 2 * v), (high, 2 * v + 1)] {
                    let a = four(x.quants.as_ptr(), quad);
                    let halves = halves(bytes);
                    pairs = Some(match pairs {
                        None => halves.map(|w| vmull_s8(w, a)),
                        Some(pairs) => std::array::from_fn(|i| vmlal_s8(pairs[i], halves[i], a)),
                    });
                }
            }
            let pairs = pairs
                .unwrap_or([vcombine_s16(vmovn_s32(vdupq_n_s32(0)), vmovn_s32(vdupq_n_s32(0))); 4]);
            let totals = fold(pairs.map(|pairs| vpaddlq_s16(pairs)));
            add_scaled(&mut sums, totals, scales(w), x.scale);
            add_minima(&mut sums, scales(w.wrapping_add(16)), x.sum);
            w = w.wrapping_add(Format::Q4_1.panel_block());
        }
        store(&sums, out);
    }
}

/// One Q8_0 panel times a row. A lane sums two products: 2 × 128 × 127, below 2^15.
#[inline(never)]
unsafe fn q8_0(weights: &[u8], row: &[Block], out: &mut [f32]) {
    let mut w = weights.as_ptr();
    // SAFETY: as in `q4_1`.
    unsafe {
        let mut sums = [vdupq_n_f32(0.0); 2];
        for x in row {
            prefetch::<5>(w);
            let mut totals = [vdupq_n_s32(0); 4];
            for v in 0..4 {
                let at = w.wrapping_add(16 + 64 * v);
                let first = halves([load(at), load(at.wrapping_add(16))]);
                let second = halves([load(at.wrapping_add(32)), load(at.wrapping_add(48))]);
                let quants = x.quants.as_ptr();
                let (a, b) = (four(quants, 2 * v), four(quants, 2 * v + 1));
                for (i, total) in totals.iter_mut().enumerate() {
                    let pairs = vmlal_s8(vmull_s8(first[i], a), second[i], b);
                    *total = vpadalq_s16(*total, pairs);
                }
            }
            add_scaled(&mut sums, fold(totals), scales(w), x.scale);
            w = w.wrapping_add(Format::Q8_0.panel_block());
        }
        store(&sums, out);
    }
}

/// Two columns' sums of each of eight rows to one sum of each.
#[inline]
fn fold(pairs: [int32x4_t; 4]) -> [int32x4_t; 2] {
    // SAFETY: NEON is part of aarch64.
    unsafe {
        [
            vpaddq_s32(pairs[0], pairs[1]),
            vpaddq_s32(pairs[2], pairs[3]),
        ]
    }
}

/// Low and high nibbles of 32 bytes: columns 0 to 3 and 4 to 7 of eight rows.
#[inline]
pub(super) unsafe fn nibbles(at: *const u8) -> ([int8x16_t; 2], [int8x16_t; 2]) {
    // SAFETY: the caller has 32 bytes there; NEON is part of aarch64.
    unsafe {
        let bytes: [uint8x16_t; 2] = [vld1q_u8(at), vld1q_u8(at.wrapping_add(16))];
        let mask = vdupq_n_u8(15);
        let low = bytes.map(|bytes| vreinterpretq_s8_u8(vandq_u8(bytes, mask)));
        let high = bytes.map(|bytes| vreinterpretq_s8_u8(vshrq_n_u8::<4>(bytes)));
        (low, high)
    }
}

/// Sixteen bytes.
#[inline]
pub(super) unsafe fn load(at: *const u8) -> int8x16_t {
    // SAFETY: the caller has 16 bytes there.
    unsafe { vld1q_s8(at.cast()) }
}

/// 32 bytes in parts of eight.
#[inline]
fn halves(bytes: [int8x16_t; 2]) -> [int8x8_t; 4] {
    // SAFETY: NEON is part of aarch64.
    unsafe {
        let [a, b] = bytes;
        [
            vget_low_s8(a),
            vget_high_s8(a),
            vget_low_s8(b),
            vget_high_s8(b),
        ]
    }
}

/// Group `index` of four activations, twice.
#[inline]
unsafe fn four(quants: *const i8, index: usize) -> int8x8_t {
    // SAFETY: the caller has that group.
    unsafe {
        let quad = vld1q_dup_s32(quants.wrapping_add(4 * index).cast());
        vget_low_s8(vreinterpretq_s8_s32(quad))
    }
}

/// Eight half-precision numbers.
#[inline]
pub(super) unsafe fn scales(at: *const u8) -> Lanes {
    // SAFETY: the caller has 16 bytes there.
    unsafe { wide(vld1q_u8(at)) }
}

/// Eight half-precision numbers of a register.
#[inline]
pub(super) fn wide(halves: uint8x16_t) -> Lanes {
    let (low, high): (float32x4_t, float32x4_t);
    // SAFETY: conversions between registers; both instructions are part of aarch64.
    unsafe {
        asm!("fcvtl {low:v}.4s, {halves:v}.4h", "fcvtl2 {high:v}.4s, {halves:v}.8h",
            halves = in(vreg) halves, low = out(vreg) low, high = lateout(vreg) high,
            options(pure, nomem, nostack, preserves_flags));
    }
    [low, high]
}

/// `sums += totals × (scales × scale)`.
#[inline]
pub(super) fn add_scaled(sums: &mut Lanes, totals: [int32x4_t; 2], scales: Lanes, scale: f32) {
    for ((sum, total), scales) in sums.iter_mut().zip(totals).zip(scales) {
        // SAFETY: NEON is part of aarch64.
        *sum = unsafe { vfmaq_f32(*sum, vcvtq_f32_s32(total), vmulq_n_f32(scales, scale)) };
    }
}

/// `sums += minima × sum`.
#[inline]
pub(super) fn add_minima(sums: &mut Lanes, minima: Lanes, sum: f32) {
    for (sums, minima) in sums.iter_mut().zip(minima) {
        // SAFETY: NEON is part of aarch64.
        *sums = unsafe { vfmaq_n_f32(*sums, minima, sum) };
    }
}

#[inline]
pub(super) fn store(sums: &Lanes, out: &mut [f32]) {
    let (low, high) = out[..LANES].split_at_mut(4);
    // SAFETY: both parts have four floats.
    unsafe {
        vst1q_f32(low.as_mut_ptr(), sums[0]);
        vst1q_f32(high.as_mut_ptr(), sums[1]);
    }
}

/// Brings `N` cache lines near that come soon after `at`. Any address may be named.
#[inline]
pub(super) fn prefetch<const N: usize>(at: *const u8) {
    for i in 0..N {
        let at = at.wrapping_add(AHEAD + 64 * i);
        // SAFETY: a prefetch of any address has no effect but on the caches.
        unsafe {
            asm!("prfm pldl1strm, [{at}]", at = in(reg) at,
                options(nostack, preserves_flags, readonly));
        }
    }
}
