//! The integer kernels in plain Rust: what runs on CPUs without a family of their own, and what
//! the others are compared with.

use half::f16;

use super::layout::{BLOCK, Block, Format, LANES, half_at, minimum};

/// The largest finite half-precision number.
pub(super) const HALF_MAX: f32 = 65_504.0;

pub(super) fn quantise(row: &[f32], out: &mut [Block]) {
    for (values, block) in row.chunks_exact(BLOCK).zip(out) {
        let largest = values.iter().fold(0f32, |m, x| m.max(x.abs()));
        block.scale = largest / 127.0;
        // Below this the inverse overflows.
        let inverse = if block.scale >= f32::MIN_POSITIVE {
            1.0 / block.scale
        } else {
            0.0
        };
        let mut sum = 0i32;
        for (quant, x) in block.quants.iter_mut().zip(values) {
            *quant = (x * inverse).round_ties_even() as i8;
            sum = sum.wrapping_add(i32::from(*quant));
        }
        block.sum = block.scale * sum as f32;
    }
}

pub(super) fn linear(
    format: Format,
    weights: &[u8],
    rows: &[Block],
    blocks: usize,
    out: &mut [f32],
) {
    let panel_bytes = blocks * format.panel_block();
    let width = weights.len() / panel_bytes * LANES;
    for (row, out) in rows.chunks_exact(blocks).zip(out.chunks_exact_mut(width)) {
        let panels = weights.chunks_exact(panel_bytes);
        for (panel, out) in panels.zip(out.chunks_exact_mut(LANES)) {
            let mut sums = [0f32; LANES];
            for (block, x) in panel.chunks_exact(format.panel_block()).zip(row) {
                match format {
                    Format::Q4_0 | Format::Q4_1 => add_q4(format, block, x, &mut sums),
                    Format::Q8_0 => add_q8_0(block, x, &mut sums),
                }
            }
            out.copy_from_slice(&sums);
        }
    }
}

pub(super) fn to_half(from: &[f32], to: &mut [u16]) {
    for (from, to) in from.iter().zip(to) {
        *to = f16::from_f32(from.clamp(-HALF_MAX, HALF_MAX)).to_bits();
    }
}

/// Integer products of eight rows' 32 quants; the sums stay below 2^20.
fn add_q4(format: Format, block: &[u8], x: &Block, sums: &mut [f32; LANES]) {
    let mut totals = [0i32; LANES];
    let groups = block[format.quants()..]
        .chunks_exact(32)
        .zip(x.quants.chunks_exact(8));
    for (group, x) in groups {
        for (total, bytes) in totals.iter_mut().zip(group.chunks_exact(4)) {
            for j in 0..4 {
                let low = i32::from(bytes[j] & 15) * i32::from(x[j]);
                let high = i32::from(bytes[j] >> 4) * i32::from(x[j + 4]);
                *total = total.wrapping_add(low.wrapping_add(high));
            }
        }
    }
    for (lane, sum) in sums.iter_mut().enumerate() {
        *sum += totals[lane] as f32 * (half_at(block, lane) * x.scale);
        *sum += minimum(format, block, lane) * x.sum;
    }
}

fn add_q8_0(block: &[u8], x: &Block, sums: &mut [f32; LANES]) {
    let mut totals = [0i32; LANES];
    let groups = block[Format::Q8_0.quants()..]
        .chunks_exact(32)
        .zip(x.quants.chunks_exact(4));
    for (group, x) in groups {
        for (total, bytes) in totals.iter_mut().zip(group.chunks_exact(4)) {
            for j in 0..4 {
                let product = i32::from(bytes[j].cast_signed()) * i32::from(x[j]);
                *total = total.wrapping_add(product);
            }
        }
    }
    for (lane, sum) in sums.iter_mut().enumerate() {
        *sum += totals[lane] as f32 * (half_at(block, lane) * x.scale);
    }
}
