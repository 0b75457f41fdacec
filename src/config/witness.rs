//! The settings of the audit log's witnesses: the kind of value that only they have, and what must be
//! true of them together.

use serde_json::json;

use super::Config;
use super::kind::Kind;
use super::read::Section;
use super::value::text;
use crate::audit::Witness;
use crate::fleet::Place;
use crate::https;
use crate::tlog::note::{Algorithm, VerifierKey};

/// Each costs a request and a proof for each checkpoint.
const MOST: usize = 8;

pub(super) fn verifier_key() -> Kind<VerifierKey> {
    let read = |value: &toml::de::DeValue<'_>| {
        let text = text(value)?;
        let key = VerifierKey::parse(&text).map_err(|why| format!("is {text:?}: {why}"))?;
        match key.algorithm() {
            Algorithm::Cosignature => Ok(key),
            Algorithm::Ed25519 => Err(format!(
                "is {text:?}, a log's key (0x01); a witness's has the algorithm 0x04"
            )),
        }
    };
    Kind::new(read, |key| json!(key.to_string()))
}

pub(super) fn check_witness(section: &Section<'_>, witness: &Witness, before: &[Witness]) {
    let same = |other: &Witness| {
        let (own, other) = (&witness.key, &other.key);
        own.name() == other.name() || own.public() == other.public()
    };
    if before.iter().any(same) {
        section.problem("key", "is another witness's already, or its name is");
    }
    if before.len() == MOST {
        section.problem(
            "key",
            format!("is one more than the {MOST} witnesses that there may be"),
        );
    }
    match &witness.url {
        None if witness.ca_file.is_some() => {
            section.problem("ca_file", "needs `url` too");
        }
        None => {}
        Some(url) => match https::check_url(url) {
            Err(error) => section.problem("url", error.to_string()),
            Ok(()) if url.starts_with("https:") && witness.ca_file.is_none() => {
                section.problem("ca_file", "is missing: HTTPS needs the CA to trust, as PEM");
            }
            Ok(()) => {}
        },
    }
}

/// A witness without a URL is heard over the fleet's broker.
pub(super) fn check_witnesses(root: &Section<'_>, config: &Config) {
    let fleet = config.fleet.as_ref();
    let heard = fleet.is_some_and(|fleet| fleet.mirrors.contains(&Place::Mqtt));
    let silent = |witness: &&Witness| witness.url.is_none() && !heard;
    if let Some(witness) = config.audit.witnesses.iter().find(silent) {
        let name = witness.key.name();
        root.problem(
            "audit",
            format!(
                "has the witness {name:?} without a `url`, which is heard by a fleet's broker, and \
                 [fleet] has no mirror \"mqtt\"; add one of them"
            ),
        );
    }
}
