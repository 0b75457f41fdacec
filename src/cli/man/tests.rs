//! The manual says all of what it is made from.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::{command, pages, settings};
use crate::config::{Config, Line};

fn texts() -> Vec<(String, String)> {
    let named = |page: &super::Page| (page.name.clone(), page.finished());
    pages().iter().map(named).collect()
}

#[test]
fn every_command_has_a_page_with_all_that_belongs_in_it() {
    let texts = texts();
    let mut shown = vec![("slmd".to_owned(), super::super::definition())];
    while let Some((name, command)) = shown.pop() {
        for inner in command.get_subcommands().filter(|c| !c.is_hide_set()) {
            shown.push((format!("{name}-{}", inner.get_name()), inner.clone()));
        }
        let (_, text) = texts
            .iter()
            .find(|(page, _)| *page == name)
            .unwrap_or_else(|| panic!("{name} has no page"));
        for section in [
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "OPTIONS",
            "\"EXIT STATUS\"",
            "ENVIRONMENT",
            "FILES",
            "\"SEE ALSO\"",
        ] {
            let heading = format!("\n.SH {section}\n");
            assert!(text.contains(&heading), "{name} lacks {section}");
        }
        let examples = command.get_after_help().is_some();
        assert_eq!(text.contains("\n.SH EXAMPLES\n"), examples, "{name}");
        for argument in command.get_arguments() {
            let long = argument.get_long().unwrap_or_default();
            let long = format!("--{long}").replace('-', r"\-");
            assert!(text.contains(&long), "{name} lacks {long}");
        }
    }
    assert!(!texts.iter().any(|(page, _)| page == "slmd-man"));
}

/// All that src reads, its tests and the demo's own left out.
fn variables(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            variables(&path, found);
        } else if !path.to_string_lossy().ends_with("tests.rs") {
            let text = fs::read_to_string(&path).unwrap();
            let starts = text.match_indices("\"SLMD_").map(|(at, _)| &text[at + 1..]);
            let literals = starts.filter_map(|rest| rest.split_once('"'));
            let names = literals.map(|(name, _)| name.to_owned());
            // The journal's fields begin so, too.
            found.extend(names.filter(|name| !name.ends_with('_')));
        }
    }
}

#[test]
fn every_variable_that_is_read_is_in_the_manual() {
    let mut read = BTreeSet::new();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    variables(&source, &mut read);
    assert!(read.contains("SLMD_TOKEN"), "{read:?}");
    let (_, whole) = &texts()[0];
    for name in read {
        let entry = format!("\n.TP\n\\fB{name}\\fR\n");
        assert!(whole.contains(&entry), "slmd(1) lacks {name}");
    }
}

#[test]
fn what_is_noted_is_of_a_command() {
    let definition = super::super::definition();
    for (name, _, of) in command::FILES.iter().chain(command::VARIABLES) {
        for command in *of {
            let found = definition.find_subcommand(command);
            assert!(found.is_some(), "{name} is of {command}, which is none");
        }
    }
}

#[test]
fn every_setting_is_in_its_page_in_the_order_of_the_file() {
    let text = settings::page().finished();
    let mut rest = text.as_str();
    for row in Config::documented() {
        let place = match row.line {
            Line::Setting { .. } => format!("\n.TP\n\\fB{}\\fR\n", row.key),
            _ => format!("\n.SS {}\n", row.header()),
        };
        let at = rest.find(&place.replace('-', r"\-"));
        let at = at.unwrap_or_else(|| panic!("{} isn't there", row.path));
        rest = &rest[at..];
    }
}

#[test]
fn the_example_of_the_configuration_is_one() {
    let example = settings::smallest(&Config::documented());
    assert!(Config::parse(&example).is_ok(), "{example}");
}
