//! A reader over parsed TOML that goes on after a mistake, so that all of a file's problems are
//! told at once, each with its place.
//!
//! Every key that is asked for counts as known; what is left when a section has been read is
//! refused with the nearest known key. So the code that reads a section is also its schema.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::Problem;

/// What was wrong so far.
pub(super) struct Problems<'a> {
    text: &'a str,
    found: RefCell<Vec<Problem>>,
}

impl<'a> Problems<'a> {
    pub(super) fn new(text: &'a str) -> Problems<'a> {
        Problems {
            text,
            found: RefCell::default(),
        }
    }

    pub(super) fn add(&self, span: &Range<usize>, key: &str, message: impl Into<String>) {
        let (line, column) = place(self.text, span.start);
        self.found.borrow_mut().push(Problem {
            line,
            column,
            key: key.to_owned(),
            message: message.into(),
        });
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
}

impl<'a> Section<'a> {
    /// Reads the whole file with `read`; keys that it didn't ask for are problems.
    pub(super) fn root<T>(
        entries: &'a DeTable<'a>,
        problems: &'a Problems<'a>,
        read: impl FnOnce(&mut Section<'a>) -> T,
    ) -> T {
        Section::within(problems, String::new(), 0..0, Some(entries), read)
    }

    fn within<T>(
        problems: &'a Problems<'a>,
        path: String,
        span: Range<usize>,
        entries: Option<&'a DeTable<'a>>,
        read: impl FnOnce(&mut Section<'a>) -> T,
    ) -> T {
        let mut section = Section {
            problems,
            path,
            span,
            entries,
            known: Vec::new(),
        };
        let value = read(&mut section);
        section.refuse_unknown();
        value
    }

    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&DeValue<'a>) -> Result<T, String>,
    ) -> Option<T> {
        self.known.push(key);
        let (span, value) = self.entry(key)?;
        let problem = |message| self.problems.add(&span, &self.join(key), message);
        read(value).map_err(problem).ok()
    }

    pub(super) fn or<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&DeValue<'a>) -> Result<T, String>,
        default: T,
    ) -> T {
        self.optional(key, read).unwrap_or(default)
    }

    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&DeValue<'a>) -> Result<T, String>,
    ) -> Option<T> {
        if self.entry(key).is_none() {
            self.problem(key, "is missing; add it here");
        }
        self.optional(key, read)
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
        Section::within(self.problems, self.join(key), span, entries, read)
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
                    let (problems, span) = (self.problems, item.span());
                    let entries = Some(entries);
                    values.push(Section::within(
                        problems,
                        path.clone(),
                        span,
                        entries,
                        &mut read,
                    ));
                }
                _ => self.problems.add(&item.span(), &path, wrong.clone()),
            }
        }
        values
    }

    /// Reads a table whose keys are the user's own names.
    pub(super) fn names<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&DeValue<'a>) -> Result<T, String>,
    ) -> BTreeMap<String, T> {
        self.known.push(key);
        let entries = match self.entry(key) {
            Some((_, DeValue::Table(entries))) => entries,
            Some((_, other)) => {
                self.problem(key, format!("is a {}, not a table", other.type_str()));
                return BTreeMap::new();
            }
            None => return BTreeMap::new(),
        };
        let mut values = BTreeMap::new();
        for (name, value) in entries {
            let path = format!("{}.{}", self.join(key), name.get_ref());
            match read(value.get_ref()) {
                Ok(value) => drop(values.insert(name.get_ref().to_string(), value)),
                Err(message) => self.problems.add(&value.span(), &path, message),
            }
        }
        values
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    /// Notes what is wrong with `key`: at its value, or where it is missing.
    pub(super) fn problem(&self, key: &str, message: impl Into<String>) {
        let span = self
            .entry(key)
            .map_or_else(|| self.span.clone(), |(span, _)| span);
        self.problems.add(&span, &self.join(key), message);
    }

    /// Notes in `warnings` what is usable about `key`, but not well.
    pub(super) fn warn(&self, warnings: &Problems<'_>, key: &str, message: &str) {
        let span = self.entry(key).map_or(0..0, |(span, _)| span);
        warnings.add(&span, &self.join(key), message);
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

/// The known key that `name` was most likely meant to be.
fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let likely = |key: &&&str| distance(name, key) <= name.len().max(key.len()) / 3;
    let candidates = known.iter().filter(likely);
    candidates.min_by_key(|key| distance(name, key)).copied()
}

/// Levenshtein's edit distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.chars().enumerate() {
            let change = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{distance, nearest, place};

    #[test]
    fn places_count_lines_and_characters() {
        let text = "a = 1\ngrün = x\n";
        assert_eq!(place(text, 0), (1, 1));
        assert_eq!(place(text, text.find('x').unwrap()), (2, 8));
        assert_eq!(place(text, text.len()), (3, 1));
        assert_eq!(place(text, 999), (3, 1));
    }

    #[test]
    fn the_nearest_key_is_near() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        let known = ["socket", "admin_socket", "max_body"];
        assert_eq!(nearest("sockett", &known), Some("socket"));
        assert_eq!(nearest("maxbody", &known), Some("max_body"));
        assert_eq!(nearest("colour", &known), None);
    }
}
