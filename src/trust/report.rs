//! What a device tells its fleet of itself: which keys, versions and models are in force. A document
//! that the device signs, so that neither a broker nor another device can speak for it.
//!
//! A later release may add members: those are kept, and nobody minds them. The counter rises with
//! each report of a device, so that an old one can't be shown again as news.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::digest::percent_encoded;
use crate::identity::{Key, PublicKey};
use crate::json;
use crate::time::Timestamp;

/// The version that this release writes. Of a later one the members that are known are read.
pub const VERSION: u64 = 1;
/// The longest report, signed.
pub const MAX_LEN: usize = 32 * 1024;

/// So that nothing else that a device signs passes for a report.
const TYPE: &str = "slmd-report+jwt";

/// One report. Texts are the device's own words: whoever shows them sees to it that a terminal can
/// stand them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub version: u64,
    pub device: String,
    /// Higher in each report than in those before.
    pub counter: u64,
    #[serde(with = "rfc3339")]
    pub time: Timestamp,
    /// Whether the clock was, that said so.
    pub synchronised: bool,
    /// No decision is made by an earlier time.
    #[serde(with = "rfc3339")]
    pub floor: Timestamp,
    /// The device's release.
    pub slmd: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<Fleet>,
    /// By name.
    #[serde(default)]
    pub realms: BTreeMap<String, Realm>,
    /// By name, what their bundles are known by.
    #[serde(default)]
    pub models: BTreeMap<String, String>,
    /// Why the fleet's metadata wasn't taken, the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<Audit>,
    /// What a later release says besides.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// The fleet whose metadata the device follows, and the versions that it trusts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fleet {
    pub name: String,
    pub root: u64,
    pub timestamp: u64,
    pub snapshot: u64,
    pub targets: u64,
    /// 0: there is no such role.
    #[serde(default)]
    pub revocation: u64,
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// What is in force in a realm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Realm {
    /// Thumbprints.
    #[serde(default)]
    pub keys: Vec<String>,
    #[serde(default)]
    pub kids: Vec<String>,
    /// When the keys were last confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "perhaps")]
    pub confirmed: Option<Timestamp>,
    /// Entries of the deny-list.
    #[serde(default)]
    pub denied: u64,
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// The device's audit log, as far as others can check it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Audit {
    /// The newest: a signed note (C2SP tlog-checkpoint).
    pub checkpoint: String,
    /// That it has grown from what was seen of it before.
    #[serde(default)]
    pub consistency: Vec<Consistency>,
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// The proof that a log of `from` records is the beginning of the one that is reported (RFC 9162
/// section 2.1.4).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Consistency {
    pub from: u64,
    /// Hashes in base64, as in C2SP's proofs.
    pub proof: Vec<String>,
}

/// Beneath `slm/trust/{fleet}/`: what witnesses bring to devices.
pub const COSIGNED: &str = "witness/";

/// Where a device looks there for what a witness, by its key's name, has cosigned of its log.
pub fn cosigned_file(device: &str, witness: &str) -> String {
    format!("{COSIGNED}{device}/{}", percent_encoded(witness))
}

/// A device as its fleet has enrolled it.
#[derive(Debug, Clone)]
pub struct Enrolled<'a> {
    pub device: &'a str,
    pub key: &'a PublicKey,
    /// The highest that was seen; 0: none yet.
    pub counter: u64,
}

/// Why a report counts for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    #[error("it is larger than {MAX_LEN} bytes")]
    TooLarge,
    #[error("it is no compact JWS of type {TYPE} with a report in it")]
    Malformed,
    #[error("it is signed by a key that isn't enrolled for this device")]
    NotEnrolled,
    #[error("the signature isn't by the key that it names")]
    BadSignature,
    #[error("it speaks of another device")]
    WrongDevice,
    #[error("its counter is {0}, and a report with {1} was seen before: an old one is shown again")]
    OldCounter(u64, u64),
}

impl ReportError {
    pub fn name(self) -> &'static str {
        match self {
            ReportError::TooLarge => "too_large",
            ReportError::Malformed => "malformed",
            ReportError::NotEnrolled => "not_enrolled",
            ReportError::BadSignature => "bad_signature",
            ReportError::WrongDevice => "wrong_device",
            ReportError::OldCounter(..) => "old_counter",
        }
    }
}

/// The report as it is published.
pub fn sign(report: &Report, key: &Key) -> Result<String, ReportError> {
    let payload = serde_json::to_vec(report).map_err(|_| ReportError::Malformed)?;
    let jws = key.jws(TYPE, &payload);
    match jws.len() > MAX_LEN {
        true => Err(ReportError::TooLarge),
        false => Ok(jws),
    }
}

/// The report in `jws`, if it is this device's word and no older than what was heard before. The
/// same one may come again: it is retained at the broker.
pub fn verify(jws: &[u8], enrolled: &Enrolled<'_>) -> Result<Report, ReportError> {
    if jws.len() > MAX_LEN {
        return Err(ReportError::TooLarge);
    }
    let signed = Signed::parse(jws).ok_or(ReportError::Malformed)?;
    if signed.kid != enrolled.key.thumbprint() {
        return Err(ReportError::NotEnrolled);
    }
    if !enrolled.key.verify(signed.input, &signed.signature) {
        return Err(ReportError::BadSignature);
    }
    let report = json::parse(&signed.payload).ok();
    let report = report.and_then(|report| serde_json::from_value::<Report>(report).ok());
    let report = report.filter(|report| report.version >= VERSION);
    let report = report.ok_or(ReportError::Malformed)?;
    if report.device != enrolled.device {
        return Err(ReportError::WrongDevice);
    }
    if report.counter < enrolled.counter {
        return Err(ReportError::OldCounter(report.counter, enrolled.counter));
    }
    Ok(report)
}

/// Well-formed and of our type; nobody has checked its signature.
struct Signed<'a> {
    kid: String,
    input: &'a [u8],
    payload: Vec<u8>,
    signature: Vec<u8>,
}

impl<'a> Signed<'a> {
    fn parse(jws: &'a [u8]) -> Option<Signed<'a>> {
        let (input, signature) = std::str::from_utf8(jws).ok()?.rsplit_once('.')?;
        let (header, payload) = input.split_once('.')?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
        let header = json::parse(&decode(header)?).ok()?;
        let says = |name: &str, value: &str| header.get(name).is_some_and(|own| own == value);
        let ours = says("alg", "EdDSA") && says("typ", TYPE) && header.get("crit").is_none();
        Some(Signed {
            kid: header.get("kid").filter(|_| ours)?.as_str()?.to_owned(),
            input: input.as_bytes(),
            payload: decode(payload)?,
            signature: decode(signature)?,
        })
    }
}

/// Times as people read them, as elsewhere over MQTT.
mod rfc3339 {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Timestamp;

    pub(super) fn serialize<S: Serializer>(at: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(at)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        let text = String::deserialize(from)?;
        text.parse()
            .map_err(|()| Error::custom("no time in RFC 3339"))
    }
}

/// The same where there may be none.
mod perhaps {
    use serde::{Deserializer, Serializer};

    use super::{Timestamp, rfc3339};

    pub(super) fn serialize<S: Serializer>(
        at: &Option<Timestamp>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match at {
            Some(at) => rfc3339::serialize(at, to),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Timestamp>, D::Error> {
        rfc3339::deserialize(from).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(counter: u64) -> Value {
        json!({
            "version": 1, "device": "edge-1", "counter": counter,
            "time": "2026-11-27T12:00:00.000Z", "synchronised": true,
            "floor": "2026-11-27T11:59:00.000Z", "slmd": "0.1.0",
            "fleet": {"name": "plant", "root": 1, "timestamp": 12, "snapshot": 12, "targets": 5,
                "revocation": 3},
            "realms": {"prod": {"keys": ["t"], "kids": ["k"],
                "confirmed": "2026-11-27T11:00:00.000Z", "denied": 3}},
            "models": {"smollm2": "sha256:00"}, "error": "expired",
            "audit": {"checkpoint": "note", "consistency": [{"from": 3, "proof": ["AA=="]}]},
        })
    }

    fn signed(report: &Value) -> String {
        Key::published().jws(TYPE, report.to_string().as_bytes())
    }

    fn judge(jws: &str, counter: u64) -> Result<Report, ReportError> {
        let key = Key::published();
        let enrolled = Enrolled {
            device: "edge-1",
            key: key.public(),
            counter,
        };
        verify(jws.as_bytes(), &enrolled)
    }

    fn refused(jws: &str) -> &'static str {
        judge(jws, 7).map_or_else(ReportError::name, |_| "")
    }

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let report: Report = serde_json::from_value(text(7)).unwrap();
        assert_eq!(serde_json::to_value(&report).unwrap(), text(7));
        let jws = sign(&report, &Key::published()).unwrap();
        assert_eq!(judge(&jws, 0), Ok(report));
    }

    #[test]
    fn what_a_device_does_not_know_is_absent() {
        let mut least = text(1);
        for name in ["fleet", "error", "realms", "models", "audit"] {
            least.as_object_mut().unwrap().remove(name);
        }
        let report = judge(&signed(&least), 0).unwrap();
        assert_eq!((report.fleet, report.error), (None, None));
        let realm: Realm = serde_json::from_value(json!({})).unwrap();
        let again = serde_json::to_value(&realm).unwrap();
        assert_eq!(again, json!({"keys": [], "kids": [], "denied": 0}));
    }

    #[test]
    fn a_later_release_may_say_more() {
        let mut later = text(7);
        later["version"] = 2.into();
        later["temperature"] = json!({"cpu": 60});
        later["audit"]["cosigned"] = json!([]);
        later["fleet"]["role"] = 1.into();
        later["realms"]["prod"]["policy"] = json!(["x"]);
        let report = judge(&signed(&later), 0).unwrap();
        assert_eq!(report.version, 2);
        assert_eq!(serde_json::to_value(&report).unwrap(), later);
    }

    #[test]
    fn the_same_may_come_again_and_an_older_one_may_not() {
        let jws = signed(&text(7));
        for (seen, taken) in [(0, true), (6, true), (7, true), (8, false)] {
            let judged = judge(&jws, seen);
            assert_eq!(judged.is_ok(), taken, "{seen}");
        }
        assert_eq!(judge(&jws, 8), Err(ReportError::OldCounter(7, 8)));
    }

    #[test]
    fn each_fault_has_a_name() {
        let good = signed(&text(7));
        assert_eq!(refused(&good), "");
        let mut other = text(7);
        other["device"] = "edge-2".into();
        assert_eq!(refused(&signed(&other)), "wrong_device");
        assert_eq!(refused(&signed(&text(6))), "old_counter");

        let folder = tempfile::tempdir().unwrap();
        let stranger = Key::open(folder.path()).unwrap();
        let foreign = stranger.jws(TYPE, text(7).to_string().as_bytes());
        assert_eq!(refused(&foreign), "not_enrolled");
        // Another's signature under the name of the enrolled key.
        let (header, _) = good.split_once('.').unwrap();
        let (_, rest) = foreign.split_once('.').unwrap();
        assert_eq!(refused(&format!("{header}.{rest}")), "bad_signature");
        let (input, signature) = good.rsplit_once('.').unwrap();
        let swapped = signed(&text(8));
        let (later, _) = swapped.rsplit_once('.').unwrap();
        assert_eq!(refused(&format!("{later}.{signature}")), "bad_signature");
        assert_eq!(refused(&format!("{input}.AAAA")), "bad_signature");

        let long = format!("{good}{}", "A".repeat(MAX_LEN));
        assert_eq!(refused(&long), "too_large");
        assert_eq!(refused("\u{e9}.a.b"), "malformed");
    }

    #[test]
    fn what_is_no_report_is_malformed_whoever_signed_it() {
        for (name, wrong) in [
            ("version", json!(0)),
            ("version", json!("1")),
            ("counter", json!(-1)),
            ("time", json!(1_795_500_000)),
            ("time", json!("yesterday")),
            ("realms", json!({"prod": {"keys": "t"}})),
            ("realms", json!({"prod": {"confirmed": null}})),
            ("fleet", json!({"name": "plant"})),
            ("device", Value::Null),
        ] {
            let mut report = text(7);
            report[name] = wrong.clone();
            assert_eq!(refused(&signed(&report)), "malformed", "{name}: {wrong}");
        }
        let key = Key::published();
        let body = text(7).to_string();
        let twice = body.replacen('{', r#"{"counter":9,"#, 1);
        assert_eq!(refused(&key.jws(TYPE, twice.as_bytes())), "malformed");
        let answer = key.jws("slmd-answer+jwt", body.as_bytes());
        assert_eq!(refused(&answer), "malformed", "another kind of document");
        let kid = key.public().thumbprint();
        for header in [
            json!({"alg": "none", "typ": TYPE, "kid": kid}),
            json!({"alg": "EdDSA", "typ": TYPE}),
            json!({"alg": "EdDSA", "typ": TYPE, "kid": kid, "crit": ["b64"]}),
        ] {
            let header = URL_SAFE_NO_PAD.encode(header.to_string());
            let (_, rest) = answer.split_once('.').unwrap();
            assert_eq!(refused(&format!("{header}.{rest}")), "malformed");
        }
    }

    #[test]
    fn none_is_signed_that_nobody_would_read() {
        let mut report: Report = serde_json::from_value(text(7)).unwrap();
        report.error = Some("x".repeat(MAX_LEN));
        let signed = sign(&report, &Key::published());
        assert_eq!(signed, Err(ReportError::TooLarge));
    }
}
