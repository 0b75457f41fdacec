//! One open sled database.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use super::error::{StoreError, from_sled};
use super::table::Table;

/// The cache defaults to 1 GiB.
const CACHE: u64 = 8 * 1024 * 1024;

pub(super) struct Handle {
    db: sled::Db,
    /// A second descriptor of the database's file: sled syncs ranges of it, but neither the
    /// file's size nor the disk's cache.
    file: Arc<File>,
    tables: BTreeMap<String, Table>,
}

impl Handle {
    /// Opens what `home` holds as it is; [`super::open`] covers what can go wrong.
    pub(super) fn open(home: &Path) -> Result<Handle, StoreError> {
        let config = sled::Config::new()
            .path(home)
            .cache_capacity(CACHE)
            // No flush behind our back: whoever needs durability asks, and the audit's tick does.
            .flush_every_ms(None);
        let db = config.open().map_err(from_sled)?;
        let file = File::open(home.join("db")).map_err(|e| StoreError::from_io(&e))?;
        Ok(Handle {
            db,
            file: Arc::new(file),
            tables: BTreeMap::new(),
        })
    }

    pub(super) fn open_table(&mut self, name: &str) -> Result<(), StoreError> {
        if !self.tables.contains_key(name) {
            let table = Table::open(&self.db, name)?;
            self.tables.insert(name.to_owned(), table);
        }
        Ok(())
    }

    pub(super) fn table(&self, name: &str) -> Result<&Table, StoreError> {
        let missing = || StoreError::Io(format!("the tree {name:?} isn't open"));
        self.tables.get(name).ok_or_else(missing)
    }

    /// Reads everything once, so that damage shows now rather than in the middle of a request,
    /// and removes parts that a crash left without their value; but for trees that are `spared`.
    /// Returns the number of values.
    pub(super) fn verify(&self, spared: &[&str]) -> Result<usize, StoreError> {
        let mut count = 0;
        let spared = |name: &[u8]| spared.iter().any(|spared| Table::is_of(name, spared));
        for name in self.db.tree_names() {
            if spared(&name) {
                continue;
            }
            for pair in self.db.open_tree(&name).map_err(from_sled)?.iter() {
                pair.map_err(from_sled)?;
                count += 1;
            }
        }
        Table::sweep(&self.db, spared)?;
        Ok(count)
    }

    /// Hands everything written so far to the kernel.
    pub(super) fn flush(&self) -> Result<(), StoreError> {
        self.db.flush().map(drop).map_err(from_sled)
    }

    pub(super) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    #[cfg(test)]
    pub(super) fn size_on_disk(&self) -> u64 {
        self.db.size_on_disk().unwrap_or(0)
    }
}
