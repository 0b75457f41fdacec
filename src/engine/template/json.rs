//! `tojson` as transformers has it: Python's `json.dumps` without `ensure_ascii`. minijinja's own
//! escapes for HTML.

use std::io::{self, Write};

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, State, Value};
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

use super::{Bounded, bounds};

/// Bytes that one call may write.
const MAX_OUTPUT: usize = 4 << 20;
/// Columns of one level.
const MAX_INDENT: usize = 16;

#[expect(clippy::needless_pass_by_value, reason = "the form of a filter")]
pub(super) fn tojson(
    state: &State<'_, '_>,
    value: &Value,
    indent: Option<usize>,
    named: Kwargs,
) -> Result<String, Error> {
    bounds::charge(state, std::slice::from_ref(value))?;
    let indent = match indent {
        None => named.get::<Option<usize>>("indent")?,
        given => given,
    };
    let ascii = named.get::<Option<bool>>("ensure_ascii")?;
    let separators = named.get::<Option<Vec<String>>>("separators")?;
    named.assert_all_used()?;
    let [item, member] = match separators.as_deref() {
        Some([item, member]) => [item, member].map(String::as_str),
        _ if indent.is_some() => [",", ": "],
        _ => [", ", ": "],
    };
    let style = Style {
        item,
        member,
        ascii: ascii.unwrap_or(false),
        indent: indent.map(|columns| columns.min(MAX_INDENT)),
        depth: 0,
        filled: false,
    };
    let failed = |what: String| Error::new(ErrorKind::BadSerialization, what);
    let mut output = Bounded::new(MAX_OUTPUT);
    let written = value.serialize(&mut Serializer::with_formatter(&mut output, style));
    written.map_err(|error| failed(error.to_string()))?;
    let text = output.into_text();
    let text = text.ok_or_else(|| failed("the output isn't UTF-8".to_owned()))?;
    Ok(text.expose().clone())
}

/// What `json.dumps` writes around values.
struct Style<'a> {
    item: &'a str,
    member: &'a str,
    ascii: bool,
    indent: Option<usize>,
    depth: usize,
    /// Whether what was begun last holds something.
    filled: bool,
}

impl Style<'_> {
    fn begin<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: u8) -> io::Result<()> {
        self.depth += 1;
        self.filled = false;
        writer.write_all(&[bracket])
    }

    fn next<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if !first {
            writer.write_all(self.item.as_bytes())?;
        }
        self.line(writer)
    }

    fn end<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: u8) -> io::Result<()> {
        self.depth -= 1;
        if std::mem::replace(&mut self.filled, true) {
            self.line(writer)?;
        }
        writer.write_all(&[bracket])
    }

    fn line<W: ?Sized + Write>(&self, writer: &mut W) -> io::Result<()> {
        match self.indent {
            None => Ok(()),
            Some(columns) => write!(writer, "\n{:1$}", "", columns * self.depth),
        }
    }
}

impl Formatter for Style<'_> {
    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.begin(writer, b'[')
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        self.next(w, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.filled = true;
        Ok(())
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.end(writer, b']')
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.begin(writer, b'{')
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        self.next(w, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.member.as_bytes())
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.filled = true;
        Ok(())
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.end(writer, b'}')
    }

    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if !self.ascii || fragment.is_ascii() {
            return writer.write_all(fragment.as_bytes());
        }
        let mut units = [0; 2];
        for letter in fragment.chars() {
            match letter.is_ascii() {
                true => writer.write_all(&[letter as u8])?,
                false => {
                    for unit in letter.encode_utf16(&mut units) {
                        write!(writer, "\\u{unit:04x}")?;
                    }
                }
            }
        }
        Ok(())
    }
}
