//! A principal in short.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::text::bound;
use crate::digest::digest;

/// The first 64 bits of a hash over issuer, subject and client, as 16 hexadecimal digits. It says
/// whose a record is where the names would take too much room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(u64);

impl Tag {
    pub fn of(issuer: &str, subject: &str, client: &str) -> Tag {
        // As records have them: who reads the log must come to the same.
        let names = [issuer, subject, client].map(|name| {
            let mut name = name.to_owned();
            bound(&mut name);
            name
        });
        Tag(first_bits(&names))
    }

    /// Of a kind of refusal, where nobody was verified.
    pub(super) fn of_kind(transport: &str, reason: &str) -> Tag {
        Tag(first_bits(&["refusals", transport, reason]))
    }

    pub(super) fn bits(self) -> u64 {
        self.0
    }
}

fn first_bits<T: AsRef<str>>(parts: &[T]) -> u64 {
    let parts: Vec<&[u8]> = parts.iter().map(|part| part.as_ref().as_bytes()).collect();
    let [a, b, c, d, e, f, g, h, ..] = digest(&parts);
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for Tag {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Tag {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Tag, D::Error> {
        let text = String::deserialize(d)?;
        let bits = u64::from_str_radix(&text, 16);
        bits.map(Tag)
            .map_err(|_| serde::de::Error::custom("a principal's tag is 16 hexadecimal digits"))
    }
}
