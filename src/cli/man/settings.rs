//! The page of the configuration's file, from the declarations of its settings.

use super::page::Page;
use crate::config::{Config, DEFAULT_PATH, Given, Line, Row};

const ABOUT: &str = "\
The configuration is a TOML file, `/etc/slmd/slmd.toml` unless `--config` names another one. Only its \
owner may change it and the files that it names. Each realm has at least one endpoint; all else may \
be left out.

`slmd config check` tells every mistake at once, with line and column, and `slmd config show` what is \
in force. `slmd config defaults` prints a file with every setting, its documentation and its default. \
`slmd reload` takes changes over; those of a setting that is marked (restart) wait for a restart.

Times are written as `\"500ms\"`, `\"20s\"`, `\"5m\"`, `\"1h\"` or `\"30d\"`, sizes as `\"256 KiB\"` \
or `\"64 MiB\"`.";

pub(super) fn page() -> Page {
    let mut page = Page::new("slmd.toml", 5, "configuration of slmd");
    let rows = Config::documented();
    page.section("SYNOPSIS");
    page.verbatim(DEFAULT_PATH);
    page.section("DESCRIPTION");
    page.paragraphs(ABOUT);
    page.section("SETTINGS");
    for row in &rows {
        match &row.line {
            Line::Table | Line::List => {
                page.subsection(&row.header());
                if !row.doc.trim().is_empty() {
                    page.paragraphs(row.doc.trim());
                }
            }
            Line::Setting {
                text,
                given,
                restart,
            } => page.entry(row.key, &described(row.doc, text, *given, *restart)),
        }
    }
    page.section("FILES");
    page.entry(DEFAULT_PATH, "The configuration.");
    page.section("EXAMPLES");
    page.verbatim(&smallest(&rows));
    page.see_also(&[
        "slmd(1)".to_owned(),
        "slmd-config(1)".to_owned(),
        "slmd-reload(1)".to_owned(),
    ]);
    page
}

fn described(doc: &str, text: &str, given: Given, restart: bool) -> String {
    let is = match given {
        Given::Default => "Default",
        Given::Example | Given::Written => "Example",
    };
    let restart = if restart { " (restart)" } else { "" };
    format!("{} {is}: `{text}`{restart}.", doc.trim())
}

/// What the commented file has in force.
pub(super) fn smallest(rows: &[Row]) -> String {
    let mut lines = Vec::new();
    let mut header = None;
    for row in rows.iter().filter(|row| !row.off) {
        match &row.line {
            Line::Table | Line::List => header = Some(row.header()),
            Line::Setting { text, .. } => {
                if let Some(header) = header.take() {
                    let empty = (!lines.is_empty()).then(String::new);
                    lines.extend(empty.into_iter().chain([header]));
                }
                lines.push(format!("{} = {text}", row.key));
            }
        }
    }
    lines.join("\n")
}
