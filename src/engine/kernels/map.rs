//! A file as read-only memory, and checked regions of it.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

/// Regions begin at multiples of a cache line.
pub(crate) const ALIGNMENT: usize = 64;

/// A mapped file.
#[derive(Debug, Clone)]
pub(crate) struct Map(Arc<Mmap>);

/// A part of a [`Map`] that lies inside of it.
#[derive(Debug, Clone)]
pub(crate) struct Region {
    map: Arc<Mmap>,
    range: Range<usize>,
}

impl Map {
    pub(crate) fn open(path: &Path) -> io::Result<Map> {
        let file = File::open(path)?;
        // SAFETY: nothing in this process writes the file, and a bundle's files are replaced by
        // rename, never changed in place, so the bytes stay what they are while they are mapped.
        // Who truncates one by hand gets SIGBUS: a crash, and nothing worse.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Map(Arc::new(map)))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// `None` when the region is misaligned or not wholly inside of the file.
    pub(crate) fn region(&self, offset: usize, len: usize) -> Option<Region> {
        let end = offset.checked_add(len)?;
        (offset.is_multiple_of(ALIGNMENT) && end <= self.0.len()).then(|| Region {
            map: Arc::clone(&self.0),
            range: offset..end,
        })
    }
}

impl Region {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map[self.range.clone()]
    }

    /// Little-endian floats; a copy, because these are few.
    pub(crate) fn floats(&self) -> Vec<f32> {
        self.bytes()
            .chunks_exact(4)
            .map(|bytes| {
                let mut array = [0; 4];
                array.copy_from_slice(bytes);
                f32::from_le_bytes(array)
            })
            .collect()
    }
}
