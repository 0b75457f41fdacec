//! The fleet's devices: whose reports count, and what those say.
//!
//! `devices/DEVICE.json` is written when one is enrolled; `devices/counters` has the highest counter
//! that was seen of each, so that a broker can't pass an old report off as news.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::error::RepositoryError;
use super::state::State;
use super::{Repository, put, read};
use crate::files::Care;
use crate::identity::{PublicKey, is_device_name};
use crate::time::Timestamp;
use crate::trust::report::{self, Enrolled, Report, ReportError};

const MAX_DEVICE: u64 = 4096;
/// A line for each of ten thousand devices and more.
const MAX_COUNTERS: u64 = 16 << 20;

/// A device's name as a file's: what isn't plain is written as in URLs.
const CODED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeviceFile {
    /// Its public key, as `slmd device id` shows it.
    x: String,
}

/// Enrolled devices by name.
#[derive(Debug, Default)]
pub struct Devices {
    keys: BTreeMap<String, PublicKey>,
    counters: BTreeMap<String, u64>,
}

/// What was heard of an enrolled device.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    Report(Box<Report>),
    /// What came in its name isn't its word.
    Refused(ReportError),
    Nothing,
}

impl Devices {
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub fn key(&self, device: &str) -> Option<&PublicKey> {
        self.keys.get(device)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }

    /// What `reports` (by the device in whose name they came, one of each source) are worth; the newest
    /// counts, and counters go on.
    pub fn judge(&mut self, reports: &BTreeMap<String, Vec<Vec<u8>>>) -> BTreeMap<String, Heard> {
        let mut heard = BTreeMap::new();
        for (device, key) in &self.keys {
            let counter = self.counters.get(device).copied().unwrap_or_default();
            let enrolled = Enrolled {
                device,
                key,
                counter,
            };
            let mut best = Heard::Nothing;
            for jws in reports.get(device).into_iter().flatten() {
                match report::verify(jws, &enrolled) {
                    Ok(report) if best.report().is_none_or(|b| b.counter < report.counter) => {
                        best = Heard::Report(Box::new(report));
                    }
                    Err(why) if best == Heard::Nothing => best = Heard::Refused(why),
                    _ => {}
                }
            }
            if let Some(report) = best.report() {
                self.counters.insert(device.clone(), report.counter);
            }
            heard.insert(device.clone(), best);
        }
        heard
    }
}

impl Heard {
    pub fn report(&self) -> Option<&Report> {
        match self {
            Heard::Report(report) => Some(report),
            Heard::Refused(_) | Heard::Nothing => None,
        }
    }
}

impl Repository {
    pub fn devices(&self) -> Result<Devices, RepositoryError> {
        let folder = self.folder().join("devices");
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Devices::default()),
            entries => entries.map_err(RepositoryError::file(&folder))?,
        };
        let mut devices = Devices::default();
        for entry in entries {
            let file = entry.map_err(RepositoryError::file(&folder))?.path();
            let name = file.file_name().and_then(|name| name.to_str());
            let Some(name) = name.and_then(|name| name.strip_suffix(".json")) else {
                continue;
            };
            let name = percent_decode_str(name).decode_utf8_lossy().into_owned();
            let text = read(&file, MAX_DEVICE, Care::Trusted)?.unwrap_or_default();
            devices.keys.insert(name, device_key(&file, &text)?);
        }
        let file = folder.join("counters");
        if let Some(text) = read(&file, MAX_COUNTERS, Care::Trusted)? {
            let counters = serde_json::from_slice(&text);
            devices.counters = counters.map_err(|error| RepositoryError::wrong(&file, error))?;
        }
        Ok(devices)
    }

    /// So that no report older than those is believed again.
    pub fn keep_counters(&self, devices: &Devices) -> Result<(), RepositoryError> {
        let file = self.folder().join("devices/counters");
        put(&file, json!(devices.counters).to_string().as_bytes())
    }

    /// Makes the device's reports count. `replace`: the box is another one, with a key of its own.
    pub fn enroll(
        &self,
        device: &str,
        key: &PublicKey,
        replace: bool,
    ) -> Result<(), RepositoryError> {
        if !is_device_name(device) {
            let what = format!("{device:?} can't be a device's name; `slmd device id` shows it");
            return Err(RepositoryError::Refused(what));
        }
        // Of the others nothing is read: there may be ten thousand.
        let file = self.device_file(device);
        match read(&file, MAX_DEVICE, Care::Trusted)?
            .map(|text| device_key(&file, &text))
            .transpose()?
        {
            Some(known) if known.x() != key.x() && !replace => {
                let thumbprint = known.thumbprint();
                return Err(RepositoryError::Refused(format!(
                    "{device} is enrolled with another key ({thumbprint}); if the box was \
                     replaced, give --replace"
                )));
            }
            Some(known) if known.x() != key.x() => {
                let mut devices = self.devices()?;
                devices.counters.remove(device);
                self.keep_counters(&devices)?;
            }
            _ => {}
        }
        let text = format!("{}\n", json!(DeviceFile { x: key.x() }));
        put(&file, text.as_bytes())
    }

    fn device_file(&self, device: &str) -> PathBuf {
        let name = coded(device);
        self.folder().join("devices").join(format!("{name}.json"))
    }
}

pub(super) fn coded(device: &str) -> String {
    utf8_percent_encode(device, &CODED).to_string()
}

fn device_key(file: &Path, text: &[u8]) -> Result<PublicKey, RepositoryError> {
    let device: DeviceFile =
        serde_json::from_slice(text).map_err(|error| RepositoryError::wrong(file, error))?;
    let key = PublicKey::parse(&device.x);
    key.ok_or_else(|| RepositoryError::wrong(file, "x is no Ed25519 key"))
}

/// Where a device stands against what is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    UpToDate,
    /// Roles whose newest version it doesn't have.
    Behind(Vec<&'static str>),
    /// It follows none, or another one.
    OtherFleet,
}

/// By what the report says.
pub fn standing(state: &State, fleet: &str, report: &Report) -> Result<Standing, RepositoryError> {
    let published = state.published()?;
    let Some(has) = report.fleet.as_ref().filter(|has| has.name == fleet) else {
        return Ok(Standing::OtherFleet);
    };
    let roles = [
        ("root", has.root, state.roots.len() as u64),
        ("targets", has.targets, published.targets.signed.version),
        (
            "revocation",
            has.revocation,
            published.revocation.signed.version,
        ),
    ];
    let behind = roles.into_iter().filter(|(_, has, newest)| has < newest);
    let behind: Vec<&'static str> = behind.map(|(role, ..)| role).collect();
    Ok(match behind.is_empty() {
        true => Standing::UpToDate,
        false => Standing::Behind(behind),
    })
}

/// A device that keeps a realm's key from being retired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Straggler {
    pub device: String,
    pub why: String,
}

/// Devices that haven't reported all of `needed`, thumbprints of the realm's other keys. One that isn't
/// configured for the realm needs none of them: a report names all realms that it is configured for. One
/// that has said nothing since `after` is waited for no longer.
pub fn stragglers(
    heard: &BTreeMap<String, Heard>,
    realm: &str,
    needed: &BTreeSet<String>,
    after: Option<Timestamp>,
) -> Vec<Straggler> {
    let mut stragglers = Vec::new();
    for (device, heard) in heard {
        let why = match heard {
            Heard::Nothing if after.is_some() => continue,
            Heard::Nothing => "it has never reported".to_owned(),
            // Not its word, so nobody knows whether it is silent.
            Heard::Refused(why) => format!("its report doesn't count: {why}"),
            Heard::Report(report) => {
                let Some(known) = report.realms.get(realm) else {
                    continue;
                };
                let has: BTreeSet<&String> = known.keys.iter().collect();
                let lacks = needed.iter().filter(|key| !has.contains(key)).count();
                let silent = after.is_some_and(|after| report.time < after);
                if lacks == 0 || silent {
                    continue;
                }
                format!("it lacks {lacks} of the realm's other keys")
            }
        };
        let device = device.clone();
        stragglers.push(Straggler { device, why });
    }
    stragglers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Key;

    fn report(device: &str, counter: u64, keys: &[&str]) -> Report {
        serde_json::from_value(json!({
            "version": 1, "device": device, "counter": counter,
            "time": "2026-11-27T12:00:00.000Z", "synchronised": true,
            "floor": "2026-11-27T11:59:00.000Z", "slmd": "0.1.0",
            "fleet": {"name": "plant", "root": 1, "timestamp": 1, "snapshot": 1, "targets": 1,
                "revocation": 1},
            "realms": {"prod": {"keys": keys}},
        }))
        .unwrap()
    }

    #[test]
    fn a_device_speaks_for_itself_and_never_backwards() {
        let temp = tempfile::tempdir().unwrap();
        let text = super::super::new_file("plant", &[]);
        let folder = temp.path().join("fleet");
        let repository = Repository::create(&folder, &text, &[], &State::default()).unwrap();
        let key = Key::open(temp.path()).unwrap();
        let name = "edge 1";
        repository.enroll(name, key.public(), false).unwrap();
        repository.enroll(name, key.public(), false).unwrap();
        repository.enroll("edge-2", key.public(), false).unwrap();
        for taken in ["a/b", "trust"] {
            assert!(repository.enroll(taken, key.public(), false).is_err());
        }
        let signed = |counter| {
            let jws = report::sign(&report(name, counter, &[]), &key).unwrap();
            BTreeMap::from([(name.to_owned(), vec![jws.into_bytes()])])
        };
        let judge = |counter| {
            let mut devices = repository.devices().unwrap();
            let heard = devices.judge(&signed(counter));
            repository.keep_counters(&devices).unwrap();
            (heard[name].clone(), heard["edge-2"].clone())
        };
        let (heard, other) = judge(7);
        assert_eq!(heard.report().unwrap().counter, 7);
        assert_eq!(other, Heard::Nothing);
        assert_eq!(judge(6).0, Heard::Refused(ReportError::OldCounter(6, 7)));
        assert!(judge(7).0.report().is_some());

        let other = tempfile::tempdir().unwrap();
        let other = Key::open(other.path()).unwrap();
        let refused = repository.enroll(name, other.public(), false).unwrap_err();
        assert!(refused.to_string().contains("--replace"), "{refused}");
        repository.enroll(name, other.public(), true).unwrap();
        assert_eq!(judge(9).0, Heard::Refused(ReportError::NotEnrolled));
        assert!(
            repository.devices().unwrap().counters.is_empty(),
            "the new box counts anew"
        );
    }

    #[test]
    fn who_lacks_a_key_or_says_nothing_is_waited_for() {
        let told = |keys: &[&str]| Heard::Report(Box::new(report("d", 1, keys)));
        let mut elsewhere = report("d", 1, &[]);
        elsewhere.realms.clear();
        let heard = BTreeMap::from([
            ("has".to_owned(), told(&["new", "old"])),
            ("lacks".to_owned(), told(&["old"])),
            ("never".to_owned(), Heard::Nothing),
            (
                "of another realm".to_owned(),
                Heard::Report(Box::new(elsewhere)),
            ),
            (
                "forged".to_owned(),
                Heard::Refused(ReportError::BadSignature),
            ),
        ]);
        let needed = BTreeSet::from(["new".to_owned()]);
        let names = |after: Option<u64>| {
            let after = after.map(Timestamp::from_secs);
            let found = stragglers(&heard, "prod", &needed, after).into_iter();
            found.map(|straggler| straggler.device).collect::<Vec<_>>()
        };
        assert_eq!(names(None), ["forged", "lacks", "never"]);
        assert_eq!(names(Some(1_000_000_000)), ["forged", "lacks"]);
        assert_eq!(names(Some(4_000_000_000)), ["forged"]);
    }
}
