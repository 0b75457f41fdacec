//! Which records somebody wants to see: what can be asked for, and what of it a record says.

use serde_json::Value;

use super::change::What;
use super::record::{Access, Event, Finished, Summary, Verdict};
use super::text::bound;
use crate::prompt::{Origin, RequestId};
use crate::reason::Reason;
use crate::spelling::nearest;
use crate::time::Timestamp;

/// No token that names somebody is longer.
const MAX_ASKED: usize = 16 * 1024;

/// Members that one filter asks for.
const MAX_MEMBERS: usize = 8;

/// At the end of a name: what begins so. Lines for people cut long names like this.
const MORE: char = '…';

/// What our own ids begin with; they may be cut without [`MORE`].
const OWN_ID: &str = "req_";

/// What somebody asks for; all of it must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    since: Option<Timestamp>,
    /// The first time that is too late.
    until: Option<Timestamp>,
    realm: Option<Name>,
    endpoint: Option<Name>,
    client: Option<Name>,
    user: Option<Name>,
    /// Of the local user of that name.
    uid: Option<u32>,
    decision: Option<Judged>,
    request: Option<Name>,
    event: Option<&'static str>,
    members: Vec<Member>,
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
    #[error("{0:?} is no event; known are {known}", known = Event::NAMES.join(", "))]
    NoEvent(String),
    #[error("write NAME=VALUE, such as prompt_tokens=31 or origin.uid=1000")]
    NoMember,
    #[error("no more than {MAX_MEMBERS} can be asked for at once")]
    TooMany,
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

/// A member of a record, inner ones by dots, and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Member {
    path: String,
    value: Name,
}

/// How an access was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judged {
    As(Verdict),
    For(Reason),
}

impl Filter {
    /// As a query names them.
    pub const NAMES: [&str; 11] = [
        "since",
        "until",
        "realm",
        "endpoint",
        "client",
        "user",
        "uid",
        "decision",
        "request",
        "event",
        Filter::MEMBER,
    ];

    /// The one that may be there several times, each with a member of its own.
    pub const MEMBER: &str = "where";

    /// Asks for one thing more.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), Unfit> {
        match name {
            "since" => self.since = Some(value.parse().map_err(|()| Unfit::NoTime)?),
            "until" => self.until = Some(value.parse().map_err(|()| Unfit::NoTime)?),
            "realm" => self.realm = Some(Name::new(value)?),
            "endpoint" => self.endpoint = Some(Name::new(value)?),
            "client" => self.client = Some(Name::new(value)?),
            "user" => self.user = Some(Name::new(value)?),
            "uid" => self.uid = Some(value.parse().map_err(|_| Unfit::NoUid)?),
            "decision" => self.decision = Some(Judged::new(value)?),
            "request" => self.request = Some(Name::new(value)?),
            "event" => self.event = Some(event(value)?),
            Filter::MEMBER if self.members.len() >= MAX_MEMBERS => return Err(Unfit::TooMany),
            Filter::MEMBER => self.members.push(Member::new(value)?),
            _ => return Err(Unfit::NoFilter),
        }
        Ok(())
    }

    /// What [`Filter::set`] takes.
    pub fn pairs(&self) -> Vec<(&'static str, String)> {
        let name = |name: &Option<Name>| name.as_ref().map(|Name(text)| text.clone());
        let values = [
            self.since.map(|since| since.to_string()),
            self.until.map(|until| until.to_string()),
            name(&self.realm),
            name(&self.endpoint),
            name(&self.client),
            name(&self.user),
            self.uid.map(|uid| uid.to_string()),
            self.decision.map(|judged| judged.as_str().to_owned()),
            name(&self.request),
            self.event.map(str::to_owned),
        ];
        let pairs = Filter::NAMES.into_iter().zip(values);
        let pairs = pairs.filter_map(|(name, value)| Some((name, value?)));
        let members = self.members.iter().map(|Member { path, value }| {
            let text = format!("{path}={}", value.0);
            (Filter::MEMBER, text)
        });
        pairs.chain(members).collect()
    }

    pub fn is_empty(&self) -> bool {
        *self == Filter::default()
    }

    /// Whether it asks of whom or of what request a record is: then a finish goes with its access,
    /// and the log's own records, such as starts, changes of keys and truncations, aren't meant.
    pub fn narrows(&self) -> bool {
        !self.is_anybodys() || self.request.is_some() || self.decision.is_some()
    }

    /// What is looked for in the record by itself, whatever it is of: time, event and members.
    pub(super) fn is_told(
        &self,
        time: Option<Timestamp>,
        event: Option<&str>,
        json: &[u8],
    ) -> bool {
        let since = |asked: Timestamp| time.is_none_or(|time| time >= asked);
        let until = |asked: Timestamp| time.is_none_or(|time| time < asked);
        self.since.is_none_or(since)
            && self.until.is_none_or(until)
            && self.event.is_none_or(|asked| event == Some(asked))
            && self.has_members(json)
    }

    fn has_members(&self, json: &[u8]) -> bool {
        if self.members.is_empty() {
            return true;
        }
        let record: Result<Value, _> = serde_json::from_slice(json);
        record.is_ok_and(|record| self.members.iter().all(|member| member.is_in(&record)))
    }

    /// How far an access is what is asked for.
    pub(super) fn means(&self, access: &Access) -> Meant {
        let named = self.is_of(&Said::access(access)) && self.is_request(&access.request_id);
        match named {
            true if self.is_judged(access.decision, access.reason) => Meant::Wholly,
            true => Meant::Otherwise,
            false => Meant::Not,
        }
    }

    /// `access`: how far the one that ends here is what is asked for, where that is known.
    pub(super) fn means_finish(&self, finished: &Finished, access: Option<Meant>) -> bool {
        // A permission that was taken back has its reason only here.
        let reason = finished.finish.reason().map(Reason::Denied);
        let by_reason = reason.is_some_and(|reason| self.decision == Some(Judged::For(reason)));
        match access {
            Some(Meant::Wholly) => true,
            Some(Meant::Otherwise) => by_reason,
            Some(Meant::Not) => false,
            // Its access may be gone from the log; what it says is its own.
            None => {
                let names_nobody = self.client.is_none() && self.asks_for_no_user();
                names_nobody
                    && self.decision.is_none()
                    && self.is_of(&Said::finished(finished))
                    && self.is_request(&finished.request_id)
            }
        }
    }

    /// Of what neither begins nor ends a request.
    pub(super) fn means_event(&self, event: &Event) -> bool {
        match event {
            Event::AccessesSummary(summary) => {
                self.request.is_none()
                    && self.is_of(&Said::summary(summary))
                    && self.is_judged(summary.decision, summary.reason)
            }
            Event::RefusalsSummary { reason, .. } => {
                let for_nobody = self.is_anybodys() && self.request.is_none();
                for_nobody && self.is_judged(Verdict::Deny, Some(*reason))
            }
            Event::Change {
                origin,
                what,
                detail,
            } => {
                let asks_for_more = self.request.is_some() || self.decision.is_some();
                !asks_for_more && self.is_of(&Said::change(origin, what, detail))
            }
            Event::Access(_) | Event::Finish(_) | Event::Truncated { .. } => false,
        }
    }

    fn is_of(&self, said: &Said<'_>) -> bool {
        let is = |asked: &Name, name: Option<&str>| name.is_some_and(|name| asked.is(name));
        let by = |asked: &Option<Name>, name| asked.as_ref().is_none_or(|asked| is(asked, name));
        by(&self.realm, said.realm)
            && by(&self.endpoint, said.endpoint)
            && by(&self.client, said.client)
            && match (&self.user, self.uid) {
                (None, None) => true,
                (user, asked) => {
                    let called = |user: &Name| said.names.into_iter().any(|name| is(user, name));
                    user.as_ref().is_some_and(called) || (asked.is_some() && asked == said.uid)
                }
            }
    }

    fn is_anybodys(&self) -> bool {
        let anywhere = self.realm.is_none() && self.endpoint.is_none();
        anywhere && self.client.is_none() && self.asks_for_no_user()
    }

    fn asks_for_no_user(&self) -> bool {
        self.user.is_none() && self.uid.is_none()
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

/// How far an access is what is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meant {
    Wholly,
    /// But for how it was decided.
    Otherwise,
    Not,
}

impl Meant {
    pub(super) fn is_whole(self) -> bool {
        self == Meant::Wholly
    }
}

/// Of whom and what a record says that it is.
#[derive(Debug, Clone, Copy, Default)]
struct Said<'a> {
    realm: Option<&'a str>,
    endpoint: Option<&'a str>,
    client: Option<&'a str>,
    /// How a token calls the user.
    names: [Option<&'a str>; 2],
    /// The local user that it came from.
    uid: Option<u32>,
}

impl<'a> Said<'a> {
    fn access(access: &'a Access) -> Said<'a> {
        Said {
            realm: access.realm.as_deref(),
            endpoint: access.endpoint.as_deref(),
            client: access.client.as_deref(),
            names: [access.subject.as_deref(), access.username.as_deref()],
            uid: uid(&access.origin),
        }
    }

    fn finished(finished: &'a Finished) -> Said<'a> {
        Said {
            realm: finished.realm.as_deref(),
            endpoint: finished.endpoint.as_deref(),
            ..Said::default()
        }
    }

    fn summary(summary: &'a Summary) -> Said<'a> {
        Said {
            realm: summary.realm.as_deref(),
            endpoint: None,
            client: summary.client.as_deref(),
            names: [summary.subject.as_deref(), summary.username.as_deref()],
            uid: summary.uid,
        }
    }

    fn change(origin: &Origin, what: &'a What, detail: &'a Value) -> Said<'a> {
        let told = || detail.get("realm").and_then(Value::as_str);
        Said {
            realm: what.realm.as_deref().or_else(told),
            uid: uid(origin),
            ..Said::default()
        }
    }
}

fn uid(origin: &Origin) -> Option<u32> {
    match origin {
        Origin::Socket { uid, .. } | Origin::Admin { uid, .. } => Some(*uid),
        Origin::Tcp { .. } | Origin::Mqtt { .. } | Origin::Daemon => None,
    }
}

fn event(text: &str) -> Result<&'static str, Unfit> {
    let known = Event::NAMES.into_iter().find(|name| *name == text);
    known.ok_or_else(|| match text.len() {
        ..=64 => Unfit::NoEvent(text.to_owned()),
        _ => Unfit::TooLong,
    })
}

impl Member {
    fn new(text: &str) -> Result<Member, Unfit> {
        let (path, value) = text.split_once('=').ok_or(Unfit::NoMember)?;
        match path.len() {
            0 => Err(Unfit::NoMember),
            1..=MAX_ASKED => Ok(Member {
                path: path.to_owned(),
                value: Name::new(value)?,
            }),
            _ => Err(Unfit::TooLong),
        }
    }

    fn is_in(&self, record: &Value) -> bool {
        let mut steps = self.path.split('.');
        let found = steps.try_fold(record, |value, name| value.get(name));
        found.is_some_and(|value| self.is_told_by(value))
    }

    /// Of a list, one of its items is enough.
    fn is_told_by(&self, value: &Value) -> bool {
        match value {
            Value::String(text) => self.value.is(text),
            Value::Array(items) => items.iter().any(|item| self.is_told_by(item)),
            Value::Object(_) => false,
            Value::Null | Value::Bool(_) | Value::Number(_) => {
                let told = value.to_string();
                told == self.value.0
            }
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
