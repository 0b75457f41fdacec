//! The fleet's targets: where each lies, and what it says, read strictly. What is half understood
//! would be half obeyed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::json;
use crate::prompt::{Scope, Transport};

/// The largest target of a fleet: a value of the store holds it.
pub const MAX_TARGET: u64 = 56 * 1024;

pub const POLICY: &str = "policy.json";

/// No span is longer: sums with any time can't overflow.
const MAX_SECONDS: u64 = 3650 * 86_400;

pub fn jwks(realm: &str) -> String {
    format!("realms/{realm}/jwks.json")
}

/// What is revoked. It may only take away, so a role of its own signs it.
pub fn deny(realm: &str) -> String {
    format!("realms/{realm}/deny.json")
}

/// What is revoked no more.
pub fn lift(realm: &str) -> String {
    format!("realms/{realm}/lift.json")
}

pub fn model(name: &str) -> String {
    format!("models/{name}.json")
}

/// What the fleet allows in a realm at most. What it doesn't name is the configuration's to say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RealmPolicy {
    /// Role → scopes; a role that isn't there opens nothing.
    pub roles: Option<BTreeMap<String, Vec<Scope>>>,
    pub max_lifetime: Option<Duration>,
    pub tokens_per_minute: Option<u32>,
    pub require_dpop: Vec<Transport>,
    pub offline_grace: BTreeMap<Scope, Duration>,
}

/// The fleet's policy by realm.
pub type FleetPolicy = BTreeMap<String, RealmPolicy>;

/// A revocation that counts no more.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lifted {
    /// `jti`.
    Token(String),
    /// `sub`.
    Subject(String),
    /// `sid`.
    Session(String),
    /// `azp`.
    Client(String),
    /// `jkt`.
    Key(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFile {
    version: u32,
    #[serde(default)]
    realms: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyEntry {
    roles: Option<BTreeMap<String, Vec<String>>>,
    max_lifetime: Option<u64>,
    tokens_per_minute: Option<u32>,
    #[serde(default)]
    require_dpop: Vec<String>,
    #[serde(default)]
    offline_grace: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LiftFile {
    version: u32,
    lifted: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LiftEntry {
    jti: Option<String>,
    sub: Option<String>,
    sid: Option<String>,
    azp: Option<String>,
    jkt: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelFile {
    version: u32,
    digests: BTreeSet<String>,
}

/// `policy.json`.
pub fn parse_policy(text: &[u8]) -> Result<FleetPolicy, String> {
    let file: PolicyFile = document(text)?;
    known(file.version)?;
    let realms = file.realms.into_iter().map(|(name, entry)| {
        let policy = object(entry).and_then(realm_policy);
        let policy = policy.map_err(|what| format!("realm {name:?}: {what}"))?;
        Ok((name, policy))
    });
    realms.collect()
}

fn realm_policy(entry: PolicyEntry) -> Result<RealmPolicy, String> {
    let roles = entry.roles.map(|roles| {
        let roles = roles.into_iter().map(|(role, scopes)| {
            let scopes: Result<Vec<Scope>, String> = scopes.iter().map(|s| scope(s)).collect();
            Ok::<_, String>((role, scopes?))
        });
        roles.collect::<Result<BTreeMap<_, _>, String>>()
    });
    let transport = |name: &String| {
        let found = Transport::ALL.into_iter().find(|t| t.as_str() == name);
        found.ok_or_else(|| format!("{name:?} is no transport"))
    };
    let grace = entry.offline_grace.into_iter();
    let grace = grace.map(|(name, secs)| Ok((scope(&name)?, span(secs)?)));
    if entry.tokens_per_minute == Some(0) {
        return Err("`tokens_per_minute` is 0".to_owned());
    }
    Ok(RealmPolicy {
        roles: roles.transpose()?,
        max_lifetime: entry.max_lifetime.map(span).transpose()?,
        tokens_per_minute: entry.tokens_per_minute,
        require_dpop: entry
            .require_dpop
            .iter()
            .map(transport)
            .collect::<Result<_, _>>()?,
        offline_grace: grace.collect::<Result<_, String>>()?,
    })
}

/// `realms/{name}/lift.json`.
pub fn parse_lift(text: &[u8]) -> Result<BTreeSet<Lifted>, String> {
    let file: LiftFile = document(text)?;
    known(file.version)?;
    let entries = file.lifted.into_iter().enumerate().map(|(place, entry)| {
        let lifted = object(entry).and_then(lifted);
        lifted.map_err(|what| format!("entry {place} of `lifted`: {what}"))
    });
    entries.collect()
}

fn lifted(entry: LiftEntry) -> Result<Lifted, String> {
    let LiftEntry {
        jti,
        sub,
        sid,
        azp,
        jkt,
    } = entry;
    let kinds = [
        jti.map(Lifted::Token),
        sub.map(Lifted::Subject),
        sid.map(Lifted::Session),
        azp.map(Lifted::Client),
        jkt.map(Lifted::Key),
    ];
    let mut named = kinds.into_iter().flatten();
    match (named.next(), named.next()) {
        (Some(one), None) => Ok(one),
        _ => Err("name exactly one of jti, sub, sid, azp and jkt".to_owned()),
    }
}

/// `models/{name}.json`: digests of bundles, as `slmd model show` names them.
pub fn parse_model(text: &[u8]) -> Result<BTreeSet<String>, String> {
    let file: ModelFile = document(text)?;
    known(file.version)?;
    let is_digest = |text: &String| {
        let hex = text.strip_prefix("sha256:").unwrap_or_default();
        let clean = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        hex.len() == 64 && hex.bytes().all(clean)
    };
    match file.digests.iter().find(|digest| !is_digest(digest)) {
        Some(wrong) => Err(format!("{wrong:?} is no digest of the form sha256:…")),
        None => Ok(file.digests),
    }
}

fn document<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    if text.len() as u64 > MAX_TARGET {
        return Err(format!("it is larger than {} KiB", MAX_TARGET / 1024));
    }
    object(json::parse(text).map_err(|error| format!("no strict JSON: {error}"))?)
}

/// serde reads a struct from a list of its values too.
fn object<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    if !value.is_object() {
        return Err("not of its form: an object is wanted".to_owned());
    }
    serde_json::from_value(value).map_err(|error| format!("not of its form: {error}"))
}

fn known(version: u32) -> Result<(), String> {
    match version {
        1 => Ok(()),
        other => Err(format!("its version is {other}, known is 1")),
    }
}

fn scope(name: &str) -> Result<Scope, String> {
    let found = Scope::ALL.into_iter().find(|scope| scope.as_str() == name);
    found.ok_or_else(|| format!("{name:?} is no scope"))
}

fn span(secs: u64) -> Result<Duration, String> {
    match secs {
        1..=MAX_SECONDS => Ok(Duration::from_secs(secs)),
        _ => Err(format!("{secs} isn't from 1 to {MAX_SECONDS} seconds")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_says_what_it_names_and_no_more() {
        let text = br#"{"version":1,"realms":{"prod":{"roles":{"asker":["read"]},
            "max_lifetime":3600,"tokens_per_minute":20000,"require_dpop":["mqtt"],
            "offline_grace":{"read":2592000}},"dev":{}}}"#;
        let policy = parse_policy(text).unwrap();
        let roles = BTreeMap::from([("asker".to_owned(), vec![Scope::Read])]);
        let prod = RealmPolicy {
            roles: Some(roles),
            max_lifetime: Some(Duration::from_secs(3600)),
            tokens_per_minute: Some(20_000),
            require_dpop: vec![Transport::Mqtt],
            offline_grace: BTreeMap::from([(Scope::Read, Duration::from_secs(2_592_000))]),
        };
        assert_eq!(policy["prod"], prod);
        assert_eq!(policy["dev"], RealmPolicy::default());
    }

    #[test]
    fn what_isnt_understood_whole_is_refused() {
        let policies = [
            "",
            "[1]",
            "[1,{}]",
            r#"{"version":2}"#,
            r#"{"realms":{}}"#,
            r#"{"version":1,"version":1}"#,
            r#"{"version":1,"other":1}"#,
            r#"{"version":1,"realms":{"a":[null,60,1,[],{}]}}"#,
            r#"{"version":1,"realms":{"a":{"role":{}}}}"#,
            r#"{"version":1,"realms":{"a":{"roles":{"x":["reads"]}}}}"#,
            r#"{"version":1,"realms":{"a":{"max_lifetime":0}}}"#,
            r#"{"version":1,"realms":{"a":{"max_lifetime":18446744073709551615}}}"#,
            r#"{"version":1,"realms":{"a":{"tokens_per_minute":0}}}"#,
            r#"{"version":1,"realms":{"a":{"require_dpop":["udp"]}}}"#,
            r#"{"version":1,"realms":{"a":{"offline_grace":{"none":1}}}}"#,
        ];
        for text in policies {
            assert!(parse_policy(text.as_bytes()).is_err(), "{text}");
        }
        let lifts = [
            r#"{"version":1}"#,
            r#"{"version":1,"lifted":[{}]}"#,
            r#"{"version":1,"lifted":[{"sub":"a","jti":"b"}]}"#,
            r#"{"version":1,"lifted":[["a",null,null,null,null]]}"#,
            r#"{"version":1,"lifted":[{"sub":"a","expires":1}]}"#,
        ];
        for text in lifts {
            assert!(parse_lift(text.as_bytes()).is_err(), "{text}");
        }
        let hex = "0".repeat(64);
        let models = [
            format!(r#"{{"version":1,"digests":["{hex}"]}}"#),
            format!(r#"{{"version":1,"digests":["sha256:{}"]}}"#, &hex[1..]),
            r#"{"version":1}"#.to_owned(),
        ];
        for text in models {
            assert!(parse_model(text.as_bytes()).is_err(), "{text}");
        }
        let padded = format!(r#"{{"version":1}}{}"#, " ".repeat(MAX_TARGET as usize));
        assert!(parse_policy(padded.as_bytes()).is_err());
    }

    #[test]
    fn lifts_and_models_are_sets() {
        let lift = parse_lift(br#"{"version":1,"lifted":[{"jkt":"k"},{"sub":"a"},{"jkt":"k"}]}"#);
        let wanted = [Lifted::Key("k".into()), Lifted::Subject("a".into())];
        assert_eq!(lift, Ok(wanted.into()));
        let digest = format!("sha256:{}", "0f".repeat(32));
        let model = format!(r#"{{"version":1,"digests":["{digest}"]}}"#);
        assert_eq!(parse_model(model.as_bytes()), Ok([digest].into()));
    }
}
