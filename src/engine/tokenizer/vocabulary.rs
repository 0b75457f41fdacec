//! The tokens' texts, to be found by id and by text, in three allocations: a string for each
//! token, as the crate keeps them, takes most of a daemon's start.

use std::borrow::Cow;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher};

/// A slot of the index that no token has.
const FREE: (u32, u32) = (0, u32::MAX);

pub(super) struct Vocabulary {
    /// In the order of their ids, one behind the other.
    texts: String,
    /// Where in `texts` token `i` begins; one more than there are tokens.
    starts: Vec<u32>,
    /// Half a hash of a token's text and its id, in the slot that the other half names, or the
    /// next free one. Half of the slots at least are free.
    index: Vec<(u32, u32)>,
    hasher: BuildHasherDefault<Mix>,
}

/// As rustc's `FxHasher`, cheaper than the standard library's. It resists nobody who chooses
/// the keys, and needn't: they come from a bundle, prompts are only looked up.
#[derive(Debug, Default)]
pub(super) struct Mix(u64);

impl Vocabulary {
    /// Of texts with their ids, which must be 0, 1, 2 and so on, in any order.
    pub(super) fn new(tokens: &[(Cow<'_, str>, u32)]) -> Result<Vocabulary, String> {
        let mut by_id = vec![None; tokens.len()];
        for (text, id) in tokens {
            let place = by_id.get_mut(*id as usize);
            if let Some(other) = place.and_then(|place| place.replace(text)) {
                return Err(format!(
                    "the tokens {other:?} and {text:?} have the same id {id}"
                ));
            }
        }
        let mut vocabulary = Vocabulary {
            texts: String::with_capacity(tokens.iter().map(|(text, _)| text.len()).sum()),
            starts: vec![0],
            index: vec![FREE; (2 * tokens.len()).next_power_of_two()],
            hasher: BuildHasherDefault::default(),
        };
        for (id, text) in by_id.into_iter().enumerate() {
            let text = text.ok_or_else(|| format!("no token has the id {id}"))?;
            vocabulary.push(text)?;
        }
        Ok(vocabulary)
    }

    fn push(&mut self, text: &str) -> Result<(), String> {
        let (slot, half) = match self.find(text) {
            Ok(_) => return Err(format!("the token {text:?} is there twice")),
            Err(place) => place,
        };
        let id = u32::try_from(self.len()).map_err(|_| "too many tokens")?;
        self.texts.push_str(text);
        let end = u32::try_from(self.texts.len()).map_err(|_| "the tokens are too long")?;
        self.starts.push(end);
        self.index[slot] = (half, id);
        Ok(())
    }

    /// The token's id, or the slot that it would have, with what to write there.
    fn find(&self, text: &str) -> Result<u32, (usize, u32)> {
        let last = self.index.len() - 1;
        let hash = self.hasher.hash_one(text);
        let (mut slot, half) = (hash as usize & last, (hash >> 32) as u32);
        loop {
            match self.index[slot] {
                FREE => return Err((slot, half)),
                (other, id) if other == half && self.text(id) == Some(text) => return Ok(id),
                _ => slot = (slot + 1) & last,
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.starts.len() - 1
    }

    pub(super) fn id(&self, text: &str) -> Option<u32> {
        self.find(text).ok()
    }

    pub(super) fn text(&self, id: u32) -> Option<&str> {
        let id = id as usize;
        let (start, end) = (*self.starts.get(id)?, *self.starts.get(id + 1)?);
        self.texts.get(start as usize..end as usize)
    }

    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        let ranges = self.starts.windows(2);
        ranges.map(|range| &self.texts[range[0] as usize..range[1] as usize])
    }
}

impl Mix {
    /// The constant of rustc-hash 2.
    const FACTOR: u64 = 0xf135_7aea_2e62_a9c5;

    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(Mix::FACTOR);
    }
}

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.add(u64::from_le_bytes(*word));
        }
        let rest = rest.iter().rev();
        self.add(rest.fold(0, |word, byte| word << 8 | u64::from(*byte)));
    }

    fn write_u8(&mut self, byte: u8) {
        self.add(byte.into());
    }

    fn write_u32(&mut self, word: u32) {
        self.add(word.into());
    }

    /// The product's upper bits are the well mixed ones; tables take the lower.
    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary(tokens: &[(&str, u32)]) -> Result<Vocabulary, String> {
        let tokens: Vec<_> = tokens.iter().map(|(t, id)| (Cow::from(*t), *id)).collect();
        Vocabulary::new(&tokens)
    }

    #[test]
    fn texts_and_ids_are_found_by_each_other() {
        let texts: Vec<String> = (0..1000).map(|id| format!("{}", id * id)).collect();
        let tokens = texts.iter().enumerate().rev();
        let tokens: Vec<(&str, u32)> = tokens.map(|(id, t)| (t.as_str(), id as u32)).collect();
        let vocabulary = vocabulary(&tokens).unwrap();
        assert_eq!(vocabulary.len(), 1000);
        for (text, id) in tokens {
            assert_eq!(vocabulary.id(text), Some(id));
            assert_eq!(vocabulary.text(id), Some(text));
        }
        assert!(vocabulary.texts().eq(&texts));
        assert_eq!(vocabulary.id("2"), None);
        assert_eq!(vocabulary.text(1000), None);
        assert_eq!(vocabulary.text(u32::MAX), None);
    }

    #[test]
    fn nothing_is_found_in_an_empty_one() {
        let vocabulary = vocabulary(&[]).unwrap();
        assert_eq!((vocabulary.len(), vocabulary.id("")), (0, None));
    }

    #[test]
    fn each_id_and_each_text_is_there_once() {
        for (tokens, error) in [
            (&[("a", 0), ("b", 2)][..], "no token has the id 1"),
            (
                &[("a", 1), ("b", 1)][..],
                "the tokens \"a\" and \"b\" have the same id 1",
            ),
            (&[("a", 0), ("a", 1)][..], "the token \"a\" is there twice"),
        ] {
            assert_eq!(vocabulary(tokens).err().as_deref(), Some(error));
        }
    }
}
