//! Signed notes (C2SP signed-note): a text, the lines of those who have signed it, and the keys that
//! verify them.
//!
//! Nothing of a note counts before [`Note::verify`] has said so for a key that somebody trusts.

use std::fmt;

use super::cosignature::{self, Cosignature};
use super::text;
use crate::digest::sha256;
use crate::identity::PublicKey;

/// The longest note: room for 16 signatures of any kind that is assigned.
pub const MAX_LEN: usize = 128 * 1024;
const MAX_SIGNATURES: usize = 64;
/// A key's name, which is a log's origin or a witness's.
const MAX_NAME: usize = 1024;

/// A line of a signature begins so.
const DASH: &str = "\u{2014} ";

/// A text with at least one signature, which nobody has verified yet. It prints as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<Signature>,
}

/// A line of a note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    name: String,
    id: u32,
    bytes: Vec<u8>,
}

/// Why bytes are no note.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    #[error("it is larger than {MAX_LEN} bytes")]
    TooLarge,
    #[error("it isn't UTF-8 without control characters")]
    Characters,
    #[error("no empty line and signatures follow its text")]
    Unsigned,
    #[error("a line of its signatures is malformed")]
    Signature,
    #[error("it has more than {MAX_SIGNATURES} signatures")]
    TooMany,
}

/// What a note lacks of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("it isn't signed by that key")]
    Missing,
    #[error("a signature that claims to be that key's is not")]
    Wrong,
}

impl Note {
    pub fn parse(bytes: &[u8]) -> Result<Note, NoteError> {
        if bytes.len() > MAX_LEN {
            return Err(NoteError::TooLarge);
        }
        let whole = std::str::from_utf8(bytes).map_err(|_| NoteError::Characters)?;
        if !is_clean(whole) {
            return Err(NoteError::Characters);
        }
        // The text may have empty lines; the signatures have none.
        let end = whole.rfind("\n\n").ok_or(NoteError::Unsigned)?;
        let (text, lines) = whole.split_at(end + 1);
        Ok(Note {
            text: text.to_owned(),
            signatures: signatures(lines.strip_prefix('\n').unwrap_or_default())?,
        })
    }

    /// `text`, signed by who has `key`. `None` where such a note couldn't be read again.
    pub fn signed(text: &str, key: &VerifierKey, signature: &[u8]) -> Option<Note> {
        let mut note = Note {
            text: text.to_owned(),
            signatures: Vec::new(),
        };
        note.add(key, signature);
        (Note::parse(note.to_string().as_bytes()) == Ok(note.clone())).then_some(note)
    }

    /// One more signature, in place of an older one of the same key.
    pub fn add(&mut self, key: &VerifierKey, signature: &[u8]) {
        self.signatures.retain(|line| !line.is_of(key));
        self.signatures.push(Signature {
            name: key.name.clone(),
            id: key.id,
            bytes: signature.to_vec(),
        });
    }

    /// Takes the signatures of another note over the same text, in place of older ones of the same
    /// keys. `false`: it is of another text.
    pub fn join(&mut self, other: &Note) -> bool {
        if self.text != other.text {
            return false;
        }
        for line in &other.signatures {
            let same = |own: &Signature| (&own.name, own.id) == (&line.name, line.id);
            self.signatures.retain(|own| !same(own));
            self.signatures.push(line.clone());
        }
        true
    }

    /// What was signed: whole lines.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether `key` has signed it, and for a cosignature the time that it states. All that claims to
    /// be of this key must be.
    pub fn verify(&self, key: &VerifierKey) -> Result<Option<u64>, SignatureError> {
        let lines = self.signatures.iter().filter(|line| line.is_of(key));
        let times = lines.map(|line| key.verify(&self.text, &line.bytes));
        let times: Vec<Option<u64>> = times.collect::<Option<_>>().ok_or(SignatureError::Wrong)?;
        times.into_iter().max().ok_or(SignatureError::Missing)
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|line| line.fmt(f))
    }
}

impl Signature {
    fn parse(line: &str) -> Option<Signature> {
        let (name, rest) = line.strip_prefix(DASH)?.split_once(' ')?;
        let bytes = text::bytes(rest)?;
        let (id, bytes) = bytes.split_first_chunk()?;
        let sound = is_name(name) && !bytes.is_empty();
        sound.then(|| Signature {
            name: name.to_owned(),
            id: u32::from_be_bytes(*id),
            bytes: bytes.to_vec(),
        })
    }

    fn is_of(&self, key: &VerifierKey) -> bool {
        (&self.name, self.id) == (&key.name, key.id)
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&self.id.to_be_bytes() as &[u8], &self.bytes].concat();
        writeln!(f, "{DASH}{} {}", self.name, text::base64(&bytes))
    }
}

/// Lines of signatures by themselves, as a witness answers them.
fn signatures(lines: &str) -> Result<Vec<Signature>, NoteError> {
    let lines = lines.strip_suffix('\n').ok_or(NoteError::Unsigned)?;
    let mut signatures = Vec::new();
    for line in lines.split('\n') {
        if signatures.len() == MAX_SIGNATURES {
            return Err(NoteError::TooMany);
        }
        signatures.push(Signature::parse(line).ok_or(NoteError::Signature)?);
    }
    Ok(signatures)
}

/// A key that a signature can be of, as people configure it: the text of C2SP's verifier keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    id: u32,
    algorithm: Algorithm,
    key: PublicKey,
}

/// What a key signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// Notes, with Ed25519: a log.
    Ed25519,
    /// Checkpoints and the time, with Ed25519: a witness.
    Cosignature,
}

/// Why a text is no verifier key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error(
        "a verifier key is a name, eight hexadecimal digits and base64, with plus signs between"
    )]
    Form,
    #[error("a key's name has neither spaces nor plus signs, and {MAX_NAME} bytes at most")]
    Name,
    #[error(
        "its algorithm, 0x{0:02x}, isn't known here: 0x01 (Ed25519) and 0x04 (cosignatures) are"
    )]
    Algorithm(u8),
    #[error("its id isn't that of its name and key: a character is wrong")]
    Id,
}

impl Algorithm {
    fn byte(self) -> u8 {
        match self {
            Algorithm::Ed25519 => 0x01,
            Algorithm::Cosignature => 0x04,
        }
    }
}

impl VerifierKey {
    pub fn new(name: &str, algorithm: Algorithm, key: &PublicKey) -> Result<Self, KeyError> {
        if !is_name(name) {
            return Err(KeyError::Name);
        }
        let public = [&[algorithm.byte()], key.bytes() as &[u8]].concat();
        let hashed = sha256(&[name.as_bytes(), b"\n", &public].concat());
        let [a, b, c, d, ..] = hashed;
        Ok(VerifierKey {
            name: name.to_owned(),
            id: u32::from_be_bytes([a, b, c, d]),
            algorithm,
            key: key.clone(),
        })
    }

    pub fn parse(text: &str) -> Result<VerifierKey, KeyError> {
        let (name, rest) = text.split_once('+').ok_or(KeyError::Form)?;
        let (id, public) = rest.split_once('+').ok_or(KeyError::Form)?;
        let public = text::bytes(public).ok_or(KeyError::Form)?;
        let (algorithm, public) = public.split_first().ok_or(KeyError::Form)?;
        let algorithm = match algorithm {
            0x01 => Algorithm::Ed25519,
            0x04 => Algorithm::Cosignature,
            other => return Err(KeyError::Algorithm(*other)),
        };
        let public = public.try_into().map_err(|_| KeyError::Form)?;
        let key = VerifierKey::new(name, algorithm, &PublicKey::new(public))?;
        match id == key.hex_id() {
            true => Ok(key),
            false => Err(KeyError::Id),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Two keys may have one under different names.
    pub fn public(&self) -> &PublicKey {
        &self.key
    }

    fn hex_id(&self) -> String {
        format!("{:08x}", self.id)
    }

    /// `None` where it is wrong, otherwise the time that a cosignature states.
    fn verify(&self, text: &str, signature: &[u8]) -> Option<Option<u64>> {
        match self.algorithm {
            Algorithm::Ed25519 => {
                let right = self.key.verify(text.as_bytes(), signature);
                right.then_some(None)
            }
            Algorithm::Cosignature => {
                let Cosignature { time, signature } = Cosignature::parse(signature)?;
                let message = cosignature::message(time, text);
                let right = self.key.verify(message.as_bytes(), &signature);
                right.then_some(Some(time))
            }
        }
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let public = [&[self.algorithm.byte()], self.key.bytes() as &[u8]].concat();
        let public = text::base64(&public);
        write!(f, "{}+{}+{public}", self.name, self.hex_id())
    }
}

fn is_name(text: &str) -> bool {
    let clean = |c: char| !c.is_whitespace() && !c.is_control() && c != '+';
    !text.is_empty() && text.len() <= MAX_NAME && text.chars().all(clean)
}

fn is_clean(text: &str) -> bool {
    text.bytes().all(|byte| byte >= b' ' || byte == b'\n')
}

#[cfg(test)]
mod tests;
