//! A realm's keys as they are stored, in the store and in its copy: one value, so that no crash
//! parts the keys from their history.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Pinned;
use super::vouch::History;
use crate::auth::KeySet;
use crate::store::StoreError;
use crate::time::Timestamp;

/// A confirmation is saved when it is this far from the saved one: seldom, for the flash's sake.
const SAVE_EVERY: Duration = Duration::from_secs(300);

/// What begins with it has a [`Head`]; before there were any, a value began with the time of its
/// confirmation, which this would be in the year 260 million.
const MAGIC: &[u8; 8] = b"slmdkeys";

/// The exact bytes that were pinned, when they were confirmed, and what was before them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stored {
    pub(super) jwks: Vec<u8>,
    pub(super) confirmed_at: Timestamp,
    /// `None`: stored before keys had a history.
    pub(super) history: Option<History>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    confirmed_at: Timestamp,
    #[serde(default)]
    history: Option<History>,
}

impl Stored {
    /// Keys that were in force before there was a history count as pinned by hand.
    pub(super) fn history(&self, keys: &KeySet) -> History {
        let known = self.history.clone();
        known.unwrap_or_else(|| History::by_hand(&keys.thumbprints()))
    }

    /// Whether `pinned` is worth a write in its place.
    pub(super) fn is_due(&self, pinned: &Pinned) -> bool {
        let history = self.history(&pinned.keys);
        let (was, is) = (self.confirmed_at, pinned.confirmed.at());
        let moved = was.since(is).max(is.since(was));
        self.jwks[..] != pinned.jwks[..]
            || !pinned.history.is_chosen_as(&history)
            || pinned.history.ahead_of(&history).max(moved) >= SAVE_EVERY
    }

    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, StoreError> {
        let head = serde_json::to_vec(&Head {
            confirmed_at: self.confirmed_at,
            history: self.history.clone(),
        });
        let head = head.map_err(|e| StoreError::Io(e.to_string()))?;
        let length = (head.len() as u32).to_be_bytes();
        Ok([&MAGIC[..], &length, &head, &self.jwks].concat())
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Stored> {
        let Some(rest) = bytes.strip_prefix(MAGIC) else {
            let (confirmed_at, jwks) = bytes.split_first_chunk()?;
            return Some(Stored {
                jwks: jwks.to_vec(),
                confirmed_at: Timestamp(u64::from_be_bytes(*confirmed_at)),
                history: None,
            });
        };
        let (length, rest) = rest.split_first_chunk()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let (head, jwks) = rest.split_at_checked(length)?;
        let head: Head = serde_json::from_slice(head).ok()?;
        Some(Stored {
            jwks: jwks.to_vec(),
            confirmed_at: head.confirmed_at,
            history: head.history,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::jwks;
    use super::*;

    #[test]
    fn it_is_read_as_it_was_written_whole_or_not_at_all() {
        let jwks = jwks("K");
        let keys = KeySet::parse(&jwks).unwrap();
        let stored = Stored {
            jwks,
            confirmed_at: Timestamp(7),
            history: Some(History::by_hand(&keys.thumbprints())),
        };
        let bytes = stored.to_bytes().unwrap();
        assert_eq!(Stored::from_bytes(&bytes), Some(stored.clone()));
        let head = bytes.len() - stored.jwks.len();
        for cut in 0..head {
            assert_eq!(Stored::from_bytes(&bytes[..cut]), None, "{cut}");
        }
    }

    #[test]
    fn keys_of_an_earlier_release_count_as_pinned_by_hand() {
        let jwks = jwks("K");
        let keys = KeySet::parse(&jwks).unwrap();
        let old = [&5_u64.to_be_bytes()[..], &jwks].concat();
        let read = Stored::from_bytes(&old).unwrap();
        assert_eq!((read.confirmed_at, &read.jwks), (Timestamp(5), &jwks));
        assert_eq!(read.history(&keys), History::by_hand(&keys.thumbprints()));
    }
}
