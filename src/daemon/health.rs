//! Whether every loop still makes progress, what the watchdog is fed by; whether there are keys; since
//! when something is wrong; and that log and status say the same of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::admin::{Kind, Problem};
use crate::auth::{Realm, Skipped};
use crate::engine::Engine;
use crate::time::{Moment, Uptime};
use crate::transport::mqtt;
use crate::{systemd, time};

/// A part that hasn't beaten for this long is stuck. Generous, because one chunk of prefill takes
/// seconds on a slow core.
const STUCK: Duration = Duration::from_secs(60);

/// How often what is wrong is looked for: since when is told as exactly as that.
const LOOK_EVERY: Duration = Duration::from_secs(5);

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

/// What is wrong, and when that was noticed first.
#[derive(Default)]
pub(super) struct Noticed(Mutex<Notes>);

#[derive(Default)]
struct Notes {
    problems: Vec<(Problem, Uptime)>,
    looked: Option<Uptime>,
}

impl Noticed {
    pub(super) fn is_due(&self, now: Moment) -> bool {
        let looked = self.0.lock().looked;
        looked.is_none_or(|at| now.uptime.since(at) >= LOOK_EVERY)
    }

    /// Forgets what is gone.
    pub(super) fn keep(&self, problems: Vec<Problem>, now: Moment) {
        let mut notes = self.0.lock();
        let dated = |problem: Problem| {
            let at = notes.first(&problem).unwrap_or(now.uptime);
            (problem, at)
        };
        notes.problems = problems.into_iter().map(dated).collect();
        notes.looked = Some(now.uptime);
    }

    /// Says since when, where the problem itself doesn't.
    pub(super) fn dated(&self, problems: Vec<Problem>, now: Moment) -> Vec<Problem> {
        let notes = self.0.lock();
        let dated = |problem: Problem| {
            if problem.since.is_some() {
                return problem;
            }
            let at = notes.first(&problem).unwrap_or(now.uptime);
            problem.since(now.known.saturating_sub(now.uptime.since(at)))
        };
        problems.into_iter().map(dated).collect()
    }

    pub(super) fn count(&self, kind: Kind) -> usize {
        let notes = self.0.lock();
        let of_kind = notes
            .problems
            .iter()
            .filter(|(one, _)| one.name == kind.name());
        of_kind.count()
    }
}

impl Notes {
    fn first(&self, problem: &Problem) -> Option<Uptime> {
        let same = self.problems.iter().find(|(one, _)| one.is_same(problem));
        same.map(|(_, at)| *at)
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
    use crate::time::Timestamp;

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
    fn a_problem_is_dated_by_when_it_was_noticed_until_it_is_gone() {
        let at = |seconds: u64| Moment {
            known: Timestamp::from_secs(1_000_000 + seconds),
            uptime: Uptime(seconds * 1000),
        };
        let problem = |realm: &str| Problem::new(Kind::KeysMissing, "no keys", "pin").about(realm);
        let since = |noticed: &Noticed, problem: Problem, now| {
            noticed.dated(vec![problem], now)[0].since.clone()
        };
        let told = |seconds: u64| Some(at(seconds).known.to_string());
        let noticed = Noticed::default();
        assert_eq!(
            since(&noticed, problem("dev"), at(5)),
            told(5),
            "it is news"
        );
        noticed.keep(vec![problem("dev")], at(10));
        let other_words = Problem::new(Kind::KeysMissing, "none", "pin").about("dev");
        noticed.keep(vec![problem("prod"), other_words], at(20));
        assert_eq!(since(&noticed, problem("dev"), at(30)), told(10));
        assert_eq!(since(&noticed, problem("prod"), at(30)), told(20));
        let by_itself = problem("dev").since(at(7).known);
        assert_eq!(since(&noticed, by_itself, at(30)), told(7));
        assert_eq!(noticed.count(Kind::KeysMissing), 2);
        noticed.keep(vec![problem("prod")], at(40));
        noticed.keep(vec![problem("dev"), problem("prod")], at(50));
        assert_eq!(
            since(&noticed, problem("dev"), at(60)),
            told(50),
            "it came back"
        );
        assert_eq!(noticed.count(Kind::BrokerAway), 0);
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
