//! How weights and activations lie in memory: the layout `rows8`.
//!
//! Eight rows of a matrix make a panel; a panel is a row of blocks, each of 32 columns. A block
//! holds eight half-precision scales (for Q4_1 also eight minima), one per row, then groups of
//! columns in which the eight rows' bytes follow each other, four columns each, so that one
//! 256-bit load brings the same columns of eight rows. Scales, minima and quants are GGUF's own.

use half::f16;

use super::map::Region;

/// Columns of a block.
pub(crate) const BLOCK: usize = 32;
/// Rows of a panel.
pub(crate) const LANES: usize = 8;

/// A format of weight blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// w = scale × (q − 8), q of 4 bits.
    Q4_0,
    /// w = scale × q + minimum, q of 4 bits.
    Q4_1,
    /// w = scale × q, q of 8 bits.
    Q8_0,
}

/// 32 activations: value = scale × q.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[repr(C)]
pub(crate) struct Block {
    pub(crate) quants: [i8; BLOCK],
    pub(crate) scale: f32,
    /// scale × the sum of the quants: what a weight's minimum is multiplied with.
    pub(crate) sum: f32,
}

/// A weight matrix inside of the mapped file.
#[derive(Debug, Clone)]
pub(crate) struct Matrix {
    format: Format,
    rows: usize,
    columns: usize,
    bytes: Region,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum LayoutError {
    #[error("{rows} rows × {columns} columns: rows must be a multiple of 8, columns of 32")]
    Shape { rows: usize, columns: usize },
    #[error("the blocks take {found} bytes, not {expected}")]
    Length { found: usize, expected: usize },
    #[error("row {0} has a scale or minimum that is not a finite number")]
    NotFinite(usize),
}

impl Format {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Format::Q4_0 => "q4_0",
            Format::Q4_1 => "q4_1",
            Format::Q8_0 => "q8_0",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Format> {
        [Format::Q4_0, Format::Q4_1, Format::Q8_0]
            .into_iter()
            .find(|format| format.name() == name)
    }

    /// Bytes of eight rows' block in this layout.
    pub(crate) const fn panel_block(self) -> usize {
        LANES * self.source_block()
    }

    /// Bytes of one row's block in GGUF.
    pub(crate) const fn source_block(self) -> usize {
        match self {
            Format::Q4_0 => 18,
            Format::Q4_1 => 20,
            Format::Q8_0 => 34,
        }
    }

    /// Where the quants begin in eight rows' block: after the scales and, where there are any,
    /// the minima.
    pub(super) const fn quants(self) -> usize {
        match self {
            Format::Q4_0 | Format::Q8_0 => 2 * LANES,
            Format::Q4_1 => 4 * LANES,
        }
    }

    /// Bytes that a matrix takes; `None` for a shape that the layout can't hold.
    pub(crate) fn size(self, rows: usize, columns: usize) -> Option<usize> {
        if rows == 0 || columns == 0 || !rows.is_multiple_of(LANES) {
            return None;
        }
        if !columns.is_multiple_of(BLOCK) {
            return None;
        }
        (rows / LANES)
            .checked_mul(columns / BLOCK)?
            .checked_mul(self.panel_block())
    }
}

impl Matrix {
    pub(crate) fn new(
        format: Format,
        rows: usize,
        columns: usize,
        bytes: Region,
    ) -> Result<Matrix, LayoutError> {
        let expected = format
            .size(rows, columns)
            .ok_or(LayoutError::Shape { rows, columns })?;
        let found = bytes.bytes().len();
        if found != expected {
            return Err(LayoutError::Length { found, expected });
        }
        Ok(Matrix {
            format,
            rows,
            columns,
            bytes,
        })
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// The bytes of some panels.
    pub(crate) fn panels(&self, panels: std::ops::Range<usize>) -> &[u8] {
        let panel = self.columns / BLOCK * self.format.panel_block();
        &self.bytes.bytes()[panels.start * panel..panels.end * panel]
    }

    /// One row in float.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.columns);
        let lane = row % LANES;
        let panel = self.panels(row / LANES..row / LANES + 1);
        let blocks = panel.chunks_exact(self.format.panel_block());
        for (block, out) in blocks.zip(out.chunks_exact_mut(BLOCK)) {
            let scale = half_at(block, lane);
            let quants = &block[self.format.quants()..];
            match self.format {
                Format::Q4_0 | Format::Q4_1 => {
                    let minimum = minimum(self.format, block, lane);
                    for (column, out) in out.iter_mut().enumerate() {
                        let byte = quants[column / 8 * 32 + lane * 4 + column % 4];
                        let quant = byte >> (column % 8 / 4 * 4) & 15;
                        *out = scale * f32::from(quant) + minimum;
                    }
                }
                Format::Q8_0 => {
                    for (column, out) in out.iter_mut().enumerate() {
                        let byte = quants[column / 4 * 32 + lane * 4 + column % 4];
                        *out = scale * f32::from(byte.cast_signed());
                    }
                }
            }
        }
    }
}

/// Lays GGUF's rows out in panels; `order` gives for each new row the old one.
pub(crate) fn interleave(
    format: Format,
    source: &[u8],
    columns: usize,
    order: impl Fn(usize) -> usize,
) -> Result<Vec<u8>, LayoutError> {
    let row_bytes = columns / BLOCK * format.source_block();
    let rows = source.len().checked_div(row_bytes).unwrap_or(0);
    let size = format
        .size(rows, columns)
        .filter(|size| *size == source.len())
        .ok_or(LayoutError::Shape { rows, columns })?;
    let mut out = vec![0; size];
    let panel_bytes = columns / BLOCK * format.panel_block();
    for row in 0..rows {
        let old = order(row);
        let blocks =
            source[old * row_bytes..(old + 1) * row_bytes].chunks_exact(format.source_block());
        let panel = &mut out[row / LANES * panel_bytes..][..panel_bytes];
        for (from, to) in blocks.zip(panel.chunks_exact_mut(format.panel_block())) {
            if !place(format, from, row % LANES, to) {
                return Err(LayoutError::NotFinite(old));
            }
        }
    }
    Ok(out)
}

/// Puts one row's block into its lane; false when its scale or minimum is not finite.
fn place(format: Format, from: &[u8], lane: usize, to: &mut [u8]) -> bool {
    let half = 2 * lane..2 * lane + 2;
    to[half.clone()].copy_from_slice(&from[..2]);
    let mut finite = half_at(from, 0).is_finite();
    if format == Format::Q4_1 {
        to[2 * LANES..][half].copy_from_slice(&from[2..4]);
        finite &= half_at(from, 1).is_finite();
    }
    let from = &from[format.quants() / LANES..];
    let to = &mut to[format.quants()..];
    for column in 0..BLOCK {
        match format {
            Format::Q4_0 | Format::Q4_1 => {
                // GGUF keeps columns 0..16 in the low halves of the 16 bytes.
                let quant = from[column % 16] >> (column / 16 * 4) & 15;
                to[column / 8 * 32 + lane * 4 + column % 4] |= quant << (column % 8 / 4 * 4);
            }
            Format::Q8_0 => to[column / 4 * 32 + lane * 4 + column % 4] = from[column],
        }
    }
    finite
}

/// What a 4-bit row's quants are above of.
pub(super) fn minimum(format: Format, block: &[u8], lane: usize) -> f32 {
    match format {
        Format::Q4_0 => -8.0 * half_at(block, lane),
        Format::Q4_1 => half_at(block, LANES + lane),
        Format::Q8_0 => 0.0,
    }
}

/// The half-precision number at an index of a byte string.
pub(super) fn half_at(bytes: &[u8], index: usize) -> f32 {
    f16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]]).to_f32()
}
