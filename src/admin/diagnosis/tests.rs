//! Each problem by itself, in a status that is well but for it.

use serde_json::{Value, json};

use super::*;
use crate::admin::problem::{CRITICAL, WARNING};
use crate::admin::tests::told;

/// A busy daemon with nothing wrong, at 2026-01-01 00:00 UTC.
fn well() -> Value {
    let mut status = told();
    status["not_ready_because"] = Value::Null;
    status["draining"] = false.into();
    status["store"] = Value::Null;
    status["mqtt"] = json!({"connected": true, "problem": null, "reconnects": 3});
    status["engine"]["models"][0]["listed"] = true.into();
    let now = &status["clock"]["now"];
    status["clock"] = json!({
        "now": now, "floor": now, "floor_ahead_seconds": 0, "synchronised": true,
        "realm_floors": {}, "client_floors": {},
    });
    let dev = &mut status["realms"][0];
    dev["scope_stops_at"] = json!({"read": "2026-01-30T00:00:00.000Z"});
    dev["keys_confirmed_at"] = "2025-12-31T00:00:00.000Z".into();
    dev["held"] = Value::Null;
    dev["deny_list"] = json!({"entries": 2, "problem": null});
    status["realms"].as_array_mut().unwrap().truncate(1);
    status["fleet"]["expired"] = false.into();
    status["fleet"]["unread"] = Value::Null;
    status["audit"]["witnesses"] = json!([]);
    status["audit"]["exports"] = json!([]);
    status["fleet"]["mirrors"] = json!([
        {"mirror": "mqtt", "asked_at": null, "refused": {"reason": "unreachable", "why": "no route"}},
    ]);
    status["inside"]["disk"]["free_bytes"] = 8_000_000_000_u64.into();
    status
}

fn found(status: Value) -> Vec<Problem> {
    let whole: Status = serde_json::from_value(status).unwrap();
    let found = problems(&whole);
    assert_eq!(
        problems(&noticed(whole)),
        found,
        "nothing else is looked at"
    );
    found
}

/// As much of a status as the daemon looks at every five seconds.
fn noticed(mut status: Status) -> Status {
    status.inside = status.inside.map(|inside| Inside {
        broker: inside.broker,
        collector: inside.collector,
        certificate_ends_at: inside.certificate_ends_at,
        audit_fill: inside.audit_fill,
        audit_max_bytes: inside.audit_max_bytes,
        disk: inside.disk,
        ..Inside::default()
    });
    status
}

/// What a well one gets wrong by one change; each is at its member's path.
fn case(kind: Kind) -> (&'static str, Value) {
    let moved = json!({"client": "device-1", "floor": "2026-01-02T00:00:00.000Z"});
    match kind {
        Kind::Draining => ("/draining", true.into()),
        Kind::StoreFull => ("/store", store_of(true)),
        Kind::StoreFailed => ("/store", store_of(false)),
        Kind::KeysMissing => ("/realms/0/keys", json!([])),
        Kind::KeysTooOld => (
            "/realms/0/scope_stops_at",
            json!({"read": "2025-12-31T12:00:00.000Z"}),
        ),
        Kind::ScopeStopped => (
            "/realms/0/scope_stops_at",
            json!({"write": "2025-12-31T12:00:00.000Z", "fine-tune": "2025-12-31T01:00:00.000Z"}),
        ),
        Kind::KeysAgeing => (
            "/realms/0/scope_stops_at",
            json!({"read": "2026-01-01T06:00:00.000Z"}),
        ),
        Kind::DenyListRefused => (
            "/realms/0/deny_list",
            json!({"entries": 2, "problem": "line 1"}),
        ),
        Kind::KeysHeld => (
            "/realms/0/held",
            json!({"keys": [], "fingerprint": "f00d", "left_out": []}),
        ),
        Kind::ModelNotListed => ("/engine/models/0/listed", false.into()),
        Kind::ClockBelieved => ("/clock/floor_ahead_seconds", 86_400.into()),
        Kind::ClockUnsynchronised => ("/clock/synchronised", false.into()),
        Kind::ClockMoved => ("/clock/client_floors", json!({ "dev": moved })),
        Kind::BrokerAway => ("/mqtt/connected", false.into()),
        Kind::BrokerTrouble => ("/mqtt/problem", "it denies slm/#".into()),
        Kind::FleetRootMissing => ("/fleet/root_fingerprint", Value::Null),
        Kind::FleetUnread => ("/fleet/unread", "timestamp.json is no JSON".into()),
        Kind::LogRewritten => ("/audit/witnesses", witness_of(true)),
        Kind::WitnessRefused => ("/audit/witnesses", witness_of(false)),
        Kind::ExportStopped => (
            "/audit/exports",
            json!([{"to": "syslog", "confirmed_index": 1, "missing": 0, "problem": "no route"}]),
        ),
        Kind::FleetEnded => ("/fleet/expired", true.into()),
        Kind::MirrorRefused => ("/fleet/mirrors/0/refused/reason", "rollback".into()),
        Kind::CertificateEnded => (
            "/inside/certificate_ends_at",
            "2026-01-01T00:00:00.000Z".into(),
        ),
        Kind::CertificateEnds => (
            "/inside/certificate_ends_at",
            "2026-01-05T00:00:00.000Z".into(),
        ),
        Kind::DiskLow => ("/inside/disk/free_bytes", 72_000_000.into()),
    }
}

fn witness_of(alarm: bool) -> Value {
    let refused = json!({"reason": "r", "why": "it knows another log"});
    json!([{"name": "w.example", "cosigned": null, "alarm": alarm, "refused": refused}])
}

fn store_of(full: bool) -> Value {
    json!({"folder": "/var/lib/slmd", "why": "no space left in the state folder", "full": full})
}

fn with(kind: Kind) -> Value {
    let mut status = well();
    let (path, value) = case(kind);
    *status.pointer_mut(path).expect("a member of a status") = value;
    if kind == Kind::ClockMoved {
        status["clock"]["synchronised"] = false.into();
    }
    status
}

/// [`told_of`] each kind.
const EXPECTED: &str = "\
draining - -
  draining: the daemon is going down and takes nothing new
  start it again where nobody meant that (systemctl start slmd)
store_full - -
  no space left in the state folder /var/lib/slmd, so nothing can be recorded and nothing is answered
  make room there, and it goes on by itself
store_failed - -
  state folder /var/lib/slmd: no space left in the state folder; nothing is answered
  look at the daemon's log and at the disk; it is tried again and again
keys_missing dev -
  realm dev has no keys that can be used (key 1 (b\u{1b}): it is weak; key 2: no kid): every token is refused
  run slmd keys pin dev FILE
fleet_unread - -
  what is kept of the fleet can't be read, and tokens are refused for it (timestamp.json is no JSON)
  a mirror that has it anew mends that, or slmd trust pin ROOT.json, which begins again
log_rewritten w.example -
  ALARM: the witness w.example: it knows another log
  keep this machine as it is, and find out who changed it
keys_too_old dev 2025-12-31T12:00:00.000Z
  realm dev: read stopped, because the keys are too old
  run slmd keys refresh dev, or pin them again
deny_list_refused dev -
  realm dev: the new deny-list isn't used, the old one stays: line 1
  mend the file; it is read again at once
model_not_listed small -
  the fleet's signed list doesn't name the bundle of small, so it isn't run
  ask the fleet's managers to add the digest that slmd model show small prints
clock_believed - -
  the clock is synchronised, and an earlier one that was ahead was believed: until 2026-01-01 00:00 UTC every token counts as older than it is
  if the clock is right now, run slmd keys reset-time
certificate_ended - 2026-01-01T00:00:00.000Z
  the TLS certificate ended at 2026-01-01 00:00 UTC
  renew its file, then run slmd reload
broker_away - -
  the broker mqtts://broker.plant.example:8883 isn't connected: no answer yet
  check it, the network and [mqtt] of the configuration; it is tried again and again
broker_trouble - -
  the broker mqtts://broker.plant.example:8883: it denies slm/#
  look at the broker's log and access list, and for another machine of this name
keys_held dev -
  realm dev: Keycloak serves keys that none in force vouches for (f00d)
  if that is meant, run slmd keys pin dev --fetch
keys_ageing dev 2025-12-31T22:30:00.000Z
  realm dev: the keys grow old, and read stops at 2026-01-01 06:00 UTC
  run slmd keys refresh dev, or pin them again
scope_stopped dev 2025-12-31T01:00:00.000Z
  realm dev: fine-tune, write stopped, because the keys are too old
  run slmd keys refresh dev, or pin them again
clock_unsynchronised - -
  the clock isn't synchronised
  check this machine's time source (timedatectl)
clock_moved dev/device-1 -
  an accepted token of realm dev's client device-1 has moved its time ahead of the clock, to 2026-01-02 00:00 UTC, so older tokens count as expired
  if that is wrong, run slmd keys reset-time
fleet_root_missing - -
  the fleet has no root here, so nothing that it signs is believed
  run slmd trust pin ROOT.json
fleet_ended - 2026-01-01T06:00:00.000Z
  what the fleet has signed has ended, and no mirror has anything newer: its keys grow old
  ask the fleet's managers to run slmd fleet timestamp, and look at the mirrors
mirror_refused mqtt -
  the fleet's mirror mqtt has nothing that can be trusted: no route
  have whoever keeps it look at what it serves; the other mirrors go on
witness_refused w.example -
  the audit log's witness w.example: it knows another log
  check it, the network and [[audit.witness]] of the configuration
export_stopped syslog -
  the log collector takes no audit records, and 8 wait in the log: no route
  check it, the network and [audit.syslog] of the configuration; it is tried again and again
certificate_ends - 2025-12-22T00:00:00.000Z
  the TLS certificate has less than 14 days left, until 2026-01-05 00:00 UTC
  renew its file, then run slmd reload
disk_low - -
  the disk of /var/lib/slmd has 72 MB left, and the audit log may still take 56 MB of them
  make room, or lower max_bytes under [audit]
";

/// Name, realm or the like, what, what to do, and since when.
fn told_of(problem: &Problem) -> String {
    let since = problem.since.as_deref().unwrap_or("-");
    let about = problem.about.as_deref().unwrap_or("-");
    let Problem {
        name, what, mend, ..
    } = problem;
    format!("{name} {about} {since}\n  {what}\n  {mend}\n")
}

#[test]
fn nothing_is_wrong_where_nothing_is() {
    assert_eq!(found(well()), []);
}

#[test]
fn each_problem_is_found_alone_with_what_to_do() {
    let mut all = String::new();
    for kind in Kind::ALL.iter().copied() {
        let found = found(with(kind));
        let others = match kind {
            // What makes it possible.
            Kind::ClockMoved => 1,
            _ => 0,
        };
        assert_eq!(found.len(), 1 + others, "{kind:?}: {found:?}");
        let problem = found.last().expect("at least one");
        assert_eq!(problem.name, kind.name());
        assert_eq!(problem.severity, kind.severity());
        assert!(!problem.what.ends_with('.') && !problem.mend.ends_with('.'));
        all.push_str(&told_of(problem));
    }
    assert_eq!(all, EXPECTED, "{all}");
}

#[test]
fn the_worst_comes_first() {
    let mut all = well();
    for kind in Kind::ALL.iter().copied() {
        // One takes another's place.
        if matches!(
            kind,
            Kind::StoreFailed | Kind::BrokerTrouble | Kind::ClockBelieved | Kind::WitnessRefused
        ) {
            continue;
        }
        let (path, value) = case(kind);
        *all.pointer_mut(path).expect("a member of a status") = value;
    }
    let found = found(all);
    let worst = found
        .iter()
        .take_while(|problem| problem.is_critical())
        .count();
    assert!(worst > 3, "{found:?}");
    let rest = &found[worst..];
    assert!(
        rest.len() > 3 && rest.iter().all(|problem| problem.severity == WARNING),
        "{found:?}"
    );
    assert!(
        found[..worst]
            .iter()
            .all(|problem| problem.severity == CRITICAL)
    );
}

#[test]
fn names_are_one_problems_each() {
    let names: std::collections::BTreeSet<&str> =
        Kind::ALL.iter().map(|kind| kind.name()).collect();
    assert_eq!(names.len(), Kind::ALL.len());
    let is_name = |name: &str| name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    assert!(names.iter().all(|name| is_name(name)), "{names:?}");
}

#[test]
fn the_public_socket_tells_no_more_than_its_status() {
    let mut outside = with(Kind::BrokerAway);
    outside["inside"] = Value::Null;
    let found = found(outside);
    assert_eq!(found.len(), 1);
    assert!(!found[0].what.contains("plant"), "{found:?}");
}

#[test]
fn keys_that_are_all_left_out_are_named_with_the_reason() {
    let mut status = with(Kind::KeysMissing);
    status["realms"][0]["left_out"] = json!([{"index": 0, "kid": "old", "why": "it is weak"}]);
    let found = found(status);
    assert!(
        found[0].what.contains("key 0 (old): it is weak"),
        "{found:?}"
    );
}

#[test]
fn a_refresh_that_fails_is_told_where_it_matters() {
    let mut status = with(Kind::KeysAgeing);
    status["realms"][0]["refresh"]["why"] = "no route to host".into();
    let found = found(status);
    assert!(found[0].mend.contains("no route to host"), "{found:?}");
}
