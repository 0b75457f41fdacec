//! Every family that this CPU has against an oracle in plain Rust that fuses the same steps: the
//! vector families must give its very bits, so that they agree with each other too. The scalar
//! family rounds between the steps and must be near.

use rand_xoshiro::Xoshiro256PlusPlus as Random;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use super::layout::{BLOCK, Block, Format, LANES, Matrix, half_at, interleave};
use super::map::Map;
use super::*;
use half::f16;

const SHAPES: usize = 10_000;

fn families() -> impl Iterator<Item = (Family, Kernels)> {
    let all = Family::ALL.into_iter();
    all.filter_map(|family| Some((family, Kernels::new(family)?)))
}

fn below(random: &mut Random, limit: u32) -> usize {
    (random.next_u32() % limit) as usize
}

/// Mostly ordinary numbers, now and then zero, tiny or huge ones.
fn number(random: &mut Random) -> f32 {
    let unit = random.next_u32() as f32 / u32::MAX as f32 * 2.0 - 1.0;
    match below(random, 40) {
        0 => 0.0,
        1 => unit * 1e-30,
        2 => unit * 1e30,
        3 => f32::from_bits(below(random, 1 << 20) as u32),
        _ => unit * 4.0,
    }
}

/// A finite half-precision number: any bits, subnormal and largest ones too.
fn half(random: &mut Random) -> f16 {
    let scale = f16::from_bits(random.next_u32() as u16);
    if scale.is_finite() { scale } else { f16::ZERO }
}

/// GGUF's blocks of random content.
fn blocks(random: &mut Random, format: Format, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count * format.source_block()];
    for block in bytes.chunks_exact_mut(format.source_block()) {
        random.fill_bytes(block);
        block[..2].copy_from_slice(&half(random).to_le_bytes());
        if format == Format::Q4_1 {
            block[2..4].copy_from_slice(&half(random).to_le_bytes());
        }
        if below(random, 20) == 0 {
            block[4..].fill([0, 0x80, 0x7f, 0xff][below(random, 4)]);
        }
    }
    bytes
}

struct Case {
    format: Format,
    matrix: Matrix,
    laid_out: Vec<u8>,
    rows: Vec<f32>,
    columns: usize,
    _folder: tempfile::TempDir,
}

fn case(random: &mut Random) -> Case {
    let format = [Format::Q4_0, Format::Q4_1, Format::Q8_0][below(random, 3)];
    let (panels, blocks_wide) = (1 + below(random, 9), 1 + below(random, 6));
    let columns = blocks_wide * BLOCK;
    let source = blocks(random, format, panels * LANES * blocks_wide);
    let laid_out = interleave(format, &source, columns, |row| row).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("w");
    std::fs::write(&file, &laid_out).unwrap();
    let region = Map::open(&file).unwrap().region(0, laid_out.len()).unwrap();
    let matrix = Matrix::new(format, panels * LANES, columns, region).unwrap();
    let count = 1 + below(random, TILE_ROWS as u32);
    let rows = (0..count * columns).map(|_| number(random)).collect();
    Case {
        format,
        matrix,
        laid_out,
        rows,
        columns,
        _folder: folder,
    }
}

fn quantised(kernels: Kernels, rows: &[f32]) -> Vec<Block> {
    let mut out = vec![Block::default(); rows.len() / BLOCK];
    kernels.quantise(rows, &mut out);
    out
}

/// The products with the steps fused as the vector kernels fuse them, each with the sum of its
/// terms' magnitudes, which bounds what rounding differently can change.
fn oracle(case: &Case, rows: &[Block]) -> Vec<(f32, f32)> {
    let wide = case.columns / BLOCK;
    let stride = case.format.panel_block();
    let mut out = Vec::new();
    for row in rows.chunks_exact(wide) {
        for panel in case.laid_out.chunks_exact(wide * stride) {
            let mut sums = [(0f32, 0f32); LANES];
            for (block, x) in panel.chunks_exact(stride).zip(row) {
                for (lane, (sum, magnitude)) in sums.iter_mut().enumerate() {
                    let mut add = |a: f32, b: f32| {
                        *sum = a.mul_add(b, *sum);
                        *magnitude += (a * b).abs();
                    };
                    let total = integer(case.format, block, lane, x);
                    add(total as f32, half_at(block, lane) * x.scale);
                    match case.format {
                        Format::Q4_0 => add(half_at(block, lane) * -8.0, x.sum),
                        Format::Q4_1 => add(half_at(block, LANES + lane), x.sum),
                        Format::Q8_0 => {}
                    }
                }
            }
            out.extend(sums);
        }
    }
    out
}

fn integer(format: Format, block: &[u8], lane: usize, x: &Block) -> i32 {
    let weight = |column: usize| match format {
        Format::Q4_0 | Format::Q4_1 => {
            let at = if format == Format::Q4_0 { 16 } else { 32 };
            let byte = block[at + column / 8 * 32 + lane * 4 + column % 4];
            i32::from(byte >> (column % 8 / 4 * 4) & 15)
        }
        Format::Q8_0 => {
            let byte = block[16 + column / 4 * 32 + lane * 4 + column % 4];
            // -128 stands in no GGUF file that was made by rounding, but may stand in any.
            i32::from(byte.cast_signed())
        }
    };
    let columns = x.quants.iter().enumerate();
    columns.map(|(c, x)| weight(c) * i32::from(*x)).sum()
}

fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

fn near(a: f32, b: f32, scale: f32) -> bool {
    same(a, b) || (a - b).abs() <= scale * 1e-5 + f32::MIN_POSITIVE
}

#[test]
fn products_are_the_oracles() {
    let mut random = Random::seed_from_u64(1);
    for number in 0..SHAPES {
        let case = case(&mut random);
        let reference = quantised(Kernels(Family::Scalar), &case.rows);
        let expected = oracle(&case, &reference);
        let panels = case.matrix.rows() / LANES;
        for (family, kernels) in families() {
            assert_eq!(quantised(kernels, &case.rows), reference, "{family:?}");
            let mut out = vec![f32::NAN; expected.len()];
            kernels.linear(&case.matrix, 0..panels, &reference, &mut out);
            for (a, (b, magnitude)) in out.iter().zip(&expected) {
                let fits = match family {
                    Family::Scalar => near(*a, *b, *magnitude),
                    _ => same(*a, *b),
                };
                assert!(fits, "{number} {family:?} {:?}: {a} {b}", case.format);
            }
            rows_stand_alone(&case, kernels, &reference, &out);
        }
    }
}

/// A row's products are the same bits whatever else is computed with it.
fn rows_stand_alone(case: &Case, kernels: Kernels, rows: &[Block], together: &[f32]) {
    let panels = case.matrix.rows() / LANES;
    let wide = case.columns / BLOCK;
    for (row, expected) in rows
        .chunks_exact(wide)
        .zip(together.chunks_exact(panels * LANES))
    {
        for panel in 0..panels {
            let mut alone = [f32::NAN; LANES];
            kernels.linear(&case.matrix, panel..panel + 1, row, &mut alone);
            let expected = &expected[panel * LANES..][..LANES];
            assert!(alone.iter().zip(expected).all(|(a, b)| same(*a, *b)));
        }
    }
}

#[test]
fn half_precision_is_the_same() {
    let mut random = Random::seed_from_u64(2);
    for len in 0..600 {
        let mut from: Vec<f32> = (0..len).map(|_| number(&mut random) * 1e4).collect();
        if let Some(first) = from.first_mut() {
            *first = [f32::INFINITY, f32::NEG_INFINITY, 65_519.9, -1e-9][len % 4];
        }
        let mut expected = vec![0; len];
        Kernels(Family::Scalar).to_half(&from, &mut expected);
        for (family, kernels) in families() {
            let mut to = vec![0; len];
            kernels.to_half(&from, &mut to);
            assert_eq!(to, expected, "{family:?}");
        }
    }
}

#[test]
fn attention_is_the_same_in_all_vector_families_and_batches() {
    let mut random = Random::seed_from_u64(3);
    for _ in 0..SHAPES / 20 {
        let dimension = HEAD_DIMENSIONS[below(&mut random, 2)];
        let positions = 1 + below(&mut random, CHUNK as u32);
        let count = 1 + below(&mut random, TILE_QUERIES as u32);
        let mut floats = |n: usize| -> Vec<f32> {
            let unit = |r: &mut Random| r.next_u32() as f32 / u32::MAX as f32 - 0.5;
            (0..n).map(|_| unit(&mut random)).collect()
        };
        let queries = floats(count * dimension);
        let halves =
            |x: Vec<f32>| -> Vec<u16> { x.iter().map(|x| f16::from_f32(*x).to_bits()).collect() };
        let keys = halves(floats(positions * dimension));
        let values = halves(floats(positions * dimension));
        let visible: Vec<usize> = (0..count).map(|i| positions.saturating_sub(i)).collect();
        let attend = |kernels: Kernels, queries: &[f32], visible: &[usize]| {
            let mut out = vec![f32::NAN; visible.len() * partial_len(dimension)];
            kernels.attend(dimension, queries, &keys, &values, visible, &mut out);
            out
        };
        let scalar = attend(Kernels(Family::Scalar), &queries, &visible);
        let oracle = attended(dimension, &queries, &keys, &values, &visible);
        for (family, kernels) in families() {
            let out = attend(kernels, &queries, &visible);
            for (a, b) in out.iter().zip(&scalar) {
                assert!(near(*a, *b, 100.0), "{family:?}: {a} {b}");
            }
            let rows = out.chunks_exact(partial_len(dimension));
            for ((row, query), visible) in rows.zip(queries.chunks_exact(dimension)).zip(&visible) {
                assert_eq!(attend(kernels, query, &[*visible]), row, "{family:?}");
            }
            if family != Family::Scalar {
                assert_eq!(out, oracle, "{family:?}");
            }
        }
    }
}

/// Attention with the steps fused and the lanes added as the vector kernels do.
fn attended(
    dimension: usize,
    queries: &[f32],
    keys: &[u16],
    values: &[u16],
    visible: &[usize],
) -> Vec<f32> {
    let float = |half: &u16| f16::from_bits(*half).to_f32();
    let mut out = Vec::new();
    for (query, visible) in queries.chunks_exact(dimension).zip(visible) {
        let mut scores = [0f32; CHUNK];
        for (score, key) in scores[..*visible]
            .iter_mut()
            .zip(keys.chunks_exact(dimension))
        {
            let mut sums = [0f32; 8];
            for (i, (k, q)) in key.iter().zip(query).enumerate() {
                sums[i % 8] = float(k).mul_add(*q, sums[i % 8]);
            }
            let four: [f32; 4] = std::array::from_fn(|i| sums[i] + sums[i + 4]);
            *score = (four[0] + four[2]) + (four[1] + four[3]);
        }
        let (largest, sum) = attention::softmax(&mut scores, *visible);
        out.extend([largest, sum]);
        for column in 0..dimension {
            let column = values.iter().skip(column).step_by(dimension);
            let weighted = column.zip(&scores[..*visible]);
            out.push(weighted.fold(0f32, |sum, (v, score)| float(v).mul_add(*score, sum)));
        }
    }
    out
}
