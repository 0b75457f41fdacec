//! The kernels for `aarch64`: what all its families share, and the products of CPUs without the
//! dot product instructions (Cortex-A53, A72).
//!
//! As in `avx2`, the parent module asserts the lengths, pointers stay inside of the slices that
//! they come from, and they advance by `wrapping_add`. Sums are taken in the order of the AVX2
//! kernels, with the same fused steps, so that both give the same bits.

use core::arch::aarch64::{
    float32x4_t, int8x16_t, int16x8_t, int32x4_t, uint8x16_t, vabsq_f32, vaddq_s32, vaddvq_s32,
    vandq_u8, vbslq_f32, vcgtq_f32, vcltq_f32, vcombine_s16, vcvtnq_s32_f32, vcvtq_f32_s32,
    vdupq_n_f32, vdupq_n_s32, vdupq_n_u8, vfmaq_f32, vfmaq_n_f32, vget_low_s8, vld1q_f32, vld1q_s8,
    vld1q_u8, vmaxq_f32, vmaxvq_f32, vmlal_high_s8, vmlal_s8, vmovn_s32, vmull_high_s8, vmull_s8,
    vmulq_n_f32, vpadalq_s16, vpaddlq_s16, vpaddq_s32, vqmovn_s16, vreinterpretq_s8_u8, vshrq_n_u8,
    vst1_s8, vst1q_f32,
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
                    Format::Q4_0 => q4::<false>(weights, x, out),
                    Format::Q4_1 => q4::<true>(weights, x, out),
                    Format::Q8_0 => q8_0(weights, x, out),
                }
            }
        }
    }
}

/// One panel of Q4_1 (`MINIMA`) or Q4_0 times a row. A lane sums eight products: 8 × 15 × 127 = 15,240, below 2^15.
///
/// Out of line, as those of the other families, so that each has the registers for itself.
#[inline(never)]
unsafe fn q4<const MINIMA: bool>(weights: &[u8], row: &[Block], out: &mut [f32]) {
    let format = if MINIMA { Format::Q4_1 } else { Format::Q4_0 };
    let mut w = weights.as_ptr();
    // SAFETY: `w` is at the begin of one of the panel's blocks, of which there is one for each
    // block of the row; NEON is part of aarch64.
    unsafe {
        let mut sums = [vdupq_n_f32(0.0); 2];
        for x in row {
            prefetch(w);
            let [first, second] = activations(x);
            let q = w.wrapping_add(format.quants());
            let (low, high) = nibbles(q);
            let pairs = products(low, four::<0>(first));
            let pairs = add_products(pairs, high, four::<1>(first));
            let (low, high) = nibbles(q.wrapping_add(32));
            let pairs = add_products(pairs, low, four::<2>(first));
            let pairs = add_products(pairs, high, four::<3>(first));
            let (low, high) = nibbles(q.wrapping_add(64));
            let pairs = add_products(pairs, low, four::<0>(second));
            let pairs = add_products(pairs, high, four::<1>(second));
            let (low, high) = nibbles(q.wrapping_add(96));
            let pairs = add_products(pairs, low, four::<2>(second));
            let pairs = add_products(pairs, high, four::<3>(second));
            let totals = fold(pairs.map(|pairs| vpaddlq_s16(pairs)));
            let totals = totals.map(|total| vcvtq_f32_s32(total));
            let (scale, minimum) = scales_minima::<MINIMA>(w);
            add_scaled(&mut sums, totals, scale, x.scale);
            add_minima(&mut sums, minimum, x.sum);
            w = w.wrapping_add(format.panel_block());
        }
        store(&sums, out);
    }
}

/// One Q8_0 panel times a row. A lane sums two products: 2 × 128 × 127, below 2^15.
#[inline(never)]
unsafe fn q8_0(weights: &[u8], row: &[Block], out: &mut [f32]) {
    let mut w = weights.as_ptr();
    // SAFETY: as in `q4`.
    unsafe {
        let mut sums = [vdupq_n_f32(0.0); 2];
        for x in row {
            prefetch(w);
            let [first, second] = activations(x);
            let weights = |v: usize| {
                let at = w.wrapping_add(Format::Q8_0.quants() + 32 * v);
                [load(at), load(at.wrapping_add(16))]
            };
            let pairs = products(weights(0), four::<0>(first));
            let totals = add_products(pairs, weights(1), four::<1>(first)).map(|p| vpaddlq_s16(p));
            let pairs = products(weights(2), four::<2>(first));
            let totals = widen(totals, add_products(pairs, weights(3), four::<3>(first)));
            let pairs = products(weights(4), four::<0>(second));
            let totals = widen(totals, add_products(pairs, weights(5), four::<1>(second)));
            let pairs = products(weights(6), four::<2>(second));
            let totals = widen(totals, add_products(pairs, weights(7), four::<3>(second)));
            let totals = fold(totals).map(|total| vcvtq_f32_s32(total));
            add_scaled(&mut sums, totals, scales(w), x.scale);
            w = w.wrapping_add(Format::Q8_0.panel_block());
        }
        store(&sums, out);
    }
}

/// The block's quants.
#[inline]
fn activations(x: &Block) -> [int8x16_t; 2] {
    let quants: *const u8 = x.quants.as_ptr().cast();
    // SAFETY: there are 32 of them.
    unsafe { [load(quants), load(quants.wrapping_add(16))] }
}

/// Neighbours' sums, added to wider totals.
#[inline]
fn widen(totals: [int32x4_t; 4], pairs: [int16x8_t; 4]) -> [int32x4_t; 4] {
    // SAFETY: NEON is part of aarch64.
    std::array::from_fn(|i| unsafe { vpadalq_s16(totals[i], pairs[i]) })
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

/// Products of eight rows' four columns with a group of four activations, two rows in each.
#[inline]
fn products(w: [int8x16_t; 2], a: int8x16_t) -> [int16x8_t; 4] {
    // SAFETY: NEON is part of aarch64.
    unsafe {
        let low = |w| vmull_s8(vget_low_s8(w), vget_low_s8(a));
        let high = |w| vmull_high_s8(w, a);
        [low(w[0]), high(w[0]), low(w[1]), high(w[1])]
    }
}

/// The same, added to others.
#[inline]
fn add_products(to: [int16x8_t; 4], w: [int8x16_t; 2], a: int8x16_t) -> [int16x8_t; 4] {
    // SAFETY: NEON is part of aarch64.
    unsafe {
        let low = |to, w| vmlal_s8(to, vget_low_s8(w), vget_low_s8(a));
        let high = |to, w| vmlal_high_s8(to, w, a);
        [
            low(to[0], w[0]),
            high(to[1], w[0]),
            low(to[2], w[1]),
            high(to[3], w[1]),
        ]
    }
}

/// Group `N` of four activations, four times. The compiler may not see that: it would use the lower
/// half for both and move the upper half of each weight down instead.
#[inline]
fn four<const N: usize>(x: int8x16_t) -> int8x16_t {
    let group: int8x16_t;
    // SAFETY: from one register to another; the instruction is part of aarch64.
    unsafe {
        asm!("dup {group:v}.4s, {x:v}.s[{n}]", group = lateout(vreg) group, x = in(vreg) x,
            n = const N, options(pure, nomem, nostack, preserves_flags));
    }
    group
}

/// Eight half-precision numbers.
#[inline]
pub(super) unsafe fn scales(at: *const u8) -> Lanes {
    // SAFETY: the caller has 16 bytes there.
    unsafe { wide(vld1q_u8(at)) }
}

/// The scales and minima of a block of Q4_1 (`MINIMA`), or of Q4_0, whose quants are above −8.
#[inline]
pub(super) unsafe fn scales_minima<const MINIMA: bool>(at: *const u8) -> (Lanes, Lanes) {
    // SAFETY: the caller has such a block there; NEON is part of aarch64.
    unsafe {
        let scale = scales(at);
        let minimum = match MINIMA {
            true => scales(at.wrapping_add(2 * LANES)),
            false => scale.map(|scale| vmulq_n_f32(scale, -8.0)),
        };
        (scale, minimum)
    }
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
pub(super) fn add_scaled(sums: &mut Lanes, totals: Lanes, scales: Lanes, scale: f32) {
    for ((sum, total), scales) in sums.iter_mut().zip(totals).zip(scales) {
        // SAFETY: NEON is part of aarch64.
        *sum = unsafe { vfmaq_f32(*sum, total, vmulq_n_f32(scales, scale)) };
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

/// Brings one cache line near that comes soon after `at`; any address may be named. The CPU itself
/// follows one stream inside of a page; this has the next page's address ready in time. More would
/// take the place of loads.
#[inline]
pub(super) fn prefetch(at: *const u8) {
    // SAFETY: a prefetch of any address has no effect but on the caches.
    unsafe {
        asm!("prfm pldl1strm, [{at}, #{ahead}]", at = in(reg) at, ahead = const AHEAD,
            options(nostack, preserves_flags, readonly));
    }
}
