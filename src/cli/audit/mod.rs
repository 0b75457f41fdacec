//! `slmd audit`: the record of every decision, for people or as JSON lines.

mod line;
mod since;
mod text;

use std::io::IsTerminal;

use clap::{Args, Subcommand};

use self::since::Since;
use super::client::{Client, Problem};
use super::exit::{Done, Exit, Failure};
use super::terminal::{Style, Terminal, count};
use super::{Global, offline, output};
use crate::admin::{LeftOut, route};
use crate::audit::{Filter, MAX_LAST, Reader, Start, Step, Unfit, Wanted};
use crate::sys;
use crate::time::{Clocks, Timestamp};
pub(super) use line::describe;

/// Read the audit log.
#[derive(Debug, Subcommand)]
pub(super) enum Audit {
    Tail(Tail),
    Text(text::Text),
}

/// Show the last records: who asked for what, the decision and its reason, how it ended.
#[derive(Debug, Args)]
#[command(after_help = "\
A line is: time, decision or event, user and client (or where it came from), operation with
realm/endpoint and transport, reason or size, request. Times are this machine's (TZ sets the
zone); a ? after one: the clock wasn't synchronised. Long names end in …, and so they can be
given here: that finds all that begin so. With --json each record is one line of JSON, whole, its
times in milliseconds since 1970. Prompts and answers are not in the log, only their hashes.

Of several filters all must hold. A finish is shown where its access matches. What is nobody's
request (starts, changes of keys, removed records) is shown without filters and with --since
alone; what an administrator did also with --user, refusals that were only counted with
--decision. Records of a newer release, which this one can't read, are left out and counted where
anything but --since is asked for.

Examples:
  slmd audit tail
  slmd audit tail -f --decision refuse
  slmd audit tail --since 2h --client web-app
  slmd audit tail -n 1000 --json | jq 'select(.decision == \"deny\")'")]
pub(super) struct Tail {
    /// Go on with new records as they come, until Ctrl-C.
    #[arg(short, long)]
    follow: bool,
    /// How many of the last records, of those that match.
    #[arg(short = 'n', long, default_value_t = 20, value_name = "N")]
    lines: u64,
    /// Nothing older: 10m, 2h or 3d, a date, or a time (RFC 3339; in this machine's zone where it
    /// names none).
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Since>,
    /// Of this client: the token's azp.
    #[arg(long, value_name = "NAME", value_parser = name)]
    client: Option<String>,
    /// Of this user: the token's sub or preferred_username (as far as the realm has it recorded), or a
    /// user of this machine (uid:N for a number).
    #[arg(long, value_name = "NAME", value_parser = name)]
    user: Option<String>,
    /// Decided so: permit, refuse, or the name of a reason, such as expired.
    #[arg(long, value_name = "DECISION", value_parser = decision)]
    decision: Option<String>,
    /// Of this request: its id, or the beginning (req_…), or the id that the client gave it.
    #[arg(long, value_name = "ID", value_parser = request)]
    request: Option<String>,
}

/// It names who asked for what, so the public socket doesn't show it.
const CLOSED: &str = "the audit log is for root and the daemon's user (sudo slmd audit tail); a token \
    with the role audit gives counts and health over TCP, GET /metrics and /readyz?verbose, but no \
    records";

/// Before a number in place of a name.
const UID: &str = "uid:";

impl Audit {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let tail = match self {
            Audit::Tail(tail) => tail,
            Audit::Text(text) => return text.execute(global),
        };
        let filter = tail.filter(Clocks::default().now())?;
        let show = Show::new(global);
        let admin = global.admin()?;
        match admin.call(route::STATUS) {
            Ok(status) => tail.online(&show, &admin, &filter, status.audit.next_index),
            Err(Problem::Down(failure)) if tail.follow => Err(failure),
            Err(Problem::Down(_)) => tail.offline(&show, global, filter),
            Err(Problem::Denied(denied)) => Err(Failure::new(denied.exit, CLOSED)),
            Err(problem) => Err(problem.into()),
        }
    }
}

impl Tail {
    fn filter(&self, now: Timestamp) -> Result<Filter, Failure> {
        let usage = |what: String| Failure::new(Exit::Usage, what);
        let uid = self.user.as_deref().map_or(Ok(None), uid_of)?;
        let asked = [
            ("since", self.since.map(|since| since.at(now).to_string())),
            ("client", self.client.clone()),
            ("user", self.user.clone()),
            ("uid", uid.map(|uid| uid.to_string())),
            ("decision", self.decision.clone()),
            ("request", self.request.clone()),
        ];
        let mut filter = Filter::default();
        for (name, value) in asked {
            if let Some(value) = value {
                let set = filter.set(name, &value);
                set.map_err(|unfit| usage(format!("--{name}: {unfit}")))?;
            }
        }
        if self.lines > MAX_LAST && !filter.is_empty() {
            let what = format!("with a filter, -n is at most {MAX_LAST}");
            return Err(usage(what));
        }
        Ok(filter)
    }

    /// The use of the admin socket is itself a record, which comes at `next` or after.
    fn online(&self, show: &Show, admin: &Client, filter: &Filter, next: u64) -> Done {
        let count = self.lines;
        let mut query = match self.follow {
            true => format!("last={count}&follow=true"),
            false => format!("last={count}&before={next}"),
        };
        for (name, value) in filter.pairs() {
            query.push_str(&format!(
                "&{name}={}",
                crate::digest::percent_encoded(&value)
            ));
        }
        for line in admin.audit(&query)?.lines() {
            show.line(&line?)?;
        }
        Ok(())
    }

    fn offline(&self, show: &Show, global: &Global, filter: Filter) -> Done {
        let log = offline::open(&global.load()?)?.log;
        let wanted = Wanted {
            start: Start::Last(self.lines),
            before: log.next_index(),
            follow: false,
            limit: u64::MAX,
            filter,
        };
        let mut reader = Reader::new(log, wanted);
        loop {
            match reader.step().map_err(Failure::failed)? {
                Step::Lines(records) => {
                    for record in &records {
                        show.line(&String::from_utf8_lossy(&record.json))?;
                    }
                }
                Step::Searching => {}
                Step::Wait(_) | Step::End => return show.left_out(reader.left_out()),
            }
        }
    }
}

/// How records are shown.
struct Show {
    json: bool,
    terminal: Terminal,
    /// Lines that are too long are broken between words only where somebody looks at them.
    fit: bool,
}

impl Show {
    fn new(global: &Global) -> Show {
        Show {
            json: global.json,
            terminal: Terminal::stdout(),
            fit: std::io::stdout().is_terminal(),
        }
    }

    fn line(&self, line: &str) -> Done {
        if line.is_empty() {
            // The daemon's sign of life.
            return Ok(());
        }
        if let Ok(LeftOut { left_out }) = serde_json::from_str(line) {
            return self.left_out(left_out);
        }
        if self.json {
            return output::json_line(line);
        }
        let told = describe(line, self.terminal);
        match self.fit {
            true => self
                .terminal
                .fit(&told, 2)
                .iter()
                .try_for_each(|part| output::line(part)),
            false => output::line(&told),
        }
    }

    /// Where the records are for a script, people are told beside them.
    fn left_out(&self, left_out: u64) -> Done {
        let told = format!("{} of a newer release left out", count(left_out, "record"));
        match left_out {
            0 => Ok(()),
            _ if self.json => {
                eprintln!("slmd: {told}");
                Ok(())
            }
            _ => output::line(&self.terminal.paint(Style::Quiet, &told)),
        }
    }
}

/// The local user of a name, where this machine has one.
fn uid_of(name: &str) -> Result<Option<u32>, Failure> {
    match name.strip_prefix(UID).map(str::parse) {
        Some(Ok(uid)) => Ok(Some(uid)),
        // Where nobody can be asked, tokens still can be looked for.
        _ => Ok(sys::user(name).ok().flatten()),
    }
}

fn since(text: &str) -> Result<Since, String> {
    since::parse(text, sys::of_local)
}

fn name(text: &str) -> Result<String, Unfit> {
    fits("client", text)
}

fn decision(text: &str) -> Result<String, Unfit> {
    fits("decision", text)
}

fn request(text: &str) -> Result<String, Unfit> {
    fits("request", text)
}

/// What is wrong is said before anything is asked.
fn fits(filter: &str, text: &str) -> Result<String, Unfit> {
    Filter::default().set(filter, text)?;
    Ok(text.to_owned())
}
