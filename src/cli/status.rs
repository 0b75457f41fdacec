//! `slmd status` and `slmd reload`.

mod news;
mod page;

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::exit::{Done, Failure};
use super::login::End;
use super::look::{self, Seen};
use super::terminal::Terminal;
use super::{Global, output, watch};
use crate::admin::{self, Problem, route};
use news::News;

/// Show whether the daemon is well: what is wrong, since when and what to do comes first, each with a
/// `!`; then realms with their keys, queue, model, broker, fleet, clock, audit and disk.
#[derive(Debug, Args)]
#[command(after_help = "\
Without root it shows what the public socket tells, and what that leaves out. On a terminal it is in
colour, unless NO_COLOR is set, and no wider than that.

It ends with 0 where the daemon answers, well or not (slmd status --json | jq -e .ready asks for that),
and with 4 where it doesn't. With --watch it goes on until Ctrl-C and then ends with 0: in place on a
terminal; elsewhere it prints a line for what has changed, with --json the whole status each time.

Examples:
  slmd status
  slmd status --watch
  slmd status --json | jq -r '.problems[].name'
  slmd status --watch >> problems.log")]
pub(super) struct Status {
    /// Show it anew every two seconds, until Ctrl-C; a daemon that restarts is waited for.
    #[arg(long)]
    watch: bool,
}

/// Check the configuration whole and put it in force; a broken file changes nothing.
#[derive(Debug, Args)]
#[command(
    after_help = "Prints which settings wait for a restart.\n\nExamples:\n  slmd config check && slmd reload"
)]
pub(super) struct Reload {}

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(2);
const LEFT_OUT: &str = "which leaves out listeners, certificate, memory, kernels, speed, counts of \
    requests, and how full disk and audit log are: root and the daemon's user see them (sudo slmd \
    status); counts are in /metrics too, over TCP for a token with the role audit";

impl Status {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let sockets = global.sockets()?;
        if self.watch {
            let look = move || Ok(look::status(&sockets)?);
            let draw = |look: &Look, terminal| match look {
                Ok(seen) => page::page(seen, End::of_this_user(), terminal),
                Err(failure) => page::silent(failure, terminal),
            };
            return watch::watch(PAUSE, look, draw, News::new(global.json));
        }
        let seen = look::status(&sockets)?;
        if global.json {
            seen.warn(LEFT_OUT);
            return output::show(global, &told(&seen.what, End::of_this_user()));
        }
        let page = page::page(&seen, End::of_this_user(), Terminal::stdout());
        page.iter().try_for_each(|text| output::line(text))
    }
}

/// One look at a daemon that may be gone.
type Look = Result<Seen<admin::Status>, Failure>;

impl Reload {
    pub(super) fn execute(&self, global: &Global) -> Done {
        output::show(global, &global.admin()?.call(route::RELOAD)?)
    }
}

/// The status with this user's own login beside it.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    status: &'a admin::Status,
    login: Option<Value>,
}

fn told(status: &admin::Status, login: Result<Option<End>, Failure>) -> Told<'_> {
    let login = login.unwrap_or_else(|failure| {
        eprintln!("slmd: {}", failure.message);
        None
    });
    let login = login.map(|end| end.json());
    Told { status, login }
}

/// As the daemon tells them; one of an earlier release doesn't.
fn problems(status: &admin::Status) -> Vec<Problem> {
    let told = status.problems.clone();
    told.unwrap_or_else(|| admin::problems(status))
}

#[cfg(test)]
mod tests;
