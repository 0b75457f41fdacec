//! The conversation: roles and text. No error or debug output shows what a message says.

use serde_json::Value;

use super::members::{Members, shown};
use crate::prompt::{Message, Role};
use crate::reason::{Refusal, RefuseReason};
use crate::secret::Secret;

const MAX_MESSAGES: usize = 256;

/// Members that a client sends back with an earlier answer; empty, they say nothing.
const EMPTY_LISTS: [&str; 2] = ["tool_calls", "annotations"];

/// Takes `messages`; says whether one of them has a `name`, which has no effect.
pub(super) fn messages(members: &mut Members) -> Result<(Vec<Message>, bool), Refusal> {
    let list = match members.take("messages") {
        None => return Err(members.invalid("messages", "is missing")),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(members.invalid("messages", "must be a list")),
    };
    if list.is_empty() || list.len() > MAX_MESSAGES {
        let what = format!("must hold 1 to {MAX_MESSAGES} messages");
        return Err(members.invalid("messages", what));
    }
    let mut named = false;
    let mut messages = Vec::with_capacity(list.len());
    for (i, value) in list.into_iter().enumerate() {
        let mut members = object(value, &format!("messages[{i}]"))?;
        named |= members.text("name")?.is_some();
        messages.push(message(members)?);
    }
    Ok((messages, named))
}

fn message(mut members: Members) -> Result<Message, Refusal> {
    let role = role(&mut members)?;
    for name in EMPTY_LISTS {
        let value = members.take(name);
        if value.is_some_and(|value| value.as_array().is_none_or(|list| !list.is_empty())) {
            return Err(members.unsupported(name, "can only be empty here"));
        }
    }
    let content = match members.take("content") {
        // An answer that was nothing but tool calls; clients send it back so.
        None if role == Role::Assistant => String::new(),
        None => return Err(members.invalid("content", "is missing or null")),
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) if !parts.is_empty() => joined(&members, parts)?,
        Some(_) => return Err(members.invalid("content", "must be a string or a list of parts")),
    };
    members.finish()?;
    let content = Secret::new(content);
    Ok(Message { role, content })
}

fn role(members: &mut Members) -> Result<Role, Refusal> {
    match members.text("role")?.as_deref() {
        Some("system" | "developer") => Ok(Role::System),
        Some("user") => Ok(Role::User),
        Some("assistant") => Ok(Role::Assistant),
        Some(tool @ ("tool" | "function")) => Err(members.unsupported(
            "role",
            format!("can't be `{tool}`: there are no tools here"),
        )),
        Some(_) => Err(members.invalid("role", "must be system, developer, user or assistant")),
        None => Err(members.invalid("role", "is missing")),
    }
}

/// The text of a content given in parts.
fn joined(message: &Members, parts: Vec<Value>) -> Result<String, Refusal> {
    let mut text = String::new();
    for (i, part) in parts.into_iter().enumerate() {
        let mut part = object(part, &message.path(&format!("content[{i}]")))?;
        match part.text("type")?.as_deref() {
            Some("text") => {}
            Some(other) => {
                let what = format!("is `{}`; only `text` parts are supported", shown(other));
                return Err(part.unsupported("type", what));
            }
            None => return Err(part.invalid("type", "is missing")),
        }
        match part.text("text")? {
            Some(more) => text.push_str(&more),
            None => return Err(part.invalid("text", "is missing")),
        }
        part.finish()?;
    }
    Ok(text)
}

fn object(value: Value, path: &str) -> Result<Members, Refusal> {
    match value {
        Value::Object(map) => Ok(Members::new(map, format!("{path}."))),
        _ => Err(Refusal::new(RefuseReason::InvalidParameter)
            .detail(format!("`{path}` must be an object"))
            .param(path)),
    }
}
