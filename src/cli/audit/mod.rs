//! `slmd audit`: the record of every decision, for people or as JSON lines.

mod export;
mod filters;
mod forget;
mod line;
mod prove;
mod replay;
mod search;
mod show;
mod since;
mod source;
mod text;
mod texts;
mod verify;

use clap::{Args, Subcommand};

use self::filters::Filters;
use self::show::Show;
use super::client::{Client, Problem};
use super::exit::{Done, Exit, Failure};
use super::{Global, offline};
use crate::admin::route;
use crate::audit::{Filter, MAX_LAST, Reader, Start, Step, Wanted};
use crate::time::{Clocks, Timestamp};
pub(super) use line::describe;

/// Read the audit log, and prove what it says.
#[derive(Debug, Subcommand)]
pub(super) enum Audit {
    Tail(Tail),
    Show(show::ShowOne),
    Search(search::Search),
    Export(export::Export),
    Prove(prove::Prove),
    CheckProof(prove::CheckProof),
    Checkpoint(prove::PrintCheckpoint),
    Forget(forget::Forget),
    Text(text::Text),
    Replay(replay::Replay),
    Verify(verify::Verify),
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
    #[command(flatten)]
    filters: Filters,
}

/// The public socket shows no more than a realm's.
const CLOSED: &str = "this is for root and the daemon's user (sudo slmd audit tail); with a token that \
    has the role audit, slmd audit search and slmd audit export show the records of its realm";

impl Audit {
    pub(super) fn execute(&self, global: &Global) -> Done {
        match self {
            Audit::Tail(tail) => tail.execute(global),
            Audit::Show(command) => command.execute(global),
            Audit::Search(command) => command.execute(global),
            Audit::Export(command) => command.execute(global),
            Audit::Prove(command) => command.execute(global),
            Audit::CheckProof(command) => command.execute(global),
            Audit::Checkpoint(command) => command.execute(global),
            Audit::Forget(command) => command.execute(global),
            Audit::Text(command) => command.execute(global),
            Audit::Replay(command) => command.execute(global),
            Audit::Verify(command) => command.execute(global),
        }
    }
}

impl Tail {
    fn execute(&self, global: &Global) -> Done {
        let filter = self.filter(Clocks::default().now())?;
        let show = Show::new(global);
        let admin = global.admin()?;
        match admin.call(route::STATUS) {
            Ok(status) => self.online(&show, &admin, &filter, status.audit.next_index),
            Err(Problem::Down(failure)) if self.follow => Err(failure),
            Err(Problem::Down(_)) => self.offline(&show, global, filter),
            Err(Problem::Denied(denied)) => Err(Failure::new(denied.exit, CLOSED)),
            Err(problem) => Err(problem.into()),
        }
    }

    fn filter(&self, now: Timestamp) -> Result<Filter, Failure> {
        let filter = self.filters.filter(now)?;
        if self.lines > MAX_LAST && !filter.is_empty() {
            let what = format!("with a filter, -n is at most {MAX_LAST}");
            return Err(Failure::new(Exit::Usage, what));
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
