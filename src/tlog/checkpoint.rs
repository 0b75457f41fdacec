//! Checkpoints (C2SP tlog-checkpoint): the text of a note that says how large a log is and what its
//! root hash is.

use std::fmt;

use super::note::{Algorithm, Note, NoteError, SignatureError, VerifierKey};
use super::text;
use super::tree::{EMPTY, Hash};
use crate::identity::PublicKey;

/// The head of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log it is of.
    pub origin: String,
    /// How many leaves it has.
    pub size: u64,
    pub root: Hash,
}

/// Why a note isn't a log's checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    #[error("it is no signed note: {0}")]
    Note(NoteError),
    #[error("it isn't the log's: {0}")]
    Signature(SignatureError),
    #[error("its text is no checkpoint: an origin, a size and a root hash, a line each")]
    Form,
    #[error("it says that an empty log has a root hash")]
    Empty,
    #[error("its origin isn't the name of the log's key")]
    Origin,
}

impl Checkpoint {
    /// Lines behind the third are a log's own affair.
    pub fn parse(text: &str) -> Result<Checkpoint, CheckpointError> {
        let lines = text.strip_suffix('\n').ok_or(CheckpointError::Form)?;
        let mut lines = lines.split('\n');
        let mut next = || lines.next().filter(|line| !line.is_empty());
        let (origin, size, root) = (next(), next(), next());
        if lines.any(str::is_empty) {
            return Err(CheckpointError::Form);
        }
        let read = Checkpoint {
            origin: origin.ok_or(CheckpointError::Form)?.to_owned(),
            size: size.and_then(text::decimal).ok_or(CheckpointError::Form)?,
            root: root.and_then(text::hash).ok_or(CheckpointError::Form)?,
        };
        match read.size == 0 && read.root != EMPTY {
            true => Err(CheckpointError::Empty),
            false => Ok(read),
        }
    }

    /// The checkpoint in `note` of whichever log that signs with `key` under its own name.
    pub fn by(note: &[u8], key: &PublicKey) -> Result<(Checkpoint, Note), CheckpointError> {
        let parsed = Note::parse(note).map_err(CheckpointError::Note)?;
        let origin = parsed.text().split('\n').next().unwrap_or_default();
        let log = VerifierKey::new(origin, Algorithm::Ed25519, key);
        Checkpoint::open(note, &log.map_err(|_| CheckpointError::Origin)?)
    }

    /// The checkpoint in `note`, which must be signed by the log that has `key`.
    pub fn open(note: &[u8], key: &VerifierKey) -> Result<(Checkpoint, Note), CheckpointError> {
        let note = Note::parse(note).map_err(CheckpointError::Note)?;
        note.verify(key).map_err(CheckpointError::Signature)?;
        let checkpoint = Checkpoint::parse(note.text())?;
        match checkpoint.origin == key.name() {
            true => Ok((checkpoint, note)),
            false => Err(CheckpointError::Origin),
        }
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let root = text::base64(&self.root);
        writeln!(f, "{}\n{}\n{root}", self.origin, self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Key;

    const PUBLISHED: &str =
        "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";

    #[test]
    fn the_published_one_is_read_and_written() {
        let read = Checkpoint::parse(PUBLISHED).unwrap();
        assert_eq!(read.origin, "example.com/behind-the-sofa");
        assert_eq!(read.size, 20_852_163);
        assert_eq!(read.to_string(), PUBLISHED);
        let extended = format!("{PUBLISHED}timestamp 1\n");
        assert_eq!(Checkpoint::parse(&extended), Ok(read));
    }

    #[test]
    fn what_is_no_checkpoint_is_refused() {
        let root = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=";
        for text in [
            "",
            "\n",
            "a\n1\n",
            &format!("a\n1\n{root}"),
            &format!("\n1\n{root}\n"),
            &format!("a\n\n{root}\n"),
            &format!("a\n01\n{root}\n"),
            &format!("a\n-1\n{root}\n"),
            &format!("a\n1 \n{root}\n"),
            &format!("a\n1\n{root}\n\n"),
            &format!("a\n1\n{root}\n\nx\n"),
            &format!("a\n1\n{}\n", &root[1..]),
            &format!("a\n9223372036854775808\n{root}\n"),
        ] {
            assert_eq!(
                Checkpoint::parse(text),
                Err(CheckpointError::Form),
                "{text:?}"
            );
        }
        let empty = format!("a\n0\n{root}\n");
        assert_eq!(Checkpoint::parse(&empty), Err(CheckpointError::Empty));
        let empty = "a\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n";
        assert_eq!(Checkpoint::parse(empty).map(|read| read.root), Ok(EMPTY));
    }

    #[test]
    fn it_counts_for_the_log_that_it_names() {
        let device = Key::published();
        let key = |name: &str| VerifierKey::new(name, Algorithm::Ed25519, device.public()).unwrap();
        let signed = |text: &str, name: &str| {
            let signature = device.sign_note(text).unwrap();
            Note::signed(text, &key(name), &signature)
                .unwrap()
                .to_string()
        };
        let text = "edge/1\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
        let open = |note: &str, name: &str| {
            Checkpoint::open(note.as_bytes(), &key(name)).map(|(read, _)| read.size)
        };
        assert_eq!(open(&signed(text, "edge/1"), "edge/1"), Ok(1));
        let by = |note: &str| {
            Checkpoint::by(note.as_bytes(), device.public()).map(|(read, _)| read.size)
        };
        assert_eq!(by(&signed(text, "edge/1")), Ok(1));
        let unnamed = text.replace("edge/1", "edge 1");
        assert_eq!(
            by(&signed(&unnamed, "edge/1")),
            Err(CheckpointError::Origin)
        );
        let missing = CheckpointError::Signature(SignatureError::Missing);
        assert_eq!(open(&signed(text, "edge/1"), "edge/2"), Err(missing));
        assert_eq!(
            open(&signed(text, "edge/2"), "edge/2"),
            Err(CheckpointError::Origin)
        );
        assert_eq!(
            open(&signed("hello\n", "edge/1"), "edge/1"),
            Err(CheckpointError::Form)
        );
        let other = signed(text, "edge/1").replace("edge/1\n1\n", "edge/1\n2\n");
        let wrong = CheckpointError::Signature(SignatureError::Wrong);
        assert_eq!(open(&other, "edge/1"), Err(wrong));
        let torn = CheckpointError::Note(NoteError::Unsigned);
        assert_eq!(open(text, "edge/1"), Err(torn));
    }
}
