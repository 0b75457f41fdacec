//! The deny-list: what revokes a token before it expires.
//!
//! It can only take away. It comes from a file for each realm (`Revocations::parse`), read as
//! strictly as a token: a list that is half understood would let through what it names.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Principal;
use super::claims::Claims;
use crate::json;
use crate::time::{MAX_SECS, Timestamp};

const MAX_LEN: usize = 256 * 1024;
const MAX_ENTRIES: usize = 10_000;

/// Revocations by realm.
#[derive(Debug, Clone, Default)]
pub struct DenyList {
    /// By issuer.
    pub realms: BTreeMap<String, Revocations>,
}

/// What is revoked in one realm.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revocations {
    /// Keys, by RFC 7638 thumbprint.
    pub thumbprints: Revoked,
    pub subjects: Revoked,
    /// `sid`.
    pub sessions: Revoked,
    /// `jti`.
    pub token_ids: Revoked,
    /// `azp`.
    pub clients: Revoked,
    /// Tokens issued before this are revoked.
    pub not_before: Timestamp,
    /// The same for single clients (`azp`).
    pub not_before_by_client: BTreeMap<String, Timestamp>,
}

/// Revoked names of one kind, each with the time until which it counts; `None`: for good.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revoked(BTreeMap<String, Option<Timestamp>>);

impl Revoked {
    /// Where a name comes twice, the longer revocation counts.
    pub fn insert(&mut self, name: String, until: Option<Timestamp>) {
        let slot = self.0.entry(name).or_insert(until);
        *slot = slot.zip(until).map(|(one, other)| one.max(other));
    }

    fn has(&self, name: &str, now: Timestamp) -> bool {
        let entry = self.0.get(name);
        entry.is_some_and(|until| until.is_none_or(|until| now < until))
    }
}

/// The file, as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    #[serde(default)]
    revoked: Vec<Entry>,
    #[serde(default)]
    not_before: u64,
    #[serde(default)]
    not_before_by_client: BTreeMap<String, u64>,
}

/// Exactly one of the names, and perhaps an end.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    jti: Option<String>,
    sub: Option<String>,
    sid: Option<String>,
    azp: Option<String>,
    jkt: Option<String>,
    expires: Option<u64>,
}

impl Revocations {
    /// Reads a deny file, or says what is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Revocations, String> {
        if text.len() > MAX_LEN {
            return Err(format!("it is larger than {} KiB", MAX_LEN / 1024));
        }
        let value = json::parse(text).map_err(|error| format!("no strict JSON: {error}"))?;
        // serde reads a struct from a list of its values too.
        let entries = value.get("revoked").and_then(serde_json::Value::as_array);
        if !value.is_object()
            || !entries
                .into_iter()
                .flatten()
                .all(serde_json::Value::is_object)
        {
            return Err("not of the form of a deny file: it and its entries are objects".into());
        }
        let file: File = serde_json::from_value(value)
            .map_err(|error| format!("not of the form of a deny file: {error}"))?;
        if file.version != 1 {
            return Err(format!("its version is {}, known is 1", file.version));
        }
        if file.revoked.len() + file.not_before_by_client.len() > MAX_ENTRIES {
            return Err(format!("it has more than {MAX_ENTRIES} entries"));
        }
        let mut list = Revocations {
            not_before: time(file.not_before, "not_before")?,
            ..Revocations::default()
        };
        for (client, from) in file.not_before_by_client {
            let from = time(from, "not_before_by_client")?;
            list.not_before_by_client.insert(client, from);
        }
        for (place, entry) in file.revoked.into_iter().enumerate() {
            list.add(entry)
                .map_err(|what| format!("entry {place} of `revoked`: {what}"))?;
        }
        Ok(list)
    }

    /// Whether the key with this thumbprint is revoked at `now`.
    pub fn revokes_key(&self, thumbprint: &str, now: Timestamp) -> bool {
        self.thumbprints.has(thumbprint, now)
    }

    /// How many, expired or not.
    pub fn entries(&self) -> usize {
        let names = [
            &self.thumbprints,
            &self.subjects,
            &self.sessions,
            &self.token_ids,
            &self.clients,
        ];
        let names: usize = names.iter().map(|revoked| revoked.0.len()).sum();
        names + self.not_before_by_client.len() + usize::from(self.not_before > Timestamp(0))
    }

    fn add(&mut self, entry: Entry) -> Result<(), String> {
        let until = entry
            .expires
            .map(|secs| time(secs, "expires"))
            .transpose()?;
        let kinds = [
            (entry.jti, &mut self.token_ids),
            (entry.sub, &mut self.subjects),
            (entry.sid, &mut self.sessions),
            (entry.azp, &mut self.clients),
            (entry.jkt, &mut self.thumbprints),
        ];
        let named = |(name, list)| Option::zip(name, Some(list));
        let mut named = kinds.into_iter().filter_map(named);
        match (named.next(), named.next()) {
            (Some((name, list)), None) if !String::is_empty(&name) => {
                Revoked::insert(list, name, until);
                Ok(())
            }
            _ => Err("name exactly one of jti, sub, sid, azp and jkt".into()),
        }
    }
}

fn time(secs: u64, name: &str) -> Result<Timestamp, String> {
    if secs > MAX_SECS {
        return Err(format!(
            "`{name}` is no time in seconds before the year 10000"
        ));
    }
    Ok(Timestamp::from_secs(secs))
}

impl DenyList {
    /// What of the token is revoked at `now`, if anything is.
    pub(super) fn hit(
        &self,
        claims: &Claims,
        thumbprint: &str,
        now: Timestamp,
    ) -> Option<&'static str> {
        let realm = self.realms.get(&claims.principal.issuer)?;
        let client = &claims.principal.client;
        let named = |list: &Revoked, value: &Option<String>| {
            value.as_ref().is_some_and(|value| list.has(value, now))
        };
        let client_floor = realm.not_before_by_client.get(client).copied();
        let issued = claims.issued.earliest;
        let checks = [
            ("key", realm.thumbprints.has(thumbprint, now)),
            ("session", named(&realm.sessions, &claims.session)),
            ("token", named(&realm.token_ids, &claims.token_id)),
            ("not-before", issued < realm.not_before),
            ("client's not-before", Some(issued) < client_floor),
        ];
        let hit = checks.iter().find(|(_, hit)| *hit).map(|(what, _)| *what);
        hit.or_else(|| self.names(&claims.principal, now))
    }

    /// Whether subject or client are revoked at `now`: all that can be of a local peer.
    pub(super) fn names(&self, who: &Principal, now: Timestamp) -> Option<&'static str> {
        let realm = self.realms.get(&who.issuer)?;
        if realm.subjects.has(&who.subject, now) {
            return Some("subject");
        }
        realm.clients.has(&who.client, now).then_some("client")
    }
}
