//! The journal's native protocol (systemd.io, "Native Journal Protocol"): an entry is a datagram of
//! fields. The crate `tracing-journald` loses what the socket doesn't take, and has a line's fields
//! in no message; here each entry gets there or is given back.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use serde_json::Value;

use super::line::{Line, priority};

const SOCKET: &str = "/run/systemd/journal/socket";

/// How long a journal that is behind is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// The longest name that the journal takes.
const LONGEST_NAME: usize = 64;

#[derive(Debug)]
pub struct Journal {
    socket: UnixDatagram,
}

impl Journal {
    pub fn open() -> io::Result<Journal> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Journal { socket })
    }

    /// Fails without a journal, with one that is stuck, and for what is too long for a datagram. It is
    /// looked up for each entry: one that was restarted has another socket there.
    pub fn write(&self, entry: &Entry) -> io::Result<()> {
        self.socket.send_to(&entry.0, SOCKET).map(drop)
    }
}

/// Fields of one entry.
#[derive(Debug, Default)]
pub struct Entry(Vec<u8>);

impl Entry {
    /// The message has the fields once more, because a journal's reader is shown nothing else.
    pub(super) fn of(line: &Line) -> Entry {
        let mut entry = Entry::default();
        entry.field("MESSAGE", &line.text());
        entry.field("PRIORITY", &priority(line.level).to_string());
        entry.field("SYSLOG_IDENTIFIER", "slmd");
        entry.field("TARGET", line.target);
        if let Some((file, number)) = line.place {
            entry.field("CODE_FILE", file);
            entry.field("CODE_LINE", &number.to_string());
        }
        for (name, value) in &line.fields {
            entry.own(name, value);
        }
        entry
    }

    /// A field of ours, after our own beginning.
    pub fn own(&mut self, name: &str, value: &Value) {
        match value {
            Value::String(value) => self.field(&own_name(name), value),
            value => self.field(&own_name(name), &value.to_string()),
        }
    }

    /// A value of several lines has its length before it.
    pub fn field(&mut self, name: &str, value: &str) {
        let entry = &mut self.0;
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
