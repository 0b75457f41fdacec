//! What people see: values as indented text, or JSON for scripts.

use std::io::{IsTerminal, Write};

use serde::Serialize;
use serde_json::Value;

use super::Global;
use super::exit::{Done, Failure};
use crate::sys;
use crate::time::Timestamp;

/// Prints `value` as JSON or, for people, as indented text.
pub(super) fn show(global: &Global, value: &impl Serialize) -> Done {
    let value = serde_json::to_value(value).map_err(Failure::failed)?;
    if global.json {
        line(&value.to_string())
    } else {
        line(human(&value).trim_end())
    }
}

/// Prints a line; a reader that has left (`| head`) is no failure.
pub(super) fn line(text: &str) -> Done {
    piece(&format!("{text}\n"))
}

/// Prints at once what is there of an answer.
pub(super) fn piece(text: &str) -> Done {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}

/// Objects as `name: value`, lists as `- item`, nested ones indented. What isn't set is left out.
pub(super) fn human(value: &Value) -> String {
    let mut text = String::new();
    write_value(&mut text, value, 0);
    text
}

fn write_value(text: &mut String, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(members) => {
            for (name, member) in members.iter().filter(|(_, m)| !is_empty(m)) {
                let name = name.replace('_', " ");
                match scalar(member) {
                    Some(shown) => text.push_str(&format!("{indent}{name}: {shown}\n")),
                    None => {
                        text.push_str(&format!("{indent}{name}:\n"));
                        write_value(text, member, depth + 1);
                    }
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                let mut block = String::new();
                write_value(&mut block, item, depth + 1);
                // The item's first line carries the dash.
                let first = block.trim_start();
                text.push_str(&format!("{indent}- {first}"));
            }
        }
        other => text.push_str(&format!("{indent}{}\n", scalar(other).unwrap_or_default())),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    }
}

/// What fits on the name's line.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(printable(text)),
        Value::Bool(flag) => Some(if *flag { "yes" } else { "no" }.to_owned()),
        Value::Number(number) => Some(number.to_string()),
        Value::Array(items) => {
            let shown: Option<Vec<_>> = items
                .iter()
                .map(|item| (!item.is_array()).then(|| scalar(item)).flatten())
                .collect();
            shown.map(|shown| shown.join(", "))
        }
        _ => None,
    }
}

/// Without control characters: a name from a token or a topic must not steer the terminal.
pub(super) fn printable(text: &str) -> String {
    let shown = |c| if steers(c) { '\u{fffd}' } else { c };
    text.chars().map(shown).collect()
}

/// Control characters, and what makes a terminal that knows writing from right to left show
/// characters in another order than they stand (UAX #9), or break a line.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A line of JSON as it is; on a terminal, with what JSON needn't escape and a terminal may obey.
pub(super) fn json_line(json: &str) -> Done {
    match std::io::stdout().is_terminal() {
        true => line(&escaped(json)),
        false => line(json),
    }
}

/// Equal JSON: none of these can stand outside of a string.
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match steers(c) {
            true => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => text.push(c),
        }
    }
    text
}

/// `2026-11-24 18:05 CET`: the time as this machine's people count it.
pub(super) fn local_time(at: Timestamp) -> String {
    sys::local_time(at.as_secs()).unwrap_or_else(|| at.to_string())
}

/// `2026-11-24 18:05:03`: the same to the second, in a column.
pub(super) fn local_second(at: Timestamp) -> String {
    sys::local_second(at.as_secs()).unwrap_or_else(|| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::{escaped, human, printable};
    use serde_json::json;

    #[test]
    fn nested_values_are_indented() {
        let value = json!({
            "ready": true,
            "problem": null,
            "realms": [{"name": "dev", "key_ids": ["a", "b"]}, {"name": "prod", "age": 3}],
            "clock": {"synchronised": false},
        });
        let expected = "\
ready: yes
realms:
  - name: dev
    key ids: a, b
  - name: prod
    age: 3
clock:
  synchronised: no
";
        assert_eq!(human(&value), expected);
    }

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
        assert_eq!(
            printable("\u{9b}2J\u{202e}a\u{7f}"),
            "\u{fffd}2J\u{fffd}a\u{fffd}"
        );
        assert_eq!(printable("Zoë 日本 עברית"), "Zoë 日本 עברית");
    }

    #[test]
    fn json_on_a_terminal_is_equal_and_steers_nothing() {
        let names = "\u{1b}[2J \u{9b}2J \u{7f} \u{202e}x\u{2028} Zoë";
        let json = json!({ "client": names }).to_string();
        let shown = escaped(&json);
        assert!(shown.chars().all(|c| !super::steers(c)), "{shown:?}");
        let back: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(back["client"], names);
    }
}
