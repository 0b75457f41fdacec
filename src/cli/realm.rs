//! A realm with all that is in force of it, as `slmd keys list` shows it.

use super::output::printable;
use super::terminal::{Style, Terminal, ago, count, in_};
use crate::admin::{self, Keys, KeysChanged, Problem, RealmStatus, RefreshStatus, Refreshed};
use crate::auth::{KeyInfo, Skipped};
use crate::keysync::DenyStatus;
use crate::time::{Clocks, Timestamp};

/// Who looks, and when.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    pub(super) terminal: Terminal,
    pub(super) now: Timestamp,
}

impl View {
    /// Standard output's reader, by this machine's clock.
    pub(super) fn of_now() -> View {
        View {
            terminal: Terminal::stdout(),
            now: Clocks::default().now(),
        }
    }

    /// `in 29 days (2026-12-25 10:00 UTC)`.
    pub(super) fn at(self, told: &str) -> String {
        match told.parse::<Timestamp>() {
            Ok(at) => {
                let when = super::terminal::when(at, self.now);
                format!("{when} ({})", at.minute())
            }
            Err(()) => printable(told),
        }
    }

    pub(super) fn is_past(self, told: &str) -> bool {
        told.parse::<Timestamp>().is_ok_and(|at| at <= self.now)
    }

    /// A line of the page for each, all within the terminal's width.
    pub(super) fn fit(self, lines: &[String]) -> Vec<String> {
        let fit = |line: &String| {
            let indent = line.len() - line.trim_start_matches(' ').len() + 2;
            self.terminal.fit(line, indent)
        };
        lines.iter().flat_map(fit).collect()
    }

    pub(super) fn problem(self, problem: &Problem) -> String {
        let text = printable(&problem.to_string());
        format!("{} {text}", self.mark(problem.is_critical()))
    }

    pub(super) fn mark(self, critical: bool) -> String {
        let style = if critical { Style::Bad } else { Style::Warning };
        self.terminal.paint(style, "!")
    }
}

/// Name and issuer, then what is in force and how that came about.
fn lines(realm: &RealmStatus, view: View) -> Vec<String> {
    let (name, issuer) = (printable(&realm.name), printable(&realm.issuer));
    let title = view
        .terminal
        .paint(Style::Strong, &format!("realm {name}:"));
    let mut lines = vec![format!("{title} {issuer}")];
    for endpoint in &realm.endpoints {
        let (client, model) = (printable(&endpoint.client_id), printable(&endpoint.model));
        lines.push(format!("  endpoint {client}: model {model}"));
    }
    push_keys(&mut lines, realm, view);
    if realm.keys_source.as_deref() == Some("fleet") {
        lines.push("  keys signed by the fleet".to_owned());
    }
    if let Some(age) = realm.keys_age_seconds {
        let age = ago(std::time::Duration::from_secs(age));
        lines.push(format!("  keys confirmed {age}"));
    }
    for (scope, stops_at) in &realm.scope_stops_at {
        let (scope, at) = (printable(scope), view.at(stops_at));
        lines.push(match view.is_past(stops_at) {
            true => format!("  {scope} stopped {at}"),
            false => format!("  {scope} stops {at} unless the keys are confirmed"),
        });
    }
    lines.extend(
        realm
            .refresh
            .as_ref()
            .map(|refresh| format!("  {}", refreshed(refresh, view))),
    );
    if let Some(DenyStatus { entries, .. }) = realm.deny_list {
        let noun = if entries == 1 { "entry" } else { "entries" };
        lines.push(format!("  deny-list: {entries} {noun}"));
    }
    lines
}

fn push_keys(lines: &mut Vec<String>, realm: &RealmStatus, view: View) {
    if realm.keys.keys.is_empty() {
        lines.push("  no keys".to_owned());
    }
    let keys = realm.keys.keys.iter().map(key);
    lines.extend(keys.map(|key| format!("  key {key}")));
    lines.extend(realm.keys.left_out.iter().map(left_out));
    push_changed(lines, realm.keys_changed.as_ref(), view);
}

fn push_changed(lines: &mut Vec<String>, changed: Option<&KeysChanged>, view: View) {
    if let Some(KeysChanged { at, change }) = changed {
        lines.push(format!("  keys changed {}", view.at(at)));
        for (keys, what) in [(&change.added, "came"), (&change.removed, "left")] {
            let keys = keys.iter().map(|key| printable(key));
            lines.extend(keys.map(|key| format!("    {key} {what}")));
        }
    }
}

/// What a refresh did, for `slmd keys refresh`.
pub(super) fn refresh(name: &str, refreshed: &Refreshed, view: View) -> Vec<String> {
    let (terminal, outcome) = (view.terminal, printable(&refreshed.outcome));
    let title = terminal.paint(Style::Strong, &format!("realm {}:", printable(name)));
    let style = match outcome.as_str() {
        "failed" => Style::Bad,
        "held" => Style::Warning,
        _ => Style::Good,
    };
    let mut lines = vec![format!("{title} {}", terminal.paint(style, &outcome))];
    let why = refreshed
        .why
        .iter()
        .map(|why| format!("  {}", printable(why)));
    lines.extend(why);
    push_changed(&mut lines, refreshed.changed.as_ref(), view);
    push_held(&mut lines, refreshed.held.as_ref());
    let held = refreshed.held.as_ref();
    let held = held.map(|held| admin::held_keys(name, held));
    lines.extend(held.map(|problem| view.problem(&problem)));
    view.fit(&lines)
}

fn push_held(lines: &mut Vec<String>, held: Option<&Keys>) {
    let Some(held) = held else { return };
    let held_keys = count(held.keys.len() as u64, "key");
    lines.push(format!("  held, of {held_keys}:"));
    lines.extend(held.keys.iter().map(|held| format!("    {}", key(held))));
}

/// How its last refresh went, and when the next one comes.
pub(super) fn refreshed(refresh: &RefreshStatus, view: View) -> String {
    let outcome = match (&refresh.last_outcome, &refresh.last_at) {
        (Some(outcome), Some(at)) => format!("{} {}", printable(outcome), view.at(at)),
        _ => "not yet".to_owned(),
    };
    let next = match refresh.next_at.parse::<Timestamp>() {
        Ok(at) => in_(at.since(view.now)),
        Err(()) => printable(&refresh.next_at),
    };
    format!("refresh: {outcome}, next {next}")
}

/// A key by its thumbprint, algorithms and `kid`.
pub(super) fn key(key: &KeyInfo) -> String {
    let (thumbprint, kid) = (printable(&key.thumbprint), printable(&key.kid));
    let algorithms = printable(&key.algorithms.join("/"));
    format!("{thumbprint} {algorithms} (kid {kid})")
}

pub(super) fn left_out(key: &Skipped) -> String {
    let kid = printable(key.kid.as_deref().unwrap_or("none"));
    format!("  left out: kid {kid}: {}", printable(&key.why))
}

/// All realms for `slmd keys list`, with fingerprints and what is held.
pub(super) fn keys(realms: &[RealmStatus], note: Option<String>, view: View) -> Vec<String> {
    let mut page = Vec::new();
    for realm in realms {
        page.extend(lines(realm, view));
        if !realm.keys.fingerprint.is_empty() {
            let fingerprint = printable(&realm.keys.fingerprint);
            page.push(format!("  fingerprint {fingerprint}"));
        }
        for vouching in realm.refresh.iter().flat_map(|refresh| &refresh.vouching) {
            page.push(format!(
                "  {} vouches for a fetched set",
                printable(vouching)
            ));
        }
        push_held(&mut page, realm.held.as_ref());
    }
    page.extend(note.map(|note| view.terminal.paint(Style::Quiet, &note)));
    let problems = realms
        .iter()
        .flat_map(|realm| admin::realm_problems(realm, view.now));
    page.extend(problems.map(|problem| view.problem(&problem)));
    view.fit(&page)
}
