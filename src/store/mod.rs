//! The state folder's database: the only module that names sled, with its edges covered.
//!
//! What sled 0.34.7 leaves to its user, and where it is done here:
//! - its flush survives a kill but no power cut: [`Store::sync`] adds `fdatasync` ([`handle`]);
//! - an error sticks to the handle, a full disk for good: the handle is swapped ([`Store::write`]);
//! - pages over 128 KiB go to files that nobody syncs: values are cut into parts ([`table`]);
//! - a crash while starting can leave a folder that doesn't open: [`open`] repairs it.

mod error;
mod group;
mod handle;
mod open;
mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock, RwLockReadGuard};

pub use self::error::StoreError;
use self::group::Group;
use self::handle::Handle;
pub use self::open::Recovery;
use self::table::{Pair, Table};

/// The database in the state folder.
pub const FOLDER: &str = "db";

/// The largest value that is taken.
pub const MAX_VALUE: usize = 64 * 1024;
/// The longest key that is taken.
pub const MAX_KEY: usize = 128;

/// A broken handle is opened again at most this often,
const RETRY: Duration = Duration::from_secs(1);
/// and on a full disk only when this much is free: less, and the opening itself may fail.
const ROOM: u64 = 1024 * 1024;

/// Cheap to clone. The folder is this process's alone while one is held.
#[derive(Clone)]
pub struct Store(Arc<Shared>);

/// A named, ordered map of bytes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tree {
    store: Store,
    name: Arc<str>,
}

/// Changes of one tree, applied together. The last change of a key counts.
#[derive(Debug, Default)]
pub struct Batch(BTreeMap<Vec<u8>, Option<Vec<u8>>>);

/// The right to change the store: while one is held, nobody else writes and the handle stays.
pub struct Writer<'a> {
    shared: &'a Shared,
    database: RwLockReadGuard<'a, Database>,
}

struct Shared {
    home: PathBuf,
    /// Trees that opening doesn't read through.
    spared: &'static [&'static str],
    recovery: Option<Recovery>,
    /// Writers, flushes and reopenings exclude each other: sled forgets to wake a waiting flush
    /// when a write fails in a buffer that several threads share.
    writer: Mutex<()>,
    database: RwLock<Database>,
    broken: Mutex<Option<Broken>>,
    /// What the last [`Store::check`] found.
    problem: Mutex<Option<StoreError>>,
    dirty: AtomicBool,
    group: Group,
    /// Real syncs so far, for tests and reports.
    syncs: AtomicU64,
    /// Likewise.
    reads: AtomicU64,
    /// Dropped last, so that the next process finds the database closed.
    _lock: File,
}

/// The open database, and what is needed to open it again.
struct Database {
    handle: Option<Handle>,
    names: BTreeSet<String>,
    /// Rises with every reopening: what wasn't synced before it is gone.
    generation: u64,
}

#[derive(Clone)]
struct Broken {
    error: StoreError,
    tried: Option<Instant>,
}

/// Whether another process has the database in `folder`. Nothing is made.
#[must_use]
pub fn is_in_use(folder: &Path) -> bool {
    open::is_locked(folder)
}

/// Keeps every other process from the database in `folder` until it is closed, and opens nothing.
pub fn lock(folder: &Path) -> Result<File, StoreError> {
    open::lock(folder)
}

impl Store {
    /// Opens or creates the database in `folder`, repairing what can be repaired.
    pub fn open(folder: &Path) -> Result<Store, StoreError> {
        Store::open_sparing(folder, &[])
    }

    /// As [`Store::open`], but damage in trees that are `spared` shows when they are read, and is
    /// repaired when it is opened next. They may be large.
    pub fn open_sparing(folder: &Path, spared: &'static [&str]) -> Result<Store, StoreError> {
        let opened = open::open(folder, spared)?;
        let database = Database {
            handle: Some(opened.handle),
            names: BTreeSet::new(),
            generation: 0,
        };
        Ok(Store(Arc::new(Shared {
            home: opened.home,
            spared,
            recovery: opened.recovery,
            writer: Mutex::new(()),
            database: RwLock::new(database),
            broken: Mutex::new(None),
            problem: Mutex::new(None),
            dirty: AtomicBool::new(true),
            group: Group::default(),
            syncs: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            _lock: opened.lock,
        })))
    }

    /// What had to be repaired on opening, for the audit.
    pub fn recovery(&self) -> Option<&Recovery> {
        self.0.recovery.as_ref()
    }

    pub fn tree(&self, name: &str) -> Result<Tree, StoreError> {
        let _writer = self.0.writer.lock();
        self.0.revive()?;
        let mut database = self.0.database.write();
        let Some(handle) = database.handle.as_mut() else {
            return Err(self.0.why_broken());
        };
        handle.open_table(name)?;
        database.names.insert(name.to_owned());
        Ok(Tree {
            store: self.clone(),
            name: name.into(),
        })
    }

    /// Returns when everything written before the call is on stable storage. Concurrent calls
    /// share one sync. Blocks. Prefer [`Store::commit`], which also notices a reopening between
    /// the writes and the sync.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.0.group.run(|| self.0.sync())
    }

    /// Runs `writes` and returns when they are on stable storage. An error means that they may
    /// or may not be there; nothing must be built on them. Blocks.
    pub fn commit<T, E: From<StoreError>>(
        &self,
        writes: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let before = self.write(|writer| Ok::<_, E>(writer.generation()))?;
        let value = writes()?;
        self.sync()?;
        let lost = self.0.read().generation != before;
        if lost {
            let what = "it was reopened before the write was durable; try again";
            return Err(StoreError::Io(what.into()).into());
        }
        Ok(value)
    }

    /// Runs `writes` as the only writer. A broken handle is replaced first, where possible.
    pub fn write<T, E: From<StoreError>>(
        &self,
        writes: impl FnOnce(&Writer<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let _writer = self.0.writer.lock();
        self.0.revive()?;
        writes(&Writer {
            shared: &self.0,
            database: self.0.read(),
        })
    }

    /// Whether what would be written now would be kept. Opens a broken handle again where that may
    /// help, so that it recovers also when nobody writes. Blocks.
    pub fn check(&self) -> Result<(), StoreError> {
        let room = |()| match self.0.has_room() {
            true => Ok(()),
            false => Err(StoreError::Full),
        };
        let found = self.write(|_| Ok::<_, StoreError>(())).and_then(room);
        *self.0.problem.lock() = found.clone().err();
        found
    }

    /// Why nothing can be recorded, as the last [`Store::check`] has found it.
    #[must_use]
    pub fn problem(&self) -> Option<StoreError> {
        self.0.problem.lock().clone()
    }

    /// The bytes that are free on its disk, and the disk's size.
    pub fn disk(&self) -> Option<(u64, u64)> {
        self.0.disk()
    }

    /// What the database takes on the disk, garbage included.
    #[cfg(test)]
    pub fn size_on_disk(&self) -> u64 {
        let database = self.0.read();
        database.handle.as_ref().map_or(0, Handle::size_on_disk)
    }

    /// How many times the disk was really synced.
    #[cfg(any(test, feature = "for-tests"))]
    pub fn syncs(&self) -> u64 {
        self.0.syncs.load(Ordering::Relaxed)
    }

    /// Takes the database away, as a disk does that fails; `meanwhile` something becomes of its
    /// folder. It is opened again when somebody writes.
    #[cfg(test)]
    pub fn lose(&self, meanwhile: impl FnOnce(&Path)) {
        let _writer = self.0.writer.lock();
        self.0.database.write().handle = None;
        meanwhile(&self.0.home);
        let error = StoreError::Io("lost".to_owned());
        *self.0.broken.lock() = Some(Broken { error, tried: None });
    }

    /// How many times a tree was read.
    #[cfg(test)]
    pub fn reads(&self) -> u64 {
        self.0.reads.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("home", &self.0.home)
            .finish_non_exhaustive()
    }
}

impl Tree {
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|table| table.get(key))
    }

    pub fn insert(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.store.write(|writer| writer.insert(self, key, value))
    }

    pub fn remove(&self, key: &[u8]) -> Result<(), StoreError> {
        self.store.write(|writer| writer.remove(self, key))
    }

    pub fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        self.store.write(|writer| writer.apply(self, batch))
    }

    /// Up to `limit` pairs with keys ≥ `from`, in order.
    pub fn range(&self, from: &[u8], limit: usize) -> Result<Vec<Pair>, StoreError> {
        self.read(|table| table.range(from, limit))
    }

    /// Up to `limit` keys ≥ `from`, in order.
    pub fn keys(&self, from: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, StoreError> {
        self.read(|table| table.keys(from, limit))
    }

    /// The last key.
    pub fn last(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(Table::last)
    }

    /// Counts by walking the whole tree.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.read(|table| Ok(table.len())).unwrap_or(0)
    }

    fn read<T>(&self, from: impl FnOnce(&Table) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let shared = &self.store.0;
        shared.reads.fetch_add(1, Ordering::Relaxed);
        let database = shared.read();
        let table = shared.table(&database, self)?;
        open::guarded(|| from(table)).inspect_err(|error| {
            if let StoreError::Corrupt(_) = error {
                open::mark_damaged(&shared.home);
            }
        })
    }
}

impl Batch {
    pub fn insert(&mut self, key: &[u8], value: &[u8]) {
        self.0.insert(key.to_vec(), Some(value.to_vec()));
    }

    pub fn remove(&mut self, key: &[u8]) {
        self.0.insert(key.to_vec(), None);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Writer<'_> {
    /// Differs from an earlier value when the store was reopened, and unsynced writes lost.
    pub fn generation(&self) -> u64 {
        self.database.generation
    }

    pub fn insert(&self, tree: &Tree, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.change(tree, |table| table.insert(key, value))
    }

    pub fn remove(&self, tree: &Tree, key: &[u8]) -> Result<(), StoreError> {
        self.change(tree, |table| table.remove(key))
    }

    pub fn apply(&self, tree: &Tree, batch: Batch) -> Result<(), StoreError> {
        self.change(tree, |table| table.apply(batch.0))
    }

    fn change(
        &self,
        tree: &Tree,
        change: impl FnOnce(&Table) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.shared.dirty.store(true, Ordering::Release);
        let done = change(self.shared.table(&self.database, tree)?);
        done.inspect_err(|error| self.shared.note(error))
    }

    /// Nothing can be written for want of what is damaged: the store is of no more use as it is.
    pub fn give_up(&self, error: &StoreError) {
        self.shared.note(error);
    }
}

impl Shared {
    /// Flushes as the only writer, then waits for the disk while others write on.
    fn sync(&self) -> Result<(), StoreError> {
        let file = {
            let _writer = self.writer.lock();
            let before = self.read().generation;
            self.revive()?;
            let database = self.read();
            if database.generation != before {
                let what = "it was reopened, and what wasn't synced is lost; try again";
                return Err(StoreError::Io(what.into()));
            }
            if !self.dirty.swap(false, Ordering::AcqRel) {
                return Ok(());
            }
            let Some(handle) = database.handle.as_ref() else {
                return Err(self.why_broken());
            };
            handle.flush().inspect_err(|error| self.note(error))?;
            handle.file()
        };
        self.syncs.fetch_add(1, Ordering::Relaxed);
        // A failed sync isn't tried again on the same pages: the kernel may have marked them
        // clean (Rebello et al., "Can Applications Recover from fsync Failures?", ATC 2020).
        let synced = file.sync_data().map_err(|e| StoreError::from_io(&e));
        synced.inspect_err(|error| self.note(error))
    }

    /// Opens a broken handle again when that may help. The caller is the only writer.
    fn revive(&self) -> Result<(), StoreError> {
        let Some(broken) = self.broken.lock().clone() else {
            return Ok(());
        };
        let now = crate::time::instant();
        let too_soon = broken
            .tried
            .is_some_and(|at| now.duration_since(at) < RETRY);
        if too_soon || (matches!(broken.error, StoreError::Full) && !self.has_room()) {
            return Err(broken.error);
        }
        let mut database = self.database.write();
        // sled's own lock goes with the old handle.
        database.handle = None;
        match open::reopen(&self.home, &database.names, self.spared) {
            Ok(handle) => {
                database.handle = Some(handle);
                database.generation += 1;
                self.dirty.store(true, Ordering::Release);
                *self.broken.lock() = None;
                Ok(())
            }
            Err(error) => {
                *self.broken.lock() = Some(Broken {
                    error: error.clone(),
                    tried: Some(now),
                });
                Err(error)
            }
        }
    }

    fn has_room(&self) -> bool {
        self.disk().is_some_and(|(free, _)| free >= ROOM)
    }

    fn disk(&self) -> Option<(u64, u64)> {
        let disk = rustix::fs::statvfs(&self.home).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
        Some((bytes(disk.f_bavail), bytes(disk.f_blocks)))
    }

    /// Remembers that the handle is of no more use; sled's errors stick to it.
    fn note(&self, error: &StoreError) {
        match error {
            StoreError::TooLarge { .. } => return,
            StoreError::Corrupt(_) => open::mark_damaged(&self.home),
            _ => {}
        }
        self.broken.lock().get_or_insert_with(|| Broken {
            error: error.clone(),
            tried: None,
        });
    }

    fn why_broken(&self) -> StoreError {
        let closed = || StoreError::Io("it is closed".into());
        self.broken
            .lock()
            .as_ref()
            .map_or_else(closed, |broken| broken.error.clone())
    }

    fn table<'a>(&self, database: &'a Database, tree: &Tree) -> Result<&'a Table, StoreError> {
        let handle = database.handle.as_ref().ok_or_else(|| self.why_broken())?;
        handle.table(&tree.name)
    }

    fn read(&self) -> RwLockReadGuard<'_, Database> {
        self.database.read()
    }
}
