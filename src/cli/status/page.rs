//! The page that people see: what is wrong first, then a row for each part.

use std::time::Duration;

use super::super::exit::Failure;
use super::super::login::End;
use super::super::look::Seen;
use super::super::output::printable;
use super::super::realm::{self, View};
use super::super::terminal::{Style, Terminal, ago, bytes, count, rough, when};
use super::super::trust;
use super::{LEFT_OUT, problems};
use crate::admin::{
    Answers, ClockStatus, FleetStatus, Inside, KeysChanged, MqttStatus, Problem, RealmStatus,
    Requests, Status,
};
use crate::keysync::DenyStatus;
use crate::time::{Clocks, Timestamp};

/// Where a row's text begins.
const LABEL: usize = 10;
/// A clock that is ahead by less isn't worth a word.
const MOST_AHEAD: Duration = Duration::from_secs(60);

pub(super) fn page(
    seen: &Seen<Status>,
    login: Result<Option<End>, Failure>,
    terminal: Terminal,
) -> Vec<String> {
    let status = &seen.what;
    let now = status.clock.moment();
    let mut page = Page {
        view: View { terminal, now },
        lines: Vec::new(),
    };
    let problems = problems(status);
    page.head(status, &problems);
    for problem in &problems {
        page.problem(problem);
    }
    let login = page.login_problem(login);
    page.lines.push(String::new());
    for realm in &status.realms {
        page.realm(realm);
    }
    page.engine(status);
    page.mqtt(status);
    if let Some(fleet) = &status.fleet {
        page.fleet(fleet);
    }
    page.clock(&status.clock);
    page.audit(status);
    page.watched(status);
    if let Some(inside) = &status.inside {
        page.inside(inside);
    }
    if let Some(end) = login {
        page.row("login", &login_line(&end, now));
    }
    if let Some(note) = seen.note(LEFT_OUT) {
        let note = terminal.squeeze(&note, 2);
        let quiet = |line: &String| terminal.paint(Style::Quiet, line);
        page.lines.extend(note.iter().map(quiet));
    }
    page.lines
}

/// While no daemon answers.
pub(super) fn silent(failure: &Failure, terminal: Terminal) -> Vec<String> {
    let now = Clocks::default().now();
    let mark = terminal.paint(Style::Bad, "no answer");
    let mut lines = vec![format!(
        "{mark}: {}; it is asked again and again",
        now.minute()
    )];
    lines.extend(terminal.squeeze(&format!("! {}", printable(&failure.message)), 2));
    lines
}

struct Page {
    view: View,
    lines: Vec<String>,
}

impl Page {
    fn row(&mut self, label: &str, text: &str) {
        let row = self
            .view
            .terminal
            .squeeze(&format!("{label:<LABEL$}{text}"), LABEL + 2);
        self.lines.extend(row);
    }

    /// More of the row above.
    fn more(&mut self, text: &str) {
        self.row("", text);
    }

    fn head(&mut self, status: &Status, problems: &[Problem]) {
        let terminal = self.view.terminal;
        let state = match status.ready {
            true => terminal.paint(Style::Good, "ready"),
            false => terminal.paint(Style::Bad, "not ready"),
        };
        let wrong = match problems.iter().any(Problem::is_critical) {
            _ if problems.is_empty() => String::new(),
            critical => {
                let style = if critical { Style::Bad } else { Style::Warning };
                let wrong = count(problems.len() as u64, "problem");
                format!(", {}", terminal.paint(style, &wrong))
            }
        };
        let memory = status
            .inside
            .as_ref()
            .and_then(|inside| inside.memory_bytes);
        let memory = memory.map_or_else(String::new, |size| format!(", {} of memory", bytes(size)));
        let head = format!(
            "{state}{wrong}: {}, slmd {}, up {}{memory}",
            printable(&status.device),
            printable(&status.version),
            span(status.uptime_seconds)
        );
        self.lines.extend(terminal.squeeze(&head, 2));
        // What no problem explains.
        let why = status.not_ready_because.as_ref();
        let why = why.filter(|_| !problems.iter().any(Problem::is_critical));
        if let Some(why) = why {
            let line = format!("{} {}", self.view.mark(true), printable(why));
            self.lines.extend(terminal.squeeze(&line, 2));
        }
    }

    fn problem(&mut self, problem: &Problem) {
        let since = problem.since.as_deref().and_then(|at| at.parse().ok());
        let mark = self.view.mark(problem.is_critical());
        self.wrong(&mark, &problem.what, since, &problem.mend);
    }

    fn wrong(&mut self, mark: &str, what: &str, since: Option<Timestamp>, mend: &str) {
        let View { terminal, now } = self.view;
        let since = since
            .map(|at| now.since(at))
            .filter(|span| span.as_secs() > 0);
        let since = since.map_or_else(String::new, |span| format!(" (for {})", rough(span)));
        let what = format!("{mark} {}{since}", printable(what));
        self.lines.extend(terminal.squeeze(&what, 2));
        let mend = format!("  do: {}", printable(mend));
        self.lines.extend(terminal.squeeze(&mend, 6));
    }

    /// Hands on a login that has a row of its own.
    fn login_problem(&mut self, login: Result<Option<End>, Failure>) -> Option<End> {
        let mark = self.view.mark(false);
        match login {
            Ok(end) => {
                let ended = end.as_ref().and_then(End::last);
                if let Some(at) = ended.filter(|at| *at <= self.view.now) {
                    let what = format!("your login ended at {}", at.minute());
                    self.wrong(&mark, &what, Some(at), "run slmd login");
                }
                end
            }
            Err(failure) => {
                let mend = "run slmd login anew, or slmd logout";
                self.wrong(&mark, &failure.message, None, mend);
                None
            }
        }
    }

    fn realm(&mut self, realm: &RealmStatus) {
        let (name, issuer) = (printable(&realm.name), printable(&realm.issuer));
        let name = self.view.terminal.paint(Style::Strong, &name);
        self.row("realm", &format!("{name}: {issuer}"));
        self.more(&self.keys(realm));
        let refresh = realm.refresh.as_ref();
        let refresh = refresh.map(|refresh| realm::refreshed(refresh, self.view));
        let deny_list = realm.deny_list.as_ref();
        let deny_list = deny_list.map(|DenyStatus { entries, .. }| {
            let noun = if *entries == 1 { "entry" } else { "entries" };
            format!("deny-list of {entries} {noun}")
        });
        let both: Vec<String> = refresh.into_iter().chain(deny_list).collect();
        if !both.is_empty() {
            self.more(&both.join("; "));
        }
        let scopes = realm.scope_stops_at.iter();
        let scopes = scopes.map(|(scope, at)| {
            let verb = if self.view.is_past(at) {
                "stopped"
            } else {
                "stops"
            };
            format!("{} {verb} {}", printable(scope), self.relative(at))
        });
        let scopes: Vec<String> = scopes.collect();
        if !scopes.is_empty() {
            self.more(&format!("unless confirmed, {}", scopes.join(", ")));
        }
        for endpoint in &realm.endpoints {
            let (client, model) = (printable(&endpoint.client_id), printable(&endpoint.model));
            self.more(&format!("endpoint {client}: model {model}"));
        }
    }

    fn keys(&self, realm: &RealmStatus) -> String {
        let by = match realm.keys_source.as_deref() {
            Some("fleet") => " signed by the fleet",
            Some("hand") => " pinned by hand",
            Some("https") => " from its issuer",
            _ => "",
        };
        let mut text = match realm.keys.keys.len() as u64 {
            0 => "no keys".to_owned(),
            keys => format!("{}{by}", count(keys, "key")),
        };
        if let Some(age) = realm.keys_age_seconds {
            text.push_str(&format!(", confirmed {}", ago(Duration::from_secs(age))));
        }
        if let Some(KeysChanged { at, .. }) = &realm.keys_changed {
            text.push_str(&format!(", changed {}", self.relative(at)));
        }
        if realm.held.is_some() {
            text.push_str(", another set is held");
        }
        text
    }

    fn relative(&self, at: &str) -> String {
        let at_time = at.parse().ok();
        at_time.map_or_else(|| printable(at), |at| when(at, self.view.now))
    }

    fn engine(&mut self, status: &Status) {
        let (engine, inside) = (&status.engine, status.inside.as_ref());
        self.row(
            "queue",
            &format!("{} running, {} waiting", engine.running, engine.waiting),
        );
        let mut parts: Vec<String> = engine.models.iter().map(|m| printable(&m.name)).collect();
        if let Some(inside) = inside {
            parts.push(format!("{} kernels", printable(&inside.kernels)));
            parts.push(count(inside.threads as u64, "thread"));
            let speed = inside.answers.tokens_per_second;
            parts.extend(speed.map(|speed| format!("{speed:.1} tokens/s")));
        }
        if !parts.is_empty() {
            self.row("model", &parts.join(", "));
        }
        if let Some(inside) = inside {
            self.row("requests", &requests(&inside.requests, &inside.answers));
        }
    }

    fn mqtt(&mut self, status: &Status) {
        let Some(MqttStatus {
            connected,
            reconnects,
            untold,
            ..
        }) = &status.mqtt
        else {
            return self.row("broker", "none is configured");
        };
        let at = status
            .inside
            .as_ref()
            .and_then(|inside| inside.broker.as_ref());
        let at = at.map_or_else(String::new, |at| format!("{}: ", printable(at)));
        let state = match connected {
            true => "connected",
            false => "not connected",
        };
        let reconnects = match reconnects {
            0 => String::new(),
            reconnects => format!(", {}", count(*reconnects, "reconnect")),
        };
        self.row("broker", &format!("{at}{state}{reconnects}"));
        if let Some(untold) = untold {
            self.more(&format!(
                "{} that couldn't be told, the last {}: {}",
                count(untold.count, "refusal"),
                ago(Duration::from_secs(untold.last_seconds_ago)),
                printable(&untold.last)
            ));
        }
    }

    fn fleet(&mut self, fleet: &FleetStatus) {
        let name = fleet.name.as_deref();
        let name = name.map_or_else(|| "none is configured".to_owned(), printable);
        let versions = [
            ("root", fleet.root),
            ("timestamp", fleet.timestamp),
            ("targets", fleet.targets),
            ("revocation", fleet.revocation),
        ];
        let versions = versions.into_iter();
        let versions = versions.filter_map(|(role, version)| Some(format!("{role} {}", version?)));
        let versions: Vec<String> = versions.collect();
        self.row("fleet", &format!("{name}: {}", versions.join(", ")));
        if let Some(at) = &fleet.expires_at {
            let verb = if fleet.expired { "ended" } else { "ends" };
            self.more(&format!("{verb} {}", self.view.at(at)));
        }
        for (realm, entries) in &fleet.revoked {
            let noun = if *entries == 1 { "entry" } else { "entries" };
            self.more(&format!(
                "revokes in {}: {entries} {noun}",
                printable(realm)
            ));
        }
        for mirror in &fleet.mirrors {
            self.more(&trust::asked(mirror, self.view));
        }
    }

    /// What time it is, and what of that is only tokens' word.
    fn clock(&mut self, clock: &ClockStatus) {
        let kept = match clock.synchronised {
            true => "synchronised",
            false => "not synchronised",
        };
        let told = |text: &str| {
            let at = text.parse::<Timestamp>();
            at.map_or_else(|()| printable(text), Timestamp::minute)
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
        self.row("clock", &format!("{}, {kept}{floor}", told(&clock.now)));
        for (realm, floor) in &clock.realm_floors {
            let realm = printable(realm);
            self.more(&format!("tokens of {realm}: never before {}", told(floor)));
        }
        for (realm, of) in &clock.client_floors {
            let (realm, client) = (printable(realm), printable(&of.client));
            let floor = told(&of.floor);
            self.more(&format!(
                "tokens of {realm}'s client {client}: never before {floor}"
            ));
        }
    }

    fn audit(&mut self, status: &Status) {
        let next = count(status.audit.next_index, "record");
        let Some(inside) = &status.inside else {
            return self.row("audit", &next);
        };
        let percent = (inside.audit_fill * 100.0).round();
        let oldest = inside.audit_oldest_at.as_ref();
        let oldest = oldest.map(|at| format!(", back to {}", self.relative(at)));
        let full = format!("{percent} % of {} full", bytes(inside.audit_max_bytes));
        self.row(
            "audit",
            &format!("{next} in all, {full}{}", oldest.unwrap_or_default()),
        );
    }

    /// Who else has the audit log, or watches it.
    fn watched(&mut self, status: &Status) {
        for export in &status.audit.exports {
            let to = match export.to.as_str() {
                "syslog" => "log collector",
                "journald" => "journal",
                other => other,
            };
            let left = status
                .audit
                .next_index
                .saturating_sub(export.confirmed_index);
            let left = match left {
                0 => "has all records".to_owned(),
                left => format!("lacks the last {}", count(left, "record")),
            };
            let missing = match export.missing {
                0 => String::new(),
                missing => format!(
                    "; {} had been removed before they could be sent",
                    count(missing, "record")
                ),
            };
            self.more(&format!("the {} {left}{missing}", printable(to)));
        }
        for witness in &status.audit.witnesses {
            let seen = match &witness.cosigned {
                None => "has cosigned nothing yet".to_owned(),
                Some(last) => {
                    let (records, at) = (count(last.size, "record"), self.view.at(&last.at));
                    format!("cosigned {records} {at}")
                }
            };
            self.more(&format!("witness {}: {seen}", printable(&witness.name)));
        }
    }

    fn inside(&mut self, inside: &Inside) {
        if let Some(disk) = &inside.disk {
            let (free, size) = (bytes(disk.free_bytes), bytes(disk.size_bytes));
            self.row(
                "disk",
                &format!("{free} of {size} free for {}", printable(&disk.folder)),
            );
        }
        let listeners: Vec<String> = inside.listeners.iter().map(|at| printable(at)).collect();
        self.row("listens", &format!("on {}", listeners.join(", ")));
        if let Some(at) = &inside.certificate_ends_at {
            self.more(&format!("the certificate ends {}", self.view.at(at)));
        }
    }
}

fn requests(requests: &Requests, answers: &Answers) -> String {
    let Requests { permitted, refused } = requests;
    let reasons = refused.iter();
    let reasons = reasons.map(|(reason, count)| format!("{count} {}", printable(reason)));
    let reasons: Vec<String> = reasons.collect();
    let reasons = match reasons.is_empty() {
        true => String::new(),
        false => format!(" ({})", reasons.join(", ")),
    };
    let sum: u64 = refused.values().sum();
    format!(
        "{permitted} permitted, {sum} refused{reasons}; {} of {}",
        count(answers.count, "answer"),
        count(answers.completion_tokens, "token")
    )
}

/// The login is this user's own, and its end by this machine's clock.
fn login_line(end: &End, now: Timestamp) -> String {
    let issuer = printable(&end.issuer);
    let user = end.user.as_ref();
    let whose = user.map_or_else(String::new, |user| format!("{} at ", printable(user)));
    let login = format!("yours: {whose}{issuer}");
    let offline = match end.token > now {
        true => format!(
            "works offline until {} ({})",
            end.token.minute(),
            when(end.token, now)
        ),
        false => "works offline no more".to_owned(),
    };
    match end.last() {
        None => format!("{login}, {offline}, and names no end"),
        Some(last) if last <= now => format!("{login}, ended"),
        Some(last) => {
            let (when, last) = (when(last, now), last.minute());
            format!("{login}, {offline}, ends {when} ({last})")
        }
    }
}

/// Seconds in the two largest units that matter.
pub(super) fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}
