//! A bundle's weights while they are written, in the order and layout of the kernels.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256};

use super::LoadError;
use super::gguf::{Gguf, GgufError, TensorType};
use super::kernels::layout::{BLOCK, Format, interleave};
use super::kernels::map::ALIGNMENT;
use super::ops::{Extent, MatrixSpec};
use crate::catalog::{BundleError, FileEntry};
use crate::digest::hex;

#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The file is sound, but not a model that can be imported.
    #[error("can't import this model: {0}")]
    Unsupported(String),
    #[error("can't write the bundle: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The bundle is whole, but can't be served.
    #[error("{0}; no bundle was changed")]
    Unusable(#[from] LoadError),
}

/// The weights' file while it is written.
pub(super) struct Weights<'a> {
    gguf: &'a Gguf,
    file: io::BufWriter<File>,
    offset: usize,
    laid_out: Context,
    canonical: Context,
}

impl Weights<'_> {
    pub(super) fn create<'a>(gguf: &'a Gguf, path: &Path) -> io::Result<Weights<'a>> {
        Ok(Weights {
            gguf,
            file: io::BufWriter::with_capacity(1 << 20, File::create(path)?),
            offset: 0,
            laid_out: Context::new(&SHA256),
            canonical: Context::new(&SHA256),
        })
    }

    /// The file's entry, and the hash of the blocks as they were in the source.
    pub(super) fn finish(mut self) -> io::Result<(FileEntry, String)> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        let entry = FileEntry {
            size: self.offset as u64,
            sha256: hex(self.laid_out.finish().as_ref()),
        };
        Ok((entry, hex(self.canonical.finish().as_ref())))
    }

    /// Appends matrices one below the other; `orders` says for each how its rows are ordered.
    pub(super) fn matrix(
        &mut self,
        parts: &[(&str, Order)],
        columns: usize,
    ) -> Result<MatrixSpec, ImportError> {
        let mut spec: Option<MatrixSpec> = None;
        for (name, order) in parts {
            let tensor = self.gguf.tensor(name)?.clone();
            let rows = tensor.columns_rows();
            if rows.0 != columns as u64 || tensor.shape.len() > 2 {
                return Err(unsupported(format!(
                    "{name} has the shape {:?}",
                    tensor.shape
                )));
            }
            let blocks = self.gguf.read(&tensor)?;
            self.canonical.update(name.as_bytes());
            self.canonical.update(&blocks);
            let (format, blocks) = blocks_of(name, tensor.kind, blocks)?;
            let rows = blocks.len() / (columns / BLOCK * format.source_block()).max(1);
            let order = order.checked(name, rows)?;
            let panels = interleave(format, &blocks, columns, |row| order.source(row))
                .map_err(|e| unsupported(format!("{name}: {e}")))?;
            match &mut spec {
                None => {
                    let extent = self.begin(panels.len())?;
                    spec = Some(MatrixSpec {
                        rows,
                        columns,
                        format,
                        extent,
                    });
                }
                Some(spec) if spec.format == format => {
                    spec.rows += rows;
                    spec.extent.len += panels.len();
                }
                Some(_) => {
                    return Err(unsupported(format!(
                        "{name} has another format than its layer's"
                    )));
                }
            }
            self.append(&panels)?;
        }
        spec.ok_or_else(|| unsupported("an empty matrix".to_owned()))
    }

    /// Appends a vector of floats.
    pub(super) fn vector(&mut self, name: &str, len: usize) -> Result<Extent, ImportError> {
        let tensor = self.gguf.tensor(name)?;
        if tensor.kind != TensorType::F32 || tensor.shape != [len as u64] {
            return Err(unsupported(format!("{name} is not {len} floats")));
        }
        let bytes = self.gguf.read(tensor)?;
        let finite = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]).is_finite();
        if !bytes.chunks_exact(4).all(finite) {
            return Err(unsupported(format!(
                "{name} has values that are not finite"
            )));
        }
        self.canonical.update(name.as_bytes());
        self.canonical.update(&bytes);
        let extent = self.begin(bytes.len())?;
        self.append(&bytes)?;
        Ok(extent)
    }

    /// The extent of what is appended next.
    fn begin(&mut self, len: usize) -> Result<Extent, ImportError> {
        let padding = self.offset.next_multiple_of(ALIGNMENT) - self.offset;
        self.append(&[0; ALIGNMENT][..padding])?;
        Ok(Extent {
            offset: self.offset,
            len,
        })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), ImportError> {
        self.file.write_all(bytes)?;
        self.laid_out.update(bytes);
        self.offset += bytes.len();
        Ok(())
    }
}

/// The order of a matrix's rows.
#[derive(Debug, Clone, Copy)]
pub(super) enum Order {
    AsIs,
    /// Rows of heads of this dimension whose rotary pairs are neighbours in the source (as GGUF
    /// has them for llama) and half a head apart in the bundle.
    Halves(usize),
}

impl Order {
    fn checked(self, name: &str, rows: usize) -> Result<Order, ImportError> {
        match self {
            Order::Halves(dimension) if !rows.is_multiple_of(dimension) => Err(unsupported(
                format!("{name} has {rows} rows, not whole heads"),
            )),
            order => Ok(order),
        }
    }

    fn source(self, row: usize) -> usize {
        match self {
            Order::AsIs => row,
            Order::Halves(dimension) => {
                let (head, i, half) = (row / dimension, row % dimension, dimension / 2);
                head * dimension + 2 * (i % half) + i / half
            }
        }
    }
}

/// A tensor's blocks in one of the kernels' formats.
fn blocks_of(
    name: &str,
    kind: TensorType,
    blocks: Vec<u8>,
) -> Result<(Format, Vec<u8>), ImportError> {
    match kind {
        TensorType::Q4_1 => Ok((Format::Q4_1, blocks)),
        TensorType::Q8_0 => Ok((Format::Q8_0, blocks)),
        TensorType::Q4_0 => Ok((Format::Q4_0, blocks)),
        TensorType::F16 | TensorType::F32 | TensorType::Other(_) => {
            Err(unsupported(format!("{name} is {kind}")))
        }
    }
}

pub(super) fn unsupported(what: String) -> ImportError {
    ImportError::Unsupported(what)
}
