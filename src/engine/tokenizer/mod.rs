//! Text to token ids and back, in such a way that only the chat template can write control tokens.

mod bpe;
mod file;
mod import;
mod vocabulary;

pub use import::files_from_gguf;

use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    TokenizerImpl,
};

use self::bpe::Bpe;
use super::template::Piece;

type Plain = TokenizerImpl<
    Bpe,
    NormalizerWrapper,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

/// A byte-level BPE tokenizer with its control tokens kept apart.
pub struct Tokenizer {
    /// Without control tokens: all text that goes in is plain.
    plain: Plain,
    /// Names of control tokens, the longest first, so that the first that fits is the right one.
    control: Vec<(String, u32)>,
    /// What its post-processor puts before a text.
    beginning: Vec<u32>,
    /// The tokens' bytes, one behind the other; control tokens have none.
    bytes: Vec<u8>,
    /// Where in `bytes` token `i` begins; one more than there are tokens.
    starts: Vec<u32>,
}

#[derive(Debug, thiserror::Error)]
#[error("the tokenizer failed: {0}")]
pub struct EncodeError(String);

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    pub fn parse(json: &[u8]) -> Result<Tokenizer, String> {
        let mut plain = file::parse(json)?;
        plain.set_encode_special_tokens(true);
        let mut control = control_tokens(&plain)?;
        control.sort_by(|(a, _), (b, _)| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        let (bytes, starts) = token_bytes(&plain)?;
        let beginning = beginning(&plain)?;
        Ok(Tokenizer {
            plain,
            control,
            beginning,
            bytes,
            starts,
        })
    }

    /// How many ids there are.
    #[must_use]
    pub fn ids(&self) -> usize {
        self.starts.len() - 1
    }

    /// The bytes that a token stands for: none for control tokens and unknown ids.
    #[must_use]
    pub fn bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        match (self.starts.get(id), self.starts.get(id + 1)) {
            (Some(&start), Some(&end)) => &self.bytes[start as usize..end as usize],
            _ => &[],
        }
    }

    /// The name of a control token by its id.
    #[must_use]
    pub fn control_name(&self, id: u32) -> Option<&str> {
        let found = self.control.iter().find(|(_, control)| *control == id);
        found.map(|(name, _)| name.as_str())
    }

    /// Whether `text` holds a control token's name.
    #[must_use]
    pub fn names_control(&self, text: &str) -> bool {
        self.control
            .iter()
            .any(|(name, _)| text.contains(name.as_str()))
    }

    /// Encodes a text that is no chat, as the model has learnt texts: behind the token that begins
    /// one, where it has such. The text itself is plain.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>, EncodeError> {
        let mut ids = self.beginning.clone();
        self.append_plain(text, &mut ids)?;
        Ok(ids)
    }

    /// Encodes a rendered chat. Control tokens are found within what the template wrote only; the
    /// text between two of them is encoded in one run, whoever wrote its parts, so that the ids of
    /// an ordinary chat are those of its whole text.
    pub(super) fn encode(&self, pieces: &[Piece]) -> Result<Vec<u32>, EncodeError> {
        let (mut ids, mut run) = (Vec::new(), String::new());
        for piece in pieces {
            let mut rest = match piece {
                Piece::Plain(text) => {
                    run.push_str(text);
                    continue;
                }
                Piece::Control(text) => text.as_str(),
            };
            while let Some((at, name, id)) = self.next_control(rest) {
                run.push_str(&rest[..at]);
                self.append_plain(&run, &mut ids)?;
                run.clear();
                ids.push(id);
                rest = &rest[at + name.len()..];
            }
            run.push_str(rest);
        }
        self.append_plain(&run, &mut ids)?;
        Ok(ids)
    }

    /// The first control token's name in `text`; of those that begin there the longest.
    fn next_control(&self, text: &str) -> Option<(usize, &str, u32)> {
        let found = self.control.iter().filter_map(|(name, id)| {
            let at = text.find(name.as_str())?;
            Some((at, name.as_str(), *id))
        });
        // `min_by_key` keeps the first of equals, and the longest names come first.
        found.min_by_key(|(at, _, _)| *at)
    }

    fn append_plain(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), EncodeError> {
        if text.is_empty() {
            return Ok(());
        }
        let encoding = self.plain.encode_fast(text, false);
        let encoding = encoding.map_err(|error| EncodeError(error.to_string()))?;
        let is_control = |id: &u32| self.control_name(*id).is_some();
        if encoding.get_ids().iter().any(is_control) {
            // A merge that ends in a control token; no sound vocabulary has one.
            return Err(EncodeError("plain text became a control token".to_owned()));
        }
        ids.extend_from_slice(encoding.get_ids());
        Ok(())
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("ids", &self.ids())
            .finish_non_exhaustive()
    }
}

/// The ids that the post-processor puts before a text's own.
fn beginning(tokenizer: &Plain) -> Result<Vec<u32>, String> {
    let encode = |whole| {
        let encoding = tokenizer.encode_fast("a", whole);
        encoding.map(|encoding| encoding.get_ids().to_vec())
    };
    let ids = encode(false).and_then(|own| Ok((own, encode(true)?)));
    let (own, mut whole) = ids.map_err(|error| error.to_string())?;
    let at = (0..=whole.len()).find(|at| whole[*at..].starts_with(&own));
    whole.truncate(at.ok_or("its post-processor changes a text's own tokens")?);
    Ok(whole)
}

/// Names and ids of the special tokens. Those that take white space around them away, or stand
/// for whole words only, have rules that aren't kept here, so they are refused.
fn control_tokens(tokenizer: &Plain) -> Result<Vec<(String, u32)>, String> {
    let plain_rules = |token: &AddedToken| {
        !token.content.is_empty() && !token.lstrip && !token.rstrip && !token.single_word
    };
    let decoder = tokenizer.get_added_tokens_decoder();
    let special = decoder.into_iter().filter(|(_, token)| token.special);
    special
        .map(|(id, token)| {
            let name = token.content.clone();
            let refused = format!("the special token {name:?} has rules that aren't supported");
            plain_rules(&token).then_some((name, id)).ok_or(refused)
        })
        .collect()
}

/// The bytes of every token, and where each begins.
fn token_bytes(tokenizer: &Plain) -> Result<(Vec<u8>, Vec<u32>), String> {
    let added = tokenizer.get_added_tokens_decoder();
    let mut letters = [None; 0x144];
    for (letter, byte) in alphabet().into_iter().zip(0..=u8::MAX) {
        letters[letter as usize] = Some(byte);
    }
    let vocabulary = tokenizer.get_model().vocabulary();
    let is_new = |token: &&AddedToken| vocabulary.id(&token.content).is_none();
    let count = vocabulary.len() + added.values().filter(is_new).count();
    let (mut bytes, mut starts) = (Vec::new(), vec![0]);
    for id in 0..u32::try_from(count).map_err(|_| "too many tokens")? {
        match added.get(&id) {
            Some(token) if token.special => {}
            Some(token) => bytes.extend_from_slice(token.content.as_bytes()),
            None => {
                let token = vocabulary.text(id);
                let token = token.ok_or_else(|| format!("no token has the id {id}"))?;
                for letter in token.chars() {
                    let byte = letters.get(letter as usize).copied().flatten();
                    bytes.push(byte.ok_or_else(|| format!("token {id} isn't in byte letters"))?);
                }
            }
        }
        starts.push(u32::try_from(bytes.len()).map_err(|_| "the tokens are too long")?);
    }
    Ok((bytes, starts))
}

/// GPT-2's letters for bytes (`bytes_to_unicode` in its `encoder.py`): visible Latin-1 characters
/// stand for themselves, the other bytes for the characters from U+0100 on.
pub(super) fn alphabet() -> [char; 256] {
    let mut next = 0x100_u32;
    std::array::from_fn(|byte| {
        let byte = byte as u8;
        if matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) {
            return char::from(byte);
        }
        next += 1;
        char::from_u32(next - 1).unwrap_or(char::REPLACEMENT_CHARACTER)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alphabet_is_gpt2s() {
        let alphabet = alphabet();
        assert_eq!(alphabet[b' ' as usize], 'Ġ');
        assert_eq!(alphabet[b'\n' as usize], 'Ċ');
        assert_eq!(alphabet[0x7f], 'ġ');
        assert_eq!(alphabet[0xad], '\u{143}');
        let mut letters = alphabet.to_vec();
        letters.sort_unstable();
        letters.dedup();
        assert_eq!(letters.len(), 256);
    }
}
