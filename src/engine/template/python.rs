//! What templates expect around them: the Jinja of Hugging Face's `apply_chat_template`
//! (transformers `utils/chat_template_utils.py`), and of Python what minijinja doesn't know.

use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Tuple, from_args};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

use super::json::tojson;
use super::{MAX_RECURSION, bounds};

/// Comparisons of two letters.
const LOOKS_OF_FUEL: usize = 64;

/// The template itself refuses the messages, by `raise_exception`.
#[derive(Debug)]
pub(super) struct Raised(pub(super) String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

impl Raised {
    /// The one that `error` comes from.
    pub(super) fn behind(error: &Error) -> Option<&Raised> {
        let first = std::error::Error::source(error);
        std::iter::successors(first, |error| error.source()).find_map(|error| error.downcast_ref())
    }
}

pub(super) fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_recursion_limit(MAX_RECURSION);
    bounds::add(&mut environment);
    environment.set_unknown_method_callback(method);
    environment.add_filter("tojson", tojson);
    environment.add_function("raise_exception", |message: &Value| {
        let raised = Raised(message.to_string());
        let error = Error::new(ErrorKind::InvalidOperation, "raised by the template");
        Err::<Value, _>(error.with_source(raised))
    });
    Ok(environment)
}

pub(super) fn syntax() -> Result<SyntaxConfig, Error> {
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true).build()
}

/// Python's methods: those that pycompat lacks, or whose arguments it takes only in order.
fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    bounds::charge(state, args)?;
    let Some(text) = value.as_str() else {
        bounds::charge(state, std::slice::from_ref(value))?;
        return pycompat::unknown_method_callback(state, value, name, args);
    };
    match name {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)))
        }
        "strip" | "lstrip" | "rstrip" => {
            // Each letter is looked for among the given ones.
            let (letters,): (Option<&str>,) = from_args(args)?;
            let looks = letters.map_or(0, |letters| letters.len().saturating_mul(text.len()));
            state.consume_fuel((looks / LOOKS_OF_FUEL) as u64)?;
            pycompat::unknown_method_callback(state, value, name, args)
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            Ok(Value::from(Tuple::from(partition(text, separator, name))))
        }
        "split" | "rsplit" => {
            let (separator, most, named): (Option<&str>, Option<i64>, Kwargs) = from_args(args)?;
            let separator = match separator {
                None => named.get::<Option<&str>>("sep")?,
                given => given,
            };
            let most = match most {
                None => named.get::<Option<i64>>("maxsplit")?,
                given => given,
            };
            named.assert_all_used()?;
            if separator == Some("") {
                let what = "the separator is empty";
                return Err(Error::new(ErrorKind::InvalidOperation, what));
            }
            let most = most.and_then(|most| usize::try_from(most).ok());
            let parts = split(
                text,
                separator,
                most.unwrap_or(usize::MAX),
                name == "rsplit",
            );
            Ok(parts.into_iter().map(Value::from).collect())
        }
        _ => pycompat::unknown_method_callback(state, value, name, args),
    }
}

fn partition(text: &str, separator: &str, method: &str) -> [Value; 3] {
    let parts = match (text.split_once(separator), text.rsplit_once(separator)) {
        (Some((before, after)), _) if method == "partition" => [before, separator, after],
        (_, Some((before, after))) if method == "rpartition" => [before, separator, after],
        _ if method == "partition" => [text, "", ""],
        _ => ["", "", text],
    };
    parts.map(Value::from)
}

/// At most `most` cuts, from the left or from the right; without a separator at white space, which
/// belongs to no part.
fn split<'a>(text: &'a str, separator: Option<&str>, most: usize, right: bool) -> Vec<&'a str> {
    let mut parts = Vec::new();
    let trimmed = |text: &'a str| match (separator, right) {
        (Some(_), _) => text,
        (None, false) => text.trim_start(),
        (None, true) => text.trim_end(),
    };
    let mut rest = Some(trimmed(text)).filter(|rest| separator.is_some() || !rest.is_empty());
    while let Some(text) = rest {
        let cut = match (separator, right) {
            _ if parts.len() >= most => None,
            (Some(separator), false) => text.split_once(separator),
            (Some(separator), true) => text.rsplit_once(separator),
            (None, false) => text.split_once(char::is_whitespace),
            (None, true) => text.rsplit_once(char::is_whitespace),
        };
        let (part, more) = match (cut, right) {
            (None, _) => (text, None),
            (Some((part, more)), false) | (Some((more, part)), true) => (part, Some(trimmed(more))),
        };
        parts.push(part);
        rest = more.filter(|more| separator.is_some() || !more.is_empty());
    }
    if right {
        parts.reverse();
    }
    parts
}
