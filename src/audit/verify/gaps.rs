//! Which records of an epoch are missing, against what the log tells of those that were removed.

use super::super::record::{Event, Line, Whose};

/// Runs that are remembered, and told.
const MOST: usize = 65_536;

#[derive(Debug, Default)]
pub(super) struct Gaps {
    /// From the first to before the last, in their order.
    runs: Vec<(u64, u64)>,
    missing: u64,
    /// Everything before the largest of them was removed.
    first_left: u64,
    /// From and to, of those who have lost some of theirs.
    losses: Vec<(u64, u64)>,
    /// What told of some removals was removed itself.
    forgotten: bool,
    /// What the last of them says.
    removed: u64,
}

impl Gaps {
    /// `present`, in their order, are all from `begin` to before `end`.
    pub(super) fn look(&mut self, begin: u64, end: u64, present: impl Iterator<Item = u64>) {
        let mut next = begin;
        for index in present.chain([end]) {
            if index > next {
                self.add(next, index);
            }
            next = index + 1;
        }
    }

    fn add(&mut self, from: u64, to: u64) {
        self.missing += to - from;
        let room = self.runs.len() < MOST;
        match self.runs.last_mut() {
            Some(last) if last.1 == from => last.1 = to,
            _ if room => self.runs.push((from, to)),
            _ => {}
        }
    }

    /// A record that tells of removed ones.
    pub(super) fn hear(&mut self, line: &Line) {
        let Some(Event::Truncated {
            first_index,
            removed_in_all,
            losses,
            of_others,
            ..
        }) = line.record().map(|record| record.event)
        else {
            return;
        };
        self.first_left = self.first_left.max(first_index);
        self.removed = removed_in_all.unwrap_or(self.removed);
        self.forgotten |= of_others > 0;
        for loss in losses {
            self.forgotten |= loss.whose == Whose::Truncations;
            if self.losses.len() < MOST {
                self.losses.push((loss.from, loss.to + 1));
            }
        }
    }

    pub(super) fn missing(&self) -> u64 {
        self.missing
    }

    /// What the last truncation says.
    pub(super) fn removed(&self) -> u64 {
        self.removed
    }

    /// Those that nothing tells of, where more are missing than were `removed`, or where all that
    /// tells of removals is there. Where it can't be said more closely, all between the first and the
    /// last that are missing.
    pub(super) fn unexplained(&self, removed: u64) -> Vec<(u64, u64)> {
        let told = self.told();
        let mut told = told.iter().copied().peekable();
        let mut unexplained = Vec::new();
        for (mut at, to) in self.runs.iter().copied() {
            while at < to {
                while told.next_if(|told| told.1 <= at).is_some() {}
                let (begin, end) = told.peek().copied().unwrap_or((to, to));
                if begin > at {
                    unexplained.push((at, begin.min(to)));
                }
                at = end.max(begin.min(to));
            }
        }
        let all = self.runs.first().zip(self.runs.last());
        match (self.missing > removed, unexplained.is_empty()) {
            (true, true) => all
                .map(|(first, last)| (first.0, last.1))
                .into_iter()
                .collect(),
            (false, _) if self.forgotten => Vec::new(),
            _ => unexplained,
        }
    }

    /// Where removals are told of, without overlaps.
    fn told(&self) -> Vec<(u64, u64)> {
        let mut losses = self.losses.clone();
        losses.push((0, self.first_left));
        losses.sort_unstable();
        let mut told: Vec<(u64, u64)> = Vec::new();
        for (from, to) in losses {
            match told.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(to),
                _ => told.push((from, to)),
            }
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(runs: &[(u64, u64)], losses: &[(u64, u64)], first_left: u64) -> Gaps {
        Gaps {
            runs: runs.to_vec(),
            missing: runs.iter().map(|(from, to)| to - from).sum(),
            first_left,
            losses: losses.to_vec(),
            ..Gaps::default()
        }
    }

    #[test]
    fn what_nothing_tells_of_is_found_between_what_is_told() {
        for (runs, losses, first_left, left) in [
            (&[(3, 4)][..], &[][..], 0, &[(3, 4)][..]),
            (&[(0, 9)], &[], 9, &[]),
            (&[(0, 9)], &[], 7, &[(7, 9)]),
            (&[(5, 9)], &[(4, 6), (7, 20)], 0, &[(6, 7)]),
            (
                &[(5, 9), (12, 14)],
                &[(4, 6), (8, 13)],
                0,
                &[(6, 8), (13, 14)],
            ),
            (&[(5, 6), (8, 9)], &[(0, 7), (2, 3)], 0, &[(8, 9)]),
            (&[(5, 9)], &[(30, 40), (0, 2)], 1, &[(5, 9)]),
        ] {
            let found = gaps(runs, losses, first_left).unexplained(u64::MAX);
            assert_eq!(found, left, "{runs:?} {losses:?} {first_left}");
        }
        // Each is told of, but there are too many.
        let many = gaps(&[(5, 7), (9, 10)], &[(0, 20)], 0);
        assert_eq!(many.unexplained(3), []);
        assert_eq!(many.unexplained(2), [(5, 10)]);
        // What told of them may be gone.
        let mut forgotten = gaps(&[(5, 7)], &[], 0);
        forgotten.forgotten = true;
        assert_eq!(forgotten.unexplained(2), []);
        assert_eq!(forgotten.unexplained(1), [(5, 7)]);
    }

    #[test]
    fn runs_are_those_that_arent_there() {
        let mut gaps = Gaps::default();
        gaps.look(10, 20, [11, 12, 15].into_iter());
        gaps.look(20, 30, [20, 29].into_iter());
        gaps.look(30, 40, [].into_iter());
        assert_eq!(
            gaps.runs,
            [(10, 11), (13, 15), (16, 20), (21, 29), (30, 40)]
        );
        assert_eq!(gaps.missing(), 25);
    }
}
