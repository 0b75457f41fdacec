//! The parameters beside the prompt itself: honoured ones typed and bounded, the others known by name.

use serde_json::Value;

use super::members::Members;
use crate::prompt::SamplingOptions;
use crate::reason::Refusal;

/// OpenAI's limit.
const MAX_STOPS: usize = 4;

/// Not honoured: a name, and the value that changes nothing, which alone is accepted.
pub(super) type Neutral = (&'static str, &'static str, fn(&Value) -> bool);

const NEUTRAL: &[Neutral] = &[
    ("n", "1", is_one),
    ("logit_bias", "{}", |v| {
        v.as_object().is_some_and(serde_json::Map::is_empty)
    }),
    ("store", "false", is_false),
];

/// Without effect on an appliance that keeps nothing and has one tier: accepted and named.
const IGNORED: &[&str] = &[
    "user",
    "metadata",
    "parallel_tool_calls",
    "service_tier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
];

pub(super) fn sampling(members: &mut Members) -> Result<SamplingOptions, Refusal> {
    type Of = SamplingOptions;
    Ok(SamplingOptions {
        temperature: members.number("temperature", Of::TEMPERATURE)?,
        top_p: members.number("top_p", Of::TOP_P)?,
        top_k: members.integer("top_k", *Of::TOP_K.start())?,
        min_p: members.number("min_p", Of::MIN_P)?,
        repetition_penalty: members.number("repetition_penalty", Of::REPETITION_PENALTY)?,
        frequency_penalty: members.number("frequency_penalty", Of::FREQUENCY_PENALTY)?,
        presence_penalty: members.number("presence_penalty", Of::PRESENCE_PENALTY)?,
    })
}

/// `max_completion_tokens`, or its old name.
pub(super) fn max_tokens(members: &mut Members) -> Result<Option<u32>, Refusal> {
    let new = members.integer("max_completion_tokens", 1)?;
    let old = members.integer("max_tokens", 1)?;
    match (new, old) {
        (Some(new), Some(old)) if new != old => {
            Err(members.invalid("max_tokens", "differs from `max_completion_tokens`"))
        }
        _ => Ok(new.or(old)),
    }
}

pub(super) fn stop(members: &mut Members) -> Result<Vec<String>, Refusal> {
    let what = "must be a string or up to four strings, none empty";
    let list = match members.take("stop") {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) if list.len() <= MAX_STOPS => list,
        Some(text @ Value::String(_)) => vec![text],
        Some(_) => return Err(members.invalid("stop", what)),
    };
    list.into_iter()
        .map(|value| match value {
            Value::String(text) if !text.is_empty() => Ok(text),
            _ => Err(members.invalid("stop", what)),
        })
        .collect()
}

/// `stream`, and whether the stream ends with the usage.
pub(super) fn streaming(members: &mut Members) -> Result<(bool, bool), Refusal> {
    let stream = members.boolean("stream")?.unwrap_or(false);
    let Some(mut options) = members.object("stream_options")? else {
        return Ok((stream, false));
    };
    if !stream {
        return Err(members.invalid("stream_options", "is allowed only with `stream`"));
    }
    let include_usage = options.boolean("include_usage")?.unwrap_or(false);
    if options.boolean("include_obfuscation")? == Some(true) {
        return Err(options.unsupported("include_obfuscation", "must be false"));
    }
    options.finish()?;
    Ok((stream, include_usage))
}

/// Takes what changes nothing; returns the names of those that a client may wonder about. `own`:
/// the dialect's.
pub(super) fn without_effect(
    members: &mut Members,
    own: &[Neutral],
) -> Result<Vec<String>, Refusal> {
    for (name, neutral, is_neutral) in NEUTRAL.iter().chain(own) {
        if members.take(name).is_some_and(|value| !is_neutral(&value)) {
            return Err(members.unsupported(name, format!("can only be {neutral} here")));
        }
    }
    let ignored = IGNORED.iter().filter(|name| members.take(name).is_some());
    Ok(ignored.map(|name| (*name).to_owned()).collect())
}

/// A negative seed counts as its two's complement.
pub(super) fn seed(members: &mut Members) -> Result<Option<u64>, Refusal> {
    let Some(value) = members.take("seed") else {
        return Ok(None);
    };
    let signed = || value.as_i64().map(i64::cast_unsigned);
    match value.as_u64().or_else(signed) {
        Some(seed) => Ok(Some(seed)),
        None => Err(members.invalid("seed", "must be a 64-bit integer")),
    }
}

pub(super) fn is_one(value: &Value) -> bool {
    value.as_f64() == Some(1.0)
}

pub(super) fn is_zero(value: &Value) -> bool {
    value.as_f64() == Some(0.0)
}

pub(super) fn is_false(value: &Value) -> bool {
    *value == Value::Bool(false)
}

pub(super) fn is_empty_list(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty)
}
