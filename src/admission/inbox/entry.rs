//! What is remembered of one delivery.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::auth::{Clock, Principal, RealmFloor};
use crate::delivery::{Exact, Known, Owner};
use crate::prompt::{Finish, Outcome, RequestId, Usage};
use crate::time::{Timestamp, Uptime};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Entry {
    #[serde(rename = "state")]
    pub(super) stage: Stage,
    pub(super) attempts: u32,
    /// The clock of the first admission, by which a second attempt is decided.
    pub(super) clock: FirstClock,
    pub(super) touched: Timestamp,
    /// The message that began it last.
    #[serde(rename = "attempt_key")]
    pub(super) message: Exact,
    /// Whose it is; earlier releases didn't say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) owner: Option<Owner>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Stage {
    Begun,
    Answered(StoredAnswer),
}

impl Entry {
    pub(super) fn known(&self) -> Known {
        Known {
            message: self.message,
            owner: self.owner,
            touched: self.touched,
            attempts: self.attempts,
            answered: matches!(self.stage, Stage::Answered(_)),
        }
    }
}

/// The first run's answer, for a duplicate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredAnswer {
    #[serde(flatten)]
    pub request_id: RequestId,
    pub model: String,
    pub created: Timestamp,
    pub text: String,
    #[serde(flatten)]
    pub finish: Finish,
    pub usage: Usage,
}

impl StoredAnswer {
    pub fn outcome(&self) -> Outcome {
        Outcome {
            finish: self.finish,
            usage: self.usage,
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct FirstClock {
    now: Timestamp,
    floor: Timestamp,
    synchronised: bool,
    /// Of the one realm that the request is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    realm: Option<FirstFloor>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct FirstFloor {
    issuer: String,
    floor: Timestamp,
    headroom_ms: u64,
}

impl FirstClock {
    /// With what counts for tokens of `who`.
    pub(super) fn new(clock: &Clock, who: &Principal) -> FirstClock {
        let realm = clock.realm_floors.get(&who.issuer).map(|realm| {
            let floor = realm.of(&who.client);
            let headroom = realm.most.since(clock.effective().max(floor));
            FirstFloor {
                issuer: who.issuer.clone(),
                floor,
                headroom_ms: u64::try_from(headroom.as_millis()).unwrap_or(u64::MAX),
            }
        });
        FirstClock {
            now: clock.now,
            floor: clock.floor,
            synchronised: clock.synchronised,
            realm,
        }
    }
}

impl From<FirstClock> for Clock {
    fn from(clock: FirstClock) -> Clock {
        let realm_floors = clock.realm.into_iter().map(|realm| {
            let held = clock.now.max(clock.floor).max(realm.floor);
            let floor = RealmFloor {
                floor: realm.floor,
                ahead: None,
                most: held.saturating_add(Duration::from_millis(realm.headroom_ms)),
            };
            (realm.issuer, floor)
        });
        Clock {
            now: clock.now,
            floor: clock.floor,
            // Of another process, perhaps of another boot: what this one has seen came later.
            uptime: Uptime::default(),
            synchronised: clock.synchronised,
            realm_floors: Arc::new(realm_floors.collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_second_attempt_sees_its_realms_floor_of_the_first() {
        let floor = RealmFloor {
            floor: Timestamp(7000),
            ahead: Some(("device-1".to_owned(), Timestamp(9000))),
            most: Timestamp(9500),
        };
        let floors = [("a".to_owned(), floor.clone()), ("b".to_owned(), floor)];
        let clock = Clock {
            now: Timestamp(1),
            floor: Timestamp(2),
            uptime: Uptime(3),
            synchronised: false,
            realm_floors: Arc::new(BTreeMap::from(floors)),
        };
        for (client, floor) in [("device-1", 9000), ("device-2", 7000)] {
            let who = Principal {
                issuer: "a".to_owned(),
                subject: "s".to_owned(),
                client: client.to_owned(),
            };
            let kept = serde_json::to_vec(&FirstClock::new(&clock, &who)).unwrap();
            let again: Clock = serde_json::from_slice::<FirstClock>(&kept).unwrap().into();
            let expected = RealmFloor {
                floor: Timestamp(floor),
                ahead: None,
                most: Timestamp(9500),
            };
            assert_eq!(*again.realm_floors, [("a".to_owned(), expected)].into());
        }
        // What an earlier release has stored.
        let old = br#"{"now":1,"floor":2,"synchronised":true}"#;
        let old: Clock = serde_json::from_slice::<FirstClock>(old).unwrap().into();
        assert!(old.realm_floors.is_empty());
    }

    #[test]
    fn an_answer_is_told_again_under_the_id_that_it_had() {
        let answer = |request_id| StoredAnswer {
            request_id,
            model: "slm".to_owned(),
            created: Timestamp(1),
            text: "Paris".to_owned(),
            finish: Finish::Stop,
            usage: Usage::default(),
        };
        for id in [RequestId::random(), RequestId::beside(Some("mine"))] {
            let kept = serde_json::to_vec(&answer(id.clone())).unwrap();
            let again: StoredAnswer = serde_json::from_slice(&kept).unwrap();
            assert_eq!(again, answer(id));
        }
        // What an earlier release has stored.
        let old =
            br#"{"request_id":"mine","model":"slm","created":1,"text":"Paris","finish":"stop",
            "usage":{"prompt_tokens":0,"completion_tokens":0}}"#;
        let old: StoredAnswer = serde_json::from_slice(old).unwrap();
        assert_eq!(old.request_id.echoed(), "mine");
    }
}
