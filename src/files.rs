//! Files that decide who may do what: read whole and bounded, replaced whole, kept from others.
//!
//! What is judged is what was opened, so that nothing can change in between; [`check`] judges by
//! name alone, for telling mistakes before they matter.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Write permission of group and others.
const WRITE: u32 = 0o022;
/// Anything at all for group and others.
const ANY: u32 = 0o077;
/// Anything at all for others.
const OTHERS: u32 = 0o007;
/// Only who owns a file of such a folder may replace it.
const STICKY: u32 = 0o1000;

/// What must be true of a file, beside that it is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Care {
    /// What it says is believed: nobody but its owner may change or replace it.
    Trusted,
    /// Moreover it isn't for everybody. Its group may read it: services share keys so.
    Secret,
    /// Ours to change, and no link to somebody else's.
    Kept,
    /// Moreover ours alone to read.
    Own,
}

/// Why a file or folder isn't used, with what to do.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it is no plain file")]
    NotPlain,
    #[error("it is a symbolic link; put what it names in its place")]
    Link,
    #[error("it is larger than {0} bytes")]
    TooLarge(u64),
    #[error("others may change it (mode {mode:04o}); look at what it holds, then run chmod go-w {}", .path.display())]
    Writable { path: PathBuf, mode: u32 },
    #[error("others may replace what is in its folder (mode {mode:04o}); run chmod o-w {}", .folder.display())]
    OpenFolder { folder: PathBuf, mode: u32 },
    #[error("it is open to every user of this machine (mode {mode:04o}); run chmod o= {}", .path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error("others could read it (mode {mode:04o}); run chmod go= {}", .path.display())]
    Readable { path: PathBuf, mode: u32 },
    #[error("it belongs to the user with id {uid}, who could change it; run this as that user (sudo -u '#{uid}'), or chown {us} {}", .path.display())]
    Foreign { path: PathBuf, uid: u32, us: u32 },
}

impl FileError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            FileError::Io(error) => error.kind(),
            _ => ErrorKind::InvalidData,
        }
    }
}

impl From<FileError> for io::Error {
    fn from(error: FileError) -> io::Error {
        match error {
            FileError::Io(error) => error,
            other => io::Error::new(other.kind(), other.to_string()),
        }
    }
}

/// At most `max` bytes; a longer file is refused.
pub fn read(path: &Path, max: u64, care: Care) -> Result<Vec<u8>, FileError> {
    bounded(open(path, care)?, max)
}

/// Opens to read; never waits for a pipe's other end.
pub fn open(path: &Path, care: Care) -> Result<File, FileError> {
    let link = match care {
        Care::Kept | Care::Own => libc::O_NOFOLLOW,
        Care::Trusted | Care::Secret => 0,
    };
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK | link);
    let file = options.open(path).map_err(link_error)?;
    judge(path, &file.metadata()?, care)?;
    Ok(file)
}

/// The rest of `file`, of which `max` bytes may be left.
pub fn bounded(file: impl Read, max: u64) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    file.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > max {
        true => Err(FileError::TooLarge(max)),
        false => Ok(bytes),
    }
}

/// Whether [`open`] would find fault with it. That it isn't there or can't be looked at by this
/// user is none: who is to use it may be another.
pub fn check(path: &Path, care: Care) -> Result<(), FileError> {
    let meta = match care {
        Care::Kept | Care::Own => fs::symlink_metadata(path),
        Care::Trusted | Care::Secret => fs::metadata(path),
    };
    match meta {
        Ok(meta) => judge(path, &meta, care),
        Err(_) => Ok(()),
    }
}

fn judge(path: &Path, meta: &Metadata, care: Care) -> Result<(), FileError> {
    let (path, mode) = (path.to_owned(), meta.mode() & 0o7777);
    if meta.is_symlink() {
        return Err(FileError::Link);
    }
    if !meta.is_file() {
        return Err(FileError::NotPlain);
    }
    if mode & WRITE != 0 {
        return Err(FileError::Writable { path, mode });
    }
    match care {
        Care::Trusted => {}
        Care::Secret if mode & OTHERS != 0 => return Err(FileError::Open { path, mode }),
        Care::Secret => {}
        Care::Kept => ours(&path, meta)?,
        Care::Own => {
            ours(&path, meta)?;
            if mode & ANY != 0 {
                return Err(FileError::Readable { path, mode });
            }
        }
    }
    let linked = fs::canonicalize(&path).ok();
    [Some(path), linked]
        .iter()
        .flatten()
        .try_for_each(|path| not_replaceable(path))
}

/// A folder that everybody may write to lets everybody put another file in a file's place.
fn not_replaceable(path: &Path) -> Result<(), FileError> {
    let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) else {
        return Ok(());
    };
    let mode = fs::metadata(folder)?.mode() & 0o7777;
    if mode & WRITE & OTHERS != 0 && mode & STICKY == 0 {
        let folder = folder.to_owned();
        return Err(FileError::OpenFolder { folder, mode });
    }
    Ok(())
}

/// Root could change anything anyhow.
fn ours(path: &Path, meta: &Metadata) -> Result<(), FileError> {
    let us = rustix::process::geteuid().as_raw();
    match meta.uid() {
        0 => Ok(()),
        uid if uid == us => Ok(()),
        uid => Err(FileError::Foreign {
            path: path.to_owned(),
            uid,
            us,
        }),
    }
}

/// Whether not everybody may put files into `folder`; its group may. One that isn't there is
/// nobody's.
pub fn check_folder(folder: &Path) -> Result<(), FileError> {
    match fs::metadata(folder) {
        Ok(meta) => closed(folder, &meta, WRITE & OTHERS),
        Err(_) => Ok(()),
    }
}

/// Whether nobody but its owner may put files into `folder`.
pub fn check_kept_folder(folder: &Path) -> Result<(), FileError> {
    match fs::metadata(folder) {
        Ok(meta) => closed(folder, &meta, WRITE),
        Err(_) => Ok(()),
    }
}

/// Whether nobody but us and root may put files into `folder`.
pub fn check_own_folder(folder: &Path) -> Result<(), FileError> {
    match fs::metadata(folder) {
        Ok(meta) => closed(folder, &meta, WRITE).and_then(|()| ours(folder, &meta)),
        Err(_) => Ok(()),
    }
}

/// Whether [`private_folder`] would find fault with `folder`.
pub fn check_private_folder(folder: &Path) -> Result<(), FileError> {
    match fs::symlink_metadata(folder) {
        Ok(meta) if meta.is_symlink() => Err(FileError::Link),
        Ok(meta) if !meta.is_dir() => Err(io::Error::from(ErrorKind::NotADirectory).into()),
        Ok(meta) => ours(folder, &meta).and_then(|()| closed(folder, &meta, WRITE)),
        Err(_) => Ok(()),
    }
}

/// Whether we may put files into `folder`, or make it where it isn't there.
pub fn check_writable(folder: &Path) -> io::Result<()> {
    let there = folder.ancestors().find(|folder| folder.exists());
    let there = there.unwrap_or(folder);
    if !fs::metadata(there)?.is_dir() {
        return Err(ErrorKind::NotADirectory.into());
    }
    let allowed = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    Ok(rustix::fs::access(there, allowed)?)
}

fn closed(folder: &Path, meta: &Metadata, refused: u32) -> Result<(), FileError> {
    let mode = meta.mode() & 0o7777;
    match meta.is_dir() && mode & refused != 0 {
        true => Err(FileError::Writable {
            path: folder.to_owned(),
            mode,
        }),
        false => Ok(()),
    }
}

/// A folder for us alone, made where it is missing. One that others may have written to, or that
/// is a link, is refused; one that they may only read is closed to them.
pub fn private_folder(folder: &Path) -> Result<(), FileError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let flags = libc::O_NOFOLLOW | libc::O_DIRECTORY;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(folder);
    let opened = opened.map_err(|error| match fs::symlink_metadata(folder) {
        Ok(meta) if meta.is_symlink() => FileError::Link,
        _ => error.into(),
    })?;
    let meta = opened.metadata()?;
    ours(folder, &meta)?;
    closed(folder, &meta, WRITE)?;
    if meta.mode() & ANY != 0 {
        opened.set_permissions(Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Replaces a file as a whole, for us alone: a power cut leaves the old one or the new one.
/// Durable when this returns.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    stage(path, content)?.put()
}

/// [`replace`], for everybody to read.
pub fn replace_public(path: &Path, content: &[u8]) -> io::Result<()> {
    let staged = stage(path, content)?;
    fs::set_permissions(&staged.new, Permissions::from_mode(0o644))?;
    staged.put()
}

/// A file's new content, durable beside it. Removed when dropped.
#[derive(Debug)]
pub struct Staged {
    new: PathBuf,
    path: PathBuf,
}

/// Does all of a replacement that is likely to fail.
pub fn stage(path: &Path, content: &[u8]) -> io::Result<Staged> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = path.with_file_name(name);
    // An earlier process of this id may have been killed here. What is removed is the name alone,
    // and a new file is never opened through a link.
    let mut file = match create_new(&new) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            fs::remove_file(&new)?;
            create_new(&new)?
        }
        created => created?,
    };
    let staged = Staged {
        new,
        path: path.to_owned(),
    };
    file.write_all(content)?;
    file.sync_all()?;
    Ok(staged)
}

impl Staged {
    /// Puts it in the file's place; a link there is replaced, not followed.
    pub fn put(self) -> io::Result<()> {
        fs::rename(&self.new, &self.path)?;
        sync_folder(parent(&self.path))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Gone already when it was put.
        let _ = fs::remove_file(&self.new);
    }
}

/// Closes a file of ours to those who could only read it.
pub fn close(path: &Path) -> Result<(), FileError> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW);
    let file = options.open(path).map_err(link_error)?;
    let meta = file.metadata()?;
    judge(path, &meta, Care::Trusted)?;
    ours(path, &meta)?;
    Ok(file.set_permissions(Permissions::from_mode(0o600))?)
}

/// Creates a file that only we can read; what is there already, a link too, is an error.
pub fn create_new(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path)
}

/// Opens a file to lock by, made where it is missing; never through a link.
pub fn lock_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    options.mode(0o600).custom_flags(libc::O_NOFOLLOW);
    options.open(path).map_err(|e| link_error(e).into())
}

/// Syncs a folder, so that what was created or renamed in it survives a power cut.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn link_error(error: io::Error) -> FileError {
    match error.raw_os_error() {
        Some(libc::ELOOP) => FileError::Link,
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    /// For each mode, who finds fault: trusted and kept, secret, own.
    #[test]
    fn what_others_may_do_decides() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        fs::write(&path, "x").unwrap();
        for (bits, refused) in [
            (0o600, [false, false, false]),
            (0o400, [false, false, false]),
            (0o640, [false, false, true]),
            (0o644, [false, true, true]),
            (0o601, [false, true, true]),
            (0o620, [true, true, true]),
            (0o602, [true, true, true]),
            (0o666, [true, true, true]),
        ] {
            mode(&path, bits);
            let [trusted, secret, own] = refused;
            for (care, refused) in [
                (Care::Trusted, trusted),
                (Care::Kept, trusted),
                (Care::Secret, secret),
                (Care::Own, own),
            ] {
                let read = read(&path, 9, care);
                assert_eq!(read.is_err(), refused, "{bits:o} {care:?}: {read:?}");
                assert_eq!(check(&path, care).is_err(), refused, "{bits:o} {care:?}");
                if let Err(error) = read {
                    assert!(error.to_string().contains("run chmod "), "{error}");
                }
            }
        }
    }

    #[test]
    fn a_folder_for_everybody_lets_everybody_replace() {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("open");
        fs::create_dir(&folder).unwrap();
        let path = folder.join("f");
        fs::write(&path, "x").unwrap();
        mode(&folder, 0o777);
        let link = outer.path().join("link");
        symlink(&path, &link).unwrap();
        for path in [&path, &link] {
            let refused = read(path, 9, Care::Trusted).unwrap_err();
            assert!(
                matches!(refused, FileError::OpenFolder { .. }),
                "{refused:?}"
            );
        }
        mode(&folder, 0o1777);
        assert_eq!(read(&link, 9, Care::Trusted).unwrap(), b"x");
    }

    #[test]
    fn what_is_no_plain_file_or_too_large_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        fs::write(&path, "12345").unwrap();
        assert_eq!(read(&path, 5, Care::Trusted).unwrap(), b"12345");
        let large = read(&path, 4, Care::Trusted).unwrap_err();
        assert!(matches!(large, FileError::TooLarge(4)));
        let plain = |path: &Path| read(path, 9, Care::Trusted).unwrap_err();
        assert!(matches!(plain(folder.path()), FileError::NotPlain));
        // Nobody writes: to wait for somebody would be for ever.
        let pipe = folder.path().join("pipe");
        let kind = rustix::fs::FileType::Fifo;
        let cwd = rustix::fs::CWD;
        rustix::fs::mknodat(cwd, &pipe, kind, rustix::fs::Mode::RUSR, 0).unwrap();
        assert!(matches!(plain(&pipe), FileError::NotPlain));
        // Not there: nobody's fault but of who opens it.
        let missing = folder.path().join("missing");
        assert_eq!(plain(&missing).kind(), ErrorKind::NotFound);
        assert!(check(&missing, Care::Secret).is_ok());
    }

    #[test]
    fn our_own_is_never_reached_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("target"), "theirs").unwrap();
        mode(&at("target"), 0o600);
        symlink(at("target"), at("link")).unwrap();
        let refused = read(&at("link"), 9, Care::Own).unwrap_err();
        assert!(matches!(refused, FileError::Link), "{refused:?}");
        assert!(read(&at("link"), 9, Care::Kept).is_err());
        assert!(lock_file(&at("link")).is_err());
        fs::create_dir(at("folder")).unwrap();
        symlink(at("folder"), at("folder-link")).unwrap();
        assert!(matches!(
            private_folder(&at("folder-link")),
            Err(FileError::Link)
        ));
        // Where the new content would be written first, and in the file's own place.
        let new = format!("f.{}.new", std::process::id());
        symlink(at("target"), at(&new)).unwrap();
        symlink(at("target"), at("f")).unwrap();
        replace(&at("f"), b"ours").unwrap();
        assert_eq!(fs::read(at("target")).unwrap(), b"theirs");
        assert_eq!(read(&at("f"), 9, Care::Own).unwrap(), b"ours");
        assert!(!at(&new).exists());
    }

    #[test]
    fn what_is_staged_and_not_put_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        replace(&path, b"old").unwrap();
        drop(stage(&path, b"new").unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        stage(&path, b"new").unwrap().put().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_private_folder_is_closed_and_one_that_was_open_is_refused() {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("a/b");
        private_folder(&folder).unwrap();
        for (bits, refused) in [
            (0o755, false),
            (0o750, false),
            (0o770, true),
            (0o777, true),
            (0o1777, true),
        ] {
            mode(&folder, bits);
            assert_eq!(private_folder(&folder).is_err(), refused, "{bits:o}");
            assert_eq!(check_folder(&folder).is_err(), bits & 2 != 0, "{bits:o}");
            assert_eq!(check_kept_folder(&folder).is_err(), refused, "{bits:o}");
            assert_eq!(check_own_folder(&folder).is_err(), refused, "{bits:o}");
            let left = fs::metadata(&folder).unwrap().mode() & 0o7777;
            assert_eq!(left, if refused { bits } else { 0o700 });
        }
    }
}
