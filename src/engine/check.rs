//! Whether a bundle can be served, asked before anybody relies on it.

use super::sample::Sampler;
use super::{LoadError, LoadOptions, load};
use crate::catalog::Bundle;
use crate::prompt::Sampling;

/// Loads `bundle` as the daemon does and picks the first token of an answer. Its hashes are the
/// caller's matter.
pub fn check(bundle: &Bundle) -> Result<(), LoadError> {
    let loaded = load(bundle, &LoadOptions::default(), u32::MAX)?;
    answers(&loaded).map_err(|what| {
        let name = &bundle.name;
        LoadError(format!("model {name:?} can't be served: {what}"))
    })
}

fn answers(loaded: &super::thread::Loaded) -> Result<(), String> {
    let model = &loaded.model;
    if model.eos.is_empty() {
        return Err(
            "generation_config.json: no `eos_token_id`, so no answer would end by itself"
                .to_owned(),
        );
    }
    let prompt = model.text.trial().map_err(|refusal| refusal.message())?;
    let mut sequence = (loaded.open)(model.context).map_err(|error| error.to_string())?;
    let logits = sequence.feed(&prompt).map_err(|error| error.to_string())?;
    let greedy = Sampling {
        temperature: 0.0,
        ..Sampling::default()
    };
    match Sampler::new(greedy, &[]).pick(logits) {
        Some(_) => Ok(()),
        None => Err("its output holds no number".to_owned()),
    }
}
