//! The members of one JSON object, taken one by one by name and type; what is left is refused.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::reason::{Refusal, RefuseReason};

/// An object whose `null` members are gone: clients send `null` for "not set".
pub(super) struct Members {
    map: Map<String, Value>,
    /// What the object is called in errors, as a prefix of its members: `""`, `messages[0].`.
    prefix: String,
}

impl Members {
    pub(super) fn new(mut map: Map<String, Value>, prefix: impl Into<String>) -> Members {
        map.retain(|_, value| !value.is_null());
        let prefix = prefix.into();
        Members { map, prefix }
    }

    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.map.shift_remove(name)
    }

    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, Refusal> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.invalid(name, "must be a string")),
        }
    }

    pub(super) fn boolean(&mut self, name: &str) -> Result<Option<bool>, Refusal> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(_) => Err(self.invalid(name, "must be true or false")),
        }
    }

    /// A number of `range`, judged in the precision that is used.
    pub(super) fn number(
        &mut self,
        name: &str,
        range: RangeInclusive<f32>,
    ) -> Result<Option<f32>, Refusal> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        match value.as_f64().map(|number| number as f32) {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            _ => {
                let (low, high) = range.into_inner();
                Err(self.invalid(name, format!("must be a number from {low} to {high}")))
            }
        }
    }

    pub(super) fn integer(&mut self, name: &str, least: u32) -> Result<Option<u32>, Refusal> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let integer = value.as_u64().and_then(|number| u32::try_from(number).ok());
        match integer.filter(|number| *number >= least) {
            Some(number) => Ok(Some(number)),
            None => Err(self.invalid(name, format!("must be an integer of at least {least}"))),
        }
    }

    pub(super) fn object(&mut self, name: &str) -> Result<Option<Members>, Refusal> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(map)) => {
                let prefix = format!("{}.", self.path(name));
                Ok(Some(Members::new(map, prefix)))
            }
            Some(_) => Err(self.invalid(name, "must be an object")),
        }
    }

    /// Refuses what nobody took.
    pub(super) fn finish(self) -> Result<(), Refusal> {
        match self.map.keys().next() {
            None => Ok(()),
            Some(name) => Err(self.unsupported(shown(name), "isn't known")),
        }
    }

    /// The full name of a member, as in `messages[0].content`.
    pub(super) fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub(super) fn invalid(&self, name: &str, what: impl AsRef<str>) -> Refusal {
        self.refusal(RefuseReason::InvalidParameter, name, what.as_ref())
    }

    pub(super) fn unsupported(&self, name: &str, what: impl AsRef<str>) -> Refusal {
        self.refusal(RefuseReason::UnsupportedParameter, name, what.as_ref())
    }

    fn refusal(&self, reason: RefuseReason, name: &str, what: &str) -> Refusal {
        let param = self.path(name);
        Refusal::new(reason)
            .detail(format!("`{param}` {what}"))
            .param(param)
    }
}

/// A client's name as errors may show it: misplaced text, perhaps part of a prompt, is not shown.
pub(super) fn shown(name: &str) -> &str {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let is_name = !name.is_empty() && name.len() <= 64 && name.bytes().all(plain);
    if is_name { name } else { "(not a name)" }
}
