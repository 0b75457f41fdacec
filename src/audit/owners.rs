//! Whose the records are, and who loses some when they don't all fit.
//!
//! Each principal has a share of the log, each kind of refusal has one, and so have administration
//! and the daemon. What is over goes from those that have most, down to one level for them all
//! (max-min fairness): nobody who has less than an equal part loses anything to one who has more.

use std::collections::BTreeMap;

use super::record::{Access, Event, Verdict, Whose};
use super::tag::Tag;
use crate::prompt::Origin;

/// Removing is done in steps of this part of the space, so that neither the log is rewritten nor
/// a truncation recorded with every record.
pub(super) const STEP: u64 = 16;

/// Refusals together take at most one in so many bytes of the space.
const REFUSALS: u64 = 2;

/// Principals are kept apart by so many bits of their tags. That bounds what is remembered of them,
/// whatever the log holds; two that chance puts into one slot share a share.
const SLOT_BITS: u32 = 16;

/// Who has a share of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    Principal(u16),
    /// Apart from what the same principal was allowed: who replays somebody's old token must not
    /// push out that one's evidence.
    Refusals(u16),
    Admin(u32),
    Daemon,
    /// Apart from the daemon's: a flood that causes them must not push out keys and starts.
    Truncations,
    Unknown,
}

impl Owner {
    pub(super) fn of(event: &Event) -> Owner {
        match event {
            Event::Access(access) if access.decision == Verdict::Permit => principal(access.tag()),
            Event::Access(access) => refusals(access),
            Event::Finish(finished) => principal(finished.principal),
            Event::RefusalsSummary {
                transport, reason, ..
            } => Owner::Refusals(slot(Tag::of_kind(transport, reason.as_str()))),
            Event::AccessesSummary(summary) => match (summary.uid, summary.tag()) {
                (Some(uid), _) => Owner::Admin(uid),
                (None, Some(tag)) if summary.decision == Verdict::Deny => {
                    Owner::Refusals(slot(tag))
                }
                (None, tag) => principal(tag),
            },
            Event::Change {
                origin: Origin::Admin { uid, .. },
                ..
            } => Owner::Admin(*uid),
            Event::Change { .. } => Owner::Daemon,
            Event::Truncated { .. } => Owner::Truncations,
        }
    }

    pub(super) fn whose(self) -> Whose {
        match self {
            Owner::Principal(_) => Whose::Principal,
            Owner::Refusals(_) => Whose::Refusals,
            Owner::Admin(_) => Whose::Administration,
            Owner::Daemon => Whose::Daemon,
            Owner::Truncations => Whose::Truncations,
            Owner::Unknown => Whose::Unknown,
        }
    }

    fn is_refusals(self) -> bool {
        matches!(self, Owner::Refusals(_))
    }

    /// As it is stored.
    pub(super) fn code(self) -> (u8, u32) {
        match self {
            Owner::Principal(slot) => (0, slot.into()),
            Owner::Refusals(slot) => (1, slot.into()),
            Owner::Admin(uid) => (2, uid),
            Owner::Daemon => (3, 0),
            Owner::Truncations => (4, 0),
            Owner::Unknown => (5, 0),
        }
    }

    pub(super) fn of_code(kind: u8, which: u32) -> Option<Owner> {
        let slot = || u16::try_from(which).ok();
        let owner = match kind {
            0 => Owner::Principal(slot()?),
            1 => Owner::Refusals(slot()?),
            2 => Owner::Admin(which),
            3 => Owner::Daemon,
            4 => Owner::Truncations,
            5 => Owner::Unknown,
            _ => return None,
        };
        Some(owner)
    }
}

fn principal(tag: Option<Tag>) -> Owner {
    tag.map_or(Owner::Unknown, |tag| Owner::Principal(slot(tag)))
}

fn refusals(access: &Access) -> Owner {
    let reason = access.reason.map_or("", |reason| reason.as_str());
    let kind = || Tag::of_kind(access.origin.transport(), reason);
    Owner::Refusals(slot(access.tag().unwrap_or_else(kind)))
}

fn slot(tag: Tag) -> u16 {
    (tag.bits() >> (u64::BITS - SLOT_BITS)) as u16
}

/// What everybody's records take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Owners {
    bytes: BTreeMap<Owner, u64>,
    total: u64,
    refusals: u64,
}

impl Owners {
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn each(&self) -> impl Iterator<Item = (Owner, u64)> {
        self.bytes.iter().map(|(owner, bytes)| (*owner, *bytes))
    }

    pub(super) fn add(&mut self, owner: Owner, bytes: u64) {
        *self.bytes.entry(owner).or_default() += bytes;
        self.total += bytes;
        if owner.is_refusals() {
            self.refusals += bytes;
        }
    }

    pub(super) fn remove(&mut self, owner: Owner, bytes: u64) {
        if let Some(left) = self.bytes.get_mut(&owner) {
            *left = left.saturating_sub(bytes);
            if *left == 0 {
                self.bytes.remove(&owner);
            }
        }
        self.total = self.total.saturating_sub(bytes);
        if owner.is_refusals() {
            self.refusals = self.refusals.saturating_sub(bytes);
        }
    }

    /// How many bytes who is to lose, so that refusals fit their part of `space` and all fit the
    /// whole. Empty where they do.
    pub(super) fn excess(&self, space: u64) -> BTreeMap<Owner, u64> {
        let part = space / REFUSALS;
        if self.refusals > part {
            return self.above(part - part / STEP, Owner::is_refusals);
        }
        if self.total > space {
            return self.above(space - space / STEP, |_| true);
        }
        BTreeMap::new()
    }

    fn above(&self, room: u64, counts: impl Fn(Owner) -> bool) -> BTreeMap<Owner, u64> {
        let owners = || self.bytes.iter().filter(|(owner, _)| counts(**owner));
        let level = level(owners().map(|(_, bytes)| *bytes).collect(), room);
        let above = owners().filter(|(_, bytes)| **bytes > level);
        above
            .map(|(owner, bytes)| (*owner, bytes - level))
            .collect()
    }
}

/// To what the larger of `sizes` are to be cut so that all together are at most `room`.
fn level(mut sizes: Vec<u64>, room: u64) -> u64 {
    sizes.sort_unstable();
    let (mut left, mut others) = (room, sizes.len() as u64);
    for size in sizes {
        let share = left / others;
        if size > share {
            return share;
        }
        (left, others) = (left - size, others - 1);
    }
    u64::MAX
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// What is left fits, is what was there where that fits, and takes from nobody who has no
        /// more than an equal part.
        #[test]
        fn levels_are_fair(sizes in prop::collection::vec(0..5000u64, 1..40), room in 0..60_000u64) {
            let level = level(sizes.clone(), room);
            let left: u64 = sizes.iter().map(|size| *size.min(&level)).sum();
            prop_assert!(left <= room || sizes.iter().sum::<u64>() <= room);
            prop_assert!(level >= room / sizes.len() as u64);
            if sizes.iter().sum::<u64>() > room {
                // No more is taken than division leaves over.
                prop_assert!(room - left < sizes.len() as u64);
            }
        }
    }

    #[test]
    fn refusals_have_half_and_lose_to_themselves() {
        let mut owners = Owners::default();
        owners.add(Owner::Principal(1), 90);
        owners.add(Owner::Refusals(1), 60);
        owners.add(Owner::Refusals(2), 10);
        let excess = owners.excess(128);
        assert_eq!(excess.keys().collect::<Vec<_>>(), [&Owner::Refusals(1)]);
        owners.remove(Owner::Refusals(1), 20);
        // 140 of 128: the largest goes first, whoever it is.
        let excess = owners.excess(128);
        assert_eq!(excess.keys().collect::<Vec<_>>(), [&Owner::Principal(1)]);
        owners.remove(Owner::Principal(1), 90);
        assert!(owners.excess(128).is_empty());
        assert_eq!(owners.total(), 50);
    }
}
