//! `tokenizer.json` as the crate's types. The vocabulary and the merges, nearly all of it, are
//! read here, with strings that stay in the file's text; the small parts as the crate reads them.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PaddingParams, PostProcessorWrapper,
    PreTokenizerWrapper, TokenizerBuilder, TruncationParams,
};

use super::Plain;
use super::bpe::{Bpe, Unknown};
use super::vocabulary::Vocabulary;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File<'a> {
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    truncation: Option<TruncationParams>,
    #[serde(default)]
    padding: Option<PaddingParams>,
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Option<NormalizerWrapper>,
    #[serde(default)]
    pre_tokenizer: Option<PreTokenizerWrapper>,
    #[serde(default)]
    post_processor: Option<PostProcessorWrapper>,
    #[serde(default)]
    decoder: Option<DecoderWrapper>,
    #[serde(borrow)]
    model: Model<'a>,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    #[serde(flatten)]
    token: AddedToken,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Model<'a> {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    #[serde(default)]
    dropout: Option<f32>,
    #[serde(default)]
    unk_token: Option<String>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: Option<bool>,
    #[serde(default)]
    byte_fallback: Option<bool>,
    #[serde(default)]
    ignore_merges: Option<bool>,
    #[serde(borrow)]
    vocab: Tokens<'a>,
    #[serde(borrow)]
    merges: Vec<Merge<'a>>,
}

/// A string that is borrowed where it has no escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// In the file's order.
struct Tokens<'a>(Vec<(Cow<'a, str>, u32)>);

/// One string, its parts separated by a space, or a list of both parts; `None` is the version that
/// `merges.txt` begins with.
struct Merge<'a>(Option<(Cow<'a, str>, Cow<'a, str>)>);

/// Reads a `tokenizer.json`.
pub(super) fn parse(json: &[u8]) -> Result<Plain, String> {
    let json = str::from_utf8(json).map_err(|error| error.to_string())?;
    let file: File<'_> = serde_json::from_str(json).map_err(|error| error.to_string())?;
    if let Some(version) = file.version.filter(|version| version != "1.0") {
        return Err(format!(
            "the version {version:?} isn't supported; only \"1.0\" is"
        ));
    }
    let tokenizer = TokenizerBuilder::new()
        .with_truncation(file.truncation)
        .with_padding(file.padding)
        .with_normalizer(file.normalizer)
        .with_pre_tokenizer(file.pre_tokenizer)
        .with_post_processor(file.post_processor)
        .with_decoder(file.decoder)
        .with_model(file.model.build()?)
        .build();
    let mut tokenizer: Plain = tokenizer.map_err(|error| error.to_string())?;
    let (ids, tokens): (Vec<u32>, Vec<AddedToken>) = file
        .added_tokens
        .into_iter()
        .map(|added| (added.id, added.token))
        .unzip();
    tokenizer.add_tokens(&tokens);
    for (id, AddedToken { content, .. }) in ids.into_iter().zip(tokens) {
        let given = tokenizer.token_to_id(&content);
        if given.is_some_and(|given| given != id) {
            return Err(format!(
                "the added token {content:?} can't have the id {id}"
            ));
        }
    }
    Ok(tokenizer)
}

impl Model<'_> {
    fn build(self) -> Result<Bpe, String> {
        self.check()?;
        let vocabulary = Vocabulary::new(&self.vocab.0)?;
        let fused = self.fuse_unk == Some(true);
        let unknown = match self.unk_token {
            None => Unknown::Dropped,
            Some(token) => match vocabulary.id(&token) {
                Some(id) if fused => Unknown::Fused(id),
                Some(id) => Unknown::Each(id),
                None => return Err(format!("unk_token is {token:?}, which isn't a token")),
            },
        };
        let merges: Vec<_> = self
            .merges
            .into_iter()
            .filter_map(|merge| merge.0)
            .collect();
        let ignore_merges = self.ignore_merges == Some(true);
        Bpe::new(vocabulary, &merges, unknown, ignore_merges)
    }

    /// Refuses what [`Bpe`] doesn't do.
    fn check(&self) -> Result<(), String> {
        if let Some(kind) = self.kind.as_ref().filter(|kind| *kind != "BPE") {
            return Err(format!(
                "a model of type {kind:?} isn't supported; only \"BPE\" is"
            ));
        }
        let is_text = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        let unsupported = [
            (
                "dropout",
                self.dropout.is_some_and(|dropout| dropout != 0.0),
            ),
            (
                "continuing_subword_prefix",
                is_text(&self.continuing_subword_prefix),
            ),
            ("end_of_word_suffix", is_text(&self.end_of_word_suffix)),
            ("byte_fallback", self.byte_fallback == Some(true)),
        ];
        match unsupported.into_iter().find(|(_, is_set)| *is_set) {
            Some((name, _)) => Err(format!("{name} isn't supported")),
            None => Ok(()),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Tokens<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Tokens<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tokens with their ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut tokens = Vec::new();
                while let Some((Text(text), id)) = map.next_entry()? {
                    tokens.push((text, id));
                }
                Ok(Tokens(tokens))
            }
        }
        from.deserialize_map(Entries)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Merge<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Parts;
        impl<'de> Visitor<'de> for Parts {
            type Value = Merge<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a merge of two tokens")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                let merge = split(text)?;
                Ok(Merge(
                    merge.map(|(left, right)| (left.into(), right.into())),
                ))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                let merge = split(text)?;
                let owned = |text: &str| Cow::Owned(text.to_owned());
                Ok(Merge(
                    merge.map(|(left, right)| (owned(left), owned(right))),
                ))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let (left, right) = (seq.next_element()?, seq.next_element()?);
                let more: Option<Text<'de>> = seq.next_element()?;
                let (Some(Text(left)), Some(Text(right)), None) = (left, right, more) else {
                    return Err(A::Error::custom("a merge isn't of two tokens"));
                };
                Ok(Merge(Some((left, right))))
            }
        }
        from.deserialize_any(Parts)
    }
}

fn split<E: Error>(merge: &str) -> Result<Option<(&str, &str)>, E> {
    if merge.starts_with("#version") {
        return Ok(None);
    }
    let parts = merge
        .split_once(' ')
        .filter(|(_, right)| !right.contains(' '));
    let parts = parts.ok_or_else(|| E::custom(format!("the merge {merge:?} isn't of two tokens")));
    parts.map(Some)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use tokenizers::Tokenizer;

    use super::*;

    /// Tokens are the letters a, b, c and "?", then what the merges make.
    fn file(merges: &[(String, String)]) -> Value {
        let mut tokens: Vec<String> = ["a", "b", "c", "?"].map(str::to_owned).to_vec();
        for (left, right) in merges {
            let whole = format!("{left}{right}");
            if !tokens.contains(&whole) {
                tokens.push(whole);
            }
        }
        let vocab: serde_json::Map<String, Value> = tokens
            .into_iter()
            .zip(0..)
            .map(|(token, id)| (token, json!(id)))
            .collect();
        json!({
            "version": "1.0",
            "added_tokens": [],
            "model": { "type": "BPE", "vocab": vocab, "merges": merges },
        })
    }

    fn read(file: &Value) -> Result<Plain, String> {
        parse(file.to_string().as_bytes())
    }

    fn error(file: &Value) -> String {
        read(file).err().unwrap()
    }

    fn ids(tokenizer: &Plain, text: &str) -> Vec<u32> {
        tokenizer
            .encode_fast(text, false)
            .unwrap()
            .get_ids()
            .to_vec()
    }

    /// Merges of what the letters and earlier merges made.
    fn merges() -> impl Strategy<Value = Vec<(String, String)>> {
        let picks = prop::collection::vec(
            (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
            0..12,
        );
        picks.prop_map(|picks| {
            let mut tokens: Vec<String> = ["a", "b", "c", "?"].map(str::to_owned).to_vec();
            let merge = |(left, right): (prop::sample::Index, prop::sample::Index)| {
                let pair = (left.get(&tokens).clone(), right.get(&tokens).clone());
                tokens.push(format!("{}{}", pair.0, pair.1));
                pair
            };
            picks.into_iter().map(merge).collect()
        })
    }

    proptest! {
        #[test]
        fn ids_are_those_of_the_crates_own_model(
            merges in merges(),
            unknown in prop::option::of(any::<bool>()),
            ignore_merges: bool,
            texts in prop::collection::vec("[abcx?é]{0,24}", 8),
        ) {
            let mut file = file(&merges);
            let model = &mut file["model"];
            model["unk_token"] = json!(unknown.map(|_| "?"));
            model["fuse_unk"] = json!(unknown.unwrap_or_default());
            model["ignore_merges"] = json!(ignore_merges);
            let ours = read(&file).unwrap();
            let crates: Tokenizer = file.to_string().parse().unwrap();
            for text in texts {
                let expected = crates.encode_fast(text.as_str(), false).unwrap();
                prop_assert_eq!(ids(&ours, &text), expected.get_ids(), "{:?}", text);
            }
        }
    }

    #[test]
    fn merges_are_strings_or_pairs() {
        let pair = |left: &str, right: &str| (left.to_owned(), right.to_owned());
        let pairs = file(&[pair("a", "b"), pair("ab", "c")]);
        let mut strings = pairs.clone();
        strings["model"]["merges"] = json!(["#version: 0.2", "a b", "ab c"]);
        for file in [pairs, strings] {
            assert_eq!(ids(&read(&file).unwrap(), "ababc"), [4, 5]);
        }
    }

    #[test]
    fn escapes_are_read() {
        let json = r#"{"model": {"vocab": {"\"": 0, "\\": 1, "\"\\": 2}, "merges": ["\" \\"]}}"#;
        assert_eq!(ids(&parse(json.as_bytes()).unwrap(), "\\\"\\"), [1, 2]);
    }

    #[test]
    fn merges_that_are_none_are_refused() {
        for merge in [
            json!("ab"),
            json!("a b c"),
            json!(["a"]),
            json!(["a", "b", "c"]),
            json!(1),
        ] {
            let mut file = file(&[]);
            file["model"]["merges"] = json!([merge]);
            assert!(error(&file).contains("merge"), "{}", error(&file));
        }
        let mut unknown = file(&[]);
        unknown["model"]["merges"] = json!(["a b"]);
        assert_eq!(error(&unknown), "a merge has \"ab\", which isn't a token");
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (setting, value, named) in [
            ("type", json!("Unigram"), "\"Unigram\""),
            ("dropout", json!(0.5), "dropout"),
            ("byte_fallback", json!(true), "byte_fallback"),
            (
                "continuing_subword_prefix",
                json!("##"),
                "continuing_subword_prefix",
            ),
            ("end_of_word_suffix", json!("</w>"), "end_of_word_suffix"),
            ("unk_token", json!("<unk>"), "unk_token"),
            ("fuse", json!(true), "`fuse`"),
        ] {
            let mut file = file(&[]);
            file["model"][setting] = value;
            assert!(error(&file).contains(named), "{}", error(&file));
        }
        for (member, value, named) in [
            ("version", json!("2.0"), "\"2.0\""),
            ("normaliser", json!(null), "`normaliser`"),
            ("normalizer", json!({"type": "None"}), "untagged"),
        ] {
            let mut file = file(&[]);
            file[member] = value;
            assert!(error(&file).contains(named), "{}", error(&file));
        }
    }

    #[test]
    fn what_changes_nothing_is_taken() {
        let mut file = file(&[]);
        for (setting, value) in [
            ("dropout", json!(0.0)),
            ("byte_fallback", json!(false)),
            ("continuing_subword_prefix", json!("")),
            ("end_of_word_suffix", json!("")),
        ] {
            file["model"][setting] = value;
        }
        assert_eq!(ids(&read(&file).unwrap(), "abx"), [0, 1]);
    }

    #[test]
    fn an_added_token_has_the_id_that_it_says() {
        let added = |content: &str, id: u32| {
            let mut file = file(&[]);
            file["added_tokens"] = json!([{
                "id": id, "content": content, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": false,
            }]);
            read(&file).map(|tokenizer| ids(&tokenizer, "aXc"))
        };
        assert_eq!(added("X", 4), Ok(vec![0, 4, 2]));
        assert_eq!(added("c", 2), Ok(vec![0, 2]));
        for (content, id) in [("X", 5), ("c", 4)] {
            let expected = format!("the added token {content:?} can't have the id {id}");
            assert_eq!(added(content, id), Err(expected));
        }
    }
}
