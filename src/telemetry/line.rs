//! One log line for machines: what an event says, member by member.

use std::fmt::{Debug, Write};

use serde::Serialize;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use crate::time::Timestamp;

/// What an event says member by member, or a span of all lines in it: of which request they are.
#[derive(Debug, Clone, Default)]
pub(super) struct Fields(Map<String, Value>);

#[derive(Debug)]
pub(super) struct Line {
    pub(super) level: Level,
    pub(super) target: &'static str,
    /// In the source.
    pub(super) place: Option<(&'static str, u32)>,
    message: String,
    pub(super) fields: Map<String, Value>,
}

/// What JSON has of a line.
#[derive(Serialize)]
struct Object<'a> {
    /// RFC 3339.
    timestamp: String,
    level: &'static str,
    target: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Map::is_empty")]
    fields: &'a Map<String, Value>,
}

impl Line {
    /// An event, with what the spans say that it is in.
    pub(super) fn of(event: &Event<'_>, mut fields: Fields) -> Line {
        event.record(&mut fields);
        let (metadata, Fields(mut fields)) = (event.metadata(), fields);
        let message = match fields.shift_remove("message") {
            Some(Value::String(message)) => message,
            _ => String::new(),
        };
        Line {
            level: *metadata.level(),
            target: metadata.target(),
            place: metadata.file().zip(metadata.line()),
            message,
            fields,
        }
    }

    /// What is no event.
    pub(super) fn said(level: Level, message: &str) -> Line {
        Line {
            level,
            target: env!("CARGO_PKG_NAME"),
            place: None,
            message: message.to_owned(),
            fields: Map::new(),
        }
    }

    /// Without the line's end.
    pub(super) fn json(&self, now: Timestamp) -> Vec<u8> {
        let object = Object {
            timestamp: now.to_string(),
            level: self.level.as_str(),
            target: self.target,
            message: &self.message,
            fields: &self.fields,
        };
        // Strings and a map of JSON's own values can't fail.
        serde_json::to_vec(&object).unwrap_or_default()
    }

    /// The message and its fields for a person, who is told time and level otherwise.
    pub(super) fn text(&self) -> String {
        let mut text = self.message.clone();
        for (name, value) in &self.fields {
            let space = if text.is_empty() { "" } else { " " };
            // Writing to a `String` can't fail.
            let _ = match value {
                Value::String(value) if is_word(value) => write!(text, "{space}{name}={value}"),
                Value::String(value) => write!(text, "{space}{name}={value:?}"),
                value => write!(text, "{space}{name}={value}"),
            };
        }
        text
    }
}

impl Fields {
    /// Of a span within this one.
    pub(super) fn join(&mut self, inner: &Fields) {
        self.0.extend(inner.0.clone());
    }

    fn add(&mut self, field: &Field, value: Value) {
        self.0.insert(field.name().to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }

    /// What isn't finite has no number in JSON.
    fn record_f64(&mut self, field: &Field, value: f64) {
        let number = serde_json::Number::from_f64(value).map(Value::Number);
        self.add(field, number.unwrap_or_else(|| value.to_string().into()));
    }
}

/// The journal's priorities, which are syslog's.
pub(super) fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// Whether it can be told from what follows it without quotes.
fn is_word(value: &str) -> bool {
    let apart = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '=');
    !value.is_empty() && !value.contains(apart)
}
