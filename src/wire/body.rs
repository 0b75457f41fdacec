//! A prompt's body: what all dialects have in common.

use serde_json::Value;

use super::members::Members;
use super::{Body, Framing, format, params};
use crate::json;
use crate::prompt::Dialect;
use crate::reason::{Refusal, RefuseReason};
use crate::secret::Secret;

/// Longer than any client id of Keycloak (255).
const MAX_MODEL: usize = 256;

/// Parses a prompt. Unknown and unsupported parameters are refused by name; no error shows what the
/// prompt says.
pub fn parse(dialect: Dialect, body: &[u8]) -> Result<Body, Refusal> {
    let Value::Object(mut map) = strict(body)? else {
        return Err(unreadable("the body must be a JSON object"));
    };
    let authorization = map.shift_remove("authorization");
    let body_hash = crate::digest::digest_json(&map);

    let mut members = Members::new(map, "");
    let authorization = match authorization {
        None | Some(Value::Null) => None,
        Some(Value::String(token)) => Some(Secret::new(token)),
        Some(_) => return Err(members.invalid("authorization", "must be a string")),
    };
    let model = members.text("model")?;
    if model
        .as_ref()
        .is_some_and(|model| model.is_empty() || model.len() > MAX_MODEL)
    {
        return Err(members.invalid("model", "must be an endpoint's client id"));
    }
    let format = format(dialect);
    let (completion, own) = format.read(&mut members)?;
    let (stream, include_usage) = params::streaming(&mut members)?;
    let mut ignored = params::without_effect(&mut members, format.neutral())?;
    members.finish()?;
    ignored.extend(own);
    Ok(Body {
        model,
        completion,
        framing: Framing {
            dialect,
            stream,
            include_usage,
        },
        ignored,
        authorization,
        body_hash,
    })
}

/// How bodies begin that aren't UTF-8 text without a mark.
const ENCODINGS: &[(&[u8], &str)] = &[
    (
        b"\x1f\x8b",
        "the body is compressed by gzip; send it as it is",
    ),
    (
        b"\xef\xbb\xbf",
        "the body begins with a byte order mark; leave it out (RFC 8259 section 8.1)",
    ),
    (
        b"\xff\xfe",
        "the body is UTF-16; send UTF-8 (RFC 8259 section 8.1)",
    ),
    (
        b"\xfe\xff",
        "the body is UTF-16; send UTF-8 (RFC 8259 section 8.1)",
    ),
];

/// The parser's own words may repeat a member's name, which may be misplaced text: only the
/// position is told.
fn strict(body: &[u8]) -> Result<Value, Refusal> {
    if let Some((_, what)) = ENCODINGS.iter().find(|(start, _)| body.starts_with(start)) {
        return Err(unreadable(*what));
    }
    let text = std::str::from_utf8(body).map_err(|error| {
        let at = error.valid_up_to();
        unreadable(format!("the body isn't UTF-8 (byte {at})"))
    })?;
    json::parse(body).map_err(|error| {
        if error.is_syntax()
            && let Some(half) = json::half_pair(text)
        {
            return unreadable(half.to_string());
        }
        let what = match error.classify() {
            serde_json::error::Category::Eof => "the JSON ends too early",
            serde_json::error::Category::Data => "a member comes twice, or a number is too large",
            _ => "malformed JSON",
        };
        let (line, column) = (error.line(), error.column());
        unreadable(format!("{what}, at line {line}, column {column}"))
    })
}

fn unreadable(detail: impl Into<String>) -> Refusal {
    Refusal::new(RefuseReason::BadRequest).detail(detail)
}
