//! What the linear operators share: rows are normalised and quantised once, then multiplied
//! strip by strip.

use super::super::kernels::TILE_ROWS;
use super::super::kernels::layout::{BLOCK, Block, LANES, Matrix};
use super::super::kernels::pool::Tile;
use super::{Machine, Norm};

/// Panels whose products are kept on the stack; their weights fit the first-level cache.
const GROUP: usize = 8;
/// Strips for each thread, so that one that is late leaves work for others.
const STRIPS: usize = 4;

/// Products of a group of panels with up to four rows.
pub(super) type Products = [f32; TILE_ROWS * GROUP * LANES];

/// Rows as int8, normalised before when there is a norm.
pub(super) fn quantise(
    machine: &Machine,
    x: &[f32],
    columns: usize,
    norm: Option<&Norm>,
) -> Vec<Block> {
    let blocks = columns / BLOCK;
    let mut quantised = vec![Block::default(); x.len() / BLOCK];
    let kernels = machine.kernels;
    machine
        .pool
        .tiles(&mut quantised, blocks, (TILE_ROWS, blocks), &|mut tile| {
            let mut normal = vec![0.0; if norm.is_some() { columns } else { 0 }];
            for t in tile.rows() {
                let row = &x[t * columns..][..columns];
                match norm {
                    None => kernels.quantise(row, tile.row(t)),
                    Some(norm) => {
                        kernels.norm(row, &norm.weights, norm.epsilon, &mut normal);
                        kernels.quantise(&normal, tile.row(t));
                    }
                }
            }
        });
    quantised
}

/// A strip's columns for a matrix of this many rows: whole panels.
pub(super) fn strip(machine: &Machine, rows: usize) -> usize {
    let panels = rows / LANES;
    match machine.pool.threads() {
        1 => rows,
        threads => panels.div_ceil(threads * STRIPS) * LANES,
    }
}

/// Goes through a tile of the output and calls `each` with the rows and columns whose products
/// are wanted next: few enough for [`Products`].
pub(super) fn pieces(
    tile: &mut Tile<'_, f32>,
    mut each: impl FnMut(&mut Tile<'_, f32>, std::ops::Range<usize>, std::ops::Range<usize>),
) {
    let (rows, columns) = (tile.rows(), tile.columns());
    for first in columns.clone().step_by(GROUP * LANES) {
        let group = first..(first + GROUP * LANES).min(columns.end);
        for t in rows.clone().step_by(TILE_ROWS) {
            each(tile, t..(t + TILE_ROWS).min(rows.end), group.clone());
        }
    }
}

/// Products of some rows with some of the matrix's rows (whole panels), row after row.
pub(super) fn multiply<'a>(
    machine: &Machine,
    matrix: &Matrix,
    x: &[Block],
    rows: std::ops::Range<usize>,
    columns: std::ops::Range<usize>,
    products: &'a mut Products,
) -> &'a mut [f32] {
    let blocks = matrix.columns() / BLOCK;
    let out = &mut products[..rows.len() * columns.len()];
    machine.kernels.linear(
        matrix,
        columns.start / LANES..columns.end / LANES,
        &x[rows.start * blocks..rows.end * blocks],
        out,
    );
    out
}
