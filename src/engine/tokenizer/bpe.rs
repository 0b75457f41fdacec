//! Byte-pair encoding (Sennrich et al. 2016, section 3.2): a word's letters, merged pair by pair
//! in the order of the merges' ranks.
//!
//! The `tokenizers` crate's own model gives the same ids. This one is ready in a fifth of the
//! time, and keeps no words of prompts: a cache of them would tell by its speed that somebody
//! else has used a word.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::BuildHasherDefault;
use std::path::{Path, PathBuf};

use tokenizers::models::bpe::BpeTrainer;
use tokenizers::{Model, Token};

use super::vocabulary::{Mix, Vocabulary};

/// What a letter without a token becomes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Unknown {
    /// Nothing.
    Dropped,
    /// This token.
    Each(u32),
    /// This token, once for neighbours.
    Fused(u32),
}

pub(super) struct Bpe {
    vocabulary: Vocabulary,
    /// By the ids of left and right: the merge's rank, and the id of the whole.
    merges: HashMap<(u32, u32), (u32, u32), BuildHasherDefault<Mix>>,
    unknown: Unknown,
    /// A word that is a token is that token, whatever the merges say.
    ignore_merges: bool,
}

/// A token of a word that is being merged.
#[derive(Debug, Clone, Copy)]
struct Symbol {
    id: u32,
    /// In bytes; 0 once it is a part of the one before it.
    len: usize,
    /// The places of its neighbours.
    before: Option<usize>,
    after: Option<usize>,
}

/// A merge that can be done, the one with the least rank first, and of those the leftmost.
type Candidate = Reverse<(u32, usize, u32)>;

impl Bpe {
    /// `merges` in the order of their ranks; of a pair that is there twice the last counts.
    pub(super) fn new(
        vocabulary: Vocabulary,
        merges: &[(Cow<'_, str>, Cow<'_, str>)],
        unknown: Unknown,
        ignore_merges: bool,
    ) -> Result<Bpe, String> {
        let mut ids =
            HashMap::with_capacity_and_hasher(merges.len(), BuildHasherDefault::default());
        let mut whole = String::new();
        let id = |text: &str| {
            let id = vocabulary.id(text);
            id.ok_or_else(|| format!("a merge has {text:?}, which isn't a token"))
        };
        // Training numbers its tokens as it makes them, so most often it is the next one.
        let mut next = 0;
        for (rank, (left, right)) in (0..).zip(merges) {
            whole.clear();
            whole.extend([left.as_ref(), right.as_ref()]);
            let merged = match vocabulary.text(next) {
                Some(text) if text == whole => next,
                _ => id(&whole)?,
            };
            ids.insert((id(left)?, id(right)?), (rank, merged));
            next = merged + 1;
        }
        Ok(Bpe {
            vocabulary,
            merges: ids,
            unknown,
            ignore_merges,
        })
    }

    pub(super) fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    fn word(&self, word: &str) -> Vec<Symbol> {
        if self.ignore_merges
            && let Some(id) = self.vocabulary.id(word)
        {
            let (before, after) = (None, None);
            let len = word.len();
            return vec![Symbol {
                id,
                len,
                before,
                after,
            }];
        }
        let mut symbols = self.letters(word);
        self.merge(&mut symbols);
        symbols.retain(|symbol| symbol.len > 0);
        symbols
    }

    fn letters(&self, word: &str) -> Vec<Symbol> {
        let mut symbols: Vec<Symbol> = Vec::with_capacity(word.len());
        let mut after_unknown = false;
        for (at, letter) in word.char_indices() {
            let len = letter.len_utf8();
            let known = self.vocabulary.id(&word[at..at + len]);
            let id = match (known, self.unknown) {
                (Some(id), _) | (None, Unknown::Each(id)) => id,
                (None, Unknown::Dropped) => continue,
                (None, Unknown::Fused(id)) => {
                    if let Some(last) = symbols.last_mut().filter(|_| after_unknown) {
                        last.len += len;
                        continue;
                    }
                    id
                }
            };
            after_unknown = known.is_none();
            let place = symbols.len();
            if let Some(last) = symbols.last_mut() {
                last.after = Some(place);
            }
            let (before, after) = (place.checked_sub(1), None);
            symbols.push(Symbol {
                id,
                len,
                before,
                after,
            });
        }
        symbols
    }

    fn merge(&self, symbols: &mut [Symbol]) {
        let mut candidates: BinaryHeap<Candidate> = BinaryHeap::with_capacity(symbols.len());
        candidates.extend((0..symbols.len()).filter_map(|place| self.candidate(symbols, place)));
        while let Some(Reverse((_, place, whole))) = candidates.pop() {
            // One that is older than what has become of its symbols.
            if self
                .candidate(symbols, place)
                .is_none_or(|Reverse((_, _, id))| id != whole)
            {
                continue;
            }
            let Some(after) = symbols[place].after else {
                continue;
            };
            let taken = symbols[after];
            symbols[after].len = 0;
            let symbol = &mut symbols[place];
            symbol.id = whole;
            symbol.len += taken.len;
            symbol.after = taken.after;
            let before = symbol.before;
            if let Some(next) = taken.after {
                symbols[next].before = Some(place);
            }
            let places = before.into_iter().chain([place]);
            candidates.extend(places.filter_map(|place| self.candidate(symbols, place)));
        }
    }

    /// The merge of the symbol at `place` with the next one.
    fn candidate(&self, symbols: &[Symbol], place: usize) -> Option<Candidate> {
        let left = symbols[place];
        let right = symbols[left.after.filter(|_| left.len > 0)?];
        let (rank, whole) = self.merges.get(&(left.id, right.id))?;
        Some(Reverse((*rank, place, *whole)))
    }
}

/// What the crate's tokenizer asks of a model.
impl Model for Bpe {
    type Trainer = BpeTrainer;

    fn tokenize(&self, sequence: &str) -> tokenizers::Result<Vec<Token>> {
        let mut end = 0;
        let tokens = self.word(sequence).into_iter().map(|symbol| {
            let start = end;
            end += symbol.len;
            let text = self.vocabulary.text(symbol.id).unwrap_or_default();
            Token::new(symbol.id, text.to_owned(), (start, end))
        });
        Ok(tokens.collect())
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.vocabulary.id(token)
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        self.vocabulary.text(id).map(str::to_owned)
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        let texts = self.vocabulary.texts().map(str::to_owned);
        texts.zip(0..).collect()
    }

    fn get_vocab_size(&self) -> usize {
        self.vocabulary.len()
    }

    fn save(&self, _: &Path, _: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        Err("this model is only read".into())
    }

    fn get_trainer(&self) -> BpeTrainer {
        BpeTrainer::default()
    }
}
