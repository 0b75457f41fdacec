//! Marks around messages' texts, which show where they are in what a template wrote.

use super::Piece;
use crate::identity;
use crate::secret::Secret;

/// Random text that nobody can put into a message beforehand. Digits only between two private-use
/// characters, so that neither trimming nor change of case touches it.
pub(super) struct Marks {
    open: String,
    close: String,
}

impl Marks {
    pub(super) fn random() -> Marks {
        let mark = || {
            format!(
                "\u{f5d0}{}\u{f5d1}",
                u128::from_le_bytes(identity::random())
            )
        };
        Marks {
            open: mark(),
            close: mark(),
        }
    }

    pub(super) fn wrap(&self, text: &str) -> Secret<String> {
        Secret::new(format!("{}{text}{}", self.open, self.close))
    }

    /// `None` when the marks aren't whole pairs in order.
    pub(super) fn split(&self, rendered: &str) -> Option<Vec<Piece>> {
        let mut pieces = Vec::new();
        let mut parts = rendered.split(self.open.as_str());
        let control = |text: &str| {
            let clean = !text.contains(&self.close);
            clean.then(|| Piece::Control(text.to_owned()))
        };
        pieces.push(control(parts.next()?)?);
        for part in parts {
            let (plain, after) = part.split_once(self.close.as_str())?;
            pieces.push(Piece::Plain(plain.to_owned()));
            pieces.push(control(after)?);
        }
        Some(pieces)
    }
}

/// Whether `pieces` are the text `whole`.
pub(super) fn are(pieces: &[Piece], whole: &str) -> bool {
    let mut texts = pieces.iter().map(Piece::text);
    let rest = texts.try_fold(whole, |rest, piece| rest.strip_prefix(piece));
    rest.is_some_and(str::is_empty)
}
