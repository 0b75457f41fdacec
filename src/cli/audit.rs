//! `slmd audit`: the record of every decision, for people or as JSON lines.

use clap::{Args, Subcommand};

use super::client::{Client, Problem};
use super::exit::{Done, Failure};
use super::{Global, offline, output};
use crate::admin::route;
use crate::audit::{Access, Event, Finished, Loss, Record, Summary, Verdict};
use crate::prompt::Origin;

/// Records read at once.
const PAGE: usize = 256;

/// Read the audit log.
#[derive(Debug, Subcommand)]
pub(super) enum Audit {
    Tail(Tail),
}

/// Show the last records: who asked for what, the decision and its reason, how it ended.
#[derive(Debug, Args)]
#[command(after_help = "\
With --json each record is one line of JSON. Prompts and answers are not in the log, only their
hashes.

Examples:
  slmd audit tail
  slmd audit tail -f
  slmd audit tail -n 1000 --json | jq 'select(.decision == \"deny\")'")]
pub(super) struct Tail {
    /// Go on with new records as they come, until Ctrl-C.
    #[arg(short, long)]
    follow: bool,
    /// How many of the last records.
    #[arg(short = 'n', long, default_value_t = 20, value_name = "N")]
    lines: u64,
}

/// It names who asked for what, so the public socket doesn't show it.
const CLOSED: &str = "the audit log is for root and the daemon's user (sudo slmd audit tail); a token \
    with the role audit gives counts and health over TCP, GET /metrics and /readyz?verbose, but no \
    records";

impl Audit {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let Audit::Tail(tail) = self;
        let admin = global.admin()?;
        match admin.call(route::STATUS) {
            Ok(status) => tail.online(global, &admin, status.audit.next_index),
            Err(Problem::Down(failure)) if tail.follow => Err(failure),
            Err(Problem::Down(_)) => tail.offline(global),
            Err(Problem::Denied(denied)) => Err(Failure::new(denied.exit, CLOSED)),
            Err(problem) => Err(problem.into()),
        }
    }
}

impl Tail {
    /// The use of the admin socket is itself a record, which comes at `next` or after.
    fn online(&self, global: &Global, admin: &Client, next: u64) -> Done {
        let count = self.lines;
        let query = match self.follow {
            true => format!("last={count}&follow=true"),
            false => format!("last={count}&before={next}"),
        };
        for line in admin.audit(&query)?.lines() {
            show(global, &line?)?;
        }
        Ok(())
    }

    fn offline(&self, global: &Global) -> Done {
        let state = offline::open(&global.load()?)?;
        let next = state.log.next_index();
        let mut from = state.log.last(self.lines, next).map_err(Failure::failed)?;
        while from < next {
            let records = state.log.read(from, PAGE).map_err(Failure::failed)?;
            let Some(last) = records.last().map(|record| record.index) else {
                break;
            };
            for record in &records {
                show(global, &String::from_utf8_lossy(&record.json))?;
            }
            from = last + 1;
        }
        Ok(())
    }
}

fn show(global: &Global, line: &str) -> Done {
    if global.json || line.is_empty() {
        return output::line(line);
    }
    output::line(&describe(line))
}

/// A record as one line for people; what this version doesn't know is shown as it is.
pub(super) fn describe(line: &str) -> String {
    let Ok(record) = serde_json::from_str::<Record>(line) else {
        return output::printable(line);
    };
    let what = match &record.event {
        Event::Access(access) => access_line(access),
        Event::Finish(finished) => finish_line(finished),
        Event::RefusalsSummary {
            transport,
            reason,
            count,
            since,
        } => {
            format!("{count} more refusals: {reason} over {transport} since {since}")
        }
        Event::AccessesSummary(summary) => summary_line(summary),
        Event::Truncated {
            first_index,
            removed,
            losses,
            of_others,
        } => truncated_line(*first_index, *removed, losses, *of_others),
        Event::Change {
            origin,
            what,
            detail,
        } => {
            let detail = if detail.is_null() {
                String::new()
            } else {
                format!(" {detail}")
            };
            format!("{what}{detail} by {}", origin_text(origin))
        }
    };
    let clock = if record.synchronised {
        ""
    } else {
        " (clock unsynchronised)"
    };
    output::printable(&format!(
        "{:>6} {}{clock} {what}",
        record.index, record.time
    ))
}

fn access_line(access: &Access) -> String {
    let decision = match access.decision {
        Verdict::Permit => "PERMIT".to_owned(),
        Verdict::Deny => {
            let reason = access.reason.map_or("?", |reason| reason.as_str());
            format!("DENY {reason}")
        }
    };
    let mut text = format!("{decision} {}", access.action);
    let mut add = |label: &str, value: &Option<String>| {
        if let Some(value) = value {
            text.push_str(&format!(" {label}={value}"));
        }
    };
    add("realm", &access.realm);
    add("endpoint", &access.endpoint);
    add("client", &access.client);
    add("subject", &access.subject);
    if let Some(tokens) = access.prompt_tokens {
        text.push_str(&format!(" prompt_tokens={tokens}"));
    }
    let id = &access.request_id;
    let own = match id.echoed() == id.as_str() {
        true => String::new(),
        false => format!(" {:?}", id.echoed()),
    };
    let detail = access.detail.as_ref();
    let detail = detail.map_or_else(String::new, |detail| format!(": {detail}"));
    let origin = origin_text(&access.origin);
    format!("{text} from {origin} [{id}{own}]{detail}")
}

fn summary_line(summary: &Summary) -> String {
    let decision = match summary.reason {
        Some(reason) => format!("DENY {reason}"),
        None => "PERMIT".to_owned(),
    };
    let mut text = format!("{} more: {decision} {}", summary.count, summary.action);
    let names = [
        ("realm", &summary.realm),
        ("client", &summary.client),
        ("subject", &summary.subject),
    ];
    for (label, name) in names {
        if let Some(name) = name {
            text.push_str(&format!(" {label}={name}"));
        }
    }
    let by = summary
        .uid
        .map_or_else(String::new, |uid| format!(" (uid {uid})"));
    format!(
        "{text} over {}{by} from {} to {}",
        summary.transport, summary.first, summary.last
    )
}

fn truncated_line(first_index: u64, removed: u64, losses: &[Loss], of_others: u64) -> String {
    let mut text = format!("{removed} old records removed; the log begins at {first_index}");
    for loss in losses {
        let Loss {
            from, to, removed, ..
        } = loss;
        let named = |name: &Option<String>| name.as_ref().map(|name| format!(" {name}"));
        let client = named(&loss.client).unwrap_or_default();
        let subject = named(&loss.subject).unwrap_or_default();
        let whose = loss.whose.as_str();
        text.push_str(&format!(
            "; {removed} of {whose}{client}{subject} from {from} to {to}"
        ));
    }
    if of_others > 0 {
        text.push_str(&format!("; {of_others} of others"));
    }
    text
}

fn finish_line(finished: &Finished) -> String {
    let first = finished
        .first_token_ms
        .map_or_else(String::new, |ms| format!(", first token after {ms} ms"));
    format!(
        "finish {}: {} tokens in {} ms{first} [{}]",
        finished.finish.as_str(),
        finished.usage.completion_tokens,
        finished.total_ms,
        finished.request_id
    )
}

fn origin_text(origin: &Origin) -> String {
    match origin {
        Origin::Socket { uid, .. } => format!("socket (uid {uid})"),
        Origin::Tcp { peer, .. } => format!("tcp ({peer})"),
        Origin::Admin { uid, .. } => format!("admin (uid {uid})"),
        Origin::Mqtt { topic } => format!("mqtt ({topic})"),
        Origin::Daemon => "the daemon".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_and_gaps_are_told_in_words() {
        let head = r#""time":1800000000000,"synchronised":true,"boot_id":"b""#;
        for (record, words) in [
            (
                r#""event":"accesses_summary","transport":"tcp","action":"list_models","decision":"permit","realm":"dev","issuer":"i","subject":"s","client":"c","count":7,"first":1800000000000,"last":1800000060000"#,
                "7 more: PERMIT list_models realm=dev client=c subject=s over tcp from 2027",
            ),
            (
                r#""event":"accesses_summary","transport":"admin","action":"status","decision":"permit","uid":0,"count":3,"first":1800000000000,"last":1800000060000"#,
                "3 more: PERMIT status over admin (uid 0) from 2027",
            ),
            (
                r#""event":"truncated","first_index":4,"removed":9,"losses":[{"whose":"principal","principal":"00000000000000ff","subject":"s","client":"c","from":5,"to":20,"removed":7}],"of_others":2"#,
                "9 old records removed; the log begins at 4; 7 of principal c s from 5 to 20; 2 of others",
            ),
            (
                r#""event":"truncated","first_index":4,"removed":9"#,
                "9 old records removed; the log begins at 4",
            ),
            (
                r#""event":"access","request_id":"req_1","client_request_id":"mine","origin":{"transport":"mqtt","topic":"t"},"action":"chat","decision":"permit""#,
                "PERMIT chat from mqtt (t) [req_1 \"mine\"]",
            ),
            (
                r#""event":"access","request_id":"req_1","origin":{"transport":"mqtt","topic":"t"},"action":"unread","decision":"deny","reason":"reply_topic_rejected","detail":"the request has no Response Topic""#,
                "DENY reply_topic_rejected unread from mqtt (t) [req_1]: the request has no Response Topic",
            ),
        ] {
            let line = format!(r#"{{"index":30,{head},{record}}}"#);
            let told = describe(&line);
            assert!(told.contains(words), "{told}");
        }
    }
}
