//! Deny-lists and lifts as the fleet writes them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::error::RepositoryError;
use crate::auth::Revocations;
use crate::time::Timestamp;
use crate::trust::targets::parse_lift;

/// What a revocation names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Named {
    /// One token.
    Jti(String),
    /// A person or service.
    Sub(String),
    /// One login.
    Sid(String),
    /// A client.
    Azp(String),
    /// A realm's key, by its RFC 7638 thumbprint.
    Jkt(String),
}

/// One revocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revoke {
    Named {
        what: Named,
        until: Option<Timestamp>,
    },
    /// All that was issued before, of one client or of all.
    NotBefore {
        at: Timestamp,
        client: Option<String>,
    },
}

/// What is no longer revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lift(pub Named);

#[derive(Debug, Default, Serialize, Deserialize)]
struct DenyFile {
    version: u32,
    #[serde(default)]
    revoked: Vec<Entry>,
    #[serde(default)]
    not_before: u64,
    #[serde(default)]
    not_before_by_client: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    what: Named,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<u64>,
}

impl Revoke {
    /// The deny-list `current` with this in it, and without what has come to its end.
    pub fn add(&self, current: Option<&[u8]>, now: Timestamp) -> Result<Vec<u8>, RepositoryError> {
        let mut file = read(current)?;
        file.revoked
            .retain(|entry| entry.expires.is_none_or(|end| end > now.as_secs()));
        match self {
            Revoke::Named { what, until } => {
                let expires = until.map(Timestamp::as_secs);
                match file.revoked.iter_mut().find(|entry| entry.what == *what) {
                    // The longer one counts.
                    Some(entry) => {
                        entry.expires = entry.expires.zip(expires).map(|(a, b)| a.max(b));
                    }
                    None => file.revoked.push(Entry {
                        what: what.clone(),
                        expires,
                    }),
                }
            }
            Revoke::NotBefore { at, client: None } => {
                file.not_before = file.not_before.max(at.as_secs());
            }
            Revoke::NotBefore {
                at,
                client: Some(client),
            } => {
                let before = file.not_before_by_client.entry(client.clone()).or_default();
                *before = (*before).max(at.as_secs());
            }
        }
        write(&file)
    }
}

impl Lift {
    /// The deny-list without it.
    pub fn remove(&self, current: Option<&[u8]>) -> Result<Vec<u8>, RepositoryError> {
        let mut file = read(current)?;
        file.revoked.retain(|entry| entry.what != self.0);
        write(&file)
    }

    /// The list of lifts with it, which devices need to let go of what they keep.
    pub fn add(&self, current: Option<&[u8]>) -> Result<Vec<u8>, RepositoryError> {
        let mut lifted: BTreeSet<Named> = lifts(current)?;
        lifted.insert(self.0.clone());
        lift_file(&lifted)
    }

    /// The list of lifts without it, if it is there: it is revoked once more.
    pub fn take_back(&self, current: &[u8]) -> Result<Option<Vec<u8>>, RepositoryError> {
        let mut lifted = lifts(Some(current))?;
        match lifted.remove(&self.0) {
            true => lift_file(&lifted).map(Some),
            false => Ok(None),
        }
    }
}

#[derive(Deserialize)]
struct LiftFile {
    lifted: BTreeSet<Named>,
}

fn lifts(current: Option<&[u8]>) -> Result<BTreeSet<Named>, RepositoryError> {
    let Some(current) = current else {
        return Ok(BTreeSet::new());
    };
    let file: LiftFile = serde_json::from_slice(current)
        .map_err(|error| RepositoryError::Damaged(format!("lift.json: {error}")))?;
    Ok(file.lifted)
}

fn lift_file(lifted: &BTreeSet<Named>) -> Result<Vec<u8>, RepositoryError> {
    let bytes = json!({"version": 1, "lifted": lifted})
        .to_string()
        .into_bytes();
    match parse_lift(&bytes) {
        Ok(_) => Ok(bytes),
        Err(why) => Err(RepositoryError::Refused(format!(
            "this can't be lifted: {why}"
        ))),
    }
}

fn read(current: Option<&[u8]>) -> Result<DenyFile, RepositoryError> {
    let Some(current) = current else {
        return Ok(DenyFile {
            version: 1,
            ..DenyFile::default()
        });
    };
    serde_json::from_slice(current)
        .map_err(|error| RepositoryError::Damaged(format!("deny.json: {error}")))
}

/// As a device would read it.
fn write(file: &DenyFile) -> Result<Vec<u8>, RepositoryError> {
    let bytes = json!(file).to_string().into_bytes();
    match Revocations::parse(&bytes) {
        Ok(_) => Ok(bytes),
        Err(why) => Err(RepositoryError::Refused(format!(
            "this can't be revoked: {why}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    fn named(name: &str, until: Option<u64>) -> Revoke {
        Revoke::Named {
            what: Named::Jti(name.to_owned()),
            until: until.map(Timestamp::from_secs),
        }
    }

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_list_grows_and_forgets_what_has_ended() {
        let list = named("a", Some(1_800_000_100)).add(None, NOW).unwrap();
        let list = named("a", Some(1_800_000_050))
            .add(Some(&list), NOW)
            .unwrap();
        assert!(
            text(&list).contains(r#"[{"jti":"a","expires":1800000100}]"#),
            "{}",
            text(&list)
        );
        let later = Timestamp(1_800_000_100_000);
        let list = named("b", None).add(Some(&list), later).unwrap();
        assert!(text(&list).contains(r#"[{"jti":"b"}]"#), "{}", text(&list));
        let for_good = named("b", Some(1_800_000_500))
            .add(Some(&list), later)
            .unwrap();
        assert_eq!(for_good, list, "for good is longer");
        let client = Some("c".to_owned());
        let list = Revoke::NotBefore { at: NOW, client }
            .add(Some(&list), later)
            .unwrap();
        let list = Revoke::NotBefore {
            at: Timestamp(9000),
            client: None,
        }
        .add(Some(&list), later);
        let list = list.unwrap();
        assert_eq!(Revocations::parse(&list).unwrap().entries(), 3);
        let lifted = Lift(Named::Jti("b".to_owned()))
            .remove(Some(&list))
            .unwrap();
        assert_eq!(Revocations::parse(&lifted).unwrap().entries(), 2);
        assert!(named("", None).add(None, NOW).is_err());
    }

    #[test]
    fn lifts_are_a_set_that_devices_read() {
        let [a, b] = ["a", "b"].map(|name| Lift(Named::Sub(name.to_owned())));
        let list = b.add(None).unwrap();
        let list = a.add(Some(&b.add(Some(&list)).unwrap())).unwrap();
        assert_eq!(
            text(&list),
            r#"{"version":1,"lifted":[{"sub":"a"},{"sub":"b"}]}"#
        );
        let left = a.take_back(&list).unwrap().unwrap();
        assert_eq!(text(&left), r#"{"version":1,"lifted":[{"sub":"b"}]}"#);
        assert_eq!(a.take_back(&left).unwrap(), None);
    }
}
