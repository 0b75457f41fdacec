//! The journal's native protocol (systemd.io, "Native Journal Protocol"): an entry is a datagram of
//! fields. The crate `tracing-journald` loses what the socket doesn't take, and has a line's fields
//! in no message; here each entry gets there or is given back.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::line::{Line, priority};

pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

/// How long a journal that is behind is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// The longest name that the journal takes.
const LONGEST_NAME: usize = 64;

#[derive(Debug)]
pub(super) struct Journal {
    socket: UnixDatagram,
    /// Looked up for each entry: a journal that was restarted has another socket there.
    path: PathBuf,
}

impl Journal {
    pub(super) fn at(path: impl Into<PathBuf>) -> io::Result<Journal> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let path = path.into();
        Ok(Journal { socket, path })
    }

    /// Fails without a journal, with one that is stuck, and for what is too long for a datagram.
    pub(super) fn write(&self, line: &Line) -> io::Result<()> {
        self.socket.send_to(&entry(line), &self.path).map(drop)
    }
}

/// The message has the fields once more, because a journal's reader is shown nothing else.
fn entry(line: &Line) -> Vec<u8> {
    let mut entry = Vec::new();
    let mut add = |name: &str, value: &str| field(&mut entry, name, value);
    add("MESSAGE", &line.text());
    add("PRIORITY", &priority(line.level).to_string());
    add("SYSLOG_IDENTIFIER", "slmd");
    add("TARGET", line.target);
    if let Some((file, number)) = line.place {
        add("CODE_FILE", file);
        add("CODE_LINE", &number.to_string());
    }
    for (name, value) in &line.fields {
        match value {
            Value::String(value) => add(&own_name(name), value),
            value => add(&own_name(name), &value.to_string()),
        }
    }
    entry
}

/// Of capital letters, digits and underscores, after our own beginning: none is the journal's.
fn own_name(name: &str) -> String {
    let letter = |c: char| match c.to_ascii_uppercase() {
        c if c.is_ascii_alphanumeric() => c,
        _ => '_',
    };
    let name = name.chars().map(letter);
    "SLMD_".chars().chain(name).take(LONGEST_NAME).collect()
}

/// A value of several lines has its length before it.
fn field(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}
