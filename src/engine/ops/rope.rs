//! The cosines and sines of rotary positions, computed when they are first needed and shared by
//! all layers.

use std::sync::OnceLock;

use super::super::kernels::CHUNK;

/// Rows of one page; positions of a sequence come in order, so few pages are ever made.
type Page = OnceLock<Box<[f32]>>;

#[derive(Debug)]
pub(crate) struct Rope {
    base: f32,
    dimension: usize,
    pages: Box<[Page]>,
}

impl Rope {
    pub(crate) fn new(base: f32, dimension: usize, positions: usize) -> Rope {
        let pages = positions.div_ceil(CHUNK);
        Rope {
            base,
            dimension,
            pages: (0..pages).map(|_| OnceLock::new()).collect(),
        }
    }

    pub(crate) fn serves(&self, base: f32, dimension: usize, positions: usize) -> bool {
        self.base.to_bits() == base.to_bits()
            && self.dimension == dimension
            && self.pages.len() == positions.div_ceil(CHUNK)
    }

    /// Half a head of cosines, then as many sines. `position` is below the number given to
    /// [`Rope::new`].
    pub(crate) fn row(&self, position: usize) -> &[f32] {
        let page = position / CHUNK;
        let rows = self.pages[page].get_or_init(|| self.page(page * CHUNK));
        &rows[position % CHUNK * self.dimension..][..self.dimension]
    }

    fn page(&self, first: usize) -> Box<[f32]> {
        let half = self.dimension / 2;
        let mut rows = Vec::with_capacity(CHUNK * self.dimension);
        let frequencies: Vec<f64> = (0..half)
            .map(|i| f64::from(self.base).powf(-(i as f64) / half as f64))
            .collect();
        for position in first..first + CHUNK {
            let angles = frequencies.iter().map(|f| position as f64 * f);
            rows.extend(angles.clone().map(|a| a.cos() as f32));
            rows.extend(angles.map(|a| a.sin() as f32));
        }
        rows.into_boxed_slice()
    }
}
