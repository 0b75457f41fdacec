//! `slmd status` and `slmd reload`.

use clap::Args;
use serde_json::Value;
use ureq::http::Method;

use super::client::Shown;
use super::exit::Done;
use super::{Global, output};

/// Show the daemon's health: readiness, clock, realms with their keys and deny-lists, queue, broker,
/// audit. What needs somebody's action comes last, each line with a `!`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  slmd status\n  slmd status --json | jq .ready")]
pub(super) struct Status {}

/// Check the configuration whole and put it in force; a broken file changes nothing.
#[derive(Debug, Args)]
#[command(
    after_help = "Prints which sections need a restart.\n\nExamples:\n  slmd config check && slmd reload"
)]
pub(super) struct Reload {}

/// A clock that was stepped back by less catches up by itself.
const MOST_AHEAD: u64 = 60;

impl Status {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let status = global.admin()?.get("/status")?.json()?;
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
        let admin = global.admin()?;
        let reloaded = admin.send(Method::POST, "/reload", &Shown::Nothing, Vec::new())?;
        output::show(global, &reloaded.json()?)
    }
}

/// What an operator looks for first comes first.
fn human(status: &Value) -> Vec<String> {
    let ready = match status["not_ready_because"].as_str() {
        Some(why) => format!("not ready: {}", output::printable(why)),
        None => "ready".to_owned(),
    };
    let clock = &status["clock"];
    let mut lines = vec![
        ready,
        format!(
            "slmd {} on {}, up {}",
            text(&status["version"]),
            text(&status["device"]),
            span(&status["uptime_seconds"])
        ),
    ];
    push_clock(&mut lines, clock);
    lines.push(format!(
        "engine: {} running, {} waiting",
        status["engine"]["running"], status["engine"]["waiting"]
    ));
    lines.push(format!("mqtt: {}", mqtt(&status["mqtt"])));
    lines.push(format!(
        "audit: next record {}",
        status["audit"]["next_index"]
    ));
    // Decisions never go back before the floor.
    let now = text(&clock["now"]).max(text(&clock["floor"]));
    let mut actions: Vec<String> = clock_action(clock).into_iter().collect();
    for realm in status["realms"].as_array().into_iter().flatten() {
        push_realm(&mut lines, realm, &now);
        push_actions(&mut actions, realm, &now);
    }
    lines.extend(actions.iter().map(|action| format!("! {action}")));
    lines
}

/// What time it is, and what of that is only tokens' word.
fn push_clock(lines: &mut Vec<String>, clock: &Value) {
    let kept = match is_synchronised(clock) {
        true => "synchronised",
        false => "not synchronised",
    };
    lines.push(format!(
        "clock: {}, {kept}; never before {}",
        text(&clock["now"]),
        text(&clock["floor"])
    ));
    for (realm, floor) in clock["realm_floors"].as_object().into_iter().flatten() {
        let realm = output::printable(realm);
        lines.push(format!("  tokens of {realm}: never before {}", text(floor)));
    }
    for (realm, told) in clock["client_floors"].as_object().into_iter().flatten() {
        lines.push(format!(
            "  tokens of {}'s client {}: never before {}",
            output::printable(realm),
            text(&told["client"]),
            text(&told["floor"])
        ));
    }
}

fn is_synchronised(clock: &Value) -> bool {
    clock["synchronised"].as_bool() == Some(true)
}

fn clock_action(clock: &Value) -> Option<String> {
    if !is_synchronised(clock) {
        return Some("the clock isn't synchronised; check this machine's time source".to_owned());
    }
    let ahead = clock["floor_ahead_seconds"].as_u64() > Some(MOST_AHEAD);
    ahead.then(|| {
        format!(
            "the clock is synchronised, and an earlier one that was ahead was believed: until {} every \
             token counts as {} older than it is; if the clock is right now, run slmd keys reset-time",
            text(&clock["floor"]),
            span(&clock["floor_ahead_seconds"])
        )
    })
}

/// What only a person can mend.
fn push_actions(actions: &mut Vec<String>, realm: &Value, now: &str) {
    let name = text(&realm["name"]);
    if has_no_keys(realm) {
        actions.push(format!(
            "realm {name} has no keys: every token is refused; run slmd keys pin {name} FILE"
        ));
    }
    if let Some(fingerprint) = realm["held"]["fingerprint"].as_str() {
        actions.push(format!(
            "realm {name}: Keycloak serves keys that none in force vouches for ({}); if that \
             is meant, run slmd keys pin {name} --fetch",
            output::printable(fingerprint)
        ));
    }
    if let Some(problem) = realm["deny_list"]["problem"].as_str() {
        actions.push(format!(
            "realm {name}: the new deny-list isn't used, the old one stays: {}",
            output::printable(problem)
        ));
    }
    let stops = realm["scope_stops_at"].as_object().into_iter().flatten();
    let stopped: Vec<&str> = stops
        .filter(|(_, at)| at.as_str().is_some_and(|at| at <= now))
        .map(|(scope, _)| scope.as_str())
        .collect();
    if !stopped.is_empty() {
        let scopes = output::printable(&stopped.join(", "));
        actions.push(format!(
            "realm {name}: {scopes} stopped, because the keys are too old; run slmd keys refresh \
             {name}, or pin them again"
        ));
    }
}

fn mqtt(status: &Value) -> String {
    let state = match status["connected"].as_bool() {
        None => return "not configured".to_owned(),
        Some(true) => "connected",
        Some(false) => "not connected",
    };
    let reconnects = match status["reconnects"].as_u64() {
        None | Some(0) => String::new(),
        Some(count) => format!(", {count} reconnect(s)"),
    };
    match status["problem"].as_str() {
        Some(problem) => format!("{state}{reconnects}: {}", output::printable(problem)),
        None => format!("{state}{reconnects}"),
    }
}

fn push_realm(lines: &mut Vec<String>, realm: &Value, now: &str) {
    let name = text(&realm["name"]);
    lines.push(format!("realm {name}: {}", text(&realm["issuer"])));
    for endpoint in realm["endpoints"].as_array().into_iter().flatten() {
        let (client, model) = (text(&endpoint["client_id"]), text(&endpoint["model"]));
        lines.push(format!("  endpoint {client}: model {model}"));
    }
    push_keys(lines, realm);
    if has_no_keys(realm) {
        push_refresh(lines, realm);
        return;
    }
    lines.push(format!(
        "  keys confirmed {} ago",
        span(&realm["keys_age_seconds"])
    ));
    for (scope, stops_at) in realm["scope_stops_at"].as_object().into_iter().flatten() {
        let stops_at = text(stops_at);
        // Times of one format and zone: their order as text is their order.
        lines.push(if stops_at.as_str() <= now {
            format!("  {scope} has stopped at {stops_at}")
        } else {
            format!("  {scope} stops at {stops_at} unless the keys are confirmed")
        });
    }
    push_refresh(lines, realm);
    if let Some(entries) = realm["deny_list"]["entries"].as_u64() {
        lines.push(format!("  deny-list: {entries} entries"));
    }
}

fn has_no_keys(realm: &Value) -> bool {
    realm["keys"].as_array().is_none_or(Vec::is_empty)
}

/// What is in force, what isn't and why, and how that came about.
fn push_keys(lines: &mut Vec<String>, realm: &Value) {
    let list = |name: &str| realm[name].as_array().map_or(&[][..], Vec::as_slice);
    if has_no_keys(realm) {
        lines.push("  no keys".to_owned());
    }
    for key in list("keys") {
        let (thumbprint, kid) = (text(&key["thumbprint"]), text(&key["kid"]));
        lines.push(format!("  key {thumbprint} (kid {kid})"));
    }
    for key in list("left_out") {
        let kid = output::printable(key["kid"].as_str().unwrap_or("none"));
        lines.push(format!("  left out: kid {kid}: {}", text(&key["why"])));
    }
    let changed = &realm["keys_changed"];
    if let Some(at) = changed["at"].as_str() {
        lines.push(format!("  keys changed at {}", output::printable(at)));
        for (name, what) in [("added", "came"), ("removed", "left")] {
            for thumbprint in changed[name].as_array().into_iter().flatten() {
                lines.push(format!("    {} {what}", text(thumbprint)));
            }
        }
    }
}

/// Nothing where the realm's keys are only ever pinned by hand.
fn push_refresh(lines: &mut Vec<String>, realm: &Value) {
    let refresh = &realm["refresh"];
    if refresh.is_null() {
        return;
    }
    let outcome = match refresh["last_outcome"].as_str() {
        Some(outcome) => format!(
            "{} at {}",
            output::printable(outcome),
            text(&refresh["last_at"])
        ),
        None => "not yet".to_owned(),
    };
    let next = refresh["next_at"].as_str().map(output::printable);
    let next = next.map(|at| format!(", next at {at}"));
    lines.push(format!("  refresh: {outcome}{}", next.unwrap_or_default()));
}

fn text(value: &Value) -> String {
    output::printable(value.as_str().unwrap_or("?"))
}

/// Seconds in the two largest units that matter.
fn span(seconds: &Value) -> String {
    let Some(seconds) = seconds.as_u64() else {
        return "?".to_owned();
    };
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
    use serde_json::json;

    #[test]
    fn the_whole_status_for_people() {
        let status = json!({
            "version": "1.2.3",
            "device": "edge-1",
            "ready": false,
            "not_ready_because": "draining",
            "uptime_seconds": 3700,
            "clock": {
                "now": "2026-01-01T00:00:00.000Z",
                "floor": "2026-01-02T00:00:00.000Z",
                "synchronised": false,
                "realm_floors": {"dev": "2026-01-02T01:00:00.000Z"},
                "client_floors": {"dev": {"client": "device-1", "floor": "2026-01-02T09:00:00.000Z"}},
            },
            "engine": {"running": 1, "waiting": 2},
            "mqtt": {"connected": false, "problem": "refused\u{1b}", "reconnects": 3},
            "audit": {"next_index": 9},
            "realms": [
                {
                    "name": "dev",
                    "issuer": "https://k/dev",
                    "endpoints": [{"client_id": "slm", "model": "small"}],
                    "keys": [{"kid": "a", "thumbprint": "t"}],
                    "left_out": [
                        {"index": 1, "kid": "b\u{1b}", "why": "it is weak"},
                        {"index": 2, "kid": null, "why": "no kid"},
                    ],
                    "keys_changed": {
                        "at": "2026-01-01T10:00:00.000Z", "added": ["t"], "removed": ["u", "v"],
                    },
                    "keys_age_seconds": 90_000,
                    "held": {"fingerprint": "f00d", "keys": []},
                    "refresh": {
                        "last_outcome": "held",
                        "last_at": "2026-01-01T11:00:00.000Z",
                        "next_at": "2026-01-01T11:15:00.000Z",
                    },
                    "deny_list": {"entries": 2, "problem": "line 1"},
                    "scope_stops_at": {
                        "read": "2026-01-03T00:00:00.000Z",
                        "write": "2026-01-01T12:00:00.000Z",
                    },
                },
                {"name": "prod", "issuer": "https://k/prod", "keys": [], "endpoints": []},
            ],
        });
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
        assert_eq!(human(&status).join("\n"), expected);
    }

    #[test]
    fn a_floor_that_is_ahead_of_a_synchronised_clock_is_named_with_its_remedy() {
        let said = |synchronised: bool, ahead: u64| {
            let floor = "2036-01-02T00:00:00.000Z";
            let clock =
                json!({"synchronised": synchronised, "floor": floor, "floor_ahead_seconds": ahead});
            human(&json!({ "clock": clock })).join("\n")
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
            assert_eq!(span(&json!(seconds)), expected);
        }
    }
}
