//! TUF metadata as this repository writes and reads it: the five roles, their signatures, their bytes.
//!
//! What is read is held to what is written: a member that isn't known would be lost with the next
//! version, so it is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};

use super::key::{KeyId, PublicKey};
use crate::digest::{hex, sha256};
use crate::json;
use crate::time::Timestamp as Time;
use crate::trust::canonical;

/// The version of the specification that this is written by.
const SPEC_VERSION: &str = "1.0.31";

/// The delegated role that may take away and do nothing else.
pub const REVOCATION: &str = "revocation";

/// What it may name.
pub const DENY_PATHS: &str = "realms/*/deny.json";

/// The most that a device takes of a role's metadata, or of one target.
pub const MAX_LEN: usize = 56 * 1024;

/// One role's metadata.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata<R> {
    pub signatures: Vec<Signature>,
    pub signed: Signed<R>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    pub keyid: KeyId,
    /// Hexadecimal.
    pub sig: String,
}

/// What the signatures are over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed<R> {
    #[serde(rename = "_type")]
    kind: String,
    spec_version: String,
    pub version: u64,
    pub expires: Moment,
    #[serde(flatten)]
    pub role: R,
}

/// What a role's metadata says beside version and end.
pub trait Role: Serialize + DeserializeOwned {
    const KIND: &'static str;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    consistent_snapshot: bool,
    pub keys: BTreeMap<KeyId, PublicKey>,
    pub roles: Roles,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roles {
    pub root: Threshold,
    pub timestamp: Threshold,
    pub snapshot: Threshold,
    pub targets: Threshold,
}

/// How many of these keys must sign.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Threshold {
    pub keyids: BTreeSet<KeyId>,
    pub threshold: usize,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Targets {
    pub targets: BTreeMap<String, Content>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegations: Option<Delegations>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delegations {
    pub keys: BTreeMap<KeyId, PublicKey>,
    pub roles: Vec<Delegated>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delegated {
    pub name: String,
    #[serde(flatten)]
    pub keys: Threshold,
    pub terminating: bool,
    pub paths: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    pub meta: BTreeMap<String, Listed>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timestamp {
    /// Ours: when it was made. A device whose clock is lost learns from it that it is no earlier.
    pub issued: Moment,
    pub meta: BTreeMap<String, Listed>,
}

/// Another role's metadata, as snapshot and timestamp name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    pub version: u64,
    #[serde(flatten)]
    pub content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    pub length: u64,
    pub hashes: Hashes,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hashes {
    pub sha256: String,
}

impl Role for Root {
    const KIND: &'static str = "root";
}

impl Role for Targets {
    const KIND: &'static str = "targets";
}

impl Role for Snapshot {
    const KIND: &'static str = "snapshot";
}

impl Role for Timestamp {
    const KIND: &'static str = "timestamp";
}

impl Root {
    pub fn new(keys: BTreeMap<KeyId, PublicKey>, roles: Roles) -> Root {
        Root {
            consistent_snapshot: true,
            keys,
            roles,
        }
    }
}

impl Targets {
    /// The keys of the delegated role.
    pub fn revocation(&self) -> Option<(&BTreeMap<KeyId, PublicKey>, &Threshold)> {
        let delegations = self.delegations.as_ref()?;
        let mut roles = delegations.roles.iter();
        let role = roles.find(|role| role.name == REVOCATION)?;
        Some((&delegations.keys, &role.keys))
    }
}

impl Delegations {
    /// To the role that revokes, and to no other.
    pub fn to_revocation(keys: &[PublicKey]) -> Delegations {
        let keys: BTreeMap<KeyId, PublicKey> = by_id(keys);
        let role = Delegated {
            name: REVOCATION.to_owned(),
            keys: Threshold {
                keyids: keys.keys().cloned().collect(),
                threshold: 1,
            },
            terminating: true,
            paths: vec![DENY_PATHS.to_owned()],
        };
        Delegations {
            keys,
            roles: vec![role],
        }
    }
}

/// The keys with the ids that are theirs.
pub fn by_id(keys: &[PublicKey]) -> BTreeMap<KeyId, PublicKey> {
    keys.iter().map(|key| (key.id(), key.clone())).collect()
}

impl Content {
    pub fn of(bytes: &[u8]) -> Content {
        Content {
            length: bytes.len() as u64,
            hashes: Hashes {
                sha256: hex(&sha256(bytes)),
            },
        }
    }
}

impl<R: Role> Metadata<R> {
    /// Unsigned.
    pub fn new(version: u64, expires: Time, role: R) -> Metadata<R> {
        let signed = Signed {
            kind: R::KIND.to_owned(),
            spec_version: SPEC_VERSION.to_owned(),
            version,
            expires: Moment::of(expires),
            role,
        };
        Metadata {
            signatures: Vec::new(),
            signed,
        }
    }

    /// Reads what [`Metadata::bytes`] wrote.
    pub fn parse(bytes: &[u8]) -> Result<Metadata<R>, String> {
        let value = json::parse(bytes).map_err(|error| format!("no strict JSON: {error}"))?;
        let read: Metadata<R> =
            serde_json::from_value(value.clone()).map_err(|error| error.to_string())?;
        if read.signed.kind != R::KIND {
            return Err(format!("it is of the type {:?}", read.signed.kind));
        }
        match json!(read) == value {
            true => Ok(read),
            false => Err("it has members that this slmd doesn't know".to_owned()),
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        json!(self).to_string().into_bytes()
    }

    /// What signatures are over.
    pub fn canonical(&self) -> Vec<u8> {
        let value: Value = json!(self.signed);
        // INVARIANT: numbers are versions, lengths and thresholds, which are integers.
        canonical(&value).expect("all numbers are integers")
    }

    /// As snapshot and timestamp list it.
    pub fn listed(&self) -> Listed {
        Listed {
            version: self.signed.version,
            content: Content::of(&self.bytes()),
        }
    }

    /// The keys of `keys` that have signed it.
    pub fn signers(&self, keys: &BTreeMap<KeyId, PublicKey>, of: &Threshold) -> BTreeSet<KeyId> {
        let signed = self.canonical();
        let good = |signature: &&Signature| {
            let key = keys.get(&signature.keyid);
            of.keyids.contains(&signature.keyid)
                && key.is_some_and(|key| key.verifies(&signed, &signature.sig))
        };
        let good = self.signatures.iter().filter(good);
        good.map(|signature| signature.keyid.clone()).collect()
    }

    /// Whether enough of them have.
    pub fn is_signed(&self, keys: &BTreeMap<KeyId, PublicKey>, of: &Threshold) -> bool {
        of.threshold > 0 && self.signers(keys, of).len() >= of.threshold
    }
}

/// A time as metadata has it: to the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub Time);

impl Moment {
    pub fn of(time: Time) -> Moment {
        Moment(Time::from_secs(time.as_secs()))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        write!(f, "{}Z", text.split('.').next().unwrap_or(&text))
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Moment, D::Error> {
        let text = String::deserialize(from)?;
        let whole = text.strip_suffix('Z').map(|text| format!("{text}.000Z"));
        let time = whole.and_then(|text| text.parse().ok());
        time.map(Moment)
            .ok_or_else(|| D::Error::custom(format!("{text:?} is no time of metadata")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let targets = Targets {
            targets: BTreeMap::from([("policy.json".to_owned(), Content::of(b"{}"))]),
            delegations: None,
        };
        let written = Metadata::new(7, Time(1_800_000_000_123), targets);
        let text = String::from_utf8(written.bytes()).unwrap();
        assert!(
            text.contains(r#""expires":"2027-01-15T08:00:00Z""#),
            "{text}"
        );
        assert_eq!(Metadata::parse(text.as_bytes()), Ok(written));
        for (from, to) in [
            (r#""version":7"#, r#""version":7,"x":1"#),
            (r#""length":2"#, r#""length":2,"custom":{}"#),
            (r#""_type":"targets""#, r#""_type":"root""#),
            (r#":00:00Z"#, r#":00:00.000Z"#),
            (r#""version":7"#, r#""version":7,"version":7"#),
        ] {
            let other = text.replacen(from, to, 1);
            assert_ne!(other, text);
            assert!(
                Metadata::<Targets>::parse(other.as_bytes()).is_err(),
                "{to}"
            );
        }
    }

    #[test]
    fn signatures_are_over_sorted_members_without_spaces() {
        let made = Metadata::new(1, Time(0), Snapshot::default());
        assert_eq!(
            String::from_utf8(made.canonical()).unwrap(),
            r#"{"_type":"snapshot","expires":"1970-01-01T00:00:00Z","meta":{},"spec_version":"1.0.31","version":1}"#
        );
    }
}
