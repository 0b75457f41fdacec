//! Unix socket files: bound with their final mode, stale ones replaced, live ones left alone.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdListener;
use std::path::Path;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixListener;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 64;

/// Listens on `path`, with the permissions `mode` whatever the umask. A socket file that nobody
/// listens on is replaced; the parent folder is made when it is missing.
pub fn bind(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let told = |error: io::Error| explain(path, &error);
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o755);
        builder.create(folder).map_err(|e| explain(folder, &e))?;
    }
    make_way(path)?;
    let socket = bind_closed(path, mode).map_err(told)?;
    let listener = StdListener::from(socket);
    UnixListener::from_std(listener).map_err(told)
}

/// Nobody can connect before `listen`, so the mode is in force when somebody first can.
fn bind_closed(path: &Path, mode: u32) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn make_way(path: &Path) -> io::Result<()> {
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(explain(path, &error)),
    };
    if !kind.is_socket() {
        let what = "exists and is no socket; move it away or configure another path";
        return Err(error(io::ErrorKind::AlreadyExists, path, what));
    }
    match probe(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|e| explain(path, &e))
        }
        // A full backlog answers "would block": somebody listens, and is busy.
        Ok(_) => Err(in_use(path)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(in_use(path)),
        Err(error) => Err(explain(path, &error)),
    }
}

/// Connects without waiting for room in the backlog.
fn probe(path: &Path) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    Ok(rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?)
}

fn in_use(path: &Path) -> io::Error {
    let what = "another process listens on this socket; stop it or configure another path";
    error(io::ErrorKind::AddrInUse, path, what)
}

fn explain(path: &Path, cause: &io::Error) -> io::Error {
    error(cause.kind(), path, &cause.to_string())
}

fn error(kind: io::ErrorKind, path: &Path, what: &str) -> io::Error {
    io::Error::new(kind, format!("{}: {what}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn stale_is_replaced_and_live_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/slmd.sock");
        let first = bind(&path, 0o660).unwrap();
        assert_eq!(mode(&path), 0o660);

        let refused = bind(&path, 0o660).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        assert!(
            refused.to_string().contains("slmd.sock: another process"),
            "{refused}"
        );
        std::os::unix::net::UnixStream::connect(&path).unwrap();

        drop(first);
        assert!(path.exists());
        let _second = bind(&path, 0o600).unwrap();
        assert_eq!(mode(&path), 0o600);
        std::os::unix::net::UnixStream::connect(&path).unwrap();
    }

    #[tokio::test]
    async fn files_and_long_paths_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("precious");
        fs::write(&file, "data").unwrap();
        assert!(
            bind(&file, 0o660)
                .unwrap_err()
                .to_string()
                .contains("no socket")
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), "data");

        let long = folder.path().join("x".repeat(120));
        let error = bind(&long, 0o660).unwrap_err().to_string();
        assert!(error.contains("xxx: "), "{error}");
    }
}
