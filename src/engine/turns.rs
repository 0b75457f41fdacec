//! Whose turn it is: the higher priority's, and within one priority each principal's in turn. Pure.
//!
//! Round robin between principals, whatever each has waiting (RFC 970, "On Packet Switches with
//! Infinite Storage"): who has waited and who just came wait for at most one turn of each other
//! principal of their priority. Turns are counted, not tokens: those are for the quota to bound.

use std::collections::{BTreeMap, VecDeque};

/// [`Principal::key`](crate::auth::Principal::key).
pub(super) type Key = [u8; 32];

/// Turns of higher priorities that a lower one lets pass before it has one: enough for priorities
/// to mean something, few enough that nobody waits for ever.
const PASSES: u32 = 16;

/// What waits. As large as what was put into it, which the queue's places bound.
#[derive(Debug)]
pub(super) struct Turns<T> {
    /// By priority; none is empty.
    levels: BTreeMap<u8, Level<T>>,
    /// The line whose turn it is. It joins the others when that is over, behind who came meanwhile.
    current: Option<(u8, Line<T>)>,
}

#[derive(Debug)]
struct Level<T> {
    /// In the order of their turns; none is empty.
    lines: VecDeque<Line<T>>,
    /// Turns of higher priorities since one of this.
    passed: u32,
}

/// What one principal has waiting, first come, first served.
#[derive(Debug)]
struct Line<T> {
    whose: Key,
    items: VecDeque<T>,
}

impl<T> Turns<T> {
    pub(super) fn push(&mut self, priority: u8, whose: Key, item: T) {
        if let Some((current, line)) = &mut self.current
            && (*current, line.whose) == (priority, whose)
        {
            line.items.push_back(item);
            return;
        }
        let lines = &mut self.level(priority).lines;
        match lines.iter_mut().find(|line| line.whose == whose) {
            Some(line) => line.items.push_back(item),
            None => lines.push_back(Line {
                whose,
                items: VecDeque::from([item]),
            }),
        }
    }

    /// Ends the turn that was, and begins the next.
    pub(super) fn next(&mut self) -> Option<T> {
        if let Some((priority, line)) = self.current.take()
            && !line.items.is_empty()
        {
            self.level(priority).lines.push_back(line);
        }
        let priority = self.due()?;
        for lower in self.levels.range_mut(..priority) {
            lower.1.passed += 1;
        }
        let level = self.levels.get_mut(&priority)?;
        level.passed = 0;
        let mut line = level.lines.pop_front()?;
        if level.lines.is_empty() {
            self.levels.remove(&priority);
        }
        let item = line.items.pop_front();
        self.current = Some((priority, line));
        item
    }

    /// Takes out what `find` finds something about; says that with it.
    pub(super) fn extract<R>(&mut self, mut find: impl FnMut(&T) -> Option<R>) -> Vec<(T, R)> {
        let mut found = Vec::new();
        let mut sift = |line: &mut Line<T>| {
            // Called after every token, nearly always in vain.
            if line.items.iter().all(|item| find(item).is_none()) {
                return;
            }
            for item in std::mem::take(&mut line.items) {
                match find(&item) {
                    Some(what) => found.push((item, what)),
                    None => line.items.push_back(item),
                }
            }
        };
        if let Some((_, line)) = &mut self.current {
            sift(line);
        }
        self.levels.retain(|_, level| {
            level.lines.iter_mut().for_each(&mut sift);
            level.lines.retain(|line| !line.items.is_empty());
            !level.lines.is_empty()
        });
        found
    }

    /// How many turns there are before that of the item that `is` finds, should nothing more come.
    pub(super) fn before(&self, is: impl Fn(&T) -> bool) -> Option<usize> {
        let mut same = Turns::default();
        if let Some((priority, line)) = &self.current {
            same.current = Some((*priority, line.map(&is)));
        }
        for (priority, level) in &self.levels {
            let lines = level.lines.iter().map(|line| line.map(&is)).collect();
            let passed = level.passed;
            same.levels.insert(*priority, Level { lines, passed });
        }
        std::iter::from_fn(|| same.next()).position(|found| found)
    }

    /// The priority whose turn is next: the highest, unless a lower one was passed too often.
    fn due(&self) -> Option<u8> {
        let overdue = self.levels.iter().filter(|(_, l)| l.passed >= PASSES);
        let overdue = overdue.max_by_key(|(priority, level)| (level.passed, **priority));
        let due = overdue.or_else(|| self.levels.last_key_value());
        due.map(|(priority, _)| *priority)
    }

    fn level(&mut self, priority: u8) -> &mut Level<T> {
        self.levels.entry(priority).or_insert_with(|| Level {
            lines: VecDeque::new(),
            passed: 0,
        })
    }
}

impl<T> Line<T> {
    fn map<U>(&self, map: impl Fn(&T) -> U) -> Line<U> {
        Line {
            whose: self.whose,
            items: self.items.iter().map(map).collect(),
        }
    }
}

impl<T> Default for Turns<T> {
    fn default() -> Turns<T> {
        Turns {
            levels: BTreeMap::new(),
            current: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(who: u8) -> Key {
        [who; 32]
    }

    fn all(turns: &mut Turns<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| turns.next()).collect()
    }

    #[test]
    fn principals_take_turns_however_much_one_asks() {
        let mut turns = Turns::default();
        for item in ["f1", "f2", "f3", "f4"] {
            turns.push(5, key(1), item);
        }
        turns.push(5, key(2), "a1");
        turns.push(5, key(3), "b1");
        turns.push(5, key(3), "b2");
        assert_eq!(all(&mut turns), ["f1", "a1", "b1", "f2", "b2", "f3", "f4"]);
    }

    #[test]
    fn who_asks_during_a_turn_is_before_the_one_whose_it_is() {
        let mut turns = Turns::default();
        turns.push(5, key(1), "f1");
        turns.push(5, key(1), "f2");
        assert_eq!(turns.next(), Some("f1"));
        turns.push(5, key(1), "f3");
        turns.push(5, key(2), "a1");
        assert_eq!(all(&mut turns), ["a1", "f2", "f3"]);
    }

    #[test]
    fn what_comes_before_goes_by_turns() {
        let mut turns = Turns::default();
        for (priority, who, item) in [(5, 1, "f1"), (5, 1, "f2"), (5, 1, "f3"), (5, 2, "a1")] {
            turns.push(priority, key(who), item);
        }
        turns.push(9, key(3), "urgent");
        let before = |turns: &Turns<&str>, which| turns.before(|item| *item == which);
        let all = ["urgent", "f1", "a1", "f2", "f3"];
        let places = all.map(|item| before(&turns, item));
        assert_eq!(places, [0, 1, 2, 3, 4].map(Some));
        turns.next();
        turns.next();
        assert_eq!(before(&turns, "f1"), None);
        assert_eq!(before(&turns, "f3"), Some(2));
    }

    #[test]
    fn what_is_taken_out_leaves_the_rest_in_order() {
        let mut turns = Turns::default();
        for (who, item) in [(1, "a1"), (1, "a2"), (2, "b1"), (1, "a3"), (3, "c1")] {
            turns.push(who, key(who), item);
        }
        assert_eq!(turns.next(), Some("c1"));
        turns.push(3, key(3), "c2");
        turns.push(3, key(3), "c3");
        let odd = |item: &&str| item.contains(['1', '3']).then_some(item.len());
        let mut out = turns.extract(odd);
        out.sort_unstable();
        assert_eq!(out, [("a1", 2), ("a3", 2), ("b1", 2), ("c3", 2)]);
        assert_eq!(turns.extract(odd), []);
        assert_eq!(all(&mut turns), ["c2", "a2"]);
    }

    #[test]
    fn a_lower_priority_is_passed_a_bounded_number_of_times() {
        let mut turns = Turns::default();
        turns.push(0, key(1), 0u32);
        turns.push(4, key(2), 4);
        for _ in 0..PASSES {
            turns.push(9, key(3), 9);
            assert_eq!(turns.next(), Some(9));
        }
        turns.push(9, key(3), 9);
        let rest: Vec<u32> = std::iter::from_fn(|| turns.next()).collect();
        assert_eq!(rest, [4, 0, 9]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push { priority: u8, who: u8 },
        Next,
        Extract(usize),
    }

    fn steps(priorities: u8) -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (0..priorities, 0..4u8).prop_map(|(priority, who)| Step::Push { priority, who }),
            3 => Just(Step::Next),
            1 => (1..9usize).prop_map(Step::Extract),
        ];
        prop::collection::vec(step, 0..400)
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Item {
        priority: u8,
        who: u8,
        number: usize,
    }

    proptest! {
        /// What goes in comes out once, and of one principal and priority in order.
        #[test]
        fn nothing_is_lost_and_each_line_keeps_its_order(steps in steps(3)) {
            let (mut turns, mut waiting) = (Turns::default(), Vec::<Item>::new());
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Push { priority, who } => {
                        let item = Item { priority, who, number };
                        waiting.push(item);
                        turns.push(priority, key(who), item);
                    }
                    Step::Next => match turns.next() {
                        None => prop_assert!(waiting.is_empty()),
                        Some(item) => {
                            let line = |of: &Item| (of.priority, of.who) == (item.priority, item.who);
                            prop_assert_eq!(waiting.iter().find(|of| line(of)), Some(&item));
                            waiting.retain(|of| *of != item);
                        }
                    },
                    Step::Extract(every) => {
                        let found = turns.extract(|item: &Item| item.number.is_multiple_of(every).then_some(()));
                        prop_assert!(found.iter().all(|(item, ())| waiting.contains(item)));
                        waiting.retain(|item| !item.number.is_multiple_of(every));
                    }
                }
            }
        }

        /// Where nothing comes or leaves, each has its turn when it was told.
        #[test]
        fn what_comes_before_each_is_what_comes(steps in steps(3)) {
            let (mut turns, mut waiting) = (Turns::default(), Vec::new());
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Push { priority, who } => {
                        turns.push(priority, key(who), number);
                        waiting.push(number);
                    }
                    Step::Next => {
                        let next = turns.next();
                        waiting.retain(|number| Some(*number) != next);
                    }
                    Step::Extract(_) => {}
                }
            }
            let told = waiting.iter().map(|number| turns.before(|item| item == number));
            let told: Vec<Option<usize>> = told.collect();
            let order: Vec<usize> = std::iter::from_fn(|| turns.next()).collect();
            let came = waiting.iter().map(|number| order.iter().position(|item| item == number));
            prop_assert_eq!(told, came.collect::<Vec<_>>());
        }

        /// While one waits, each other one of the same priority has at most one turn, and at most
        /// two between two of its own where it asks again during the turn after its own.
        #[test]
        fn each_other_one_has_at_most_one_turn_meanwhile(steps in steps(1)) {
            let mut turns = Turns::default();
            let mut waiting = [0usize; 4];
            let mut passed_by = [[0usize; 4]; 4];
            for step in steps {
                match step {
                    Step::Push { who, .. } => {
                        let who = usize::from(who);
                        if waiting[who] == 0 {
                            passed_by[who] = [0; 4];
                        }
                        waiting[who] += 1;
                        turns.push(5, key(who as u8), who);
                    }
                    Step::Next => {
                        let Some(who) = turns.next() else { continue };
                        waiting[who] -= 1;
                        passed_by[who] = [0; 4];
                        for other in (0..4).filter(|other| waiting[*other] > 0 && *other != who) {
                            passed_by[other][who] += 1;
                            prop_assert!(passed_by[other][who] <= 1, "{passed_by:?}");
                        }
                    }
                    Step::Extract(_) => {}
                }
            }
        }

        /// With priorities too, everybody's turn comes, within a bound that no load moves.
        #[test]
        fn nobody_waits_for_ever(who in 0..4u8, priority in 0..3u8, steps in steps(3)) {
            // Between two turns of a priority: its passes, and the turns of others that are due.
            let of_priority = PASSES as usize + 2 * 3;
            let mut turns = Turns::default();
            let mut load = steps.into_iter().filter(|step| matches!(step, Step::Push { .. })).cycle();
            turns.push(priority, key(who), true);
            for _ in 0..of_priority * 4 {
                for _ in 0..2 {
                    if let Some(Step::Push { priority, who }) = load.next() {
                        turns.push(priority, key(who), false);
                    }
                }
                if turns.next() == Some(true) {
                    return Ok(());
                }
            }
            prop_assert!(false, "no turn");
        }
    }
}
