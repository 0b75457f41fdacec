//! `slmd trust show`.

use super::super::client::Problem;
use super::super::exit::Done;
use super::super::output::printable;
use super::super::realm::View;
use super::super::terminal::Terminal;
use super::super::{Global, offline, output};
use crate::admin::{FleetStatus, MirrorStatus, Trusted, fleet_problems, route};
use crate::time::Clocks;

pub(super) fn execute(global: &Global) -> Done {
    let trusted = match global.admin()?.call(route::TRUST) {
        Err(Problem::Down(_)) => {
            let config = global.load()?;
            let state = offline::open(&config)?;
            let now = state.authority.moment();
            Trusted {
                fleet: state.fleet_status(&config, now),
            }
        }
        trusted => trusted?,
    };
    if global.json {
        return output::show(global, &trusted);
    }
    let view = View {
        terminal: Terminal::stdout(),
        now: Clocks::default().now(),
    };
    let Some(fleet) = &trusted.fleet else {
        return output::line("no fleet is followed; see [fleet] of the configuration");
    };
    let mut page = lines(fleet, view);
    let problems = fleet_problems(fleet);
    page.extend(problems.iter().map(|problem| view.problem(problem)));
    view.fit(&page)
        .iter()
        .try_for_each(|text| output::line(text))
}

/// Name and root, then what is trusted and how that goes.
fn lines(fleet: &FleetStatus, view: View) -> Vec<String> {
    let name = fleet
        .name
        .as_deref()
        .map_or("not configured".into(), printable);
    let mut lines = vec![format!("fleet: {name}")];
    if let Some(fingerprint) = &fleet.root_fingerprint {
        let root = fleet.root.unwrap_or_default();
        let fingerprint = printable(fingerprint);
        lines.push(format!("  root version {root}, fingerprint {fingerprint}"));
    }
    if let Some(timestamp) = fleet.timestamp {
        let version = |version: Option<u64>| version.map_or("none".to_owned(), |v| v.to_string());
        lines.push(format!(
            "  timestamp {timestamp}, snapshot {}, targets {}, revocation {}",
            version(fleet.snapshot),
            version(fleet.targets),
            version(fleet.revocation)
        ));
    }
    if let Some(at) = &fleet.expires_at {
        let verb = if fleet.expired { "ended" } else { "ends" };
        lines.push(format!("  {verb} {}", view.at(at)));
    }
    for (realm, entries) in &fleet.revoked {
        let noun = if *entries == 1 { "entry" } else { "entries" };
        lines.push(format!(
            "  revokes in {}: {entries} {noun}",
            printable(realm)
        ));
    }
    let mirrors = fleet.mirrors.iter();
    lines.extend(mirrors.map(|mirror| format!("  {}", asked(mirror, view))));
    lines
}

pub(in crate::cli) fn asked(mirror: &MirrorStatus, view: View) -> String {
    let place = printable(&mirror.mirror);
    let when = mirror.asked_at.as_deref();
    let when = when.map_or_else(|| "not asked yet".to_owned(), |at| view.at(at));
    match &mirror.refused {
        None => format!("mirror {place}: {when}"),
        Some(refused) => {
            let (reason, why) = (printable(&refused.reason), printable(&refused.why));
            format!("mirror {place}: {when}, {reason}: {why}")
        }
    }
}
