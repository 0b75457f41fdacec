//! Texts of prompts and answers, where an endpoint has them kept: encrypted before they come here, to
//! recipients whose private keys are elsewhere, so that this box can't read them again.
//!
//! They lie beside the records, under the record's index, in parts that the store takes. A record says
//! which they are by the hash of what is stored, so that the log's proofs cover them; they count into
//! their principal's share of the log and go with their record.

use std::fmt;
use std::ops::ControlFlow;
use std::str::FromStr;

use super::record::Event;
use super::{AuditError, Log};
use crate::digest::{hex, sha256};
use crate::store::{MAX_VALUE, StoreError, Tree, Writer};

/// More than a text of any release has.
const MAX_PARTS: usize = 64;

pub(super) fn write(
    tree: &Tree,
    writer: &Writer<'_>,
    index: u64,
    file: &[u8],
) -> Result<(), StoreError> {
    for (part, bytes) in (0..).zip(file.chunks(MAX_VALUE)) {
        writer.insert(tree, &key(index, part), bytes)?;
    }
    Ok(())
}

/// Removes the parts of so many bytes; `None`: what the record has isn't known.
pub(super) fn remove(
    tree: &Tree,
    writer: &Writer<'_>,
    index: u64,
    bytes: Option<u64>,
) -> Result<(), StoreError> {
    let Some(bytes) = bytes else {
        let keys = tree.keys(&index.to_be_bytes(), MAX_PARTS)?;
        let own = keys
            .iter()
            .filter(|key| key.starts_with(&index.to_be_bytes()));
        return own.into_iter().try_for_each(|key| writer.remove(tree, key));
    };
    for part in 0..parts(bytes) {
        writer.remove(tree, &key(index, part))?;
    }
    Ok(())
}

/// Whether anything is kept under this index.
pub(super) fn is_kept(tree: &Tree, index: u64) -> Result<bool, StoreError> {
    let prefix = index.to_be_bytes();
    let keys = tree.keys(&prefix, 1)?;
    Ok(keys.iter().any(|key| key.starts_with(&prefix)))
}

fn parts(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(MAX_VALUE as u64)).unwrap_or(u32::MAX)
}

fn key(index: u64, part: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&index.to_be_bytes());
    key[8..].copy_from_slice(&part.to_be_bytes());
    key
}

/// A text that is kept, and what it is the text of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    pub index: u64,
    /// Else it is a prompt.
    pub is_answer: bool,
    /// Encrypted.
    pub file: Vec<u8>,
}

/// Which text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextOf {
    /// Of the record with this index.
    Record(u64),
    /// Of the request with this id of ours.
    Prompt(String),
    Answer(String),
}

/// Behind a request's id.
const ANSWER: &str = "/answer";

impl fmt::Display for TextOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TextOf::Record(index) => index.fmt(f),
            TextOf::Prompt(id) => id.fmt(f),
            TextOf::Answer(id) => write!(f, "{id}{ANSWER}"),
        }
    }
}

/// Fails with what should have been written.
impl FromStr for TextOf {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<TextOf, &'static str> {
        if let Ok(index) = text.parse() {
            return Ok(TextOf::Record(index));
        }
        let answer = text.strip_suffix(ANSWER);
        let id = answer.unwrap_or(text);
        let own = id.strip_prefix("req_").unwrap_or_default();
        match !own.is_empty() && own.bytes().all(|b| b.is_ascii_hexdigit()) {
            true if answer.is_some() => Ok(TextOf::Answer(id.to_owned())),
            true => Ok(TextOf::Prompt(id.to_owned())),
            false => Err("write a record's index or a request's own id, req_…"),
        }
    }
}

impl Log {
    /// As somebody names it. Blocks, for a request as long as reading the log takes.
    pub fn text_of(&self, which: &TextOf) -> Result<Option<Text>, AuditError> {
        let (request, answer) = match which {
            TextOf::Record(index) => return self.text(*index),
            TextOf::Prompt(request) => (request, false),
            TextOf::Answer(request) => (request, true),
        };
        for index in self.texts_of(request)? {
            if let Some(text) = self.text(index)?
                && text.is_answer == answer
            {
                return Ok(Some(text));
            }
        }
        Ok(None)
    }

    /// The text of a record, as it was encrypted; `None` where there is no such record, or none with a
    /// text. It is durable, and the one that the record names. Blocks.
    pub fn text(&self, index: u64) -> Result<Option<Text>, AuditError> {
        let Some(record) = self.line(index)?.and_then(|line| line.record()) else {
            return Ok(None);
        };
        let Some(sealed) = record.event.sealed() else {
            return Ok(None);
        };
        let mut file = Vec::new();
        for part in 0..parts(sealed.bytes) {
            match self.0.texts.get(&key(index, part))? {
                Some(bytes) => file.extend_from_slice(&bytes),
                None => break,
            }
        }
        if file.is_empty() {
            // It was erased.
            return Ok(None);
        }
        if hex(&sha256(&file)) != sealed.sha256 {
            return Err(AuditError::Text(index));
        }
        Ok(Some(Text {
            index,
            is_answer: matches!(record.event, Event::Finish(_)),
            file,
        }))
    }

    /// Where the texts of a request are that has this id of ours: of its prompt and of its answer. Blocks,
    /// as long as reading the log takes.
    pub fn texts_of(&self, request: &str) -> Result<Vec<u64>, AuditError> {
        let mut found = Vec::new();
        self.naming(request, |index, event| {
            let id = match &event {
                Event::Access(access) => Some(&access.request_id),
                Event::Finish(finished) => Some(&finished.request_id),
                _ => None,
            };
            if id.is_some_and(|id| id.as_str() == request) && event.sealed().is_some() {
                found.push(index);
            }
            ControlFlow::<()>::Continue(())
        })?;
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::super::record::{Access, Verdict};
    use super::super::state::Pending;
    use super::super::tests::{START, access, finished, later, open, settings};
    use super::super::{Settings, tests::all};
    use super::*;
    use crate::audit::encrypted::{MAX_TEXT, Sealed};
    use crate::prompt::{Origin, RequestId};
    use crate::store::Store;

    const RECIPIENT: &str = "age1xmwwc06ly3ee5rytxm9mflaz2u56jjj36s0mypdrwsvlul66mv4q47ryef";

    fn sealed(text: &str) -> Sealed {
        Sealed::of(text, &[RECIPIENT.parse().unwrap()]).unwrap()
    }

    fn asking(text: &str) -> Access {
        Access {
            text: Some(sealed(text)),
            ..access(Verdict::Permit)
        }
    }

    fn kept(folder: &TempDir) -> usize {
        let store = Store::open(&folder.path().join("db")).unwrap();
        store.tree("audit_texts").unwrap().len()
    }

    #[test]
    fn a_text_is_kept_as_its_record_names_it_and_only_encrypted() {
        let folder = tempfile::tempdir().unwrap();
        let log = open(&folder, settings());
        // More than the store takes in one value.
        let long = "What nobody here shall read again. ".repeat(4000);
        let asked = asking(&long);
        let id = asked.request_id.clone();
        let index = log.permit(asked, [0; 16], START).unwrap();
        let mut answered = finished();
        (answered.request_id, answered.text) = (id.clone(), Some(sealed("Nor this.")));
        let answer = log.finish(answered, START).unwrap();
        let plain = log.permit(access(Verdict::Permit), [0; 16], START).unwrap();
        log.close(START).unwrap();
        let shows = |log: &Log| {
            let text = log.text(index).unwrap().unwrap();
            assert!(!text.is_answer && text.file.len() > long.len());
            assert!(text.file.starts_with(b"age-encryption.org/v1\n"));
            assert!(log.text(answer).unwrap().unwrap().is_answer);
            assert_eq!(log.text(plain).unwrap(), None);
            assert_eq!(log.text(99).unwrap(), None);
            assert_eq!(log.texts_of(id.as_str()).unwrap(), [index, answer]);
            assert!(log.texts_of("req_").unwrap().is_empty());
            let line = log.line(index).unwrap().unwrap();
            let (hash, bytes) = (hex(&sha256(&text.file)), text.file.len());
            let named = format!("\"text\":{{\"sha256\":\"{hash}\",\"bytes\":{bytes}}}");
            assert!(str::from_utf8(&line.json).unwrap().contains(&named));
        };
        shows(&log);
        drop(log);
        shows(&open(&folder, settings()));
    }

    #[test]
    fn a_text_is_asked_for_by_index_or_request() {
        let (one, id) = (RequestId::random(), RequestId::random());
        for text in ["7", one.as_str(), &format!("{id}/answer")] {
            assert_eq!(text.parse::<TextOf>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "-1",
            "req_",
            "req_x",
            "other",
            "req_12/prompt",
            "/answer",
        ] {
            assert!(bad.parse::<TextOf>().is_err(), "{bad}");
        }
        let folder = tempfile::tempdir().unwrap();
        let log = open(&folder, settings());
        let asked = asking("asked");
        let id = asked.request_id.as_str().to_owned();
        log.permit(asked, [0; 16], START).unwrap();
        let found = |which: TextOf| log.text_of(&which).unwrap().map(|text| text.index);
        let index = found(TextOf::Prompt(id.clone())).unwrap();
        assert_eq!(found(TextOf::Record(index)), Some(index));
        assert_eq!(found(TextOf::Answer(id)), None);
    }

    #[test]
    fn a_text_that_was_changed_is_no_text_of_its_record() {
        let folder = tempfile::tempdir().unwrap();
        let log = open(&folder, settings());
        let index = log.permit(asking("as it was"), [0; 16], START).unwrap();
        let other = sealed("as it was").take();
        log.0
            .store
            .write(|writer| write(&log.0.texts, writer, index, &other))
            .unwrap();
        assert!(matches!(log.text(index), Err(AuditError::Text(_))));
    }

    #[test]
    fn texts_count_into_the_cap_and_go_with_their_records() {
        let folder = tempfile::tempdir().unwrap();
        let small = Settings {
            max_bytes: 0,
            ..settings()
        };
        let log = open(&folder, small.clone());
        let text = "x".repeat(8 * 1024);
        for n in 0..40 {
            log.permit(asking(&text), [0; 16], later(n)).unwrap();
        }
        log.close(START).unwrap();
        let left = all(&log);
        let with_text: Vec<u64> = left
            .iter()
            .filter(|r| r.event.sealed().is_some())
            .map(|r| r.index)
            .collect();
        assert!((2..9).contains(&with_text.len()), "{with_text:?}");
        assert!(
            with_text
                .iter()
                .all(|index| log.text(*index).unwrap().is_some())
        );
        // The counters that were kept along the way are those of a fresh look.
        let counted = log.metrics().bytes.get();
        drop(log);
        assert_eq!(kept(&folder), with_text.len());
        assert_eq!(open(&folder, small).metrics().bytes.get(), counted);
    }

    #[test]
    fn a_forgotten_request_leaves_no_text_and_keeps_its_proofs() {
        let folder = tempfile::tempdir().unwrap();
        let log = open(&folder, settings());
        let asked = asking("Forget this.");
        let id = asked.request_id.clone();
        let index = log.permit(asked, [7; 16], START).unwrap();
        let mut answered = finished();
        (answered.request_id, answered.text) = (id.clone(), Some(sealed("And that.")));
        let answer = log.finish(answered, START).unwrap();
        let other = log.permit(asking("Keep this."), [8; 16], START).unwrap();
        let line = log.line(index).unwrap();
        let forget = || log.forget(id.as_str(), Origin::Daemon, START).unwrap();
        let forgotten = forget();
        assert!(forgotten.erased);
        assert_eq!(forgotten.texts, [index, answer]);
        let gone = |log: &Log| {
            assert_eq!(log.text(index).unwrap(), None);
            assert_eq!(log.text(answer).unwrap(), None);
            assert_eq!(log.salt(index).unwrap(), None);
            assert!(log.text(other).unwrap().is_some());
            assert_eq!(log.line(index).unwrap(), line);
        };
        gone(&log);
        let told = log.line(log.next_index() - 1).unwrap().unwrap();
        let told = str::from_utf8(&told.json).unwrap().to_owned();
        let texts = format!(
            r#""what":"salt_erased","detail":{{"realm":"dev","request_id":"{id}","index":{index},"texts":[{index},{answer}]}}"#
        );
        assert!(told.contains(&texts), "{told}");
        // Nothing is left, so nothing is recorded.
        let next = log.next_index();
        let again = forget();
        assert!(!again.erased && again.texts.is_empty());
        assert_eq!(log.next_index(), next);
        // An answer that came after its request was forgotten.
        let mut late = finished();
        (late.request_id, late.text) = (id.clone(), Some(sealed("Late.")));
        let late = log.finish(late, START).unwrap();
        let again = forget();
        assert!(!again.erased);
        assert_eq!(again.texts, [late]);
        let told = log.line(log.next_index() - 1).unwrap().unwrap();
        assert!(str::from_utf8(&told.json).unwrap().contains("texts_erased"));
        gone(&log);
        let signed = log.sign_now(START).unwrap();
        assert!(log.proof(index, &signed).is_ok());
        log.close(START).unwrap();
        drop(log);
        gone(&open(&folder, settings()));
    }

    /// The record of the erasing isn't on the disk yet when the disk fails: what was erased isn't
    /// written again with what is.
    #[test]
    fn what_was_forgotten_is_not_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let log = open(&folder, settings());
        let asked = asking("Forget this.");
        let id = asked.request_id.clone();
        let append = || log.append_permit(asked.clone(), [7; 16], START);
        let index = append().unwrap();
        log.forget(id.as_str(), Origin::Daemon, START).unwrap();
        let state = log.state();
        let pending = state.pending.iter().find(|pending| pending.index == index);
        assert!(pending.is_none_or(|pending| pending.text.is_empty() && pending.salt.is_none()));
        let bytes: usize = state.pending.iter().map(Pending::bytes).sum();
        assert_eq!(state.pending_bytes, bytes);
    }

    #[test]
    fn a_text_without_its_record_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        let log = open(&folder, settings());
        let next = log.next_index();
        log.0
            .store
            .write(|writer| write(&log.0.texts, writer, next, b"age"))
            .unwrap();
        log.close(START).unwrap();
        drop(log);
        assert_eq!(kept(&folder), 1);
        drop(open(&folder, settings()));
        assert_eq!(kept(&folder), 0);
    }

    #[test]
    fn a_text_without_end_is_cut_between_characters_and_said_to_be() {
        let long = "é".repeat(MAX_TEXT / 2 + 1);
        let cut = sealed(&format!("a{long}"));
        assert!(cut.cut);
        let whole = sealed(&"a".repeat(MAX_TEXT));
        assert!(!whole.cut && cut.bytes == whole.bytes - 1 && whole.bytes > MAX_TEXT as u64);
    }
}
