//! A GGUF file's vocabulary and chat template as the files of a Hugging Face repository.
//!
//! GGUF names its pre-tokenizer instead of describing it (llama.cpp `llama-vocab.cpp`,
//! `LLAMA_VOCAB_PRE_TYPE_*`), so only names are taken whose rules are known here: guessing would
//! give a model that answers worse and never says why.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

use super::super::gguf::Value;

const TEMPLATE: &str = "tokenizer.chat_template";

/// `tokenizer.ggml.token_type`, as in llama.cpp's `llama_token_type`.
const NORMAL: u64 = 1;
const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;
const UNUSED: u64 = 5;

/// The tokenizer's files of a bundle: `tokenizer.json`, and `chat_template.jinja`.
pub fn files_from_gguf(
    metadata: &BTreeMap<String, Value>,
) -> Result<[(String, Vec<u8>); 2], String> {
    let model = text(metadata, "tokenizer.ggml.model")?;
    if model != "gpt2" {
        let what = match model {
            "llama" => " (SentencePiece)",
            "bert" => " (WordPiece)",
            "t5" => " (Unigram)",
            _ => "",
        };
        return Err(format!(
            "its tokenizer is {model:?}{what}; byte-level BPE (\"gpt2\") is supported"
        ));
    }
    if !metadata.contains_key(TEMPLATE) {
        return Err(format!(
            "it has no chat template ({TEMPLATE}), as models that only continue a text; import the \
             model's instruct version"
        ));
    }
    let pre_tokenizer = pre_tokenizer(text(metadata, "tokenizer.ggml.pre")?)?;
    let tokens = texts(metadata, "tokenizer.ggml.tokens")?;
    let types = token_types(metadata, tokens.len())?;
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens(&tokens, &types),
        "normalizer": null,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": beginning(metadata, &tokens, &types)?,
        "decoder": byte_level(),
        "model": model_json(&tokens, &texts(metadata, "tokenizer.ggml.merges")?)?,
    });
    let tokenizer = serde_json::to_vec(&tokenizer).map_err(|error| error.to_string())?;
    let template = text(metadata, TEMPLATE)?;
    Ok([
        ("tokenizer.json".to_owned(), tokenizer),
        ("chat_template.jinja".to_owned(), template.into()),
    ])
}

/// The token before every text that isn't a chat (`add_bos_token`), as a fast tokenizer writes it:
/// chats have theirs from the template.
fn beginning(
    metadata: &BTreeMap<String, Value>,
    tokens: &[&str],
    types: &[u64],
) -> Result<Json, String> {
    match metadata.get("tokenizer.ggml.add_bos_token") {
        None | Some(Value::Bool(false)) => return Ok(Json::Null),
        Some(Value::Bool(true)) => {}
        Some(_) => return Err("tokenizer.ggml.add_bos_token isn't true or false".to_owned()),
    }
    let id = metadata
        .get("tokenizer.ggml.bos_token_id")
        .and_then(Value::as_u64);
    let id = id.and_then(|id| usize::try_from(id).ok());
    let is_control = |id: &usize| types.get(*id) == Some(&CONTROL);
    let id = id.filter(is_control).ok_or(
        "tokenizer.ggml.add_bos_token is set, and tokenizer.ggml.bos_token_id names no control token",
    )?;
    let name = tokens[id];
    let special = json!({ "SpecialToken": { "id": name, "type_id": 0 } });
    let text = |id: &str, kind: u32| json!({ "Sequence": { "id": id, "type_id": kind } });
    Ok(json!({
        "type": "TemplateProcessing",
        "single": [special, text("A", 0)],
        "pair": [special, text("A", 0), text("B", 1)],
        "special_tokens": { name: { "id": name, "ids": [id], "tokens": [name] } },
    }))
}

/// The rules behind a pre-tokenizer's name.
fn pre_tokenizer(name: &str) -> Result<Json, String> {
    match name {
        // Each digit by itself (`\p{N}`), then GPT-2's pattern on what is between.
        "smollm" => Ok(json!({
            "type": "Sequence",
            "pretokenizers": [{ "type": "Digits", "individual_digits": true }, byte_level()],
        })),
        _ => Err(format!(
            "its text is split into words by the rules {name:?} (tokenizer.ggml.pre); \"smollm\" is \
             supported"
        )),
    }
}

fn byte_level() -> Json {
    json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true })
}

/// Tokens that are matched as a whole, before the text is split.
fn added_tokens(tokens: &[&str], types: &[u64]) -> Vec<Json> {
    let added = tokens.iter().zip(types).enumerate();
    let added = added.filter(|(_, (_, kind))| matches!(**kind, UNKNOWN | CONTROL | USER_DEFINED));
    added
        .map(|(id, (token, kind))| {
            json!({
                "id": id,
                "content": token,
                "single_word": false,
                "lstrip": false,
                "rstrip": false,
                "normalized": false,
                "special": *kind != USER_DEFINED,
            })
        })
        .collect()
}

fn model_json(tokens: &[&str], merges: &[&str]) -> Result<Json, String> {
    let mut vocabulary = serde_json::Map::new();
    for (id, token) in tokens.iter().enumerate() {
        if vocabulary.insert((*token).to_owned(), id.into()).is_some() {
            return Err(format!("the token {token:?} is there twice"));
        }
    }
    let mut seen = BTreeSet::new();
    for merge in merges {
        let whole = merge.split_once(' ').map(|(left, right)| {
            let parts = [left, right, &format!("{left}{right}")];
            parts.iter().all(|part| vocabulary.contains_key(*part))
        });
        if whole != Some(true) {
            return Err(format!(
                "the merge {merge:?} isn't of two tokens into a third"
            ));
        }
        if !seen.insert(merge) {
            return Err(format!("the merge {merge:?} is there twice"));
        }
    }
    Ok(json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": null,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": false,
        "byte_fallback": false,
        "ignore_merges": false,
        "vocab": vocabulary,
        "merges": merges,
    }))
}

fn token_types(metadata: &BTreeMap<String, Value>, tokens: usize) -> Result<Vec<u64>, String> {
    let name = "tokenizer.ggml.token_type";
    let types = list(metadata, name)?.iter().map(|value| match value {
        Value::U64(kind) => Some(*kind),
        Value::I64(kind) => u64::try_from(*kind).ok(),
        _ => None,
    });
    let types: Option<Vec<u64>> = types.collect();
    let known = |kind: &u64| (NORMAL..=UNUSED).contains(kind);
    let types = types.filter(|types| types.len() == tokens && types.iter().all(known));
    types.ok_or_else(|| format!("{name} isn't a list of one known type for each token"))
}

fn text<'a>(metadata: &'a BTreeMap<String, Value>, name: &str) -> Result<&'a str, String> {
    match metadata.get(name) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(format!("{name} isn't a string")),
        None => Err(format!("{name} is missing")),
    }
}

fn texts<'a>(metadata: &'a BTreeMap<String, Value>, name: &str) -> Result<Vec<&'a str>, String> {
    let texts = list(metadata, name)?.iter().map(|value| match value {
        Value::String(text) => Ok(text.as_str()),
        _ => Err(format!("{name} has an element that isn't a string")),
    });
    texts.collect()
}

fn list<'a>(metadata: &'a BTreeMap<String, Value>, name: &str) -> Result<&'a [Value], String> {
    match metadata.get(name) {
        Some(Value::Array(list)) => Ok(list),
        Some(_) => Err(format!("{name} isn't a list")),
        None => Err(format!("{name} is missing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> BTreeMap<String, Value> {
        let string = |text: &str| Value::String(text.to_owned());
        let strings = |list: &[&str]| Value::Array(list.iter().map(|t| string(t)).collect());
        let types = [3, 1, 1, 1].map(Value::I64).to_vec();
        BTreeMap::from([
            ("tokenizer.ggml.model".to_owned(), string("gpt2")),
            ("tokenizer.ggml.pre".to_owned(), string("smollm")),
            (
                "tokenizer.ggml.tokens".to_owned(),
                strings(&["<|x|>", "a", "b", "ab"]),
            ),
            ("tokenizer.ggml.merges".to_owned(), strings(&["a b"])),
            ("tokenizer.ggml.token_type".to_owned(), Value::Array(types)),
            (
                "tokenizer.chat_template".to_owned(),
                string("{{ messages }}"),
            ),
        ])
    }

    #[test]
    fn unknown_rules_are_refused_by_name() {
        let names: Vec<String> = files_from_gguf(&metadata())
            .unwrap()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, ["tokenizer.json", "chat_template.jinja"]);
        for (key, value) in [
            ("tokenizer.ggml.pre", "qwen2"),
            ("tokenizer.ggml.model", "llama"),
        ] {
            let mut metadata = metadata();
            metadata.insert(key.to_owned(), Value::String(value.to_owned()));
            let error = files_from_gguf(&metadata).unwrap_err();
            assert!(error.contains(value), "{error}");
        }
    }

    #[test]
    fn the_token_before_a_text_is_the_files_own() {
        let beginning = |added: Option<bool>, id: Option<u64>| {
            let mut metadata = metadata();
            let mut set = |key: &str, value| metadata.insert(key.to_owned(), value);
            if let Some(added) = added {
                set("tokenizer.ggml.add_bos_token", Value::Bool(added));
            }
            if let Some(id) = id {
                set("tokenizer.ggml.bos_token_id", Value::U64(id));
            }
            let [(_, tokenizer), _] = files_from_gguf(&metadata)?;
            let tokenizer = super::super::Tokenizer::parse(&tokenizer)?;
            let ids = tokenizer.encode_text("ab<|x|>");
            ids.map_err(|error| error.to_string())
        };
        assert_eq!(beginning(Some(true), Some(0)), Ok(vec![0, 3]));
        for none in [None, Some(false)] {
            assert_eq!(beginning(none, Some(0)), Ok(vec![3]));
        }
        for wrong in [None, Some(1), Some(9)] {
            let error = beginning(Some(true), wrong).unwrap_err();
            assert!(error.contains("bos_token_id"), "{error}");
        }
    }

    #[test]
    fn inconsistent_vocabularies_are_refused() {
        let strings = |list: &[&str]| {
            Value::Array(
                list.iter()
                    .map(|t| Value::String((*t).to_owned()))
                    .collect(),
            )
        };
        for (key, value) in [
            ("tokenizer.ggml.tokens", strings(&["<|x|>", "a", "a", "ab"])),
            ("tokenizer.ggml.merges", strings(&["a c"])),
            ("tokenizer.ggml.merges", strings(&["ab"])),
            ("tokenizer.ggml.merges", strings(&["a b", "a b"])),
            (
                "tokenizer.ggml.token_type",
                Value::Array(vec![Value::I64(1); 3]),
            ),
            (
                "tokenizer.ggml.token_type",
                Value::Array(vec![Value::I64(9); 4]),
            ),
        ] {
            let mut metadata = metadata();
            metadata.insert(key.to_owned(), value);
            assert!(files_from_gguf(&metadata).is_err(), "{key}");
        }
    }
}
