//! Whether every loop still makes progress, what the watchdog is fed by; whether there are keys; and
//! that log and status say the same of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::auth::{Realm, Skipped};
use crate::engine::Engine;
use crate::transport::mqtt;
use crate::{systemd, time};

/// A part that hasn't beaten for this long is stuck. Generous, because one chunk of prefill takes
/// seconds on a slow core.
const STUCK: Duration = Duration::from_secs(60);

/// The last beat seen of each part. A broker that is away or a full disk is no lack of progress.
pub(super) struct Health {
    engine: Engine,
    mqtt: Option<mqtt::Handle>,
    beats: Vec<Beat>,
}

#[derive(Clone, Copy)]
struct Beat {
    value: u64,
    seen: Instant,
}

impl Health {
    pub(super) fn new(engine: Engine, mqtt: Option<mqtt::Handle>) -> Health {
        let mut health = Health {
            engine,
            mqtt,
            beats: Vec::new(),
        };
        let seen = time::instant();
        let values = health.values();
        health.beats = values
            .into_iter()
            .map(|value| Beat { value, seen })
            .collect();
        health
    }

    pub(super) fn is_alive(&mut self, now: Instant) -> bool {
        let values = self.values();
        for (beat, value) in self.beats.iter_mut().zip(values) {
            if beat.value != value {
                *beat = Beat { value, seen: now };
            }
        }
        let alive = |beat: &Beat| now.saturating_duration_since(beat.seen) < STUCK;
        self.beats.iter().all(alive)
    }

    fn values(&self) -> Vec<u64> {
        let mqtt = self.mqtt.iter().map(mqtt::Handle::heartbeat);
        std::iter::once(self.engine.heartbeat())
            .chain(mqtt)
            .collect()
    }
}

/// The readiness that was told last: the log says what `/readyz` and status say, whenever that
/// changes.
#[derive(Default)]
pub(super) struct Readiness {
    told: Option<Result<(), String>>,
}

impl Readiness {
    pub(super) fn tell(&mut self, now: Result<(), String>) {
        if self.told.as_ref() == Some(&now) {
            return;
        }
        match &now {
            Ok(()) => {
                tracing::info!("ready");
                systemd::say("ready");
            }
            Err(why) => {
                tracing::warn!("not ready: {why}");
                systemd::say(&format!("not ready: {why}"));
            }
        }
        self.told = Some(now);
    }
}

/// Why no token can be verified, where none can.
pub(super) fn keyless(realms: &BTreeMap<String, Realm>) -> Option<String> {
    let mut left_out = Vec::new();
    for realm in realms.values() {
        if !realm.keys.is_empty() {
            return None;
        }
        let skipped = realm.keys.skipped().iter().map(Skipped::to_string);
        let skipped: Vec<String> = skipped.collect();
        if !skipped.is_empty() {
            let (name, why) = (&realm.name, skipped.join("; "));
            left_out.push(format!("the keys of realm {name} are all left out: {why}"));
        }
    }
    Some(match left_out.is_empty() {
        true => "no realm has pinned keys yet; run `slmd keys pin REALM FILE`".to_owned(),
        false => left_out.join("; "),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::auth::{KeySet, Policy};

    fn realm(name: &str, keys: KeySet) -> (String, Realm) {
        let realm = Realm {
            name: name.to_owned(),
            issuer: name.to_owned(),
            policy: Policy::default(),
            endpoints: Vec::new(),
            keys,
            confirmed: None,
        };
        (name.to_owned(), realm)
    }

    #[test]
    fn keys_that_are_all_left_out_are_named_with_the_reason() {
        let small = json!({"kty": "RSA", "alg": "RS256", "kid": "old", "n": "AQAB", "e": "AQAB"});
        let small = json!({"keys": [small]}).to_string();
        let left_out = KeySet::stored(small.as_bytes()).unwrap();
        let why = left_out.skipped()[0].why.clone();
        let none = realm("none", KeySet::default());
        assert!(
            keyless(&BTreeMap::from([none.clone()]))
                .unwrap()
                .contains("keys pin")
        );
        let told = keyless(&BTreeMap::from([none, realm("weak", left_out)])).unwrap();
        assert!(
            told.contains("the keys of realm weak are all left out: key 0 (old)"),
            "{told}"
        );
        assert!(told.contains(&why) && !told.contains("keys pin"), "{told}");
    }
}
