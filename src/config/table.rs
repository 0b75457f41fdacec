//! What one declaration of a setting gives: its reading, its showing, whether a change waits for
//! a restart, and its lines in the commented file. `schema.rs` holds the declarations.
//!
//! Reading always gives a value: where the file's is wrong or missing, the setting's default or
//! example stands in, so that the checks that come after can be made all the same.

use serde_json::{Map, Value};
use toml::de::DeValue;

use super::kind::{Kind, Wrong};
use super::read::{Problems, Section};

/// A table of the file; `settings!` makes one of a struct.
pub(super) trait Table: Clone + PartialEq {
    /// `before` are those of the same list that were read already.
    fn read(section: &mut Section<'_>, before: &[Self]) -> Self;
    fn show(&self) -> Map<String, Value>;
    /// Takes from `running` what can't change while it runs; names what would have.
    fn keep(&mut self, running: &Self) -> Vec<String>;
    /// `off`: the table isn't there unless it is given.
    fn rows(off: bool) -> Vec<Row>;
}

/// What is held in a field `F` of a table: a setting, or tables once more.
pub(super) trait Entry<F> {
    fn read(&self, section: &mut Section<'_>, key: &'static str) -> F;
    fn show(&self, key: &'static str, field: &F, into: &mut Map<String, Value>);
    fn keep(&self, _: &'static str, _: &mut F, _: &F) -> Vec<String> {
        Vec::new()
    }
    fn rows(&self, key: &'static str, doc: &'static str, off: bool) -> Vec<Row>;
}

/// A setting or the header of a table.
#[derive(Debug)]
pub struct Row {
    pub key: &'static str,
    /// With those of the tables around it.
    pub path: String,
    pub doc: &'static str,
    pub line: Line,
    /// Commented out.
    pub off: bool,
}

#[derive(Debug)]
pub enum Line {
    Setting {
        text: String,
        given: Given,
        restart: bool,
    },
    Table,
    List,
}

impl Row {
    pub(super) fn new(key: &'static str, doc: &'static str, line: Line, off: bool) -> Row {
        Row {
            key,
            path: key.to_owned(),
            doc,
            line,
            off,
        }
    }

    /// The header of a table and all that is in it.
    pub(super) fn table<T: Table>(
        key: &'static str,
        doc: &'static str,
        line: Line,
        off: bool,
    ) -> Vec<Row> {
        let mut rows = vec![Row::new(key, doc, line, off)];
        rows.extend(T::rows(off).into_iter().map(|row| Row {
            path: format!("{key}.{}", row.path),
            ..row
        }));
        rows
    }

    /// As it stands in the file.
    pub fn header(&self) -> String {
        match self.line {
            Line::Setting { .. } => self.key.to_owned(),
            Line::Table => format!("[{}]", self.path),
            Line::List => format!("[[{}]]", self.path),
        }
    }

    pub(super) fn needs_restart(&self) -> bool {
        matches!(self.line, Line::Setting { restart: true, .. })
    }
}

/// `T` where nothing is configured.
pub(super) fn defaults<T: Table>() -> T {
    Section::root(None, &Problems::new(""), "", |root| T::read(root, &[]))
}

/// What a setting's text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    /// What holds unless it is given. `<name>` stands for the setting of that name.
    Default,
    /// An example; nothing holds, or it has to be given.
    Example,
    /// An example that the commented file has in force.
    Written,
}

pub(super) struct Setting<T> {
    kind: Kind<T>,
    restart: bool,
    given: Given,
    text: &'static str,
}

/// A setting that a reload puts in force.
pub(super) fn live<T>(kind: impl Into<Kind<T>>) -> Setting<T> {
    Setting {
        kind: kind.into(),
        restart: false,
        given: Given::Example,
        text: "",
    }
}

/// A setting that is taken at the start only.
pub(super) fn restart<T>(kind: impl Into<Kind<T>>) -> Setting<T> {
    Setting {
        restart: true,
        ..live(kind)
    }
}

impl<T> Setting<T> {
    pub(super) fn given(mut self, given: Given, text: &'static str) -> Setting<T> {
        (self.given, self.text) = (given, text);
        self
    }

    fn read_text(&self, text: &str) -> Result<T, Wrong> {
        // INVARIANT: a test reads the text of every setting.
        let value = DeValue::parse(text).expect("a text is TOML");
        (self.kind.read)(value.get_ref(), None)
    }

    fn stand_in(&self, section: &Section<'_>, key: &str) -> T {
        match (self.given, self.kind.unset) {
            (Given::Default, _) => {}
            (_, Some(unset)) => return unset(),
            (_, None) if section.has(key) => {}
            (_, None) => section.problem(key, "is missing; add it here"),
        }
        let expanded = self.read_text(&section.expand(self.text));
        expanded.unwrap_or_else(|wrong| {
            let what = format!("is missing, and its default {}", wrong.message);
            section.problem(key, what);
            // INVARIANT: a test reads the text of every setting.
            self.read_text(self.text).expect("a text can be read")
        })
    }
}

impl<T: Clone + PartialEq> Entry<T> for Setting<T> {
    fn read(&self, section: &mut Section<'_>, key: &'static str) -> T {
        let text = section.expand(self.text);
        let default = DeValue::parse(&text).ok();
        let default = default.filter(|_| self.given == Given::Default);
        let default = default.as_ref().map(toml::Spanned::get_ref);
        let read = section.optional(key, |value| (self.kind.read)(value, default));
        let value = read.unwrap_or_else(|| self.stand_in(section, key));
        if let Value::String(text) = (self.kind.show)(&value) {
            section.name(key, text);
        }
        section.to_look_at(key, (self.kind.look)(&value));
        value
    }

    fn show(&self, key: &'static str, field: &T, into: &mut Map<String, Value>) {
        let shown = (self.kind.show)(field);
        if !shown.is_null() {
            into.insert(key.to_owned(), shown);
        }
    }

    fn keep(&self, key: &'static str, field: &mut T, running: &T) -> Vec<String> {
        if !self.restart || field == running {
            return Vec::new();
        }
        field.clone_from(running);
        vec![key.to_owned()]
    }

    fn rows(&self, key: &'static str, doc: &'static str, off: bool) -> Vec<Row> {
        let off = off || self.given != Given::Written;
        let line = Line::Setting {
            text: self.text.to_owned(),
            given: self.given,
            restart: self.restart,
        };
        vec![Row::new(key, doc, line, off)]
    }
}

/// A table that is always there.
pub(super) struct Always;

impl<T: Table> Entry<T> for Always {
    fn read(&self, section: &mut Section<'_>, key: &'static str) -> T {
        section.section(key, |section| T::read(section, &[]))
    }

    fn show(&self, key: &'static str, field: &T, into: &mut Map<String, Value>) {
        let shown = field.show();
        if !shown.is_empty() {
            into.insert(key.to_owned(), Value::Object(shown));
        }
    }

    fn keep(&self, key: &'static str, field: &mut T, running: &T) -> Vec<String> {
        let kept = field.keep(running).into_iter();
        kept.map(|inner| format!("{key}.{inner}")).collect()
    }

    fn rows(&self, key: &'static str, doc: &'static str, off: bool) -> Vec<Row> {
        Row::table::<T>(key, doc, Line::Table, off)
    }
}

/// A list of tables. What of it needs a restart is for whoever knows what belongs together.
pub(super) struct Each;

impl<T: Table> Entry<Vec<T>> for Each {
    fn read(&self, section: &mut Section<'_>, key: &'static str) -> Vec<T> {
        let mut tables = Vec::new();
        section.sections(key, |section| {
            let table = T::read(section, &tables);
            tables.push(table);
        });
        tables
    }

    fn show(&self, key: &'static str, field: &Vec<T>, into: &mut Map<String, Value>) {
        let tables = field.iter().map(|table| Value::Object(table.show()));
        into.insert(key.to_owned(), tables.collect());
    }

    fn rows(&self, key: &'static str, doc: &'static str, off: bool) -> Vec<Row> {
        Row::table::<T>(key, doc, Line::List, off)
    }
}

/// A list of tables that may be empty, commented out. Where something of it needs a restart, there are as
/// many as there were.
pub(super) struct Any;

impl<T: Table> Entry<Vec<T>> for Any {
    fn read(&self, section: &mut Section<'_>, key: &'static str) -> Vec<T> {
        Each.read(section, key)
    }

    fn show(&self, key: &'static str, field: &Vec<T>, into: &mut Map<String, Value>) {
        if !field.is_empty() {
            Each.show(key, field, into);
        }
    }

    fn keep(&self, key: &'static str, field: &mut Vec<T>, running: &Vec<T>) -> Vec<String> {
        if field.len() == running.len() {
            let kept = field.iter_mut().zip(running);
            let kept = kept.flat_map(|(table, running)| table.keep(running));
            return kept.map(|inner| format!("{key}.{inner}")).collect();
        }
        if !T::rows(false).iter().any(Row::needs_restart) {
            return Vec::new();
        }
        field.clone_from(running);
        vec![key.to_owned()]
    }

    fn rows(&self, key: &'static str, doc: &'static str, _: bool) -> Vec<Row> {
        Row::table::<T>(key, doc, Line::List, true)
    }
}

/// Settings of the table around, held together.
pub(super) struct Flat;

impl<T: Table> Entry<T> for Flat {
    fn read(&self, section: &mut Section<'_>, _: &'static str) -> T {
        T::read(section, &[])
    }

    fn show(&self, _: &'static str, field: &T, into: &mut Map<String, Value>) {
        into.extend(field.show());
    }

    fn keep(&self, _: &'static str, field: &mut T, running: &T) -> Vec<String> {
        field.keep(running)
    }

    fn rows(&self, _: &'static str, _: &'static str, off: bool) -> Vec<Row> {
        T::rows(off)
    }
}

/// What may be left out whole.
pub(super) struct Perhaps<E>(pub(super) E);

impl<E> Perhaps<E> {
    /// What the file has of it: its table, or its settings where it has none of its own.
    fn keys<T>(&self, key: &'static str) -> Vec<&'static str>
    where
        E: Entry<T>,
    {
        let rows = self.0.rows(key, "", true).into_iter();
        rows.filter(|row| row.path == row.key)
            .map(|row| row.key)
            .collect()
    }
}

impl<T: Clone, E: Entry<T>> Entry<Option<T>> for Perhaps<E> {
    fn read(&self, section: &mut Section<'_>, key: &'static str) -> Option<T> {
        let keys = self.keys(key);
        section.knows(&keys);
        let given = keys.into_iter().any(|key| section.has(key));
        given.then(|| self.0.read(section, key))
    }

    fn show(&self, key: &'static str, field: &Option<T>, into: &mut Map<String, Value>) {
        if let Some(field) = field {
            self.0.show(key, field, into);
        }
    }

    fn keep(&self, key: &'static str, field: &mut Option<T>, running: &Option<T>) -> Vec<String> {
        match (&mut *field, running) {
            (Some(field), Some(running)) => self.0.keep(key, field, running),
            (None, None) => Vec::new(),
            _ if self.0.rows(key, "", true).iter().any(Row::needs_restart) => {
                field.clone_from(running);
                self.keys(key).into_iter().map(str::to_owned).collect()
            }
            _ => Vec::new(),
        }
    }

    fn rows(&self, key: &'static str, doc: &'static str, _: bool) -> Vec<Row> {
        self.0.rows(key, doc, true)
    }
}

/// Makes a table of each struct: `field: how it is held, what its text is;`, in the order of the
/// file. The documentation of a field is the setting's, the key is its name unless it says another.
macro_rules! settings {
    ($(
        $of:ty $(, $check:path)? {
            $(
                $(#[doc = $doc:literal])*
                $field:ident $(($key:literal))?: $entry:expr $(, $given:ident $text:tt)?;
            )*
            $(..$rest:ident: $value:expr;)*
        }
    )*) => {$(
        impl Table for $of {
            #[allow(unused_variables)]
            fn read(section: &mut Section<'_>, before: &[Self]) -> Self {
                $(
                    let entry = $entry$(.given(Given::$given, stringify!($text)))?;
                    let $field = entry.read(section, key!($field $($key)?));
                )*
                let table = Self { $($field,)* $($rest: $value,)* };
                $($check(section, &table, before);)?
                table
            }

            fn show(&self) -> Map<String, Value> {
                let mut shown = Map::new();
                $(
                    let entry = $entry$(.given(Given::$given, stringify!($text)))?;
                    entry.show(key!($field $($key)?), &self.$field, &mut shown);
                )*
                shown
            }

            fn keep(&mut self, running: &Self) -> Vec<String> {
                let mut kept = Vec::new();
                $(
                    let entry = $entry$(.given(Given::$given, stringify!($text)))?;
                    let key = key!($field $($key)?);
                    kept.extend(entry.keep(key, &mut self.$field, &running.$field));
                )*
                kept
            }

            fn rows(off: bool) -> Vec<Row> {
                let mut rows = Vec::new();
                $(
                    let entry = $entry$(.given(Given::$given, stringify!($text)))?;
                    let (key, doc) = (key!($field $($key)?), concat!($($doc),*));
                    rows.extend(rows_of(|table: &Self| &table.$field, &entry, key, doc, off));
                )*
                rows
            }
        }
    )*};
}

macro_rules! key {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $key:literal) => {
        $key
    };
}

pub(super) use {key, settings};

/// The field tells the entry what it holds.
pub(super) fn rows_of<T, F>(
    _: fn(&T) -> &F,
    entry: &impl Entry<F>,
    key: &'static str,
    doc: &'static str,
    off: bool,
) -> Vec<Row> {
    entry.rows(key, doc, off)
}
