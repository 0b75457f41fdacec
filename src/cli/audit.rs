//! `slmd audit`: the record of every decision, for people or as JSON lines.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::client::{Client, Problem};
use super::exit::{Done, Failure};
use super::{Global, offline, output};
use crate::audit::{Access, Event, Finished, Record, Verdict};
use crate::prompt::Origin;

/// Records read at once.
const PAGE: usize = 500;

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

impl Audit {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let Audit::Tail(tail) = self;
        let admin = global.admin()?;
        match admin.get("/status") {
            Ok(answer) => tail.online(global, &admin, &answer.json()?),
            Err(Problem::Down(failure)) if tail.follow => Err(failure),
            Err(Problem::Down(_)) => tail.offline(global),
            Err(problem) => Err(problem.into()),
        }
    }
}

impl Tail {
    fn online(&self, global: &Global, admin: &Client, status: &Value) -> Done {
        // The use of the admin socket is itself a record, which comes after this index.
        let next = status["audit"]["next_index"].as_u64().unwrap_or(0);
        let mut from = next.saturating_sub(self.lines);
        if self.follow {
            // Without a limit, which would end it.
            let path = format!("/audit?from={from}&follow=true");
            for line in admin.get(&path)?.lines() {
                show(global, &line?)?;
            }
            return Ok(());
        }
        while from < next {
            let limit = (next - from).min(PAGE as u64);
            let lines = admin
                .get(&format!("/audit?from={from}&limit={limit}"))?
                .lines();
            let lines = lines.collect::<Result<Vec<_>, _>>()?;
            let Some(last) = lines.iter().rev().find_map(|line| index(line)) else {
                break;
            };
            lines.iter().try_for_each(|line| show(global, line))?;
            from = last + 1;
        }
        Ok(())
    }

    fn offline(&self, global: &Global) -> Done {
        let state = offline::open(&global.load()?)?;
        let next = state.log.next_index();
        let mut from = next.saturating_sub(self.lines);
        while from < next {
            let records = state.log.read(from, PAGE).map_err(Failure::failed)?;
            let Some(last) = records.last().map(|record| record.index) else {
                break;
            };
            for record in &records {
                let line = serde_json::to_string(record).map_err(Failure::failed)?;
                show(global, &line)?;
            }
            from = last + 1;
        }
        Ok(())
    }
}

fn index(line: &str) -> Option<u64> {
    serde_json::from_str::<Value>(line).ok()?["index"].as_u64()
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
        Event::Truncated {
            first_index,
            removed,
        } => {
            format!("{removed} old records removed; the log begins at {first_index}")
        }
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
    format!(
        "{text} from {} [{}]",
        origin_text(&access.origin),
        access.request_id
    )
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
