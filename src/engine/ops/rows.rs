//! What the linear operators share: rows are normalised and quantised once, then multiplied
//! strip by strip.

use std::cell::RefCell;
use std::ops::Range;

use super::super::kernels::layout::{BLOCK, Block, LANES, Matrix};
use super::super::kernels::pool::Tile;
use super::super::kernels::{STREAMS, TILE_ROWS};
use super::{Machine, Norm};

/// Panels whose products with several rows are kept on the stack, while their weights stay near.
const GROUP: usize = 8;
/// The same for one row, whose weights are used once and come in several streams.
const LONG_GROUP: usize = 64;
/// Strips for each thread, so that one that is late leaves work for others.
const STRIPS: usize = 4;
/// The same for one row, whose strips should be long: each begins with a wait for memory.
const LONG_STRIPS: usize = 2;

/// Planes that activations may have.
pub(crate) const MAX_PLANES: usize = 2;

/// Products of a group of panels with up to four rows' planes, or of a long group with one row's.
pub(super) type Products = [f32; MAX_PLANES * LONG_GROUP * LANES];
const _: () = assert!(TILE_ROWS * GROUP <= MAX_PLANES * LONG_GROUP);

/// Rows as int8. A second plane holds what the first one's rounding left out, quantised alike, so
/// that together they have twice the bits. To the kernels, a plane is one more row.
pub(super) struct Quantised {
    blocks: Vec<Block>,
    planes: usize,
}

/// Rows as int8, normalised before when there is a norm.
pub(super) fn quantise(
    machine: &Machine,
    x: &[f32],
    columns: usize,
    norm: Option<&Norm>,
    planes: usize,
) -> Quantised {
    let width = planes * columns / BLOCK;
    let mut blocks = vec![Block::default(); x.len() / columns * width];
    let kernels = machine.kernels;
    machine
        .pool
        .tiles(&mut blocks, width, (TILE_ROWS, width), &|mut tile| {
            let mut normal = vec![0.0; if norm.is_some() { columns } else { 0 }];
            let mut rest = vec![0.0; if planes > 1 { columns } else { 0 }];
            for t in tile.rows() {
                let mut row = &x[t * columns..][..columns];
                if let Some(norm) = norm {
                    kernels.norm(row, &norm.weights, norm.epsilon, &mut normal);
                    row = &normal;
                }
                let (first, second) = tile.row(t).split_at_mut(columns / BLOCK);
                kernels.quantise(row, first);
                if planes > 1 {
                    kernels.rest(row, first, &mut rest);
                    kernels.quantise(&rest, second);
                }
            }
        });
    Quantised { blocks, planes }
}

/// A strip's columns, for a matrix of this many rows times `count` rows of activations: whole
/// panels.
pub(super) fn strip(machine: &Machine, rows: usize, count: usize) -> usize {
    let strips = if count == 1 { LONG_STRIPS } else { STRIPS };
    match machine.pool.threads() {
        1 => rows,
        threads => {
            (rows / LANES)
                .div_ceil(threads * strips)
                .next_multiple_of(STREAMS)
                * LANES
        }
    }
}

/// Goes through a tile of the output and calls `each` with the rows and columns whose products
/// are wanted next, few enough for [`Products`], and with room for two of those.
pub(super) fn pieces(
    tile: &mut Tile<'_, f32>,
    x: &Quantised,
    mut each: impl FnMut(&mut Tile<'_, f32>, Range<usize>, Range<usize>, &mut [Products; 2]),
) {
    thread_local! {
        /// Kept, because clearing them takes as long as some products.
        static PRODUCTS: RefCell<[Products; 2]> = const { RefCell::new([[0.0; _]; 2]) };
    }
    let (rows, columns) = (tile.rows(), tile.columns());
    let height = TILE_ROWS / x.planes;
    let panels = if rows.len() == 1 { LONG_GROUP } else { GROUP };
    PRODUCTS.with_borrow_mut(|products| {
        for first in columns.clone().step_by(panels * LANES) {
            let group = first..(first + panels * LANES).min(columns.end);
            for t in rows.clone().step_by(height) {
                each(tile, t..(t + height).min(rows.end), group.clone(), products);
            }
        }
    });
}

/// Products of some rows with some of the matrix's rows (whole panels), row after row.
pub(super) fn multiply<'a>(
    machine: &Machine,
    matrix: &Matrix,
    x: &Quantised,
    rows: Range<usize>,
    columns: Range<usize>,
    products: &'a mut Products,
) -> &'a mut [f32] {
    let blocks = x.planes * matrix.columns() / BLOCK;
    let width = columns.len();
    let out = &mut products[..rows.len() * x.planes * width];
    machine.kernels.linear(
        matrix,
        columns.start / LANES..columns.end / LANES,
        &x.blocks[rows.start * blocks..rows.end * blocks],
        out,
    );
    if x.planes > 1 {
        for t in 0..rows.len() {
            let (first, second) = out[2 * t * width..].split_at_mut(width);
            for (first, second) in first.iter_mut().zip(second) {
                *first += *second;
            }
            out.copy_within(2 * t * width..(2 * t + 1) * width, t * width);
        }
    }
    &mut out[..rows.len() * width]
}
