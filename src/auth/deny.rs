//! The deny-list: what revokes a token before it expires.
//!
//! It can only take away. It comes from a file for each realm (`Revocations::parse`), read as
//! strictly as a token: a list that is half understood would let through what it names.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Value, json};

use super::Principal;
use super::claims::Claims;
use super::finding::Finding;
use crate::json;
use crate::reason::DenyReason;
use crate::time::{MAX_SECS, Timestamp};
use crate::trust::targets::Lifted;

const MAX_LEN: usize = 256 * 1024;
const MAX_ENTRIES: usize = 10_000;

/// Revocations by realm.
#[derive(Debug, Clone, Default)]
pub struct DenyList {
    /// By issuer.
    pub realms: BTreeMap<String, Revocations>,
    /// Issuers of realms where what else is revoked isn't known: nobody is let in there.
    pub unknown: BTreeSet<String>,
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
        let entries = value.get("revoked").and_then(Value::as_array);
        if !value.is_object() || !entries.into_iter().flatten().all(Value::is_object) {
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

    /// Everything that either revokes, each for as long as the longer of them says.
    pub fn join(&mut self, other: &Revocations) {
        let lists = [
            (&mut self.thumbprints, &other.thumbprints),
            (&mut self.subjects, &other.subjects),
            (&mut self.sessions, &other.sessions),
            (&mut self.token_ids, &other.token_ids),
            (&mut self.clients, &other.clients),
        ];
        for (list, other) in lists {
            for (name, until) in &other.0 {
                list.insert(name.clone(), *until);
            }
        }
        self.not_before = self.not_before.max(other.not_before);
        for (client, from) in &other.not_before_by_client {
            let slot = self.not_before_by_client.entry(client.clone());
            let slot = slot.or_insert(*from);
            *slot = (*slot).max(*from);
        }
    }

    /// Drops what is lifted; with a client goes its own not-before.
    pub fn lift(&mut self, lifted: &BTreeSet<Lifted>) {
        for entry in lifted {
            let (list, name) = match entry {
                Lifted::Token(name) => (&mut self.token_ids, name),
                Lifted::Subject(name) => (&mut self.subjects, name),
                Lifted::Session(name) => (&mut self.sessions, name),
                Lifted::Client(name) => {
                    self.not_before_by_client.remove(name);
                    (&mut self.clients, name)
                }
                Lifted::Key(name) => (&mut self.thumbprints, name),
            };
            list.0.remove(name);
        }
    }

    /// Drops what counts no more at `now`.
    pub fn expire(&mut self, now: Timestamp) {
        let lists = [
            &mut self.thumbprints,
            &mut self.subjects,
            &mut self.sessions,
            &mut self.token_ids,
            &mut self.clients,
        ];
        for list in lists {
            let counts = |until: Option<Timestamp>| until.is_none_or(|until| now < until);
            list.0.retain(|_, until| counts(*until));
        }
    }

    /// As a deny file, which [`Revocations::parse`] reads where it isn't too large.
    pub fn to_file(&self) -> Vec<u8> {
        let kinds = [
            ("jkt", &self.thumbprints),
            ("sub", &self.subjects),
            ("sid", &self.sessions),
            ("jti", &self.token_ids),
            ("azp", &self.clients),
        ];
        let entries = kinds.iter().flat_map(|(kind, list)| {
            list.0.iter().map(move |(name, until)| match until {
                Some(until) => json!({*kind: name, "expires": until.as_secs()}),
                None => json!({*kind: name}),
            })
        });
        let by_client = self.not_before_by_client.iter();
        let by_client = by_client.map(|(client, from)| (client.clone(), from.as_secs().into()));
        let file = json!({
            "version": 1,
            "revoked": entries.collect::<Vec<Value>>(),
            "not_before": self.not_before.as_secs(),
            "not_before_by_client": Value::Object(by_client.collect()),
        });
        file.to_string().into_bytes()
    }

    /// Whether it is within the bounds of a deny file.
    pub fn fits(&self) -> bool {
        self.entries() <= MAX_ENTRIES && self.to_file().len() <= MAX_LEN
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
    /// Whether nothing of the token is revoked at `now`.
    pub(super) fn spares(
        &self,
        claims: &Claims,
        thumbprint: &str,
        now: Timestamp,
    ) -> Result<(), Finding> {
        let Some(realm) = self.realms.get(&claims.principal.issuer) else {
            return self.spares_peer(&claims.principal, now);
        };
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
        match checks.iter().find(|(_, hit)| *hit) {
            Some((what, _)) => Err(revoked(what)),
            None => self.spares_peer(&claims.principal, now),
        }
    }

    /// Whether neither subject nor client are revoked at `now`: all that can be of a local peer.
    pub(super) fn spares_peer(&self, who: &Principal, now: Timestamp) -> Result<(), Finding> {
        if self.unknown.contains(&who.issuer) {
            return Err(DenyReason::TrustUnread.into());
        }
        let Some(realm) = self.realms.get(&who.issuer) else {
            return Ok(());
        };
        if realm.subjects.has(&who.subject, now) {
            return Err(revoked("subject"));
        }
        if realm.clients.has(&who.client, now) {
            return Err(revoked("client"));
        }
        Ok(())
    }
}

fn revoked(what: &str) -> Finding {
    Finding::new(DenyReason::Revoked, what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(revoked: &Value) -> Revocations {
        let file = json!({"version": 1, "revoked": revoked, "not_before": 7,
            "not_before_by_client": {"c": 9}});
        Revocations::parse(file.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let list = parse(
            &json!([{"jti": "a", "expires": 5}, {"sub": "b"}, {"sid": "c"},
            {"azp": "d"}, {"jkt": "e"}]),
        );
        assert_eq!(Revocations::parse(&list.to_file()), Ok(list));
    }

    #[test]
    fn what_one_list_lacks_stays_until_its_end_or_until_it_is_lifted() {
        let mut list = parse(&json!([{"sub": "a", "expires": 5}, {"sub": "b"}, {"jti": "b"}]));
        list.join(&parse(
            &json!([{"sub": "a", "expires": 3}, {"sub": "c", "expires": 9}]),
        ));
        let joined = json!([{"sub": "a", "expires": 5}, {"sub": "b"}, {"jti": "b"},
            {"sub": "c", "expires": 9}]);
        assert_eq!(list, parse(&joined));
        list.expire(Timestamp::from_secs(5));
        list.lift(&[Lifted::Subject("b".into()), Lifted::Subject("x".into())].into());
        assert_eq!(
            list,
            parse(&json!([{"jti": "b"}, {"sub": "c", "expires": 9}]))
        );
        list.lift(&[Lifted::Client("c".into())].into());
        assert!(list.not_before_by_client.is_empty());
    }
}
