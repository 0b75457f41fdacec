//! What is wrong with a daemon, since when, and what to do about it, found in its status: the one
//! list that `slmd status`, `/readyz` and the metric `slmd_problems` speak of.
//!
//! What a status doesn't say is no problem: one without [`Inside`] tells of fewer.

use std::time::Duration;

use super::problem::{Kind, Problem};
use super::{
    ClockStatus, ExportStatus, FleetStatus, Inside, Keys, MirrorStatus, MqttStatus, RealmStatus,
    Status, StoreStatus, WitnessStatus,
};
use crate::time::Timestamp;

/// A clock that was stepped back by less catches up by itself.
const MOST_AHEAD: Duration = Duration::from_secs(60);
/// Time to renew a certificate in.
const ENDS_SOON: Duration = Duration::from_secs(14 * 86_400);
/// What chats need.
const READ: &str = "read";
/// Beside what the audit log may still take of a disk.
const SPARE_BYTES: u64 = 16 << 20;

/// The worst first.
pub fn problems(status: &Status) -> Vec<Problem> {
    let now = status.clock.moment();
    let mut found = Vec::new();
    found.extend(status.draining.then(draining));
    found.extend(status.store.as_ref().map(store));
    let realms = status.realms.iter();
    found.extend(realms.flat_map(|realm| realm_problems(realm, now)));
    found.extend(models(status));
    found.extend(clock(&status.clock, now));
    found.extend(broker(status));
    found.extend(status.fleet.iter().flat_map(fleet_problems));
    found.extend(status.audit.witnesses.iter().filter_map(witness));
    let exports = status.audit.exports.iter();
    found.extend(exports.filter_map(|export| stopped_export(export, status)));
    found.extend(status.inside.iter().flat_map(|inside| machine(inside, now)));
    found.sort_by_key(|problem| {
        Kind::ALL
            .iter()
            .position(|kind| kind.name() == problem.name)
    });
    found
}

pub fn draining() -> Problem {
    Problem::new(
        Kind::Draining,
        "draining: the daemon is going down and takes nothing new",
        "start it again where nobody meant that (systemctl start slmd)",
    )
}

pub fn store(store: &StoreStatus) -> Problem {
    let StoreStatus { folder, why, full } = store;
    match full {
        true => Problem::new(
            Kind::StoreFull,
            format!("{why} {folder}, so nothing can be recorded and nothing is answered"),
            "make room there, and it goes on by itself",
        ),
        false => Problem::new(
            Kind::StoreFailed,
            format!("state folder {folder}: {why}; nothing is answered"),
            "look at the daemon's log and at the disk; it is tried again and again",
        ),
    }
}

/// What is wrong with a realm's keys and revocations.
pub fn realm_problems(realm: &RealmStatus, now: Timestamp) -> Vec<Problem> {
    let name = &realm.name;
    let mut found = Vec::new();
    if realm.keys.keys.is_empty() {
        let left_out = realm.keys.left_out.iter();
        let left_out: Vec<String> = left_out.map(ToString::to_string).collect();
        let why = match left_out.is_empty() {
            true => String::new(),
            false => format!(" ({})", left_out.join("; ")),
        };
        found.push(Problem::new(
            Kind::KeysMissing,
            format!("realm {name} has no keys that can be used{why}: every token is refused"),
            format!("run slmd keys pin {name} FILE"),
        ));
    }
    found.extend(stopped(realm, now));
    found.extend(ageing(realm, now));
    let deny_list = realm.deny_list.as_ref();
    found.extend(deny_list.and_then(|list| list.problem.as_ref()).map(|why| {
        Problem::new(
            Kind::DenyListRefused,
            format!("realm {name}: the new deny-list isn't used, the old one stays: {why}"),
            "mend the file; it is read again at once",
        )
    }));
    found.extend(realm.held.as_ref().map(|held| held_keys(name, held)));
    let about = |problem: Problem| problem.about(name);
    found.into_iter().map(about).collect()
}

/// A fetched set that waits for a person.
pub fn held_keys(realm: &str, held: &Keys) -> Problem {
    let fingerprint = &held.fingerprint;
    Problem::new(
        Kind::KeysHeld,
        format!(
            "realm {realm}: Keycloak serves keys that none in force vouches for ({fingerprint})"
        ),
        format!("if that is meant, run slmd keys pin {realm} --fetch"),
    )
}

/// Scopes whose keys are too old: without `read` nothing is answered, the others are for few.
fn stopped(realm: &RealmStatus, now: Timestamp) -> Vec<Problem> {
    let name = &realm.name;
    let stops = realm.scope_stops_at.iter();
    let past = stops.filter_map(|(scope, at)| Some((scope, moment(at).filter(|at| *at <= now)?)));
    let (read, others): (Vec<_>, Vec<_>) = past.partition(|(scope, _)| *scope == READ);
    let problem = |kind, stopped: &[(&String, Timestamp)]| {
        let since = stopped.iter().map(|(_, at)| *at).min()?;
        let scopes: Vec<&str> = stopped.iter().map(|(scope, _)| scope.as_str()).collect();
        let scopes = scopes.join(", ");
        let what = format!("realm {name}: {scopes} stopped, because the keys are too old");
        Some(Problem::new(kind, what, confirm(realm)).since(since))
    };
    let read = problem(Kind::KeysTooOld, &read);
    let others = problem(Kind::ScopeStopped, &others);
    read.into_iter().chain(others).collect()
}

/// `read` stops soon: three quarters of the time that its keys were good for are over.
fn ageing(realm: &RealmStatus, now: Timestamp) -> Option<Problem> {
    let end = moment(realm.scope_stops_at.get(READ)?).filter(|end| *end > now)?;
    let confirmed = moment(realm.keys_confirmed_at.as_ref()?)?;
    let late = end.saturating_sub(end.since(confirmed) / 4);
    let (name, end) = (&realm.name, end.minute());
    let what = format!("realm {name}: the keys grow old, and read stops at {end}");
    (late <= now).then(|| Problem::new(Kind::KeysAgeing, what, confirm(realm)).since(late))
}

fn confirm(realm: &RealmStatus) -> String {
    let name = &realm.name;
    let failed = realm.refresh.as_ref().and_then(|last| last.why.as_ref());
    let failed = failed.map_or_else(String::new, |why| format!(" (the last try: {why})"));
    format!("run slmd keys refresh {name}, or pin them again{failed}")
}

fn models(status: &Status) -> Vec<Problem> {
    let refused = status.engine.models.iter().filter(|model| !model.listed);
    let problem = |name: &String| {
        Problem::new(
            Kind::ModelNotListed,
            format!("the fleet's signed list doesn't name the bundle of {name}, so it isn't run"),
            format!(
                "ask the fleet's managers to add the digest that slmd model show {name} prints"
            ),
        )
        .about(name)
    };
    refused.map(|model| problem(&model.name)).collect()
}

fn clock(clock: &ClockStatus, now: Timestamp) -> Vec<Problem> {
    const RESET: &str = "run slmd keys reset-time";
    let ahead = Duration::from_secs(clock.floor_ahead_seconds);
    if clock.synchronised {
        let floor = moment(&clock.floor).map_or_else(|| clock.floor.clone(), Timestamp::minute);
        let believed = Problem::new(
            Kind::ClockBelieved,
            format!(
                "the clock is synchronised, and an earlier one that was ahead was believed: until \
                 {floor} every token counts as older than it is"
            ),
            format!("if the clock is right now, {RESET}"),
        );
        return Vec::from_iter((ahead > MOST_AHEAD).then_some(believed));
    }
    let mut found = vec![Problem::new(
        Kind::ClockUnsynchronised,
        "the clock isn't synchronised",
        "check this machine's time source (timedatectl)",
    )];
    let moved = |about: String, whose: String, floor: &str| {
        let floor = moment(floor).filter(|floor| floor.since(now) > MOST_AHEAD)?;
        let what = format!(
            "an accepted token of {whose} has moved its time ahead of the clock, to {}, so older \
             tokens count as expired",
            floor.minute()
        );
        Some(
            Problem::new(Kind::ClockMoved, what, format!("if that is wrong, {RESET}")).about(about),
        )
    };
    let realms = clock.realm_floors.iter();
    found.extend(
        realms.filter_map(|(realm, floor)| moved(realm.clone(), format!("realm {realm}"), floor)),
    );
    let clients = clock.client_floors.iter();
    found.extend(clients.filter_map(|(realm, told)| {
        let client = &told.client;
        let whose = format!("realm {realm}'s client {client}");
        moved(format!("{realm}/{client}"), whose, &told.floor)
    }));
    found
}

fn broker(status: &Status) -> Option<Problem> {
    let MqttStatus {
        connected, problem, ..
    } = status.mqtt.as_ref()?;
    let at = status.inside.as_ref().and_then(|i| i.broker.as_ref());
    let at = at.map_or_else(String::new, |at| format!(" {at}"));
    if *connected {
        return problem.as_ref().map(|why| {
            Problem::new(
                Kind::BrokerTrouble,
                format!("the broker{at}: {why}"),
                "look at the broker's log and access list, and for another machine of this name",
            )
        });
    }
    let why = problem.as_deref().unwrap_or("no answer yet");
    Some(Problem::new(
        Kind::BrokerAway,
        format!("the broker{at} isn't connected: {why}"),
        "check it, the network and [mqtt] of the configuration; it is tried again and again",
    ))
}

/// What is wrong with the fleet's metadata here, and with its mirrors.
pub fn fleet_problems(fleet: &FleetStatus) -> Vec<Problem> {
    let mut found = Vec::new();
    if fleet.root_fingerprint.is_none() {
        found.push(Problem::new(
            Kind::FleetRootMissing,
            "the fleet has no root here, so nothing that it signs is believed",
            "run slmd trust pin ROOT.json",
        ));
    }
    found.extend(fleet.unread.as_ref().map(|why| unread(why)));
    if fleet.expired {
        let ended = Problem::new(
            Kind::FleetEnded,
            "what the fleet has signed has ended, and no mirror has anything newer: its keys grow \
             old",
            "ask the fleet's managers to run slmd fleet timestamp, and look at the mirrors",
        );
        found.push(ended.since(fleet.expires_at.as_deref().and_then(moment)));
    }
    let refused = |mirror: &MirrorStatus| {
        let refused = mirror.refused.as_ref();
        let refused = refused.filter(|refused| refused.reason != "unreachable")?;
        let (place, why) = (&mirror.mirror, &refused.why);
        let what = format!("the fleet's mirror {place} has nothing that can be trusted: {why}");
        let mend = "have whoever keeps it look at what it serves; the other mirrors go on";
        Some(Problem::new(Kind::MirrorRefused, what, mend).about(place))
    };
    found.extend(fleet.mirrors.iter().filter_map(refused));
    found
}

/// What is kept of the fleet's trust can't be read.
pub fn unread(why: &str) -> Problem {
    Problem::new(
        Kind::FleetUnread,
        format!("what is kept of the fleet can't be read, and tokens are refused for it ({why})"),
        "a mirror that has it anew mends that, or slmd trust pin ROOT.json, which begins again",
    )
}

fn witness(witness: &WitnessStatus) -> Option<Problem> {
    let (name, why) = (&witness.name, &witness.refused.as_ref()?.why);
    let problem = match witness.alarm {
        true => Problem::new(
            Kind::LogRewritten,
            format!("ALARM: the witness {name}: {why}"),
            "keep this machine as it is, and find out who changed it",
        ),
        false => Problem::new(
            Kind::WitnessRefused,
            format!("the audit log's witness {name}: {why}"),
            "check it, the network and [[audit.witness]] of the configuration",
        ),
    };
    Some(problem.about(name))
}

fn stopped_export(export: &ExportStatus, status: &Status) -> Option<Problem> {
    let why = export.problem.as_ref()?;
    let left = status
        .audit
        .next_index
        .saturating_sub(export.confirmed_index);
    let (to, mend) = match export.to.as_str() {
        "journald" => (
            "the journal",
            "check systemd-journald; it is tried again and again",
        ),
        _ => (
            "the log collector",
            "check it, the network and [audit.syslog] of the configuration; it is tried again and again",
        ),
    };
    let what = format!("{to} takes no audit records, and {left} wait in the log: {why}");
    Some(Problem::new(Kind::ExportStopped, what, mend).about(&export.to))
}

/// Certificate and disk.
fn machine(inside: &Inside, now: Timestamp) -> Vec<Problem> {
    const RENEW: &str = "renew its file, then run slmd reload";
    let mut found = Vec::new();
    if let Some(end) = inside.certificate_ends_at.as_deref().and_then(moment) {
        let soon = end.saturating_sub(ENDS_SOON);
        let (ended, at) = (end <= now, end.minute());
        if ended {
            let what = format!("the TLS certificate ended at {at}");
            found.push(Problem::new(Kind::CertificateEnded, what, RENEW).since(end));
        } else if soon < now {
            let what = format!("the TLS certificate has less than 14 days left, until {at}");
            found.push(Problem::new(Kind::CertificateEnds, what, RENEW).since(soon));
        }
    }
    found.extend(inside.disk.as_ref().and_then(|disk| {
        let still = (1.0 - inside.audit_fill).clamp(0.0, 1.0) * inside.audit_max_bytes as f64;
        let (folder, free) = (&disk.folder, disk.free_bytes);
        let what = format!(
            "the disk of {folder} has {} MB left, and the audit log may still take {} MB of them",
            free / 1_000_000,
            still as u64 / 1_000_000
        );
        let mend = "make room, or lower max_bytes under [audit]";
        (free < still as u64 + SPARE_BYTES).then(|| Problem::new(Kind::DiskLow, what, mend))
    }));
    found
}

fn moment(told: impl AsRef<str>) -> Option<Timestamp> {
    told.as_ref().parse().ok()
}

#[cfg(test)]
mod tests;
