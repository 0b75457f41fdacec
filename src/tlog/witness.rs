//! What a log and a witness say to each other (C2SP tlog-witness), and the rule of a witness.

use super::checkpoint::Checkpoint;
use super::note::{self, Note, NoteError};
use super::text;
use super::tree::{Hash, verify_consistency};

/// The body of `POST add-checkpoint`: the log has grown from `old`, the size that the witness knows, to
/// the checkpoint in `note`.
pub fn add_checkpoint(old: u64, proof: &[Hash], note: &str) -> String {
    let proof: String = proof
        .iter()
        .map(|hash| format!("{}\n", text::base64(hash)))
        .collect();
    format!("old {old}\n{proof}\n{note}")
}

/// The size that a witness knows, by the body of its 409.
pub fn known_size(body: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(body).ok()?;
    text::decimal(text.strip_suffix('\n').unwrap_or(text))
}

/// `note` with the lines that a witness has answered. Which of them count is for [`Note::verify`].
pub fn cosigned(note: &Note, body: &[u8]) -> Result<Note, NoteError> {
    let own = note.to_string();
    if body.len() > note::MAX_LEN {
        return Err(NoteError::TooLarge);
    }
    // INVARIANT kept by the parser: the lines can't bring an empty one, so the text stays what it was.
    let both = Note::parse(&[own.as_bytes(), body].concat())?;
    match both.text() == note.text() {
        true => Ok(both),
        false => Err(NoteError::Signature),
    }
}

/// How a log stands to what a witness has seen of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    First,
    Same,
    Grown,
}

/// Why a witness doesn't take a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// No evidence of anything: the proof may come later.
    #[error("no proof that the log has grown from {0} records")]
    Unproven(u64),
    #[error("the log had {0} records and now has {1}")]
    Smaller(u64, u64),
    #[error("the log has other records than it had, though as many")]
    OtherRoot,
    #[error("the log's first {0} records aren't those that it had")]
    Inconsistent(u64),
}

impl Doubt {
    pub fn name(self) -> &'static str {
        match self {
            Doubt::Unproven(_) => "unproven",
            Doubt::Smaller(..) => "smaller",
            Doubt::OtherRoot => "other_root",
            Doubt::Inconsistent(_) => "inconsistent",
        }
    }
}

/// The rule of a witness: nothing that a log has shown may change. `kept`: what was last seen of the
/// same log. `proof`: from its size to `shown`'s.
pub fn judge(
    kept: Option<&Checkpoint>,
    shown: &Checkpoint,
    proof: Option<&[Hash]>,
) -> Result<Step, Doubt> {
    let Some(kept) = kept else {
        return Ok(Step::First);
    };
    if shown.size < kept.size {
        return Err(Doubt::Smaller(kept.size, shown.size));
    }
    if shown.size == kept.size {
        return match shown.root == kept.root {
            true => Ok(Step::Same),
            false => Err(Doubt::OtherRoot),
        };
    }
    // Any log has grown from nothing.
    if kept.size == 0 {
        return Ok(Step::Grown);
    }
    let proof = proof.ok_or(Doubt::Unproven(kept.size))?;
    verify_consistency(kept.size, &kept.root, shown.size, &shown.root, proof)
        .map(|()| Step::Grown)
        .map_err(|_| Doubt::Inconsistent(kept.size))
}

#[cfg(test)]
mod tests;
