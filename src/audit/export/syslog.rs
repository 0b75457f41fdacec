//! Records as syslog messages (RFC 5424), framed by their length (RFC 5425 section 4.3).
//!
//! The message is the record's JSON, byte for byte, so that a collector can check it against the log's
//! proofs; without a BOM, which RFC 5424 wants before text and no reader of JSON does. It has no line
//! end. What else a message says is in elements that IANA has registered: a private name has to have
//! its owner's enterprise number, and this program has none. Who has one may set it.

use std::fmt::Write;

use super::outline::{Outline, Severity};
use crate::audit::Line;
use crate::time::Timestamp;

/// RFC 5424 has a host's name in 255 octets.
const LONGEST_HOST: usize = 255;

/// `meta sequenceId` begins at 1 and goes up to this (RFC 5424 section 7.3.1).
const LAST_SEQUENCE: u64 = 2_147_483_647;

/// What part of a machine messages are said to come from (RFC 5424 section 6.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facility(u8);

impl Facility {
    /// By number.
    pub const NAMES: [&str; 24] = [
        "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron",
        "authpriv", "ftp", "ntp", "audit", "alert", "clock", "local0", "local1", "local2",
        "local3", "local4", "local5", "local6", "local7",
    ];

    pub fn of(name: &str) -> Option<Facility> {
        let number = Facility::NAMES.iter().position(|known| *known == name)?;
        u8::try_from(number).ok().map(Facility)
    }

    pub fn as_str(self) -> &'static str {
        Facility::NAMES[usize::from(self.0)]
    }
}

/// Records that were removed before they were sent: the first and the last index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) first: u64,
    pub(super) last: u64,
}

impl Gap {
    pub(super) fn count(self) -> u64 {
        self.last - self.first + 1
    }
}

/// What all messages of a device have.
#[derive(Debug, Clone)]
pub(super) struct Form {
    host: String,
    facility: Facility,
    enterprise: Option<u32>,
}

impl Form {
    pub(super) fn new(device: &str, facility: Facility, enterprise: Option<u32>) -> Form {
        Form {
            host: host(device),
            facility,
            enterprise,
        }
    }

    /// Adds a record's message. `epoch`: the log's, where the record is of this one.
    pub(super) fn record(&self, line: &Line, epoch: Option<u64>, into: &mut Vec<u8>) {
        let outline = Outline::of(line);
        let mut data = String::new();
        if let Some(kept) = outline.synchronised {
            let _ = write!(
                data,
                "[timeQuality tzKnown=\"1\" isSynced=\"{}\"]",
                u8::from(kept)
            );
        }
        // The same for each telling, so that duplicates are told and holes are seen.
        let sequence = line.index % LAST_SEQUENCE + 1;
        let _ = write!(data, "[meta sequenceId=\"{sequence}\"]");
        if let Some(number) = self.enterprise {
            let epoch = epoch
                .map(|epoch| format!(" epoch=\"{epoch}\""))
                .unwrap_or_default();
            let _ = write!(data, "[slmd@{number} index=\"{}\"{epoch}]", line.index);
        }
        let (severity, name) = (outline.severity(), outline.name());
        let head = self.head(severity, outline.time, &name, &data);
        frame(&head, &line.json, into);
    }

    /// Adds what tells of records that never will come.
    pub(super) fn gap(&self, gap: Gap, now: Timestamp, into: &mut Vec<u8>) {
        let said = serde_json::json!({
            "event": "export_gap",
            "first_index": gap.first,
            "last_index": gap.last,
            "missing": gap.count(),
        });
        let head = self.head(Severity::Warning, Some(now), "export_gap", "-");
        frame(&head, said.to_string().as_bytes(), into);
    }

    /// All before the message, with the space that ends it.
    fn head(&self, severity: Severity, time: Option<Timestamp>, name: &str, data: &str) -> String {
        let priority = self.facility.0 * 8 + severity as u8;
        let time = time.map_or_else(|| "-".to_owned(), |time| time.to_string());
        format!("<{priority}>1 {time} {} slmd - {name} {data} ", self.host)
    }
}

fn frame(head: &str, message: &[u8], into: &mut Vec<u8>) {
    let length = head.len() + message.len();
    into.extend_from_slice(format!("{length} {head}").as_bytes());
    into.extend_from_slice(message);
}

/// A device's name in visible ASCII: other bytes as `%XX`, and so the `%`, so that no two are one.
fn host(device: &str) -> String {
    let mut host = String::new();
    for byte in device.bytes() {
        let _ = match byte {
            b'%' => write!(host, "%25"),
            byte if byte.is_ascii_graphic() => write!(host, "{}", char::from(byte)),
            byte => write!(host, "%{byte:02X}"),
        };
    }
    host.truncate(LONGEST_HOST);
    host
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(enterprise: Option<u32>) -> Form {
        Form::new("edge-1", Facility::of("audit").unwrap(), enterprise)
    }

    fn message(form: &Form, index: u64, json: &str) -> String {
        let json = json.as_bytes().to_vec();
        let mut bytes = Vec::new();
        form.record(&Line { index, json }, Some(3), &mut bytes);
        let text = String::from_utf8(bytes).unwrap();
        let (length, message) = text.split_once(' ').unwrap();
        assert_eq!(length.parse(), Ok(message.len()), "{text}");
        message.to_owned()
    }

    #[test]
    fn a_message_is_the_records_bytes_behind_what_it_is_filed_by() {
        let json = r#"{"version":1,"index":41,"time":1800000000123,"synchronised":true,"event":"access","decision":"deny","reason":"expired","detail":"ü ] \" \\"}"#;
        let told = format!(
            "<108>1 2027-01-15T08:00:00.123Z edge-1 slmd - access \
             [timeQuality tzKnown=\"1\" isSynced=\"1\"][meta sequenceId=\"42\"] {json}"
        );
        assert_eq!(message(&form(None), 41, json), told);
        let own = told.replace("] {", "][slmd@64512 index=\"41\" epoch=\"3\"] {");
        assert_eq!(message(&form(Some(64512)), 41, json), own);
    }

    #[test]
    fn what_cant_be_read_is_sent_as_it_is() {
        let told = "<109>1 - edge-1 slmd - unknown [meta sequenceId=\"1\"] no JSON";
        assert_eq!(message(&form(None), 2_147_483_647, "no JSON"), told);
    }

    #[test]
    fn what_never_comes_is_told() {
        let (gap, mut bytes) = (Gap { first: 3, last: 9 }, Vec::new());
        form(None).gap(gap, Timestamp(0), &mut bytes);
        let told = "124 <108>1 1970-01-01T00:00:00.000Z edge-1 slmd - export_gap - \
                    {\"event\":\"export_gap\",\"first_index\":3,\"last_index\":9,\"missing\":7}";
        assert_eq!(String::from_utf8(bytes).unwrap(), told);
    }

    #[test]
    fn a_host_is_one_word_of_ascii() {
        assert_eq!(host("edge-1.plant"), "edge-1.plant");
        assert_eq!(host("kante 1%ü"), "kante%201%25%C3%BC");
        assert_eq!(host(&"é".repeat(64)).len(), LONGEST_HOST);
    }

    #[test]
    fn facilities_go_by_their_names() {
        for name in Facility::NAMES {
            assert_eq!(Facility::of(name).unwrap().as_str(), name);
        }
        assert_eq!(Facility::of("security"), None);
        assert_eq!(Facility::of("local7"), Some(Facility(23)));
    }
}
