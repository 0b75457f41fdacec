//! The time as a decision sees it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::principal::Principal;
use crate::time::{Moment, Timestamp, Uptime};

#[derive(Debug, Clone)]
pub struct Clock {
    pub now: Timestamp,
    /// A time that has certainly passed.
    pub floor: Timestamp,
    /// For the age of what this process has seen.
    pub uptime: Uptime,
    pub synchronised: bool,
    /// What tokens of single realms, by issuer, have told of the time while it wasn't
    /// synchronised.
    pub realm_floors: Arc<BTreeMap<String, RealmFloor>>,
}

/// What a realm's accepted tokens have told of the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RealmFloor {
    /// By the word of two clients: it counts for every token of the realm.
    pub floor: Timestamp,
    /// By the word of this client alone: it counts for no other's.
    pub ahead: Option<(String, Timestamp)>,
    /// The latest time that is taken from one more `iat`: bounded, so that a far-future token can't
    /// stop anybody.
    pub most: Timestamp,
}

impl RealmFloor {
    /// What counts for a token of `client`.
    pub fn of(&self, client: &str) -> Timestamp {
        match &self.ahead {
            Some((ahead, at)) if ahead == client => self.floor.max(*at),
            _ => self.floor,
        }
    }
}

impl Clock {
    /// The clock, held up by the floor: a clock that was stepped back, or restarted in 1970,
    /// brings no expired token back and makes no sound token look as if it came from the future.
    pub fn effective(&self) -> Timestamp {
        self.now.max(self.floor)
    }

    /// The effective time and the uptime.
    pub fn moment(&self) -> Moment {
        Moment {
            known: self.effective(),
            uptime: self.uptime,
        }
    }

    /// The effective time, held up by what the realm's tokens have told that count for `client`.
    pub(crate) fn held_up(&self, issuer: &str, client: &str) -> Timestamp {
        let floor = self.realm_floors.get(issuer);
        let floor = floor.map(|realm| realm.of(client));
        self.effective().max(floor.unwrap_or_default())
    }

    /// The time that counts for a token of `who` that was issued at `issued_at`: while nothing
    /// better tells the time, the token's own word does, as far as the realm's goes.
    pub(crate) fn of_token(&self, who: &Principal, issued_at: Timestamp) -> Timestamp {
        let now = self.held_up(&who.issuer, &who.client);
        match self.realm_floors.get(&who.issuer) {
            Some(realm) if !self.synchronised => now.max(issued_at.min(realm.most)),
            _ => now,
        }
    }
}
