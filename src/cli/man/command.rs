//! A command's page: what clap knows of it, its examples, how it can end, its files and variables.

use std::collections::BTreeMap;

use clap::Command;
use clap::builder::StyledStr;
use clap_mangen::Man;

use super::page::Page;
use crate::cli::definition;
use crate::cli::exit::Exit;
use crate::config::DEFAULT_PATH;

const ABOUT: &str = "\
A daemon runs the model on this machine's CPU, decides without a connection whether a Keycloak access \
token may do what it asks, takes prompts over MQTT, a local socket and HTTPS, and records every \
access. The other commands ask it and administer it.";

/// A file or a variable, what it is, and the commands that it is for; all, where none is named.
pub(super) type Noted = (&'static str, &'static str, &'static [&'static str]);

pub(super) const FILES: &[Noted] = &[
    (DEFAULT_PATH, "The configuration: see slmd.toml(5).", &[]),
    (
        "/run/slmd/slmd.sock",
        "Where the daemon takes prompts from this machine's people and programs.",
        &["run", "ask", "endpoints", "status"],
    ),
    (
        "/run/slmd/admin.sock",
        "Where it is administered.",
        &["run", "status", "keys", "audit", "reload"],
    ),
    (
        "/var/lib/slmd",
        "The daemon's state: pinned keys, the audit log, models, the device's own key.",
        &["run", "model", "keys", "audit", "device", "wipe"],
    ),
    (
        "./fleet",
        "A fleet: its keys, what waits for signatures and what is published.",
        &["fleet"],
    ),
    (
        "~/.local/state/slmd/login.json",
        "The saved login, which only its owner may read.",
        &["ask", "endpoints", "login", "logout", "status", "wipe"],
    ),
];

/// Those that no argument stands for.
pub(super) const VARIABLES: &[Noted] = &[
    (
        "SLMD_TOKEN",
        "A Keycloak access token, where no file is named that holds one.",
        &["ask", "endpoints"],
    ),
    (
        "SLMD_LOG",
        "Which log lines are wanted, in place of the setting `log`.",
        &["run"],
    ),
    (
        "XDG_STATE_HOME",
        "Where the folder of the saved login is, instead of `~/.local/state`.",
        &["ask", "endpoints", "login", "logout", "status"],
    ),
];

/// Those of all commands that help shows.
pub(super) fn pages() -> Vec<Page> {
    let mut root = definition().disable_help_subcommand(true);
    root.build();
    let mut pages = Vec::new();
    add(&root, &[], &mut pages);
    pages
}

/// Of a command and of those beneath it; `above` are the names of the pages above.
fn add(command: &Command, above: &[&str], pages: &mut Vec<Page>) {
    let name = command.get_display_name();
    let name = name.unwrap_or_else(|| command.get_name());
    pages.push(page(command, name, above));
    let above = [above, &[name]].concat();
    for inner in shown(command) {
        add(inner, &above, pages);
    }
}

fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|c| !c.is_hide_set())
}

fn page(command: &Command, name: &str, above: &[&str]) -> Page {
    let about = text(command.get_about());
    let ends = [". ", "; ", ": "].iter().filter_map(|end| about.find(end));
    let mut page = Page::new(name, 1, &about[..ends.min().unwrap_or(about.len())]);
    let man = Man::new(command.clone());
    page.part(|mut into| man.render_synopsis_section(&mut into));
    page.part(|mut into| man.render_description_section(&mut into));
    if above.is_empty() {
        page.more(ABOUT);
    }
    let after = text(command.get_after_help());
    let (more, examples) = after.split_once("Examples:\n").unwrap_or((&after, ""));
    if !more.is_empty() {
        page.more(more);
    }
    page.part(|mut into| man.render_options_section(&mut into));
    if shown(command).next().is_some() {
        page.part(|mut into| man.render_subcommands_section(&mut into));
    }
    page.section("EXIT STATUS");
    page.entry("0", "Done.");
    for exit in Exit::ALL {
        page.entry(&(exit as u8).to_string(), &sentence(exit.meaning()));
    }
    page.section("ENVIRONMENT");
    for (variable, what) in variables(command, name) {
        page.entry(&variable, &what);
    }
    page.section("FILES");
    for (file, what, _) in FILES.iter().filter(|noted| concerns(noted, name)) {
        page.entry(file, what);
    }
    let examples = examples.split("\n\n").next().unwrap_or_default();
    if !examples.is_empty() {
        page.section("EXAMPLES");
        page.verbatim(&dedented(examples));
    }
    let above = above.iter().map(|name| format!("{name}(1)"));
    let others: Vec<String> = above.chain(["slmd.toml(5)".to_owned()]).collect();
    page.see_also(&others);
    page
}

fn text(text: Option<&StyledStr>) -> String {
    text.map(ToString::to_string).unwrap_or_default()
}

/// Help indents its examples.
fn dedented(text: &str) -> String {
    let lines = text.lines();
    let lines = lines.map(|line| line.strip_prefix("  ").unwrap_or(line));
    lines.collect::<Vec<_>>().join("\n")
}

/// A note is for the whole of `slmd keys`; `slmd` itself has all.
fn concerns((_, _, of): &Noted, page: &str) -> bool {
    match page.split('-').nth(1) {
        Some(command) => of.is_empty() || of.contains(&command),
        None => true,
    }
}

/// Those that stand for an argument, of this command or one beneath it, and the others.
fn variables(command: &Command, page: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for argument in command.get_arguments() {
        if let (Some(variable), Some(long)) = (argument.get_env(), argument.get_long()) {
            let variable = variable.to_string_lossy().into_owned();
            found.insert(
                variable,
                format!("Stands for `--{long}` where that isn't given."),
            );
        }
    }
    for inner in shown(command) {
        found.extend(variables(inner, page));
    }
    for (variable, what, _) in VARIABLES.iter().filter(|noted| concerns(noted, page)) {
        found.insert((*variable).to_owned(), (*what).to_owned());
    }
    found
}

/// With a capital and a full stop.
fn sentence(text: &str) -> String {
    let (first, rest) = text.split_at(text.chars().next().map_or(0, char::len_utf8));
    format!("{}{rest}.", first.to_uppercase())
}
