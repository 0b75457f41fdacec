//! Where records and proofs come from: all of the daemon's by the admin socket, a realm's by a token,
//! or the state folder of a daemon that has stopped.

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::admin::{LeftOut, Operation, ShowSalt, route};
use crate::audit::{Filter, Log, MAX_PAGE, Reader, Start, Step, TextOf, Wanted};
use crate::cli::access::{Access, Asker};
use crate::cli::client::{self, Answer, Client, Problem, Shown};
use crate::cli::exit::{Exit, Failure};
use crate::cli::terminal::count;
use crate::cli::{Global, offline};
use crate::digest::percent_encoded;
use crate::reason::{Reason, RefuseReason};
use crate::telemetry::Registry;

/// Who asks too fast by a token waits so long, at most so often.
const SLOWER: Duration = Duration::from_secs(1);
const PATIENCE: u32 = 120;

/// Between looks for new records by a token.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

pub(super) enum Source {
    Daemon(Client),
    Folder(Log),
    Token(Asker),
}

/// Which records, oldest first.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) from: u64,
    /// The first index that isn't shown.
    pub(super) before: Option<u64>,
    pub(super) follow: bool,
    pub(super) filter: Filter,
}

/// A record's place, which every release writes alike.
#[derive(Deserialize)]
struct Placed {
    index: u64,
}

#[derive(Deserialize)]
struct Listed<'a> {
    #[serde(borrow)]
    data: Vec<&'a RawValue>,
    has_more: bool,
    next: Option<u64>,
}

impl Source {
    /// Who shows a token sees what that allows; root and the daemon's user see all without one.
    pub(super) fn open(access: &Access, global: &Global) -> Result<Source, Failure> {
        if access.shows_token() {
            return access.open(global).map(Source::Token);
        }
        let admin = global.admin()?;
        match admin.call(route::STATUS) {
            Ok(_) => Ok(Source::Daemon(admin)),
            Err(Problem::Down(_)) => Ok(Source::Folder(folder(global)?)),
            Err(Problem::Denied(_)) => access.open(global).map(Source::Token),
            Err(problem) => Err(problem.into()),
        }
    }

    /// What no token shows. `closed`: whom it is for.
    pub(super) fn whole(global: &Global, closed: &str) -> Result<Source, Failure> {
        let admin = global.admin()?;
        match admin.call(route::STATUS) {
            Ok(_) => Ok(Source::Daemon(admin)),
            Err(Problem::Down(_)) => Ok(Source::Folder(folder(global)?)),
            Err(Problem::Denied(denied)) => Err(Failure::new(denied.exit, closed)),
            Err(problem) => Err(problem.into()),
        }
    }

    pub(super) fn is_of_realm(&self) -> bool {
        matches!(self, Source::Token(_))
    }

    /// Each record that is asked for, as its exact bytes, until `take` has enough (`false`).
    pub(super) fn each(
        &self,
        asked: &Asked,
        mut take: impl FnMut(&str) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        match self {
            Source::Daemon(admin) => of_daemon(admin, asked, take),
            Source::Folder(log) => of_folder(log, asked, take),
            Source::Token(asker) => of_token(asker, asked, &mut take),
        }
    }

    /// The record with this index.
    pub(super) fn line(&self, index: u64) -> Result<String, Failure> {
        let mut found = None;
        let asked = Asked {
            from: index,
            before: Some(index.saturating_add(1)),
            ..Asked::default()
        };
        self.each(&asked, |line| {
            found = Some(line.to_owned());
            Ok(false)
        })?;
        found.ok_or_else(|| {
            let whose = match self.is_of_realm() {
                true => ", or it isn't for this token to see",
                false => "",
            };
            Failure::failed(format!("the log has no record {index}{whose}"))
        })
    }

    /// The salt of an access' hash; that it was shown is recorded.
    pub(super) fn salt(&self, index: u64) -> Result<[u8; 16], Failure> {
        match self {
            Source::Daemon(admin) => {
                let body = client::body(&ShowSalt { index })?;
                Ok(admin.call_with(route::SHOW_SALT, "", body)?.salt)
            }
            Source::Folder(log) => {
                let now = log.clocks().now();
                let shown = log.show_salt(index, offline::origin(), now);
                Ok(shown.map_err(Failure::failed)?.salt)
            }
            Source::Token(_) => {
                let what = "no token shows the salt of a hash";
                Err(Failure::new(Exit::Refused, what))
            }
        }
    }

    /// The encrypted text of a record, where it is kept; not for a token.
    pub(super) fn text(&self, index: u64) -> Result<Option<Vec<u8>>, Failure> {
        match self {
            Source::Daemon(admin) => Ok(admin.text(&TextOf::Record(index))?),
            Source::Folder(log) => {
                let text = log.text(index).map_err(Failure::failed)?;
                Ok(text.map(|text| text.file))
            }
            Source::Token(_) => Ok(None),
        }
    }

    /// A proof of the record with this index, as a file.
    pub(super) fn proof(&self, index: u64) -> Result<String, Problem> {
        match self {
            Source::Daemon(admin) => {
                let path = format!("{}?index={index}", Operation::Proof.path(""));
                Ok(admin.get(&path)?.text()?)
            }
            Source::Token(asker) => {
                let path = format!("/v1/audit/proof/{index}");
                Ok(patiently(asker, &path)?.text()?)
            }
            Source::Folder(log) => {
                let signed = log.checkpoint_over(index, log.clocks().now());
                let proof = log.proof(index, &*signed.map_err(Failure::failed)?);
                Ok(proof.map_err(Failure::failed)?.to_string())
            }
        }
    }

    /// The newest checkpoint; `now`: one that is signed now.
    pub(super) fn checkpoint(&self, now: bool) -> Result<String, Failure> {
        let answer = match self {
            Source::Daemon(admin) if now => {
                let path = Operation::Sign.path("");
                admin.send("POST", &path, &Shown::Nothing, Vec::new())
            }
            Source::Daemon(admin) => admin.get(&Operation::Checkpoint.path("")),
            Source::Token(_) if now => {
                let what = "only who administers the device has it sign a checkpoint now";
                return Err(Failure::new(Exit::Refused, what));
            }
            Source::Token(asker) => patiently(asker, "/v1/audit/checkpoint"),
            Source::Folder(log) => {
                let newest = log.shown().filter(|_| !now);
                let sign = || log.sign_now(log.clocks().now());
                let signed = newest.map_or_else(sign, Ok).map_err(Failure::failed)?;
                return Ok(signed.note.clone());
            }
        };
        answer?.text()
    }
}

/// The log of a daemon that has stopped, with what its witnesses have cosigned.
fn folder(global: &Global) -> Result<Log, Failure> {
    let config = global.load()?;
    let state = offline::open(&config)?;
    let witnesses = state.witnesses(&config, &mut Registry::default());
    witnesses.map_err(Failure::failed)?;
    Ok(state.log)
}

/// Where a record stands.
pub(super) fn index_of(line: &str) -> Result<u64, Failure> {
    let placed: Result<Placed, _> = serde_json::from_str(line);
    placed.map(|placed| placed.index).map_err(Failure::failed)
}

/// What of a newer release couldn't be judged.
pub(super) fn tell_left_out(left_out: u64) {
    if left_out > 0 {
        eprintln!(
            "slmd: {} of a newer release left out",
            count(left_out, "record")
        );
    }
}

fn pairs(filter: &Filter) -> String {
    let pairs = filter.pairs().into_iter();
    let pairs = pairs.map(|(name, value)| format!("&{name}={}", percent_encoded(&value)));
    pairs.collect()
}

fn of_daemon(
    admin: &Client,
    asked: &Asked,
    mut take: impl FnMut(&str) -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let mut query = format!("from={}&follow={}", asked.from, asked.follow);
    if let Some(before) = asked.before.filter(|_| !asked.follow) {
        query.push_str(&format!("&before={before}"));
    }
    query.push_str(&pairs(&asked.filter));
    for line in admin.audit(&query)?.lines() {
        let line = line?;
        if let Ok(LeftOut { left_out }) = serde_json::from_str(&line) {
            tell_left_out(left_out);
        } else if !line.is_empty() && !take(&line)? {
            break;
        }
    }
    Ok(())
}

fn of_folder(
    log: &Log,
    asked: &Asked,
    mut take: impl FnMut(&str) -> Result<bool, Failure>,
) -> Result<(), Failure> {
    if asked.follow {
        let what = "no daemon runs, so nothing new will come";
        return Err(Failure::new(Exit::Unreachable, what));
    }
    let end = log.next_index();
    let wanted = Wanted {
        start: Start::At(asked.from),
        before: asked.before.unwrap_or(end).min(end),
        follow: false,
        limit: u64::MAX,
        filter: asked.filter.clone(),
    };
    let mut reader = Reader::new(log.clone(), wanted);
    loop {
        match reader.step().map_err(Failure::failed)? {
            Step::Lines(lines) => {
                for line in &lines {
                    if !take(&String::from_utf8_lossy(&line.json))? {
                        return Ok(());
                    }
                }
            }
            Step::Searching => {}
            Step::Wait(_) | Step::End => {
                tell_left_out(reader.left_out());
                return Ok(());
            }
        }
    }
}

fn of_token(
    asker: &Asker,
    asked: &Asked,
    take: &mut impl FnMut(&str) -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let filter = pairs(&asked.filter);
    let mut from = asked.from;
    loop {
        let path = format!("/v1/audit?from={from}&limit={MAX_PAGE}{filter}");
        let text = patiently(asker, &path)?.text()?;
        let listed: Listed<'_> = serde_json::from_str(&text)
            .map_err(|e| Failure::failed(format!("the daemon's answer can't be read: {e}")))?;
        for line in listed.data {
            let line = line.get();
            let is_beyond = |before| index_of(line).map(|index| index >= before);
            if asked.before.map_or(Ok(false), is_beyond)? || !take(line)? {
                return Ok(());
            }
        }
        let reached = |before: u64| listed.next.is_some_and(|next| next >= before);
        if asked.before.is_some_and(reached) {
            return Ok(());
        }
        match (listed.next, listed.has_more) {
            (Some(next), true) => from = next,
            (Some(next), false) if asked.follow => {
                from = next;
                std::thread::sleep(LOOK_AGAIN);
            }
            _ => return Ok(()),
        }
    }
}

/// Each principal has so many requests a minute; whoever wants more comes a little later.
fn patiently(asker: &Asker, path: &str) -> Result<Answer, Problem> {
    let mut waited = 0;
    loop {
        match asker.send("GET", path, Vec::new()) {
            Err(Problem::Refused(Some(Reason::Refused(RefuseReason::RateLimitExceeded)), _))
                if waited < PATIENCE =>
            {
                waited += 1;
                std::thread::sleep(SLOWER);
            }
            Err(problem @ Problem::Refused(Some(Reason::Refused(_)), _)) => return Err(problem),
            Err(problem) => return Err(Problem::Other(asker.explain(problem, None))),
            answer => return answer,
        }
    }
}
