//! What a model's makers advise for sampling, as GGUF and transformers write it down.

use serde_json::{Map, Value as Json, json};

use super::gguf::{Metadata, Value};
use crate::json;
use crate::prompt::SamplingOptions;

/// llama.cpp's keys below `general.sampling.` (its `gguf-py/gguf/constants.py`), and our names. Its
/// other samplers have no counterpart here.
const GGUF: [(&str, &str); 5] = [
    ("temp", "temperature"),
    ("top_p", "top_p"),
    ("top_k", "top_k"),
    ("min_p", "min_p"),
    ("penalty_repeat", "repetition_penalty"),
];
/// Members of transformers' `GenerationConfig`; the names are ours.
const TRANSFORMERS: [&str; 5] = [
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
];

/// What the metadata says where `advised` is silent.
pub(super) fn sampling(
    metadata: &Metadata,
    advised: SamplingOptions,
) -> Result<SamplingOptions, String> {
    let known = GGUF.into_iter().filter_map(|(key, name)| {
        let number = match metadata.get(&format!("general.sampling.{key}"))? {
            Value::U64(whole) => json!(whole),
            // Below 0, llama.cpp's `top_k` is off, too.
            Value::I64(whole) => json!(whole.max(&0)),
            Value::F64(number) => json!(number),
            _ => return None,
        };
        Some((name, number))
    });
    let own = options(known).map_err(|what| format!("general.sampling: {what}"))?;
    let sampling = advised.or(own);
    sampling.check().map_err(|what| {
        format!("its advice for sampling can't be followed: {what}; give another value")
    })?;
    Ok(sampling)
}

/// What a `generation_config.json` says.
pub fn of_generation_config(text: &[u8]) -> Result<SamplingOptions, String> {
    let config = json::parse(text).map_err(|error| format!("not sound JSON: {error}"))?;
    let known = TRANSFORMERS.into_iter();
    let known = known.filter_map(|name| Some((name, config.get(name)?.clone())));
    let mut sampling = options(known)?;
    if config.get("do_sample") == Some(&json!(false)) {
        sampling.temperature = Some(0.0);
    }
    sampling.check().map(|()| sampling)
}

fn options(known: impl Iterator<Item = (&'static str, Json)>) -> Result<SamplingOptions, String> {
    let members: Map<String, Json> = known
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    serde_json::from_value(Json::Object(members)).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(entries: &[(&str, Value)], advised: SamplingOptions) -> Result<Json, String> {
        let entries = entries.iter().cloned();
        let named = entries.map(|(key, value)| (format!("general.sampling.{key}"), value));
        sampling(&named.collect(), advised).map(|found| json!(found))
    }

    #[test]
    fn ggufs_own_advice_is_taken_unless_other_is_given() {
        let entries = [
            ("temp", Value::F64(0.6)),
            ("top_k", Value::I64(20)),
            ("top_p", Value::F64(0.95)),
            ("penalty_repeat", Value::F64(1.05)),
            ("mirostat", Value::I64(0)),
        ];
        let own = json!({
            "temperature": 0.6, "top_p": 0.95, "top_k": 20, "repetition_penalty": 1.05,
        });
        let silent = SamplingOptions::default();
        assert_eq!(read(&entries, silent), Ok(own));
        assert_eq!(read(&[], silent), Ok(json!({})));
        let cooler = SamplingOptions {
            temperature: Some(0.2),
            ..silent
        };
        assert_eq!(read(&entries, cooler).unwrap()["temperature"], 0.2);
        let hot = [("temp", Value::F64(5.0))];
        let error = read(&hot, silent).unwrap_err();
        assert!(
            error.contains("temperature is 5; it may be from 0 to 2"),
            "{error}"
        );
        assert!(read(&hot, cooler).is_ok());
        assert_eq!(
            read(&[("top_k", Value::I64(-1))], silent),
            Ok(json!({"top_k": 0}))
        );
    }

    #[test]
    fn transformers_configuration_is_read() {
        let read = |text: &str| of_generation_config(text.as_bytes()).map(|found| json!(found));
        let whole = r#"{"bos_token_id": 1, "do_sample": true, "temperature": 0.7, "top_p": 0.8,
            "top_k": 20, "repetition_penalty": 1.05, "min_p": null, "transformers_version": "5"}"#;
        let expected = json!({
            "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05,
        });
        assert_eq!(read(whole), Ok(expected));
        assert_eq!(read("{}"), Ok(json!({})));
        let greedy = read(r#"{"do_sample": false, "temperature": 0.7}"#);
        assert_eq!(greedy, Ok(json!({"temperature": 0})));
        for wrong in ["[", r#"{"top_p": "much"}"#, r#"{"top_p": 3}"#] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
