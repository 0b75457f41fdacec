//! Readiness, watchdog and socket activation, when systemd started us. Without the cargo feature
//! `systemd`, or started by anything else, all of it does nothing.

use std::os::unix::net::UnixListener;
use std::time::Duration;

/// What systemd is told (sd_notify(3)).
#[derive(Debug, Clone, Copy)]
pub enum State<'a> {
    Ready,
    Reloading,
    Stopping,
    /// Every loop answered its heartbeat.
    Watchdog,
    /// One line for `systemctl status`.
    Status(&'a str),
}

/// A listening socket that systemd opened for us, with its `FileDescriptorName`.
#[derive(Debug)]
pub struct Activated {
    pub name: String,
    /// Non-blocking.
    pub listener: UnixListener,
}

/// Tells systemd; that it doesn't listen is no error of ours.
pub fn notify(states: &[State<'_>]) {
    let pairs: Vec<(&str, String)> = states.iter().map(assignment).collect();
    if let Err(error) = real::notify(&pairs) {
        tracing::warn!(%error, "systemd can't be notified");
    }
}

/// How often [`State::Watchdog`] is to be sent: half of what systemd allows, as sd_watchdog_enabled(3)
/// advises. `None`: no watchdog.
pub fn watchdog_interval() -> Option<Duration> {
    let micros = real::watchdog_micros();
    (micros > 0).then(|| Duration::from_micros(micros / 2))
}

/// The Unix sockets that systemd passed to this process. Only the first call gets them.
pub fn activated() -> std::io::Result<Vec<Activated>> {
    real::activated()
}

fn assignment<'a>(state: &State<'_>) -> (&'a str, String) {
    match state {
        State::Ready => ("READY", "1".to_owned()),
        State::Reloading => ("RELOADING", "1".to_owned()),
        State::Stopping => ("STOPPING", "1".to_owned()),
        State::Watchdog => ("WATCHDOG", "1".to_owned()),
        // A line end would begin another assignment.
        State::Status(text) => ("STATUS", text.replace(char::is_control, " ")),
    }
}

#[cfg(feature = "systemd")]
mod real {
    use std::io::{Error, ErrorKind, Result};
    use std::os::fd::FromRawFd;
    use std::os::unix::net::UnixListener;
    use std::sync::atomic::{AtomicBool, Ordering};

    use systemd::daemon::{self, Listening, SocketType};

    use super::Activated;

    static TAKEN: AtomicBool = AtomicBool::new(false);

    pub(super) fn notify(pairs: &[(&str, String)]) -> Result<bool> {
        Ok(daemon::notify(pairs.iter())?)
    }

    pub(super) fn watchdog_micros() -> u64 {
        daemon::watchdog_enabled().unwrap_or(0)
    }

    pub(super) fn activated() -> Result<Vec<Activated>> {
        if TAKEN.swap(true, Ordering::AcqRel) {
            return Ok(Vec::new());
        }
        let mut sockets = Vec::new();
        for (fd, name) in daemon::listen_fds_with_names()?.iter() {
            let name = name.to_string_lossy().into_owned();
            let stream = Some(SocketType::Stream);
            if !daemon::is_socket_unix(fd, stream, Listening::IsListening, None::<&str>)? {
                let what = format!(
                    "descriptor {name:?} from systemd isn't a listening Unix stream socket; correct slmd.socket"
                );
                return Err(Error::new(ErrorKind::InvalidInput, what));
            }
            // SAFETY: systemd passed this open descriptor for us to own (LISTEN_PID is our pid),
            // and TAKEN lets nobody else in this process take it a second time.
            let listener = unsafe { UnixListener::from_raw_fd(fd) };
            listener.set_nonblocking(true)?;
            sockets.push(Activated { name, listener });
        }
        Ok(sockets)
    }
}

#[cfg(not(feature = "systemd"))]
mod real {
    use std::io::Result;

    use super::Activated;

    pub(super) fn notify(_: &[(&str, String)]) -> Result<bool> {
        Ok(false)
    }

    pub(super) fn watchdog_micros() -> u64 {
        0
    }

    pub(super) fn activated() -> Result<Vec<Activated>> {
        Ok(Vec::new())
    }
}

#[cfg(test)]
#[cfg(feature = "systemd")]
mod tests {
    //! systemd speaks through the environment, which a test must not change under other threads;
    //! so each of these starts its other half as a process.

    use std::io::{Read, Write};
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use super::{State, activated, notify, watchdog_interval};

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
        child
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "3000000");
        assert!(child.status().unwrap().success());
        for expected in [
            "READY=1\nSTATUS=one line  READY=0",
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
        assert_eq!(watchdog_interval(), Some(Duration::from_millis(1500)));
        notify(&[State::Ready, State::Status("one line\n\0READY=0")]);
        for state in [State::Reloading, State::Watchdog, State::Stopping] {
            notify(&[state]);
        }
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
        let sockets = activated().unwrap();
        assert!(activated().unwrap().is_empty());
        sockets[0].listener.set_nonblocking(false).unwrap();
        let (mut client, _) = sockets[0].listener.accept().unwrap();
        write!(client, "hello from {}", sockets[0].name).unwrap();
    }
}
