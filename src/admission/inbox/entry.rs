//! What is remembered of one delivery.

use serde::{Deserialize, Serialize};

use crate::auth::Clock;
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

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct FirstClock {
    now: Timestamp,
    floor: Timestamp,
    synchronised: bool,
}

impl From<Clock> for FirstClock {
    fn from(clock: Clock) -> FirstClock {
        FirstClock {
            now: clock.now,
            floor: clock.floor,
            synchronised: clock.synchronised,
        }
    }
}

impl From<FirstClock> for Clock {
    fn from(clock: FirstClock) -> Clock {
        Clock {
            now: clock.now,
            floor: clock.floor,
            synchronised: clock.synchronised,
            realm_floors: Default::default(),
        }
    }
}
