//! What is remembered of one delivery.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::auth::{Clock, RealmFloor};
use crate::prompt::{Finish, Outcome, RequestId, Usage};
use crate::time::Timestamp;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) state: State,
    pub(super) attempts: u32,
    /// The clock of the first admission, by which a second attempt is decided.
    pub(super) clock: FirstClock,
    pub(super) touched: Timestamp,
    /// The exact message that began it last.
    pub(super) attempt_key: [u8; 32],
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum State {
    Begun,
    Answered(StoredAnswer),
}

/// The first run's answer, for a duplicate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredAnswer {
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
    pub(super) fn new(clock: &Clock, issuer: &str) -> FirstClock {
        let realm = clock.realm_floors.get(issuer).map(|realm| FirstFloor {
            issuer: issuer.to_owned(),
            floor: realm.floor,
            headroom_ms: u64::try_from(realm.headroom.as_millis()).unwrap_or(u64::MAX),
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
            let headroom = Duration::from_millis(realm.headroom_ms);
            let floor = realm.floor;
            (realm.issuer, RealmFloor { floor, headroom })
        });
        Clock {
            now: clock.now,
            floor: clock.floor,
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
            floor: Timestamp(9000),
            headroom: Duration::from_millis(500),
        };
        let floors = [("a".to_owned(), floor), ("b".to_owned(), floor)];
        let clock = Clock {
            now: Timestamp(1),
            floor: Timestamp(2),
            synchronised: false,
            realm_floors: Arc::new(BTreeMap::from(floors)),
        };
        let kept = serde_json::to_vec(&FirstClock::new(&clock, "a")).unwrap();
        let again: Clock = serde_json::from_slice::<FirstClock>(&kept).unwrap().into();
        let expected = BTreeMap::from([("a".to_owned(), floor)]);
        assert_eq!(*again.realm_floors, expected);
        // What an earlier release has stored.
        let old = br#"{"now":1,"floor":2,"synchronised":true}"#;
        let old: Clock = serde_json::from_slice::<FirstClock>(old).unwrap().into();
        assert!(old.realm_floors.is_empty());
    }
}
