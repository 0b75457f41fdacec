//! Products of several rows for `aarch64` with the matrix instructions (`i8mm`: Neoverse N2,
//! Cortex-A510 and later). One `smmla` multiplies two rows of weights with two of activations.
//!
//! The same rules and the same order of sums as in `neon`; single rows are `neon_dot`'s.

use core::arch::aarch64::{
    float32x4_t, int8x16_t, int32x4_t, vcombine_f32, vcombine_s8, vdupq_n_f32, vfmaq_f32, vld1_f32,
    vld1_s8, vmulq_f32, vreinterpretq_s8_s32, vreinterpretq_s32_s8, vuzp1q_f32, vuzp2q_f32,
    vzip1q_f32, vzip1q_s32, vzip2q_f32, vzip2q_s32,
};
use core::arch::asm;
use std::mem::MaybeUninit;

use super::layout::{BLOCK, Block, Format, LANES};
use super::neon::{Lanes, load, nibbles, scales, scales_minima, store};
use super::neon_dot::{self, ROWS, start, unbiased};

/// Most blocks of a row that are packed, 24 KB of stack for two pairs; longer rows are `neon_dot`'s.
const PACKED: usize = 128;

/// A block of two rows of activations as the products take it.
#[derive(Clone, Copy)]
struct Pair {
    /// Eight columns of the first row and of the second, four times.
    quants: [int8x16_t; 4],
    /// Of the first row, of the second, and both again; so are the sums.
    scale: float32x4_t,
    sum: float32x4_t,
}

/// Four sums for each of two rows of activations, as `smmla` leaves them: two rows of weights each.
type Squares = [float32x4_t; 4];

/// A format of weights, known when it is compiled.
trait Blocks {
    const FORMAT: Format;

    /// A block's minima, where the format has any.
    ///
    /// # Safety
    /// There is a block of the format at `at`.
    unsafe fn minima(at: *const u8) -> Option<Lanes>;
}

struct Q4_0;
struct Q4_1;
struct Q8_0;

impl Blocks for Q4_0 {
    const FORMAT: Format = Format::Q4_0;

    #[inline]
    unsafe fn minima(at: *const u8) -> Option<Lanes> {
        // SAFETY: the caller's promise.
        Some(unsafe { scales_minima::<false>(at) }.1)
    }
}

impl Blocks for Q4_1 {
    const FORMAT: Format = Format::Q4_1;

    #[inline]
    unsafe fn minima(at: *const u8) -> Option<Lanes> {
        // SAFETY: the caller's promise.
        Some(unsafe { scales_minima::<true>(at) }.1)
    }
}

impl Blocks for Q8_0 {
    const FORMAT: Format = Format::Q8_0;

    #[inline]
    unsafe fn minima(_: *const u8) -> Option<Lanes> {
        None
    }
}

#[target_feature(enable = "neon,dotprod,i8mm")]
pub(super) fn linear(
    format: Format,
    weights: &[u8],
    rows: &[Block],
    blocks: usize,
    out: &mut [f32],
) {
    if rows.len() == blocks || blocks > PACKED {
        return neon_dot::linear(format, weights, rows, blocks, out);
    }
    let panel = blocks * format.panel_block();
    let width = weights.len() / panel * LANES;
    let tiles = rows.chunks(ROWS * blocks);
    for (rows, out) in tiles.zip(out.chunks_mut(ROWS * width)) {
        let mut packed = [const { MaybeUninit::uninit() }; PACKED * ROWS / 2];
        let packed = pack(rows, blocks, &mut packed);
        for (index, weights) in weights.chunks_exact(panel).enumerate() {
            let mut squares = [[vdupq_n_f32(0.0); 4]; ROWS / 2];
            // SAFETY: there are one or two pairs for each of the panel's blocks.
            unsafe {
                match (format, packed.len() / blocks) {
                    (Format::Q4_0, 1) => product::<Q4_0, 1>(weights, packed, &mut squares),
                    (Format::Q4_0, _) => product::<Q4_0, 2>(weights, packed, &mut squares),
                    (Format::Q4_1, 1) => product::<Q4_1, 1>(weights, packed, &mut squares),
                    (Format::Q4_1, _) => product::<Q4_1, 2>(weights, packed, &mut squares),
                    (Format::Q8_0, 1) => product::<Q8_0, 1>(weights, packed, &mut squares),
                    (Format::Q8_0, _) => product::<Q8_0, 2>(weights, packed, &mut squares),
                }
            }
            let sums = squares.map(|squares| apart(squares));
            let out = out.chunks_exact_mut(width);
            for (sums, out) in sums.as_flattened().iter().zip(out) {
                store(sums, &mut out[index * LANES..]);
            }
        }
    }
}

/// Packs the rows by pairs: all pairs of the first block, then of the next. The last row of an odd
/// number stands for its missing neighbour too.
#[target_feature(enable = "neon")]
fn pack<'a>(rows: &[Block], blocks: usize, to: &'a mut [MaybeUninit<Pair>]) -> &'a [Pair] {
    let last = rows.len() / blocks - 1;
    let pairs = last / 2 + 1;
    let to = &mut to[..blocks * pairs];
    for (index, to) in to.iter_mut().enumerate() {
        let (block, pair) = (index / pairs, index % pairs);
        let [a, b] = [2 * pair, (2 * pair + 1).min(last)].map(|row| &rows[row * blocks + block]);
        to.write(join(a, b));
    }
    // SAFETY: each has been written; `MaybeUninit` has its content's layout.
    unsafe { &*(&raw const *to as *const [Pair]) }
}

#[target_feature(enable = "neon")]
#[inline]
fn join(a: &Block, b: &Block) -> Pair {
    let eight = |block: &Block, group: usize| {
        let quants: &[i8; BLOCK] = &block.quants;
        // SAFETY: groups are 0 to 3, of eight bytes each.
        unsafe { vld1_s8(quants.as_ptr().wrapping_add(8 * group)) }
    };
    let four = |a: f32, b: f32| {
        let two = [a, b];
        // SAFETY: there are two.
        let two = unsafe { vld1_f32(two.as_ptr()) };
        vcombine_f32(two, two)
    };
    Pair {
        quants: [0, 1, 2, 3].map(|group| vcombine_s8(eight(a, group), eight(b, group))),
        scale: four(a.scale, b.scale),
        sum: four(a.sum, b.sum),
    }
}

/// One panel of a format times `P` pairs of rows. Out of line, so that each
/// has the registers for itself.
#[target_feature(enable = "neon,dotprod,i8mm")]
#[inline(never)]
unsafe fn product<F: Blocks, const P: usize>(weights: &[u8], packed: &[Pair], out: &mut [Squares]) {
    let mut sums: [Squares; P] = [[vdupq_n_f32(0.0); 4]; P];
    let mut w = weights.as_ptr();
    for pairs in packed.as_chunks::<P>().0 {
        let mut totals: [[int32x4_t; 4]; P] = std::array::from_fn(|_| start());
        for group in 0..4 {
            // SAFETY: `w` is at the begin of one of the panel's blocks.
            let octet = unsafe { octet::<F>(w, group) };
            for (totals, pair) in totals.iter_mut().zip(pairs) {
                for (total, weights) in totals.iter_mut().zip(octet) {
                    *total = multiply(*total, weights, pair.quants[group]);
                }
            }
        }
        // SAFETY: as above.
        let scales = twice(unsafe { scales(w) });
        // SAFETY: as above.
        let minima = unsafe { F::minima(w) }.map(|minima| twice(minima));
        for ((sums, totals), pair) in sums.iter_mut().zip(totals).zip(pairs) {
            let totals = unbiased(totals);
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = vfmaq_f32(*sum, totals[i], vmulq_f32(scales[i], pair.scale));
                if let Some(minima) = minima {
                    *sum = vfmaq_f32(*sum, minima[i], pair.sum);
                }
            }
        }
        w = w.wrapping_add(F::FORMAT.panel_block());
    }
    out[..P].copy_from_slice(&sums);
}

/// Columns `8 × group` to `8 × group + 7` of a panel's block, by two rows.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn octet<F: Blocks>(block: *const u8, group: usize) -> [int8x16_t; 4] {
    // SAFETY: the caller has a block there; groups are 0 to 3.
    let (first, second) = unsafe {
        let quants = block.wrapping_add(F::FORMAT.quants());
        match F::FORMAT {
            Format::Q4_0 | Format::Q4_1 => nibbles(quants.wrapping_add(32 * group)),
            Format::Q8_0 => {
                let at = |i: usize| quants.wrapping_add(64 * group + 16 * i);
                ([load(at(0)), load(at(1))], [load(at(2)), load(at(3))])
            }
        }
    };
    let zip = |a, b| {
        let (a, b) = (vreinterpretq_s32_s8(a), vreinterpretq_s32_s8(b));
        [vzip1q_s32(a, b), vzip2q_s32(a, b)].map(|pair| vreinterpretq_s8_s32(pair))
    };
    let ([a, b], [c, d]) = (zip(first[0], second[0]), zip(first[1], second[1]));
    [a, b, c, d]
}

/// Each of eight numbers twice.
#[target_feature(enable = "neon")]
#[inline]
fn twice([a, b]: Lanes) -> Squares {
    [
        vzip1q_f32(a, a),
        vzip2q_f32(a, a),
        vzip1q_f32(b, b),
        vzip2q_f32(b, b),
    ]
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

/// Each row's own sums.
#[target_feature(enable = "neon")]
#[inline]
fn apart(s: Squares) -> [Lanes; 2] {
    [
        [vuzp1q_f32(s[0], s[1]), vuzp1q_f32(s[2], s[3])],
        [vuzp2q_f32(s[0], s[1]), vuzp2q_f32(s[2], s[3])],
    ]
}
