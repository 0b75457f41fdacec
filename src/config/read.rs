//! A reader over parsed TOML that goes on after a mistake, so that all of a file's problems are
//! told at once, each with its place.
//!
//! Every key that is asked for counts as known; what is left when a section has been read is
//! refused with the nearest known key. So the code that reads a section is also its schema.

use std::cell::RefCell;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::Problem;
use super::kind::Wrong;
use super::machine::{Found, Look, Thing};
use crate::spelling::nearest;

/// What was wrong so far, and what has to be looked at on the machine.
pub(super) struct Problems<'a> {
    text: &'a str,
    found: RefCell<Vec<Problem>>,
    things: RefCell<Vec<(Range<usize>, String, Thing)>>,
}

impl<'a> Problems<'a> {
    pub(super) fn new(text: &'a str) -> Problems<'a> {
        Problems {
            text,
            found: RefCell::default(),
            things: RefCell::default(),
        }
    }

    /// One a place and key: what follows from the first is no news.
    pub(super) fn add(&self, span: &Range<usize>, key: &str, message: impl Into<String>) {
        let (line, column) = place(self.text, span.start);
        let mut found = self.found.borrow_mut();
        let known = |p: &Problem| (p.line, p.column, p.key.as_str()) == (line, column, key);
        if !found.iter().any(known) {
            found.push(Problem {
                line,
                column,
                key: key.to_owned(),
                message: message.into(),
            });
        }
    }

    /// Looks at the machine; what is usable, but not well, is noted in `warnings`.
    pub(super) fn look(&self, look: Look, warnings: &Problems<'_>) {
        for (span, key, thing) in self.things.take() {
            match thing.look(look) {
                Ok(()) => {}
                Err(Found::Wrong(what)) => self.add(&span, &key, what),
                Err(Found::Poor(what)) => warnings.add(&span, &key, what),
            }
        }
    }

    /// All of them in the order of the file.
    pub(super) fn into_sorted(self) -> Vec<Problem> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|problem| (problem.line, problem.column));
        found
    }
}

/// One section of the file; an absent one reads as empty.
pub(super) struct Section<'a> {
    problems: &'a Problems<'a>,
    path: String,
    span: Range<usize>,
    entries: Option<&'a DeTable<'a>>,
    known: Vec<&'static str>,
    /// What `<name>` stands for in a default: the texts read so far, here and above.
    names: Vec<(&'static str, String)>,
}

impl<'a> Section<'a> {
    /// Reads the whole file with `read`; keys that it didn't ask for are problems.
    pub(super) fn root<T>(
        entries: Option<&'a DeTable<'a>>,
        problems: &'a Problems<'a>,
        host: &str,
        read: impl FnOnce(&mut Section<'a>) -> T,
    ) -> T {
        let root = Section {
            problems,
            path: String::new(),
            span: 0..0,
            entries,
            known: Vec::new(),
            names: vec![("host", host.to_owned())],
        };
        root.read_whole(read)
    }

    fn within<T>(
        &self,
        path: String,
        span: Range<usize>,
        entries: Option<&'a DeTable<'a>>,
        read: impl FnOnce(&mut Section<'a>) -> T,
    ) -> T {
        let section = Section {
            problems: self.problems,
            path,
            span,
            entries,
            known: Vec::new(),
            names: self.names.clone(),
        };
        section.read_whole(read)
    }

    fn read_whole<T>(mut self, read: impl FnOnce(&mut Section<'a>) -> T) -> T {
        let value = read(&mut self);
        self.refuse_unknown();
        value
    }

    /// Reads `key`; `None` where it isn't there or is wrong.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&DeValue<'a>) -> Result<T, Wrong>,
    ) -> Option<T> {
        self.known.push(key);
        let (span, value) = self.entry(key)?;
        let problem = |wrong: Wrong| {
            let span = wrong.span.unwrap_or(span);
            self.problems.add(&span, &self.join(key), wrong.message);
        };
        read(value).map_err(problem).ok()
    }

    /// Notes what this machine has to be asked about `key`.
    pub(super) fn to_look_at(&self, key: &str, things: Vec<Thing>) {
        let things = things.into_iter();
        let things = things.map(|thing| (self.span_of(key), self.join(key), thing));
        self.problems.things.borrow_mut().extend(things);
    }

    /// Has defaults name the text of `key`.
    pub(super) fn name(&mut self, key: &'static str, text: String) {
        self.names.push((key, text));
    }

    pub(super) fn named(&self, key: &str) -> &str {
        let found = self.names.iter().rfind(|(name, _)| *name == key);
        found.map_or("", |(_, text)| text)
    }

    /// TOML with what its `<name>`s stand for.
    pub(super) fn expand(&self, text: &str) -> String {
        let names = self.names.iter().rev();
        names.fold(text.to_owned(), |text, (name, to)| {
            let quoted = serde_json::json!(to).to_string();
            text.replace(&format!("<{name}>"), &quoted[1..quoted.len() - 1])
        })
    }

    /// Reads the table `key`, which may be absent.
    pub(super) fn section<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Section<'a>) -> T,
    ) -> T {
        self.known.push(key);
        let (span, entries) = match self.entry(key) {
            Some((span, DeValue::Table(entries))) => (span, Some(entries)),
            Some((_, other)) => {
                let (path, kind) = (self.join(key), other.type_str());
                self.problem(key, format!("is a {kind}; write it as a table, [{path}]"));
                (self.span.clone(), None)
            }
            None => (self.span.clone(), None),
        };
        self.within(self.join(key), span, entries, read)
    }

    /// Reads the array of tables `key`, `[[key]]`.
    pub(super) fn sections<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&mut Section<'a>) -> T,
    ) -> Vec<T> {
        self.known.push(key);
        let path = self.join(key);
        let wrong = format!("isn't a list of tables; write each as [[{path}]]");
        let items = match self.entry(key) {
            Some((_, DeValue::Array(items))) => items,
            Some(_) => {
                self.problem(key, wrong);
                return Vec::new();
            }
            None => return Vec::new(),
        };
        let mut values = Vec::new();
        for item in items {
            match item.get_ref() {
                DeValue::Table(entries) => {
                    let (path, span) = (path.clone(), item.span());
                    values.push(self.within(path, span, Some(entries), &mut read));
                }
                _ => self.problems.add(&item.span(), &path, wrong.clone()),
            }
        }
        values
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    /// Counts `keys` as known without reading them.
    pub(super) fn knows(&mut self, keys: &[&'static str]) {
        self.known.extend(keys);
    }

    /// Notes what is wrong with `key`: at its value, or where it is missing.
    pub(super) fn problem(&self, key: &str, message: impl Into<String>) {
        let span = self.span_of(key);
        self.problems.add(&span, &self.join(key), message);
    }

    fn span_of(&self, key: &str) -> Range<usize> {
        self.entry(key)
            .map_or_else(|| self.span.clone(), |(span, _)| span)
    }

    fn entry(&self, key: &str) -> Option<(Range<usize>, &'a DeValue<'a>)> {
        let value = self.entries?.get(key)?;
        Some((value.span(), value.get_ref()))
    }

    fn join(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    fn refuse_unknown(&self) {
        for (key, _) in self.entries.into_iter().flatten() {
            let name: &str = key.get_ref();
            if self.known.contains(&name) {
                continue;
            }
            let advice = match nearest(name, &self.known) {
                Some(known) => format!("unknown key; did you mean `{known}`?"),
                None => format!("unknown key; known here: {}", self.known.join(", ")),
            };
            self.problems.add(&key.span(), &self.join(name), advice);
        }
    }
}

/// Line and column of a byte, both from 1; columns count characters.
pub(super) fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (line, before[start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::place;

    #[test]
    fn places_count_lines_and_characters() {
        let text = "a = 1\ngrün = x\n";
        assert_eq!(place(text, 0), (1, 1));
        assert_eq!(place(text, text.find('x').unwrap()), (2, 8));
        assert_eq!(place(text, text.len()), (3, 1));
        assert_eq!(place(text, 999), (3, 1));
    }
}
