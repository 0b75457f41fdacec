//! The commented file: every setting once, with its documentation and its default or an example.

use super::Config;
use super::table::{Line, Row, Table};

const HEAD: &str = "slmd's configuration. `slmd config check` tells every mistake at once, \
    `slmd config show` what is in force, `slmd reload` takes changes over and says which wait for \
    a restart. What is commented out shows its default, or an example where it says so. Only its \
    owner may change this file and those that it names.";

/// Where documentation begins that fits beside its setting.
const COLUMN: usize = 40;
const WIDTH: usize = 100;

/// All there is, with values in place of the names that texts hold.
pub(super) fn rows() -> Vec<Row> {
    let mut names = vec![("host", "edge-1".to_owned())];
    let mut rows = Config::rows(false);
    for row in &mut rows {
        let Line::Setting { text, .. } = &mut row.line else {
            continue;
        };
        for (name, to) in names.iter().rev() {
            *text = text.replace(&format!("<{name}>"), to);
        }
        names.push((row.key, text.trim_matches('"').to_owned()));
    }
    rows
}

/// As `slmd config defaults` prints it.
pub(super) fn commented() -> String {
    let mut lines = Vec::new();
    above(HEAD, &mut lines);
    lines.push(String::new());
    for row in rows() {
        let hash = if row.off { "#" } else { "" };
        let Line::Setting { text, .. } = &row.line else {
            lines.push(String::new());
            above(row.doc, &mut lines);
            lines.push(format!("{hash}{}", row.header()));
            continue;
        };
        let setting = format!("{hash}{} = {text}", row.key);
        let beside = format!("{setting:COLUMN$} # {}", row.doc.trim());
        if beside.chars().count() <= WIDTH {
            lines.push(beside);
        } else {
            above(row.doc, &mut lines);
            lines.push(setting);
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

/// `text` as comments of whole lines.
fn above(text: &str, lines: &mut Vec<String>) {
    let mut line = "#".to_owned();
    for word in text.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push(std::mem::replace(&mut line, "#".to_owned()));
        }
        line = line + " " + word;
    }
    if line.len() > 1 {
        lines.push(line);
    }
}
