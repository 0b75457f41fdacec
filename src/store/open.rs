//! Opening the database: leftovers of a crash removed, damage set aside, directories synced.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::StoreError;
use super::handle::Handle;
use crate::files::{self, sync_folder};

/// Damaged databases kept for a look at them.
const KEPT: u32 = 3;

const LOCK: &str = "lock";
/// An old handle of ours closes in the background; its lock is waited for this often and long.
const LOCK_TRIES: u32 = 40;
const LOCK_WAIT: Duration = Duration::from_millis(50);
/// A program that is just being started holds its parent's locks until it runs: not for long.
const START_TRIES: u32 = 10;

/// What was left of a damaged database. sled drops everything after the first damage that it
/// meets, and once it has used segments again it can't always do without its snapshot: records
/// that were acknowledged may be missing.
#[derive(Debug, Clone)]
pub struct Recovery {
    /// What was wrong.
    pub error: String,
    /// Values that could be kept; 0 when the store started anew.
    pub left: usize,
    /// Where the database lies as it was found.
    pub kept: PathBuf,
}

pub(super) struct Opened {
    pub(super) handle: Handle,
    pub(super) home: PathBuf,
    pub(super) recovery: Option<Recovery>,
    pub(super) lock: File,
}

/// Opens the database in `folder`, or a new one when it is beyond repair. Trees that are `spared` aren't
/// read through, unless there was damage.
pub(super) fn open(folder: &Path, spared: &[&str]) -> Result<Opened, StoreError> {
    let lock = lock(folder)?;
    let home = folder.join("sled");
    let (handle, recovery) = match try_open(&home, spared) {
        Err(StoreError::Corrupt(error)) => {
            let (handle, recovery) = repair(folder, &home, error)?;
            (handle, Some(recovery))
        }
        opened => (opened?.0, None),
    };
    settle(folder, &home).map_err(|e| StoreError::from_io(&e))?;
    // What was found there is repaired, or was none of the disk's.
    let _ = fs::remove_file(mark(&home));
    Ok(Opened {
        handle,
        home,
        recovery,
        lock,
    })
}

/// Opens the database again in a running process, which holds the lock. Damage isn't repaired
/// here: emptying the store under those who use it is for a new start.
pub(super) fn reopen(
    home: &Path,
    names: &BTreeSet<String>,
    spared: &[&str],
) -> Result<Handle, StoreError> {
    let (mut handle, _) = try_open(home, spared)?;
    for name in names {
        handle.open_table(name)?;
    }
    Ok(handle)
}

/// Notes that damage was met, so that whoever opens it next reads all of it.
pub(super) fn mark_damaged(home: &Path) {
    let _ = files::create_new(&mark(home));
}

/// Beside the database, whose files go when it is begun anew.
fn mark(home: &Path) -> PathBuf {
    home.with_extension("suspect")
}

/// Opens `home` and counts the values of what isn't spared.
fn try_open(home: &Path, spared: &[&str]) -> Result<(Handle, usize), StoreError> {
    private(home)?;
    let spared = match mark(home).exists() {
        true => &[],
        false => spared,
    };
    // A crash while sled starts can leave an empty one, and sled takes it for its newest
    // snapshot (sled #1527, #1533).
    let leftover = |name: &str| name.ends_with(".generating");
    remove_files(home, leftover).map_err(|e| StoreError::from_io(&e))?;
    for _ in 0..LOCK_TRIES {
        match open_whole(home, spared) {
            Err(StoreError::Io(text)) if text.contains("could not acquire lock") => {
                thread::sleep(LOCK_WAIT);
            }
            opened => return opened,
        }
    }
    Err(StoreError::Locked)
}

/// Opens and reads everything that isn't spared.
fn open_whole(home: &Path, spared: &[&str]) -> Result<(Handle, usize), StoreError> {
    guarded(|| {
        let handle = Handle::open(home)?;
        let left = handle.verify(spared)?;
        Ok((handle, left))
    })
}

/// sled panics on some kinds of damage.
pub(super) fn guarded<T>(reads: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let read = catch_unwind(AssertUnwindSafe(reads));
    read.unwrap_or_else(|_| Err(StoreError::Corrupt("the database panicked on it".into())))
}

/// Keeps a copy, then tries without what sled can rebuild from its log, then starts anew.
fn repair(folder: &Path, home: &Path, error: String) -> Result<(Handle, Recovery), StoreError> {
    let io = |e: io::Error| StoreError::from_io(&e);
    let kept = room_for_damaged(folder).map_err(io)?;
    let recovery = |left| Recovery {
        error,
        left,
        kept: kept.clone(),
    };
    if copy_folder(home, &kept).is_ok() {
        let rebuilt = |name: &str| name.starts_with("snap.") || name == "conf";
        remove_files(home, rebuilt).map_err(io)?;
        match try_open(home, &[]) {
            Err(StoreError::Corrupt(_)) => fs::remove_dir_all(home).map_err(io)?,
            opened => return opened.map(|(handle, left)| (handle, recovery(left))),
        }
    } else {
        // No room for a copy: what is there is set aside untouched.
        let _ = fs::remove_dir_all(&kept);
        fs::rename(home, &kept).map_err(io)?;
    }
    let (handle, _) = try_open(home, &[])?;
    Ok((handle, recovery(0)))
}

/// A free name for a damaged database. The first ones are kept, being the best evidence; the
/// last name is used again and again.
fn room_for_damaged(folder: &Path) -> io::Result<PathBuf> {
    let name = |n: u32| folder.join(format!("sled.damaged-{n}"));
    if let Some(free) = (1..=KEPT).map(name).find(|path| !path.exists()) {
        return Ok(free);
    }
    fs::remove_dir_all(name(KEPT))?;
    Ok(name(KEPT))
}

/// Makes what sled created without syncing it survive a power cut.
fn settle(folder: &Path, home: &Path) -> io::Result<()> {
    for name in ["conf", "db"] {
        File::open(home.join(name))?.sync_all()?;
    }
    sync_folder(home)?;
    sync_folder(folder)?;
    folder.parent().map_or(Ok(()), sync_folder)
}

fn private(folder: &Path) -> Result<(), StoreError> {
    let made = files::private_folder(folder).map_err(io::Error::from);
    made.map_err(|e| StoreError::in_file(folder, &e))
}

pub(super) fn is_locked(folder: &Path) -> bool {
    let lock = File::open(folder.join(LOCK));
    lock.is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)))
}

/// The folder is made where it is missing.
pub(super) fn lock(folder: &Path) -> Result<File, StoreError> {
    private(folder)?;
    let lock = files::lock_file(&folder.join(LOCK)).map_err(|e| StoreError::from_io(&e))?;
    for _ in 0..START_TRIES {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) => thread::sleep(LOCK_WAIT),
            Err(TryLockError::Error(e)) => return Err(StoreError::from_io(&e)),
        }
    }
    Err(StoreError::Locked)
}

fn remove_files(folder: &Path, which: impl Fn(&str) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(&which) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    files::private_folder(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
