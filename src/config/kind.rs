//! A kind of value: how it reads and shows, what no setting of it means, and what of it only the
//! machine can tell.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Serialize;
use serde_json::{Value, json};
use toml::de::DeValue;

use super::machine::Thing;

/// What a value should have been; where, if not the whole of it is wrong.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) span: Option<Range<usize>>,
    pub(super) message: String,
}

impl From<String> for Wrong {
    fn from(message: String) -> Wrong {
        Wrong {
            span: None,
            message,
        }
    }
}

/// Reads a value, some kinds over the default.
type Read<T> = dyn Fn(&DeValue<'_>, Option<&DeValue<'_>>) -> Result<T, Wrong>;

type Look<T> = dyn Fn(&T) -> Vec<Thing>;

pub(super) struct Kind<T> {
    pub(super) read: Box<Read<T>>,
    /// Null: it isn't there.
    pub(super) show: Box<dyn Fn(&T) -> Value>,
    /// What no setting means where there is no default; without it, it has to be given.
    pub(super) unset: Option<fn() -> T>,
    pub(super) look: Box<Look<T>>,
}

impl<T: 'static> Kind<T> {
    pub(super) fn new(
        read: impl Fn(&DeValue<'_>) -> Result<T, String> + 'static,
        show: impl Fn(&T) -> Value + 'static,
    ) -> Kind<T> {
        Kind::over_default(show, move |value, _| Ok(read(value)?))
    }

    /// Leaves as they are the parts of a default that a value doesn't name.
    pub(super) fn over_default(
        show: impl Fn(&T) -> Value + 'static,
        read: impl Fn(&DeValue<'_>, Option<&DeValue<'_>>) -> Result<T, Wrong> + 'static,
    ) -> Kind<T> {
        Kind {
            read: Box::new(read),
            show: Box::new(show),
            unset: None,
            look: Box::new(|_| Vec::new()),
        }
    }

    /// With what the machine has to be asked about it.
    pub(super) fn looked(self, look: impl Fn(&T) -> Vec<Thing> + 'static) -> Kind<T> {
        let look = Box::new(look);
        Kind { look, ..self }
    }

    /// A table of them, whose keys are the user's own names.
    pub(super) fn by_name(self) -> Kind<BTreeMap<String, T>> {
        let Kind { read, show, .. } = self;
        let show = move |named: &BTreeMap<String, T>| {
            let shown = named
                .iter()
                .map(|(name, value)| (name.clone(), show(value)));
            let shown = (!named.is_empty()).then(|| Value::Object(shown.collect()));
            shown.unwrap_or(Value::Null)
        };
        let kind = Kind::over_default(show, move |value, _| {
            let DeValue::Table(entries) = value else {
                return Err(format!("is {}; write a table", name_of(value)).into());
            };
            let named = entries.iter().map(|(name, value)| {
                let read = read(value.get_ref(), None).map_err(|wrong| Wrong {
                    span: Some(value.span()),
                    message: format!("{}: {}", name.get_ref(), wrong.message),
                });
                Ok((name.get_ref().to_string(), read?))
            });
            named.collect()
        });
        Kind {
            unset: Some(BTreeMap::new),
            ..kind
        }
    }
}

/// A function that reads is a kind, where what it gives is shown as serde does it.
impl<T, F> From<F> for Kind<T>
where
    T: Serialize + 'static,
    F: Fn(&DeValue<'_>) -> Result<T, String> + 'static,
{
    fn from(read: F) -> Kind<T> {
        Kind::new(read, |value| json!(value))
    }
}

/// What may be left out.
pub(super) fn optional<T: 'static>(kind: impl Into<Kind<T>>) -> Kind<Option<T>> {
    let Kind {
        read, show, look, ..
    } = kind.into();
    Kind {
        read: Box::new(move |value, default| read(value, default).map(Some)),
        show: Box::new(move |value| value.as_ref().map_or(Value::Null, &show)),
        unset: Some(|| None),
        look: Box::new(move |value| value.iter().flat_map(&look).collect()),
    }
}

/// A value's type, with its article.
pub(super) fn name_of(value: &DeValue<'_>) -> String {
    let name = value.type_str();
    let article = if name.starts_with(['a', 'i']) {
        "an"
    } else {
        "a"
    };
    format!("{article} {name}")
}
