//! `slmd status` and `slmd reload`.

mod export;

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::exit::{Done, Failure};
use super::login::End;
use super::look::{self, Seen};
use super::output::printable;
use super::realm::{self, View};
use super::terminal::{Style, Terminal, ago, bytes, count, moment, rough, when};
use super::{Global, output, trust, witness};
use crate::admin::{self, Answers, ClockStatus, EngineStatus, Inside, MqttStatus, Requests, route};
use crate::time::{Clocks, Timestamp};

/// Show the daemon's health: readiness, clock, realms with their keys and deny-lists, queue, broker,
/// audit. What needs somebody's action comes last, each line with a `!`.
#[derive(Debug, Args)]
#[command(after_help = "\
Without root it shows what the public socket tells, and what that leaves out. On a terminal it is in
colour, unless NO_COLOR is set.

Examples:
  slmd status
  slmd status --json | jq .ready")]
pub(super) struct Status {}

/// Check the configuration whole and put it in force; a broken file changes nothing.
#[derive(Debug, Args)]
#[command(
    after_help = "Prints which settings wait for a restart.\n\nExamples:\n  slmd config check && slmd reload"
)]
pub(super) struct Reload {}

/// A clock that was stepped back by less catches up by itself.
const MOST_AHEAD: Duration = Duration::from_secs(60);
/// Time to renew a certificate in.
const ENDS_SOON: Duration = Duration::from_secs(14 * 86_400);

const LEFT_OUT: &str = "which leaves out listeners, certificate, memory, kernels, speed, counts of \
    requests, and how full the audit log is: root and the daemon's user see them (sudo slmd status); \
    counts are in /metrics too, over TCP for a token with the role audit";

impl Status {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let seen = look::status(global)?;
        if global.json {
            seen.warn(LEFT_OUT);
            return output::show(global, &told(seen.what, End::of_this_user()));
        }
        let page = page(&seen, End::of_this_user(), Terminal::stdout());
        page.iter().try_for_each(|text| output::line(text))
    }
}

impl Reload {
    pub(super) fn execute(&self, global: &Global) -> Done {
        output::show(global, &global.admin()?.call(route::RELOAD)?)
    }
}

/// The status with this user's own login beside it.
#[derive(Serialize)]
struct Told {
    #[serde(flatten)]
    status: admin::Status,
    login: Option<Value>,
}

fn told(status: admin::Status, login: Result<Option<End>, Failure>) -> Told {
    let login = login.unwrap_or_else(|failure| {
        eprintln!("slmd: {}", failure.message);
        None
    });
    let login = login.map(|end| end.json());
    Told { status, login }
}

/// What an operator looks for first comes first.
fn page(
    seen: &Seen<admin::Status>,
    login: Result<Option<End>, Failure>,
    terminal: Terminal,
) -> Vec<String> {
    let (status, clock) = (&seen.what, &seen.what.clock);
    // Decisions never go back before the floor.
    let now = clock.now.as_str().max(&clock.floor).parse();
    let now = now.unwrap_or_else(|()| Clocks::default().now());
    let view = View { terminal, now };
    let mut lines = head(status, view);
    push_clock(&mut lines, clock);
    push_engine(&mut lines, status);
    push_mqtt(&mut lines, status.mqtt.as_ref());
    lines.extend(
        status
            .fleet
            .iter()
            .flat_map(|fleet| trust::lines(fleet, view)),
    );
    lines.push(audit(status, view));
    lines.extend(export::lines(status));
    lines.extend(witness::lines(&status.audit.witnesses, view));
    let mut actions: Vec<String> = clock_actions(clock, view);
    actions.extend(broker_action(status));
    actions.extend(export::actions(status));
    actions.extend(status.fleet.iter().flat_map(trust::actions));
    actions.extend(witness::actions(&status.audit.witnesses));
    actions.extend(certificate_action(status.inside.as_ref(), view));
    match login {
        Ok(Some(end)) => lines.push(login_line(&end, view, &mut actions)),
        Ok(None) => {}
        Err(failure) => actions.push(failure.message),
    }
    for realm in &status.realms {
        lines.extend(realm::lines(realm, view));
        actions.extend(realm::actions(realm, view));
    }
    let note = seen.note(LEFT_OUT);
    lines.extend(note.map(|note| terminal.paint(Style::Quiet, &note)));
    lines.extend(actions.iter().map(|action| view.action(action)));
    view.fit(&lines)
}

fn head(status: &admin::Status, view: View) -> Vec<String> {
    let inside = status.inside.as_ref();
    let memory = inside.and_then(|inside| inside.memory_bytes);
    let memory = memory.map_or_else(String::new, |size| format!(", {} of memory", bytes(size)));
    let mut lines = vec![
        match &status.not_ready_because {
            Some(why) => {
                let not_ready = view.terminal.paint(Style::Bad, "not ready:");
                format!("{not_ready} {}", printable(why))
            }
            None => view.terminal.paint(Style::Good, "ready"),
        },
        format!(
            "slmd {} on {}, up {}{memory}",
            printable(&status.version),
            printable(&status.device),
            span(status.uptime_seconds)
        ),
    ];
    let Some(inside) = inside else { return lines };
    let listeners = inside.listeners.iter().map(|at| printable(at));
    let listeners: Vec<String> = listeners.collect();
    lines.push(format!("listens on: {}", listeners.join(", ")));
    if let Some(at) = &inside.certificate_ends_at {
        lines.push(format!("certificate: ends {}", view.at(at)));
    }
    lines
}

/// What time it is, and what of that is only tokens' word.
fn push_clock(lines: &mut Vec<String>, clock: &ClockStatus) {
    let kept = match clock.synchronised {
        true => "synchronised",
        false => "not synchronised",
    };
    let told = |text: &str| {
        let at = text.parse::<Timestamp>();
        at.map_or_else(|()| printable(text), moment)
    };
    let ahead = Duration::from_secs(clock.floor_ahead_seconds);
    let floor = match ahead > MOST_AHEAD {
        true => format!(
            "; never before {}, {} ahead",
            told(&clock.floor),
            rough(ahead)
        ),
        false => String::new(),
    };
    lines.push(format!("clock: {}, {kept}{floor}", told(&clock.now)));
    let mut never = |whose: String, floor: &str| {
        let floor = told(floor);
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

fn clock_actions(clock: &ClockStatus, view: View) -> Vec<String> {
    if clock.synchronised {
        let ahead = Duration::from_secs(clock.floor_ahead_seconds);
        let believed = (ahead > MOST_AHEAD).then(|| {
            format!(
                "the clock is synchronised, and an earlier one that was ahead was believed: until {} \
                 every token counts as {} older than it is; if the clock is right now, run slmd keys \
                 reset-time",
                printable(&clock.floor),
                rough(ahead)
            )
        });
        return believed.into_iter().collect();
    }
    let mut actions =
        vec!["the clock isn't synchronised; check this machine's time source".to_owned()];
    let moved = |whose: String, floor: &str| {
        let ahead = floor.parse::<Timestamp>().ok()?.since(view.now);
        (ahead > MOST_AHEAD).then(|| {
            format!(
                "{whose} has moved its time {} ahead of the clock, so older tokens count as expired; \
                 if that is wrong, run slmd keys reset-time",
                rough(ahead)
            )
        })
    };
    let realms = clock.realm_floors.iter();
    actions.extend(realms.filter_map(|(realm, floor)| {
        moved(
            format!("an accepted token of realm {}", printable(realm)),
            floor,
        )
    }));
    let clients = clock.client_floors.iter();
    actions.extend(clients.filter_map(|(realm, told)| {
        let (realm, client) = (printable(realm), printable(&told.client));
        let whose = format!("an accepted token of realm {realm}'s client {client}");
        moved(whose, &told.floor)
    }));
    actions
}

fn push_engine(lines: &mut Vec<String>, status: &admin::Status) {
    let EngineStatus { running, waiting } = status.engine;
    let engine = format!("engine: {running} running, {waiting} waiting");
    let Some(inside) = &status.inside else {
        lines.push(engine);
        return;
    };
    let threads = count(inside.threads as u64, "thread");
    let kernels = printable(&inside.kernels);
    let Answers {
        count: answers,
        completion_tokens,
        tokens_per_second,
        ..
    } = inside.answers;
    let speed = tokens_per_second.map(|speed| format!("; {speed:.1} tokens/s"));
    let speed = speed.unwrap_or_default();
    lines.push(format!("{engine}; {kernels} kernels, {threads}{speed}"));
    let Requests { permitted, refused } = &inside.requests;
    let reasons = refused.iter();
    let reasons: Vec<String> = reasons
        .map(|(reason, count)| format!("{count} {}", printable(reason)))
        .collect();
    let reasons = match reasons.is_empty() {
        true => String::new(),
        false => format!(" ({})", reasons.join(", ")),
    };
    let sum: u64 = refused.values().sum();
    lines.push(format!(
        "since the start: {permitted} permitted, {sum} refused{reasons}; {} of {}",
        count(answers, "answer"),
        count(completion_tokens, "token")
    ));
}

fn push_mqtt(lines: &mut Vec<String>, status: Option<&MqttStatus>) {
    let Some(status) = status else {
        lines.push("mqtt: not configured".to_owned());
        return;
    };
    let state = match status.connected {
        true => "connected",
        false => "not connected",
    };
    let reconnects = match status.reconnects {
        0 => String::new(),
        reconnects => format!(", {}", count(reconnects, "reconnect")),
    };
    lines.push(format!("mqtt: {state}{reconnects}"));
    lines.extend(status.untold.as_ref().map(|untold| {
        format!(
            "  {} that couldn't be told, the last {}: {}",
            count(untold.count, "refusal"),
            ago(Duration::from_secs(untold.last_seconds_ago)),
            printable(&untold.last)
        )
    }));
}

fn broker_action(status: &admin::Status) -> Option<String> {
    let mqtt = status.mqtt.as_ref()?;
    let broker = status.inside.as_ref().and_then(|i| i.broker.as_ref());
    let broker = broker.map_or_else(String::new, |at| format!(" {}", printable(at)));
    let problem = mqtt.problem.as_deref().map(printable);
    match (mqtt.connected, problem) {
        (true, None) => None,
        (true, Some(problem)) => Some(format!("the broker{broker}: {problem}")),
        (false, problem) => Some(format!(
            "the broker{broker} isn't connected: {}; it is tried again and again: check it, the \
             network and [mqtt] of the configuration",
            problem.as_deref().unwrap_or("no answer yet")
        )),
    }
}

fn certificate_action(inside: Option<&Inside>, view: View) -> Option<String> {
    let told = inside?.certificate_ends_at.as_ref()?;
    let at = told.parse::<Timestamp>().ok()?;
    let verb = match at.since(view.now) {
        Duration::ZERO => "ended",
        left if left < ENDS_SOON => "ends",
        _ => return None,
    };
    Some(format!(
        "the TLS certificate {verb} {}; renew its file, then run slmd reload",
        view.at(told)
    ))
}

fn audit(status: &admin::Status, view: View) -> String {
    let next = status.audit.next_index;
    let Some(inside) = &status.inside else {
        return format!("audit: next record {next}");
    };
    let percent = (inside.audit_fill * 100.0).round();
    let oldest = inside.audit_oldest_at.as_ref();
    let oldest = oldest.and_then(|oldest| oldest.parse().ok());
    let oldest = oldest.map(|oldest| format!(", the oldest of {}", when(oldest, view.now)));
    format!(
        "audit: next record {next}; {percent} % of {} full{}",
        bytes(inside.audit_max_bytes),
        oldest.unwrap_or_default()
    )
}

/// The login is this user's own, and its end by this machine's clock.
fn login_line(end: &End, view: View, actions: &mut Vec<String>) -> String {
    let issuer = printable(&end.issuer);
    let user = end.user.as_ref();
    let whose = user.map_or_else(String::new, |user| format!("{} at ", printable(user)));
    let login = format!("your login: {whose}{issuer}");
    let offline = match end.token > view.now {
        true => format!(
            "works offline until {} ({})",
            moment(end.token),
            when(end.token, view.now)
        ),
        false => "works offline no more".to_owned(),
    };
    let Some(last) = end.last() else {
        return format!("{login}, {offline}, and names no end");
    };
    let told = format!("{} ({})", when(last, view.now), moment(last));
    if last <= view.now {
        actions.push(format!("your login ended {told}; run slmd login"));
        return format!("{login}, ended");
    }
    format!("{login}, {offline}, ends {told}")
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
mod tests;
