//! Attention over chunks of positions that are merged in order, so that neither the batch nor
//! the number of threads changes a bit of the result (the online softmax of Milakov and
//! Gimelshein 2018, with fixed chunks).

use half::f16;

use super::float::exp;

/// Positions of a chunk; also of a block of the cache.
pub(crate) const CHUNK: usize = 256;

/// Head dimensions that the kernels are built for.
pub(crate) const HEAD_DIMENSIONS: [usize; 2] = [64, 128];

/// Lanes of a sum over positions.
const LANES: usize = 8;

/// Floats of one query's part of a chunk: maximum, sum, unnormalised output.
pub(crate) const fn partial_len(dimension: usize) -> usize {
    dimension + 2
}

/// Merges a query's chunks, in their order.
#[expect(
    single_use_lifetimes,
    reason = "anonymous lifetimes in impl Trait are unstable"
)]
pub(crate) fn merge<'a>(partials: impl Iterator<Item = &'a [f32]> + Clone, out: &mut [f32]) {
    let largest = partials.clone().fold(f32::MIN, |m, p| m.max(p[0]));
    let mut sum = 0f32;
    out.fill(0.0);
    for partial in partials {
        let factor = exp(partial[0] - largest);
        sum += factor * partial[1];
        for (out, x) in out.iter_mut().zip(&partial[2..]) {
            *out += factor * x;
        }
    }
    let factor = 1.0 / sum;
    for out in out {
        *out *= factor;
    }
}

/// The part between the two products: scores of visible positions become their exponentials,
/// those of others zero, and both sums are in lanes by position, whatever is visible.
#[inline(always)]
pub(super) fn softmax(scores: &mut [f32; CHUNK], visible: usize) -> (f32, f32) {
    let (seen, rest) = scores.split_at_mut(visible);
    let largest = largest(seen);
    for score in seen {
        *score = exp(*score - largest);
    }
    let padding = visible.next_multiple_of(LANES) - visible;
    rest[..padding].fill(0.0);
    let mut sums = [0f32; LANES];
    for group in scores[..visible + padding].chunks_exact(LANES) {
        for (sum, x) in sums.iter_mut().zip(group) {
            *sum += x;
        }
    }
    (largest, sums.iter().sum())
}

/// The same for several queries of a chunk; scores from `visible` to `positions` become zero.
#[inline(always)]
pub(super) fn softmax_each<const G: usize>(
    scores: &mut [[f32; CHUNK]; G],
    visible: &[usize],
    positions: usize,
    out: &mut [f32],
    dimension: usize,
) {
    let parts = scores
        .iter_mut()
        .zip(visible)
        .zip(out.chunks_exact_mut(partial_len(dimension)));
    for ((scores, visible), out) in parts {
        (out[0], out[1]) = softmax(scores, *visible);
        scores[*visible..positions].fill(0.0);
    }
}

/// In lanes, because a maximum doesn't depend on the order.
#[inline(always)]
fn largest(scores: &[f32]) -> f32 {
    let greater = |a: f32, b: f32| if a > b { a } else { b };
    let mut lanes = [f32::MIN; LANES];
    let (groups, rest) = scores.as_chunks::<LANES>();
    for group in groups {
        for (lane, score) in lanes.iter_mut().zip(group) {
            *lane = greater(*score, *lane);
        }
    }
    let all = lanes.iter().chain(rest);
    all.fold(f32::MIN, |m, score| greater(*score, m))
}

pub(super) fn attend(
    dimension: usize,
    queries: &[f32],
    keys: &[u16],
    values: &[u16],
    visible: &[usize],
    out: &mut [f32],
) {
    let per_query = queries
        .chunks_exact(dimension)
        .zip(visible)
        .zip(out.chunks_exact_mut(partial_len(dimension)));
    for ((query, visible), out) in per_query {
        let mut scores = [0f32; CHUNK];
        for (score, key) in scores[..*visible]
            .iter_mut()
            .zip(keys.chunks_exact(dimension))
        {
            *score = dot(query, key);
        }
        (out[0], out[1]) = softmax(&mut scores, *visible);
        let out = &mut out[2..];
        out.fill(0.0);
        for (score, value) in scores[..*visible]
            .iter()
            .zip(values.chunks_exact(dimension))
        {
            for (out, value) in out.iter_mut().zip(value) {
                *out += score * f16::from_bits(*value).to_f32();
            }
        }
    }
}

fn dot(query: &[f32], key: &[u16]) -> f32 {
    let mut sums = [0f32; LANES];
    for (query, key) in query.chunks_exact(LANES).zip(key.chunks_exact(LANES)) {
        for i in 0..LANES {
            sums[i] += query[i] * f16::from_bits(key[i]).to_f32();
        }
    }
    sums.iter().sum()
}
