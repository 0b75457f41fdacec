//! Room that several share: a flood takes its own part of it and no more. Pure.
//!
//! A holder may take another place only while it holds less than is free: the dynamic threshold of
//! Choudhury and Hahne ("Dynamic Queue Length Thresholds for Shared-Memory Packet Switches",
//! IEEE/ACM Transactions on Networking 6(2), 1998). One alone comes to half of the room, two come
//! to a third each, and so on, without anybody having counted them before. The last free place
//! goes only to somebody who holds none.

use std::collections::BTreeMap;

/// Places, and who holds how many. As large as its holders are many, which the room bounds.
#[derive(Debug)]
pub struct Shares<K> {
    room: usize,
    taken: usize,
    held: BTreeMap<K, usize>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// What is free is kept for those who hold less.
    Share,
    /// Nothing is free.
    Room,
}

impl<K: Ord + Clone> Shares<K> {
    pub fn new(room: usize) -> Shares<K> {
        Shares {
            room,
            taken: 0,
            held: BTreeMap::new(),
        }
    }

    pub fn take(&mut self, who: &K) -> Result<(), Full> {
        match self.room.saturating_sub(self.taken) {
            0 => Err(Full::Room),
            free if self.held(who) >= free => Err(Full::Share),
            _ => {
                self.restore(who);
                Ok(())
            }
        }
    }

    /// Counts a place that was taken before these shares were: the room may be overfull by it.
    pub fn restore(&mut self, who: &K) {
        self.taken += 1;
        *self.held.entry(who.clone()).or_default() += 1;
    }

    /// Nothing happens where `who` holds none.
    pub fn give_back(&mut self, who: &K) {
        let Some(held) = self.held.get_mut(who) else {
            return;
        };
        *held -= 1;
        if *held == 0 {
            self.held.remove(who);
        }
        self.taken -= 1;
    }

    pub fn held(&self, who: &K) -> usize {
        self.held.get(who).copied().unwrap_or(0)
    }

    pub fn holders(&self) -> usize {
        self.held.len()
    }

    pub fn taken(&self) -> usize {
        self.taken
    }

    pub fn room(&self) -> usize {
        self.room
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Takes until refused; gives how many.
    fn flood(shares: &mut Shares<u8>, who: u8) -> usize {
        std::iter::from_fn(|| shares.take(&who).ok()).count()
    }

    #[test]
    fn a_flood_takes_half_and_the_next_ones_a_part_of_the_rest() {
        let mut shares = Shares::new(16);
        assert_eq!(flood(&mut shares, 1), 8);
        assert_eq!(shares.take(&1), Err(Full::Share));
        assert_eq!(flood(&mut shares, 2), 4);
        assert_eq!(flood(&mut shares, 3), 2);
        assert_eq!(flood(&mut shares, 4), 1);
        assert_eq!(flood(&mut shares, 5), 1);
        assert_eq!(shares.take(&6), Err(Full::Room));
        assert_eq!((shares.taken(), shares.holders()), (16, 5));
    }

    #[test]
    fn what_was_there_before_counts_and_can_overfill() {
        let mut shares = Shares::new(2);
        for _ in 0..3 {
            shares.restore(&0);
        }
        assert_eq!(shares.take(&1), Err(Full::Room));
        shares.give_back(&0);
        assert_eq!(shares.take(&1), Err(Full::Room));
        shares.give_back(&0);
        assert_eq!(shares.take(&1), Ok(()));
        shares.give_back(&9);
        assert_eq!(
            (shares.taken(), shares.held(&0), shares.held(&1)),
            (2, 1, 1)
        );
    }

    proptest! {
        /// Whoever holds nothing finds a place as long as one is free; nobody ever holds more than
        /// half of the room; what is counted is what was taken and not given back.
        #[test]
        fn nobody_is_shut_out(room in 0..40usize, steps in prop::collection::vec((0..6u8, any::<bool>()), 0..200)) {
            let mut shares = Shares::new(room);
            let mut held = [0usize; 6];
            for (who, takes) in steps {
                let own = &mut held[usize::from(who)];
                if takes {
                    let free = shares.room() - shares.taken();
                    let taken = shares.take(&who);
                    prop_assert_eq!(taken.is_ok(), *own < free);
                    *own += usize::from(taken.is_ok());
                    prop_assert!(*own <= room.div_ceil(2));
                } else if *own > 0 {
                    shares.give_back(&who);
                    *own -= 1;
                }
                prop_assert_eq!(shares.taken(), held.iter().sum::<usize>());
                prop_assert_eq!(shares.held(&who), held[usize::from(who)]);
                prop_assert_eq!(shares.holders(), held.iter().filter(|own| **own > 0).count());
            }
        }
    }
}
