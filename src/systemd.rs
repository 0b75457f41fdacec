//! Readiness, watchdog and socket activation, when systemd started us. Without the cargo feature
//! `systemd`, or started by anything else, all of it does nothing.

use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;

/// Everything is in service, for the first time or again after [`reloading`].
pub fn ready() {
    notify("READY", "1");
}

pub fn reloading() {
    notify("RELOADING", "1");
}

pub fn stopping() {
    notify("STOPPING", "1");
}

/// What `systemctl status` shows of the service.
pub fn say(text: &str) {
    notify("STATUS", text);
}

/// Says that every loop answered its heartbeat.
pub fn feed_watchdog() {
    notify("WATCHDOG", "1");
}

/// The Unix sockets that systemd opened for this process, non-blocking, by their
/// `FileDescriptorName`. Only the first call gets them.
pub fn listeners() -> BTreeMap<String, UnixListener> {
    real::listeners().unwrap_or_else(|error| {
        tracing::error!(%error, "sockets from systemd can't be used; opening our own");
        BTreeMap::new()
    })
}

fn notify(name: &str, value: &str) {
    if let Err(error) = real::notify(name, value) {
        tracing::warn!(%error, "systemd can't be notified");
    }
}

#[cfg(feature = "systemd")]
mod real {
    use std::collections::BTreeMap;
    use std::io::{Error, ErrorKind, Result};
    use std::os::fd::RawFd;
    use std::os::unix::net::UnixListener;

    use systemd::daemon::{self, Listening, SocketType};

    use crate::sys;

    pub(super) fn notify(name: &str, value: &str) -> Result<bool> {
        Ok(daemon::notify([(name, value)].iter())?)
    }

    pub(super) fn listeners() -> Result<BTreeMap<String, UnixListener>> {
        let listeners = sys::inherited(passed)?;
        for (_, listener) in &listeners {
            listener.set_nonblocking(true)?;
        }
        Ok(listeners.into_iter().collect())
    }

    fn passed() -> Result<Vec<(String, RawFd)>> {
        let mut found = Vec::new();
        for (fd, name) in daemon::listen_fds_with_names()?.iter() {
            let name = name.to_string_lossy().into_owned();
            let stream = Some(SocketType::Stream);
            if !daemon::is_socket_unix(fd, stream, Listening::IsListening, None::<&str>)? {
                let what = format!(
                    "descriptor {name:?} isn't a listening Unix stream socket; correct slmd.socket"
                );
                return Err(Error::new(ErrorKind::InvalidInput, what));
            }
            found.push((name, fd));
        }
        Ok(found)
    }
}

#[cfg(not(feature = "systemd"))]
mod real {
    use std::collections::BTreeMap;
    use std::io::Result;
    use std::os::unix::net::UnixListener;

    pub(super) fn notify(_: &str, _: &str) -> Result<bool> {
        Ok(false)
    }

    pub(super) fn listeners() -> Result<BTreeMap<String, UnixListener>> {
        Ok(BTreeMap::new())
    }
}

#[cfg(test)]
#[cfg(feature = "systemd")]
mod tests {
    //! systemd speaks through the environment, which a test must not change under other threads;
    //! so each of these starts its other half as a process.

    use std::io::{Read, Write};
    use std::os::unix::net::{UnixDatagram, UnixStream};
    use std::process::{Command, Stdio};

    use std::time::Duration;

    use super::*;

    fn other_half(name: &str) -> Command {
        let exe = std::env::current_exe().unwrap();
        // `exec` keeps the shell's pid, which is what LISTEN_PID must be.
        let script = "[ -z \"$LISTEN_FDS\" ] || exec 3<&0; LISTEN_PID=$$ exec \"$@\"";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(exe);
        command.args(["--exact", name, "--ignored", "--nocapture"]);
        command.stdout(Stdio::null());
        command
    }

    #[test]
    fn a_real_notify_socket_hears_every_state() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let mut child = other_half("systemd::tests::speaks");
        child.env("NOTIFY_SOCKET", &path);
        assert!(child.status().unwrap().success());
        for expected in [
            "READY=1",
            "STATUS=not ready",
            "RELOADING=1",
            "WATCHDOG=1",
            "STOPPING=1",
        ] {
            let mut buffer = [0; 256];
            let length = socket.recv(&mut buffer).unwrap();
            assert_eq!(String::from_utf8_lossy(&buffer[..length]), expected);
        }
    }

    #[test]
    #[ignore = "the other half of a_real_notify_socket_hears_every_state"]
    fn speaks() {
        ready();
        say("not ready");
        reloading();
        feed_watchdog();
        stopping();
    }

    #[test]
    fn a_passed_socket_is_served() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("http");
        let listener = UnixListener::bind(&path).unwrap();
        let mut child = other_half("systemd::tests::serves");
        child.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "http");
        child.stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)));
        let mut child = child.spawn().unwrap();
        let mut client = UnixStream::connect(&path).unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let mut hello = String::new();
        client.read_to_string(&mut hello).unwrap();
        assert_eq!(hello, "hello from http");
        assert!(child.wait().unwrap().success());
    }

    #[test]
    #[ignore = "the other half of a_passed_socket_is_served"]
    fn serves() {
        let sockets = listeners();
        assert!(listeners().is_empty());
        let listener = &sockets["http"];
        listener.set_nonblocking(false).unwrap();
        let (mut client, _) = listener.accept().unwrap();
        client.write_all(b"hello from http").unwrap();
    }
}
