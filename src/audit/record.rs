//! What a record says. Members are written in the order given here, so that equal records are
//! equal bytes.
//!
//! A log outlives the release that wrote it, in both directions. A new member has a default, a new
//! event or reason gets a name of its own, and what is there keeps its meaning: so every release
//! reads older logs, and of a newer one's what it knows. The rest it shows as it is ([`Line`]).

use serde::{Deserialize, Serialize};

use super::change::What;
use super::encrypted::Sealed;
use super::tag::Tag;
use super::text::bound;
use crate::prompt::{Finish, Origin, RequestId, Sampling, Usage};
use crate::reason::Reason;
use crate::time::Timestamp;

/// Of the records written here. It tells who reads one by hand what may be in it.
pub const VERSION: u32 = 1;

/// A record as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub index: u64,
    pub json: Vec<u8>,
}

impl Line {
    /// `None` where this release can't read it: a newer one wrote it.
    pub fn record(&self) -> Option<Record> {
        serde_json::from_slice(&self.json).ok()
    }
}

/// What a line says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// 0: of a release before there were versions.
    #[serde(default)]
    pub version: u32,
    pub index: u64,
    pub time: Timestamp,
    pub synchronised: bool,
    pub boot_id: String,
    #[serde(flatten)]
    pub event: Event,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    Access(Box<Access>),
    Finish(Box<Finished>),
    /// Refusals that were counted rather than recorded one by one.
    RefusalsSummary {
        transport: String,
        reason: Reason,
        count: u64,
        since: Timestamp,
    },
    /// Accesses of one principal that were counted rather than recorded one by one.
    AccessesSummary(Box<Summary>),
    /// Old records removed by cap or retention: the first index that is left, and how many went.
    Truncated {
        first_index: u64,
        removed: u64,
        /// Of the epoch, since it began. Where more are missing, somebody took them out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        removed_in_all: Option<u64>,
        /// Whose they were where the cap removed them. Between `first_index` and here only these
        /// are missing.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        losses: Vec<Loss>,
        /// Records of owners beyond [`MAX_LOSSES`].
        #[serde(default, skip_serializing_if = "is_zero")]
        of_others: u64,
    },
    /// Start, stop, reload, keys pinned, refused start, …: what happened, and particulars.
    Change {
        origin: Origin,
        what: What,
        detail: serde_json::Value,
    },
}

impl Event {
    pub const NAMES: [&str; 6] = [
        "access",
        "finish",
        "refusals_summary",
        "accesses_summary",
        "truncated",
        "change",
    ];

    /// As records have it.
    pub fn name(&self) -> &'static str {
        let [access, finish, refusals, accesses, truncated, change] = Event::NAMES;
        match self {
            Event::Access(_) => access,
            Event::Finish(_) => finish,
            Event::RefusalsSummary { .. } => refusals,
            Event::AccessesSummary(_) => accesses,
            Event::Truncated { .. } => truncated,
            Event::Change { .. } => change,
        }
    }
}

impl Event {
    /// Its text, where it has one.
    pub(super) fn sealed(&self) -> Option<&Sealed> {
        match self {
            Event::Access(access) => access.text.as_ref(),
            Event::Finish(finished) => finished.text.as_ref(),
            _ => None,
        }
    }

    pub(super) fn take_text(&mut self) -> Vec<u8> {
        let sealed = match self {
            Event::Access(access) => access.text.as_mut(),
            Event::Finish(finished) => finished.text.as_mut(),
            _ => None,
        };
        sealed.map(Sealed::take).unwrap_or_default()
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Access {
    #[serde(flatten)]
    pub request_id: RequestId,
    pub origin: Origin,
    pub action: String,
    pub decision: Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// What was particular to a refusal that isn't the token's, or why the time was what it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub realm: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// What Keycloak calls the subject, where the realm has that recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_id: Option<String>,
    /// The token came with a proof of possession, which is used by that.
    #[serde(default, skip_serializing_if = "is_false")]
    pub dpop: bool,
    /// Granted to a local group, without a token.
    #[serde(default, skip_serializing_if = "is_false")]
    pub local_peer: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// A commitment to the prompt: SHA-256 over a random salt and the token ids' bytes. The salt
    /// is kept apart (`audit_salts`), so that it can be erased.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_digest: Option<String>,
    /// The kernels that compute the answer: another family rounds otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernels: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampling: Option<Sampling>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_tokens: Option<u32>,
    /// The time that the chat template was told, if it asked: with it the same tokens come again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_time: Option<Timestamp>,
    /// 2 for a second attempt after a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// The prompt's text, where the endpoint has it kept, encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<Sealed>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the form of `skip_serializing_if`"
)]
fn is_false(value: &bool) -> bool {
    !value
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the form of `skip_serializing_if`"
)]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl Access {
    /// The principal, where one was verified.
    pub fn tag(&self) -> Option<Tag> {
        tag(&self.issuer, &self.subject, &self.client)
    }

    /// Cuts what clients chose to what a record has room for.
    pub(super) fn bound(&mut self) {
        bound(&mut self.action);
        if let Origin::Mqtt { topic } = &mut self.origin {
            bound(topic);
        }
        let texts = [
            &mut self.detail,
            &mut self.realm,
            &mut self.endpoint,
            &mut self.issuer,
            &mut self.subject,
            &mut self.username,
            &mut self.client,
            &mut self.token_id,
            &mut self.scope,
        ];
        texts.into_iter().flatten().for_each(bound);
    }
}

fn tag(issuer: &Option<String>, subject: &Option<String>, client: &Option<String>) -> Option<Tag> {
    Some(Tag::of(
        issuer.as_ref()?,
        subject.as_ref()?,
        client.as_ref()?,
    ))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Permit,
    Deny,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    /// Of the access that ends.
    #[serde(flatten)]
    pub request_id: RequestId,
    /// Whose the access was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<Tag>,
    /// As the access has it: who may read the one may read the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub realm: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Where the access stands in the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_index: Option<u64>,
    #[serde(flatten)]
    pub finish: Finish,
    #[serde(flatten)]
    pub usage: Usage,
    /// SHA-256 of the answer's text.
    pub answer_hash: String,
    pub queue_ms: u64,
    pub first_token_ms: Option<u64>,
    pub total_ms: u64,
    /// The answer's text, where the endpoint has it kept, encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<Sealed>,
}

impl Finished {
    pub(super) fn bound(&mut self) {
        let texts = [&mut self.realm, &mut self.endpoint];
        texts.into_iter().flatten().for_each(bound);
    }
}

/// The most token ids that a summary names.
pub const MAX_TOKEN_IDS: usize = 8;

/// Accesses of one principal by one transport, for one purpose, decided in one way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub transport: String,
    pub action: String,
    pub decision: Verdict,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub realm: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The last that the subject was called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Granted to a local group, without a token.
    #[serde(default, skip_serializing_if = "is_false")]
    pub local_peer: bool,
    /// Who used the admin socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub token_ids: Vec<String>,
    /// Accesses by tokens beyond [`MAX_TOKEN_IDS`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub by_other_tokens: u64,
    pub count: u64,
    pub first: Timestamp,
    pub last: Timestamp,
}

impl Summary {
    /// One access by itself.
    pub(super) fn of(access: &Access, now: Timestamp) -> Summary {
        let mut access = access.clone();
        access.bound();
        Summary {
            transport: access.origin.transport().to_owned(),
            action: access.action,
            decision: access.decision,
            reason: access.reason,
            realm: access.realm,
            issuer: access.issuer,
            subject: access.subject,
            username: access.username,
            client: access.client,
            local_peer: access.local_peer,
            uid: None,
            token_ids: access.token_id.into_iter().collect(),
            by_other_tokens: 0,
            count: 1,
            first: now,
            last: now,
        }
    }

    /// Without whose it is.
    pub(super) fn of_anybody(mut self) -> Summary {
        let names = [
            &mut self.realm,
            &mut self.issuer,
            &mut self.subject,
            &mut self.username,
            &mut self.client,
        ];
        names.into_iter().for_each(|name| *name = None);
        self.local_peer = false;
        self.by_other_tokens = u64::from(!self.token_ids.is_empty());
        self.token_ids.clear();
        self
    }

    /// One look by the admin socket.
    pub(super) fn of_admin(origin: &Origin, what: &What, now: Timestamp) -> Summary {
        let uid = match origin {
            Origin::Admin { uid, .. } => Some(*uid),
            _ => None,
        };
        let mut action = what.to_string();
        bound(&mut action);
        Summary {
            transport: origin.transport().to_owned(),
            action,
            decision: Verdict::Permit,
            reason: None,
            realm: None,
            issuer: None,
            subject: None,
            username: None,
            client: None,
            local_peer: false,
            uid,
            token_ids: Vec::new(),
            by_other_tokens: 0,
            count: 1,
            first: now,
            last: now,
        }
    }

    /// Adds what `other` counts, which is of the same kind.
    pub(super) fn add(&mut self, other: Summary) {
        for token in other.token_ids {
            if self.token_ids.contains(&token) {
                continue;
            }
            match self.token_ids.len() < MAX_TOKEN_IDS {
                true => self.token_ids.push(token),
                false => self.by_other_tokens += other.count,
            }
        }
        self.by_other_tokens += other.by_other_tokens;
        self.username = other.username.or_else(|| self.username.take());
        self.count += other.count;
        self.last = other.last;
    }

    /// The principal, where it isn't the admin socket's.
    pub(super) fn tag(&self) -> Option<Tag> {
        tag(&self.issuer, &self.subject, &self.client)
    }
}

/// The most owners that a truncation names.
pub const MAX_LOSSES: usize = 16;

/// Records that one owner has lost: the first, the last, and how many of those between.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    pub whose: Whose,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<Tag>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    pub from: u64,
    pub to: u64,
    pub removed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Whose {
    /// What a principal was allowed.
    Principal,
    /// Refusals of a principal, or of a kind where nobody was verified.
    Refusals,
    Administration,
    Daemon,
    /// What told of earlier losses.
    Truncations,
    /// Of releases that didn't say whose a finish is, and of newer ones.
    Unknown,
}

impl Whose {
    pub fn as_str(self) -> &'static str {
        match self {
            Whose::Principal => "principal",
            Whose::Refusals => "refusals",
            Whose::Administration => "administration",
            Whose::Daemon => "daemon",
            Whose::Truncations => "truncations",
            Whose::Unknown => "unknown",
        }
    }
}
