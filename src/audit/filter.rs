//! Which records somebody wants to see, judged by what they say and nothing else.
//!
//! A finish names nobody, so it goes with the access that it ends: a [`Matcher`] is shown the records
//! in their order and remembers whose are under way.

use std::collections::VecDeque;

use serde::Deserialize;

use super::record::{Access, Event, Finished, Line, Verdict};
use super::text::bound;
use crate::prompt::{Origin, RequestId};
use crate::reason::Reason;
use crate::spelling::nearest;
use crate::time::Timestamp;

/// No token that names somebody is longer.
const MAX_ASKED: usize = 16 * 1024;

/// Requests whose finish is waited for. More than can run at once: what a crash ended goes first.
const MAX_RUNNING: usize = 4096;

/// At the end of a name: what begins so. Lines for people cut long names like this.
const MORE: char = '…';

/// What our own ids begin with; they may be cut without [`MORE`].
const OWN_ID: &str = "req_";

/// What somebody asks for; all of it must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    since: Option<Timestamp>,
    client: Option<Name>,
    user: Option<Name>,
    /// Of the local user of that name.
    uid: Option<u32>,
    decision: Option<Judged>,
    request: Option<Name>,
}

/// Why a filter can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("it names nothing")]
    Empty,
    #[error("it is longer than {MAX_ASKED} bytes")]
    TooLong,
    #[error(
        "{0:?} is no decision; write permit, refuse, or the name of a reason as records have it, \
         such as expired"
    )]
    Unknown(String),
    #[error("{0:?} is no decision; did you mean {1}?")]
    Misspelt(String, &'static str),
    #[error("write a time in UTC like 2026-11-24T18:05:00.000Z")]
    NoTime,
    #[error("write a user's number")]
    NoUid,
    #[error("there is no such filter")]
    NoFilter,
}

/// A name as it was asked for, cut where records have it cut.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Name(String);

/// How an access was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judged {
    As(Verdict),
    For(Reason),
}

impl Filter {
    /// As a query names them.
    pub const NAMES: [&str; 6] = ["since", "client", "user", "uid", "decision", "request"];

    /// Asks for one thing more.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), Unfit> {
        match name {
            "since" => self.since = Some(value.parse().map_err(|()| Unfit::NoTime)?),
            "client" => self.client = Some(Name::new(value)?),
            "user" => self.user = Some(Name::new(value)?),
            "uid" => self.uid = Some(value.parse().map_err(|_| Unfit::NoUid)?),
            "decision" => self.decision = Some(Judged::new(value)?),
            "request" => self.request = Some(Name::new(value)?),
            _ => return Err(Unfit::NoFilter),
        }
        Ok(())
    }

    /// What [`Filter::set`] takes.
    pub fn pairs(&self) -> Vec<(&'static str, String)> {
        let name = |name: &Option<Name>| name.as_ref().map(|Name(text)| text.clone());
        let values = [
            self.since.map(|since| since.to_string()),
            name(&self.client),
            name(&self.user),
            self.uid.map(|uid| uid.to_string()),
            self.decision.map(|judged| judged.as_str().to_owned()),
            name(&self.request),
        ];
        let pairs = Filter::NAMES.into_iter().zip(values);
        pairs
            .filter_map(|(name, value)| Some((name, value?)))
            .collect()
    }

    pub fn is_empty(&self) -> bool {
        *self == Filter::default()
    }

    /// Whether it asks for more than a time: then the log's own records, such as starts, changes of
    /// keys and truncations, aren't meant.
    pub fn narrows(&self) -> bool {
        !self.asks_for_nobody() || self.decision.is_some()
    }

    /// Whether it is of whom is asked for. `names`: how a token calls the user.
    fn is_of(
        &self,
        client: Option<&String>,
        names: [Option<&String>; 2],
        uid: Option<u32>,
    ) -> bool {
        let is = |asked: &Name, name: Option<&String>| name.is_some_and(|name| asked.is(name));
        let by_client = self.client.as_ref().is_none_or(|asked| is(asked, client));
        by_client
            && match (&self.user, self.uid) {
                (None, None) => true,
                (user, asked) => {
                    let called = |user: &Name| names.into_iter().any(|name| is(user, name));
                    user.as_ref().is_some_and(called) || (asked.is_some() && asked == uid)
                }
            }
    }

    /// Whether at most a decision and a time are asked for.
    fn asks_for_nobody(&self) -> bool {
        self.is_anybodys() && self.request.is_none()
    }

    fn is_anybodys(&self) -> bool {
        self.client.is_none() && self.user.is_none() && self.uid.is_none()
    }

    fn is_request(&self, id: &RequestId) -> bool {
        self.request.as_ref().is_none_or(|asked| asked.is_id(id))
    }

    fn is_judged(&self, verdict: Verdict, reason: Option<Reason>) -> bool {
        match self.decision {
            None => true,
            Some(Judged::As(asked)) => asked == verdict,
            Some(Judged::For(asked)) => reason == Some(asked),
        }
    }
}

impl Name {
    fn new(text: &str) -> Result<Name, Unfit> {
        match text.len() {
            0 => Err(Unfit::Empty),
            1..=MAX_ASKED => {
                let mut name = text.to_owned();
                bound(&mut name);
                Ok(Name(name))
            }
            _ => Err(Unfit::TooLong),
        }
    }

    fn is(&self, recorded: &str) -> bool {
        let start = self.0.strip_suffix(MORE);
        self.0 == recorded || start.is_some_and(|start| recorded.starts_with(start))
    }

    fn is_id(&self, id: &RequestId) -> bool {
        let start = self.0.trim_end_matches(MORE);
        let begins = start.len() > OWN_ID.len() && start.starts_with(OWN_ID);
        let is_own = (begins && id.as_str().starts_with(start)) || self.is(id.as_str());
        let of_trace = || id.trace().is_some_and(|trace| self.is(&trace.to_string()));
        self.is(id.echoed()) || is_own || of_trace()
    }
}

impl Judged {
    /// Records say `deny`.
    const VERDICTS: [(&str, Verdict); 3] = [
        ("permit", Verdict::Permit),
        ("refuse", Verdict::Deny),
        ("deny", Verdict::Deny),
    ];

    fn new(text: &str) -> Result<Judged, Unfit> {
        let verdict = Judged::VERDICTS.iter().find(|(name, _)| *name == text);
        if let Some((_, verdict)) = verdict {
            return Ok(Judged::As(*verdict));
        }
        if let Some(reason) = Reason::parse(text) {
            return Ok(Judged::For(reason));
        }
        if text.len() > MAX_ASKED {
            return Err(Unfit::TooLong);
        }
        let verdicts = Judged::VERDICTS.iter().map(|(name, _)| *name);
        let known: Vec<&str> = verdicts.chain(Reason::all().map(Reason::as_str)).collect();
        // No name is nearly so long.
        let shown: String = text.chars().take(64).collect();
        Err(match nearest(&shown, &known) {
            Some(name) => Unfit::Misspelt(shown, name),
            None => Unfit::Unknown(shown),
        })
    }

    fn as_str(self) -> &'static str {
        match self {
            Judged::As(Verdict::Permit) => "permit",
            Judged::As(Verdict::Deny) => "refuse",
            Judged::For(reason) => reason.as_str(),
        }
    }
}

/// What becomes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    Shown,
    Hidden,
    /// A newer release wrote it, so nobody can tell.
    Unknown,
}

/// Judges records one after the other.
#[derive(Debug, Default)]
pub struct Matcher {
    filter: Filter,
    /// Permitted prompts of whom is asked for that haven't finished, oldest first.
    running: VecDeque<Running>,
}

#[derive(Debug)]
struct Running {
    id: String,
    /// The access itself is what is asked for.
    shown: bool,
}

impl Matcher {
    pub fn new(filter: Filter) -> Matcher {
        let running = VecDeque::new();
        Matcher { filter, running }
    }

    pub fn judge(&mut self, line: &Line) -> Fit {
        let Some(record) = line.record() else {
            return self.unread(line);
        };
        // Before the time, because what finishes later may have begun earlier.
        let fits = !self.filter.narrows() || self.fits(&record.event);
        match fits && self.is_recent(record.time) {
            true => Fit::Shown,
            false => Fit::Hidden,
        }
    }

    fn is_recent(&self, time: Timestamp) -> bool {
        self.filter.since.is_none_or(|since| time >= since)
    }

    /// Of a newer release: its time may be where it is today.
    fn unread(&self, line: &Line) -> Fit {
        #[derive(Deserialize)]
        struct Dated {
            time: Timestamp,
        }
        let dated = serde_json::from_slice::<Dated>(&line.json);
        if dated.is_ok_and(|dated| !self.is_recent(dated.time)) {
            return Fit::Hidden;
        }
        match self.filter.narrows() {
            true => Fit::Unknown,
            false => Fit::Shown,
        }
    }

    fn fits(&mut self, event: &Event) -> bool {
        let filter = &self.filter;
        match event {
            Event::Access(access) => self.access(access),
            Event::Finish(finished) => self.finish(finished),
            Event::AccessesSummary(summary) => {
                let names = [summary.subject.as_ref(), summary.username.as_ref()];
                filter.request.is_none()
                    && filter.is_of(summary.client.as_ref(), names, summary.uid)
                    && filter.is_judged(summary.decision, summary.reason)
            }
            Event::RefusalsSummary { reason, .. } => {
                filter.asks_for_nobody() && filter.is_judged(Verdict::Deny, Some(*reason))
            }
            Event::Change { origin, .. } => {
                let asks_for_more = filter.request.is_some() || filter.decision.is_some();
                !asks_for_more && filter.is_of(None, [None, None], uid(origin))
            }
            Event::Truncated { .. } => false,
        }
    }

    fn access(&mut self, access: &Access) -> bool {
        let filter = &self.filter;
        let names = [access.subject.as_ref(), access.username.as_ref()];
        if !filter.is_of(access.client.as_ref(), names, uid(&access.origin))
            || !filter.is_request(&access.request_id)
        {
            return false;
        }
        let shown = filter.is_judged(access.decision, access.reason);
        // Nothing else finishes.
        if access.decision == Verdict::Permit && access.prompt_hash.is_some() {
            if self.running.len() >= MAX_RUNNING {
                self.running.pop_front();
            }
            let id = access.request_id.as_str().to_owned();
            self.running.push_back(Running { id, shown });
        }
        shown
    }

    fn finish(&mut self, finished: &Finished) -> bool {
        let id = &finished.request_id;
        let place = self.running.iter().position(|r| r.id == id.as_str());
        let Some(access) = place.and_then(|place| self.running.remove(place)) else {
            // Its access may be gone from the log; its id is its own.
            let filter = &self.filter;
            let by_id = filter.is_anybodys() && filter.decision.is_none();
            return by_id && filter.is_request(id);
        };
        // A permission that was taken back has its reason only here.
        let reason = finished.finish.reason().map(Reason::Denied);
        access.shown
            || reason.is_some_and(|reason| self.filter.decision == Some(Judged::For(reason)))
    }
}

/// The local user that it came from.
fn uid(origin: &Origin) -> Option<u32> {
    match origin {
        Origin::Socket { uid, .. } | Origin::Admin { uid, .. } => Some(*uid),
        Origin::Tcp { .. } | Origin::Mqtt { .. } | Origin::Daemon => None,
    }
}
