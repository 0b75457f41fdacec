//! The time as a decision sees it.

use std::collections::BTreeMap;
use std::fmt;
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

/// Accepted tokens have moved a realm's time past the clock, for administrators to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    pub to: Timestamp,
    /// What the clock says.
    pub clock: Timestamp,
    /// Whose own word it is; `None`: it counts for all of the realm.
    pub client: Option<String>,
}

impl fmt::Display for Moved {
    /// What matters most comes first: records cut long texts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Moved { to, clock, client } = self;
        write!(f, "here it is {to}, by the clock {clock}; ")?;
        f.write_str("where the clock is right, `slmd keys reset-time` ends what ")?;
        match client {
            Some(client) => write!(f, "a token of client {client:?} said"),
            None => f.write_str("earlier tokens said"),
        }
    }
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
        now.max(self.word(who, issued_at))
    }

    /// The same without what earlier tokens have told.
    pub(super) fn of_token_alone(&self, who: &Principal, issued_at: Timestamp) -> Timestamp {
        self.effective().max(self.word(who, issued_at))
    }

    fn word(&self, who: &Principal, issued_at: Timestamp) -> Timestamp {
        match self.realm_floors.get(&who.issuer) {
            Some(realm) if !self.synchronised => issued_at.min(realm.most),
            _ => Timestamp(0),
        }
    }

    /// Whether earlier tokens have moved the time that counts for tokens of `who`.
    pub(super) fn moved(&self, who: &Principal) -> Option<Moved> {
        let realm = self.realm_floors.get(&who.issuer)?;
        let to = realm.of(&who.client);
        (to > self.effective()).then(|| Moved {
            to,
            clock: self.now,
            client: (to > realm.floor).then(|| who.client.clone()),
        })
    }
}
