//! `slmd status` and `slmd reload`.

use clap::Args;

use super::exit::Done;
use super::keys::left_out;
use super::output::printable;
use super::{Global, output};
use crate::admin::{
    self, ClockStatus, EngineStatus, KeysChanged, MqttStatus, RealmStatus, RefreshStatus, route,
};
use crate::keysync::DenyStatus;

/// Show the daemon's health: readiness, clock, realms with their keys and deny-lists, queue, broker,
/// audit. What needs somebody's action comes last, each line with a `!`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  slmd status\n  slmd status --json | jq .ready")]
pub(super) struct Status {}

/// Check the configuration whole and put it in force; a broken file changes nothing.
#[derive(Debug, Args)]
#[command(
    after_help = "Prints which settings wait for a restart.\n\nExamples:\n  slmd config check && slmd reload"
)]
pub(super) struct Reload {}

/// A clock that was stepped back by less catches up by itself.
const MOST_AHEAD: u64 = 60;

impl Status {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let status = global.admin()?.call(route::STATUS)?;
        if global.json {
            return output::show(global, &status);
        }
        human(&status)
            .iter()
            .try_for_each(|text| output::line(text))
    }
}

impl Reload {
    pub(super) fn execute(&self, global: &Global) -> Done {
        output::show(global, &global.admin()?.call(route::RELOAD)?)
    }
}

/// What an operator looks for first comes first.
fn human(status: &admin::Status) -> Vec<String> {
    let clock = &status.clock;
    let mut lines = vec![
        match &status.not_ready_because {
            Some(why) => format!("not ready: {}", printable(why)),
            None => "ready".to_owned(),
        },
        format!(
            "slmd {} on {}, up {}",
            printable(&status.version),
            printable(&status.device),
            span(status.uptime_seconds)
        ),
    ];
    push_clock(&mut lines, clock);
    let EngineStatus { running, waiting } = status.engine;
    lines.push(format!("engine: {running} running, {waiting} waiting"));
    lines.push(format!("mqtt: {}", mqtt(status.mqtt.as_ref())));
    let untold = status.mqtt.as_ref().and_then(|mqtt| mqtt.untold.as_ref());
    lines.extend(untold.map(|untold| {
        format!(
            "  {} refusal(s) that couldn't be told, the last {} ago: {}",
            untold.count,
            span(untold.last_seconds_ago),
            printable(&untold.last)
        )
    }));
    lines.push(format!("audit: next record {}", status.audit.next_index));
    // Decisions never go back before the floor.
    let now = clock.now.as_str().max(&clock.floor);
    let mut actions: Vec<String> = clock_action(clock).into_iter().collect();
    for realm in &status.realms {
        push_realm(&mut lines, realm, now);
        push_actions(&mut actions, realm, now);
    }
    lines.extend(actions.iter().map(|action| format!("! {action}")));
    lines
}

/// What time it is, and what of that is only tokens' word.
fn push_clock(lines: &mut Vec<String>, clock: &ClockStatus) {
    let kept = match clock.synchronised {
        true => "synchronised",
        false => "not synchronised",
    };
    lines.push(format!(
        "clock: {}, {kept}; never before {}",
        printable(&clock.now),
        printable(&clock.floor)
    ));
    let mut never = |whose: String, floor: &str| {
        let floor = printable(floor);
        lines.push(format!("  tokens of {whose}: never before {floor}"));
    };
    for (realm, floor) in &clock.realm_floors {
        never(printable(realm), floor);
    }
    for (realm, told) in &clock.client_floors {
        let (realm, client) = (printable(realm), printable(&told.client));
        never(format!("{realm}'s client {client}"), &told.floor);
    }
}

fn clock_action(clock: &ClockStatus) -> Option<String> {
    if !clock.synchronised {
        return Some("the clock isn't synchronised; check this machine's time source".to_owned());
    }
    (clock.floor_ahead_seconds > MOST_AHEAD).then(|| {
        format!(
            "the clock is synchronised, and an earlier one that was ahead was believed: until {} every \
             token counts as {} older than it is; if the clock is right now, run slmd keys reset-time",
            printable(&clock.floor),
            span(clock.floor_ahead_seconds)
        )
    })
}

/// What only a person can mend.
fn push_actions(actions: &mut Vec<String>, realm: &RealmStatus, now: &str) {
    let name = printable(&realm.name);
    if realm.keys.keys.is_empty() {
        actions.push(format!(
            "realm {name} has no keys: every token is refused; run slmd keys pin {name} FILE"
        ));
    }
    if let Some(held) = &realm.held {
        actions.push(format!(
            "realm {name}: Keycloak serves keys that none in force vouches for ({}); if that \
             is meant, run slmd keys pin {name} --fetch",
            printable(&held.fingerprint)
        ));
    }
    let deny_list = realm.deny_list.as_ref();
    if let Some(problem) = deny_list.and_then(|list| list.problem.as_ref()) {
        actions.push(format!(
            "realm {name}: the new deny-list isn't used, the old one stays: {}",
            printable(problem)
        ));
    }
    let stops = realm.scope_stops_at.iter();
    let stopped = stops.filter(|(_, at)| at.as_str() <= now);
    let stopped: Vec<String> = stopped.map(|(scope, _)| printable(scope)).collect();
    if !stopped.is_empty() {
        let scopes = stopped.join(", ");
        actions.push(format!(
            "realm {name}: {scopes} stopped, because the keys are too old; run slmd keys refresh \
             {name}, or pin them again"
        ));
    }
}

fn mqtt(status: Option<&MqttStatus>) -> String {
    let Some(status) = status else {
        return "not configured".to_owned();
    };
    let state = match status.connected {
        true => "connected",
        false => "not connected",
    };
    let reconnects = match status.reconnects {
        0 => String::new(),
        count => format!(", {count} reconnect(s)"),
    };
    let problem = status.problem.as_ref();
    let problem = problem.map(|problem| format!(": {}", printable(problem)));
    format!("{state}{reconnects}{}", problem.unwrap_or_default())
}

fn push_realm(lines: &mut Vec<String>, realm: &RealmStatus, now: &str) {
    let (name, issuer) = (printable(&realm.name), printable(&realm.issuer));
    lines.push(format!("realm {name}: {issuer}"));
    for endpoint in &realm.endpoints {
        let (client, model) = (printable(&endpoint.client_id), printable(&endpoint.model));
        lines.push(format!("  endpoint {client}: model {model}"));
    }
    push_keys(lines, realm);
    if let Some(age) = realm.keys_age_seconds {
        lines.push(format!("  keys confirmed {} ago", span(age)));
    }
    for (scope, stops_at) in &realm.scope_stops_at {
        let (scope, at) = (printable(scope), printable(stops_at));
        lines.push(match stops_at.as_str() <= now {
            true => format!("  {scope} has stopped at {at}"),
            false => format!("  {scope} stops at {at} unless the keys are confirmed"),
        });
    }
    if let Some(refresh) = &realm.refresh {
        lines.push(refresh_line(refresh));
    }
    if let Some(DenyStatus { entries, .. }) = realm.deny_list {
        lines.push(format!("  deny-list: {entries} entries"));
    }
}

/// What is in force, what isn't and why, and how that came about.
fn push_keys(lines: &mut Vec<String>, realm: &RealmStatus) {
    if realm.keys.keys.is_empty() {
        lines.push("  no keys".to_owned());
    }
    for key in &realm.keys.keys {
        let (thumbprint, kid) = (printable(&key.thumbprint), printable(&key.kid));
        lines.push(format!("  key {thumbprint} (kid {kid})"));
    }
    lines.extend(realm.keys.left_out.iter().map(left_out));
    if let Some(KeysChanged { at, change }) = &realm.keys_changed {
        lines.push(format!("  keys changed at {}", printable(at)));
        for (keys, what) in [(&change.added, "came"), (&change.removed, "left")] {
            let keys = keys.iter().map(|key| printable(key));
            lines.extend(keys.map(|key| format!("    {key} {what}")));
        }
    }
}

fn refresh_line(refresh: &RefreshStatus) -> String {
    let outcome = match (&refresh.last_outcome, &refresh.last_at) {
        (Some(outcome), Some(at)) => format!("{} at {}", printable(outcome), printable(at)),
        _ => "not yet".to_owned(),
    };
    format!(
        "  refresh: {outcome}, next at {}",
        printable(&refresh.next_at)
    )
}

/// Seconds in the two largest units that matter.
fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::{human, span};
    use crate::admin::tests::status;

    #[test]
    fn the_whole_status_for_people() {
        let expected = "\
not ready: draining
slmd 1.2.3 on edge-1, up 1 h 1 min
clock: 2026-01-01T00:00:00.000Z, not synchronised; never before 2026-01-02T00:00:00.000Z
  tokens of dev: never before 2026-01-02T01:00:00.000Z
  tokens of dev's client device-1: never before 2026-01-02T09:00:00.000Z
engine: 1 running, 2 waiting
mqtt: not connected, 3 reconnect(s): refused\u{fffd}
audit: next record 9
realm dev: https://k/dev
  endpoint slm: model small
  key t (kid a)
  left out: kid b\u{fffd}: it is weak
  left out: kid none: no kid
  keys changed at 2026-01-01T10:00:00.000Z
    t came
    u left
    v left
  keys confirmed 1 d 1 h ago
  read stops at 2026-01-03T00:00:00.000Z unless the keys are confirmed
  write has stopped at 2026-01-01T12:00:00.000Z
  refresh: held at 2026-01-01T11:00:00.000Z, next at 2026-01-01T11:15:00.000Z
  deny-list: 2 entries
realm prod: https://k/prod
  no keys
! the clock isn't synchronised; check this machine's time source
! realm dev: Keycloak serves keys that none in force vouches for (f00d); if that is meant, run slmd keys pin dev --fetch
! realm dev: the new deny-list isn't used, the old one stays: line 1
! realm dev: write stopped, because the keys are too old; run slmd keys refresh dev, or pin them again
! realm prod has no keys: every token is refused; run slmd keys pin prod FILE";
        assert_eq!(human(&status()).join("\n"), expected);
    }

    #[test]
    fn a_floor_that_is_ahead_of_a_synchronised_clock_is_named_with_its_remedy() {
        let said = |synchronised: bool, ahead: u64| {
            let mut status = status();
            status.clock.synchronised = synchronised;
            status.clock.floor_ahead_seconds = ahead;
            human(&status).join("\n")
        };
        let ten_years = said(true, 315_360_000);
        assert!(ten_years.contains("3650 d 0 h older"), "{ten_years}");
        assert!(ten_years.contains("slmd keys reset-time"), "{ten_years}");
        assert!(!said(true, 60).contains("reset-time"));
        assert!(
            !said(false, 315_360_000).contains("reset-time"),
            "nobody knows"
        );
    }

    #[test]
    fn spans_are_short() {
        for (seconds, expected) in [
            (59, "59 s"),
            (61, "1 min 1 s"),
            (7200, "2 h 0 min"),
            (90_061, "1 d 1 h"),
        ] {
            assert_eq!(span(seconds), expected);
        }
    }
}
