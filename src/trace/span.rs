//! One stretch of time and what is said of it.

use std::borrow::Cow;

use super::context::SpanId;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    pub id: SpanId,
    pub parent: Option<SpanId>,
    pub name: Cow<'static, str>,
    pub kind: Kind,
    /// Nanoseconds since the epoch.
    pub began: u64,
    pub ended: u64,
    pub attributes: Vec<Attribute>,
    /// It didn't do what it was for, and that is our fault.
    pub failed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A part of our own work.
    Internal,
    /// Somebody waits for its answer.
    Server,
    /// Of a message.
    Consumer,
}

/// Named by OpenTelemetry's semantic conventions, or `slmd.…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    pub key: &'static str,
    pub value: Value,
}

impl Attribute {
    pub fn new(key: &'static str, value: impl Into<Value>) -> Attribute {
        let value = value.into();
        Attribute { key, value }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Text(Cow<'static, str>),
    Number(i64),
    List(Vec<&'static str>),
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Value {
        Value::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text.into())
    }
}

impl From<Vec<&'static str>> for Value {
    fn from(list: Vec<&'static str>) -> Value {
        Value::List(list)
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Value {
        Value::Number(number.into())
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Value {
        Value::Number(number.into())
    }
}
