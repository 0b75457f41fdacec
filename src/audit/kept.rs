//! A record as the store keeps it.

use super::AuditError;
use super::owners::Owner;
use super::record::{Event, Line, Record};

/// What a record costs beside its JSON: key, salt, page structure, its hash in the tree.
pub(super) const OVERHEAD: u64 = 96;

/// A record of the log; what it says, where this release can read it.
pub(super) struct Kept {
    pub(super) index: u64,
    pub(super) record: Option<Record>,
    pub(super) bytes: u64,
}

impl Kept {
    pub(super) fn new(line: &Line) -> Kept {
        let record = line.record();
        let text = record
            .as_ref()
            .map_or(0, |record| text_bytes(&record.event));
        Kept {
            index: line.index,
            record,
            bytes: cost(&line.json) + text,
        }
    }

    /// What its text takes, of these bytes, where that can be read.
    pub(super) fn text_bytes(&self) -> Option<u64> {
        let record = self.record.as_ref();
        record.map(|record| text_bytes(&record.event))
    }

    /// Whether it tells of records that are removed after it was written.
    pub(super) fn is_truncation(&self) -> bool {
        let record = self.record.as_ref();
        record.is_some_and(|record| matches!(record.event, Event::Truncated { .. }))
    }

    /// How many records of the epoch were removed in all, where it tells of it.
    pub(super) fn removed_in_all(&self) -> Option<u64> {
        match self.record.as_ref()?.event {
            Event::Truncated { removed_in_all, .. } => removed_in_all,
            _ => None,
        }
    }

    pub(super) fn owner(&self) -> Owner {
        let record = self.record.as_ref();
        record.map_or(Owner::Unknown, |record| Owner::of(&record.event))
    }
}

pub(super) fn line((key, json): (Vec<u8>, Vec<u8>)) -> Result<Line, AuditError> {
    let index = index_of(&key)?;
    Ok(Line { index, json })
}

/// What is kept beside a record takes, too.
pub(super) fn text_bytes(event: &Event) -> u64 {
    event.sealed().map_or(0, |sealed| sealed.bytes)
}

/// What a record takes of the log's space, but for its text.
pub(super) fn cost(json: &[u8]) -> u64 {
    json.len() as u64 + OVERHEAD
}

pub(super) fn index_of(key: &[u8]) -> Result<u64, AuditError> {
    let key = <[u8; 8]>::try_from(key).map_err(|_| AuditError::NoIndex)?;
    Ok(u64::from_be_bytes(key))
}
