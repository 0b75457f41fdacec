//! A record as a line for people: when, what was decided, for whom, what they asked for, why or how
//! much, and which request.

use crate::audit::{Access, Event, Finished, Loss, Record, Summary, Verdict};
use crate::cli::output::{local_second, printable};
use crate::cli::terminal::{Style, Terminal, columns, count};
use crate::prompt::{Finish, Origin, RequestId};
use crate::reason::Reason;

/// Columns of what comes before the reason, so that most lines fit in 100.
const EVENT: usize = 6;
const WHO: usize = 24;
const WHAT: usize = 17;

/// One name is shown in so many columns at most; the whole is in `--json`.
const NAME: usize = 16;
/// A user's UUID, of which people tell few apart.
const UUID: usize = 8;
/// `req_` and enough of what follows.
const ID: usize = 12;

/// What this release doesn't know is shown as it is.
pub(in crate::cli) fn describe(line: &str, terminal: Terminal) -> String {
    let Ok(record) = serde_json::from_str::<Record>(line) else {
        return printable(line);
    };
    let parts = match &record.event {
        Event::Access(access) => of_access(access),
        Event::Finish(finished) => of_finish(finished),
        Event::AccessesSummary(summary) => of_summary(summary),
        Event::RefusalsSummary {
            transport,
            reason,
            count,
            since,
        } => Parts {
            event: decision(Verdict::Deny),
            who: "nobody known".to_owned(),
            what: format!("over {}", printable(transport)),
            why: format!("{reason}, {} since {}", times(*count), local_second(*since)),
            ..Parts::default()
        },
        Event::Truncated {
            first_index,
            removed,
            losses,
            of_others,
            ..
        } => Parts {
            event: ("log", Style::Warning),
            who: "the daemon".to_owned(),
            why: truncated(*first_index, *removed, losses, *of_others),
            ..Parts::default()
        },
        Event::Change {
            origin,
            what,
            detail,
        } => Parts {
            event: ("change", Style::Strong),
            who: sender(origin),
            what: printable(&what.to_string()),
            why: match detail.is_null() {
                true => String::new(),
                false => printable(&detail.to_string()),
            },
            ..Parts::default()
        },
    };
    // A clock that nobody keeps may say anything.
    let doubt = if record.synchronised { ' ' } else { '?' };
    let time = format!("{}{doubt}", local_second(record.time));
    parts.line(&time, terminal)
}

/// What a line shows, none of which steers the terminal.
struct Parts {
    event: (&'static str, Style),
    who: String,
    what: String,
    why: String,
    id: String,
    /// In words, at the end.
    detail: Option<String>,
}

impl Default for Parts {
    fn default() -> Parts {
        Parts {
            event: ("", Style::Quiet),
            who: String::new(),
            what: String::new(),
            why: String::new(),
            id: String::new(),
            detail: None,
        }
    }
}

impl Parts {
    fn line(&self, time: &str, terminal: Terminal) -> String {
        let (event, style) = self.event;
        let time = terminal.paint(Style::Quiet, time);
        let event = terminal.paint(style, &padded(event, EVENT));
        let (who, what) = (padded(&self.who, WHO), padded(&self.what, WHAT));
        let id = terminal.paint(Style::Quiet, &self.id);
        let rest = [self.why.as_str(), id.as_str()];
        let rest: Vec<&str> = rest.into_iter().filter(|part| !part.is_empty()).collect();
        let line = format!("{time} {event} {who} {what} {}", rest.join(" "));
        match &self.detail {
            Some(detail) => format!("{}: {detail}", line.trim_end()),
            None => line.trim_end().to_owned(),
        }
    }
}

fn padded(text: &str, width: usize) -> String {
    let missing = width.saturating_sub(columns(text));
    format!("{text}{}", " ".repeat(missing))
}

fn decision(verdict: Verdict) -> (&'static str, Style) {
    match verdict {
        Verdict::Permit => ("permit", Style::Good),
        Verdict::Deny => ("refuse", Style::Bad),
    }
}

fn of_access(access: &Access) -> Parts {
    let names = [&access.username, &access.subject, &access.client];
    let who = names_of(names, || sender(&access.origin));
    let place = place(&access.realm, &access.endpoint);
    let why = match access.decision {
        Verdict::Permit => access.prompt_tokens.map(|n| count(n.into(), "token")),
        Verdict::Deny => Some(because(access.reason)),
    };
    Parts {
        event: decision(access.decision),
        who,
        what: asked(&access.action, place, access.origin.transport()),
        why: why.unwrap_or_default(),
        id: id(&access.request_id),
        detail: access.detail.as_deref().map(printable),
    }
}

fn of_finish(finished: &Finished) -> Parts {
    let tokens = count(finished.usage.completion_tokens.into(), "token");
    let style = match finished.finish {
        Finish::Stop | Finish::Length => Style::Quiet,
        Finish::Cancelled | Finish::Deadline | Finish::Shutdown => Style::Warning,
        Finish::Revoked(_) | Finish::Failed => Style::Bad,
    };
    let reason = finished.finish.reason();
    let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
    Parts {
        event: ("finish", style),
        who: format!("{}{reason}", finished.finish.as_str()),
        what: tokens,
        why: format!("in {}", span(finished.total_ms)),
        id: id(&finished.request_id),
        detail: None,
    }
}

/// `812 ms`, `25.2 s`.
fn span(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        _ => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
    }
}

fn of_summary(summary: &Summary) -> Parts {
    let names = [&summary.username, &summary.subject, &summary.client];
    let who = names_of(names, || match summary.uid {
        Some(uid) => format!("uid:{uid}"),
        None => "nobody known".to_owned(),
    });
    let reason = summary.reason.map(|reason| format!("{reason}, "));
    let place = place(&summary.realm, &None);
    Parts {
        event: decision(summary.decision),
        who,
        what: asked(&summary.action, place, &summary.transport),
        why: format!(
            "{}{} since {}",
            reason.unwrap_or_default(),
            times(summary.count),
            local_second(summary.first)
        ),
        ..Parts::default()
    }
}

fn times(number: u64) -> String {
    format!("{} more", count(number, "time"))
}

fn because(reason: Option<Reason>) -> String {
    reason.map_or("?", Reason::as_str).to_owned()
}

/// Username, subject and client, where a token or a group has named them.
fn names_of(names: [&Option<String>; 3], else_: impl FnOnce() -> String) -> String {
    let [username, subject, client] = names;
    let username = username.as_ref().map(|name| name_of(name, NAME));
    let subject = subject.as_ref().map(|name| match is_uuid(name) {
        true => name_of(name, UUID),
        false => name_of(name, NAME),
    });
    let client = client.as_ref().map(|name| name_of(name, NAME));
    let names: Vec<String> = [username, subject, client].into_iter().flatten().collect();
    match names.is_empty() {
        true => else_(),
        false => names.join(" "),
    }
}

/// A name as it can be told from the words around it: cut with `…`, by which a filter finds it.
fn name_of(name: &str, most: usize) -> String {
    let shown = match name.chars().count() > most {
        true => name.chars().take(most).chain(['…']).collect(),
        false => name.to_owned(),
    };
    let shown = printable(&shown);
    match shown.is_empty() || shown.contains(|c: char| c.is_whitespace() || c == '"') {
        true => format!("\"{}\"", shown.replace('"', "\\\"")),
        false => shown,
    }
}

fn is_uuid(name: &str) -> bool {
    let hex = |part: &str| part.bytes().all(|b| b.is_ascii_hexdigit());
    let lengths = name.split('-').map(str::len);
    lengths.eq([8, 4, 4, 4, 12]) && name.split('-').all(hex)
}

/// Who came without a name.
fn sender(origin: &Origin) -> String {
    match origin {
        Origin::Socket { uid, .. } | Origin::Admin { uid, .. } => format!("uid:{uid}"),
        Origin::Tcp { peer, .. } => peer.to_string(),
        // Its end tells most.
        Origin::Mqtt { topic } => {
            let surplus = topic.chars().count().saturating_sub(WHO);
            let end: String = topic
                .chars()
                .skip(surplus + usize::from(surplus > 0))
                .collect();
            let cut = if surplus > 0 { "…" } else { "" };
            printable(&format!("{cut}{end}"))
        }
        Origin::Daemon => "the daemon".to_owned(),
    }
}

/// `chat dev/slm mqtt`.
fn asked(action: &str, place: String, transport: &str) -> String {
    let parts = [printable(action), place, printable(transport)];
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join(" ")
}

fn place(realm: &Option<String>, endpoint: &Option<String>) -> String {
    let names = [realm, endpoint].into_iter().flatten();
    let names: Vec<String> = names.map(|name| name_of(name, NAME)).collect();
    names.join("/")
}

/// Ours; what the client called it finds it, too.
fn id(id: &RequestId) -> String {
    let own = id.as_str();
    let short = match own.chars().count() > ID {
        true => own.chars().take(ID).chain(['…']).collect(),
        false => own.to_owned(),
    };
    printable(&short)
}

fn truncated(first_index: u64, removed: u64, losses: &[Loss], of_others: u64) -> String {
    let records = count(removed, "old record");
    let mut text = format!("{records} removed; the log begins at {first_index}");
    for loss in losses {
        let Loss {
            from, to, removed, ..
        } = loss;
        let names = names_of([&None, &loss.subject, &loss.client], String::new);
        let space = if names.is_empty() { "" } else { " " };
        let whose = loss.whose.as_str();
        text.push_str(&format!(
            "; {removed} of {whose}{space}{names} from {from} to {to}"
        ));
    }
    if of_others > 0 {
        text.push_str(&format!("; {of_others} of others"));
    }
    text
}

#[cfg(test)]
mod tests;
