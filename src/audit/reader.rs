//! Reading the log for somebody: what matches, in its order, in steps of bounded work.

use std::collections::VecDeque;

use super::filter::Filter;
use super::matcher::{Fit, Matcher};
use super::record::Line;
use super::{AuditError, Log, MAX_READ};

/// The most of the last matching records that are looked for: their indexes are kept meanwhile.
pub const MAX_LAST: u64 = 65_536;

/// What somebody wants to read.
#[derive(Debug)]
pub struct Wanted {
    pub start: Start,
    /// The first index that isn't shown; with `follow`, only where the last records end.
    pub before: u64,
    /// Goes on with new records.
    pub follow: bool,
    /// The most records that are shown.
    pub limit: u64,
    pub filter: Filter,
}

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At an index.
    At(u64),
    /// At so many records that match before the end; with a filter, [`MAX_LAST`] at most.
    Last(u64),
}

/// What one step has found.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    Lines(Vec<Line>),
    /// Nothing yet.
    Searching,
    /// Nothing before there is a record with this index.
    Wait(u64),
    End,
}

#[derive(Debug)]
pub struct Reader {
    log: Log,
    matcher: Matcher,
    stage: Stage,
    before: u64,
    follow: bool,
    left: u64,
    left_out: u64,
}

#[derive(Debug)]
enum Stage {
    /// Of all records, so many.
    Count(u64),
    /// Walks through the log and remembers the last that match.
    Search { next: u64, last: Last },
    /// Those are read.
    Found(VecDeque<u64>),
    /// Shows what matches, but nothing before `from`.
    Go { next: u64, from: u64 },
}

/// The last so many that match, each with how many were left out before it.
#[derive(Debug)]
struct Last {
    most: usize,
    found: VecDeque<(u64, u64)>,
    left_out: u64,
}

impl Last {
    fn push(&mut self, index: u64) {
        self.found.push_back((index, self.left_out));
        if self.found.len() > self.most {
            self.found.pop_front();
        }
    }

    /// Those that were left out after the first of these, or at all where these are all.
    fn left_out(&self) -> u64 {
        match self.found.front() {
            _ if self.most == 0 => 0,
            Some((_, before)) if self.found.len() == self.most => self.left_out - before,
            _ => self.left_out,
        }
    }
}

impl Reader {
    pub fn new(log: Log, wanted: Wanted) -> Reader {
        let Wanted {
            start,
            before,
            follow,
            limit,
            filter,
        } = wanted;
        let stage = match start {
            Start::Last(count) if filter.is_empty() => Stage::Count(count),
            Start::Last(count) => Stage::Search {
                next: 0,
                last: Last {
                    most: usize::try_from(count.min(MAX_LAST)).unwrap_or(usize::MAX),
                    found: VecDeque::new(),
                    left_out: 0,
                },
            },
            // A finish goes with its access, which may stand before.
            Start::At(from) if filter.narrows() => Stage::Go { next: 0, from },
            Start::At(from) => Stage::Go { next: from, from },
        };
        Reader {
            log,
            matcher: Matcher::new(filter),
            stage,
            before,
            follow,
            left: limit,
            left_out: 0,
        }
    }

    /// Records of a newer release that would have been shown if they could be read.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Goes on. Blocks.
    pub fn step(&mut self) -> Result<Step, AuditError> {
        if self.left == 0 {
            return Ok(Step::End);
        }
        match &mut self.stage {
            Stage::Count(count) => {
                let from = self.log.last(*count, self.before)?;
                self.stage = Stage::Go { next: from, from };
                Ok(Step::Searching)
            }
            Stage::Search { .. } => self.search(),
            Stage::Found(_) => self.found(),
            Stage::Go { .. } => self.go(),
        }
    }

    fn search(&mut self) -> Result<Step, AuditError> {
        let Stage::Search { next, last } = &mut self.stage else {
            return Ok(Step::Searching);
        };
        let page = self.log.read(*next, MAX_READ)?;
        for line in page.iter().filter(|line| line.index < self.before) {
            match self.matcher.judge(line) {
                Fit::Shown => last.push(line.index),
                Fit::Unknown => last.left_out += 1,
                Fit::Hidden => {}
            }
        }
        match page.last().filter(|line| line.index < self.before) {
            Some(line) => *next = line.index + 1,
            None => {
                self.left_out = last.left_out();
                let found = last.found.iter().map(|(index, _)| *index).collect();
                self.stage = Stage::Found(found);
            }
        }
        Ok(Step::Searching)
    }

    fn found(&mut self) -> Result<Step, AuditError> {
        let Stage::Found(indexes) = &mut self.stage else {
            return Ok(Step::Searching);
        };
        let mut lines = Vec::new();
        while self.left > 0 && lines.len() < MAX_READ {
            let Some(index) = indexes.pop_front() else {
                break;
            };
            // It may have been removed meanwhile.
            let line = self.log.read(index, 1)?.pop();
            if let Some(line) = line.filter(|line| line.index == index) {
                lines.push(line);
                self.left -= 1;
            }
        }
        if lines.is_empty() {
            let next = self.before;
            self.stage = Stage::Go { next, from: next };
            return Ok(Step::Searching);
        }
        Ok(Step::Lines(lines))
    }

    fn go(&mut self) -> Result<Step, AuditError> {
        let Stage::Go { next, from } = &mut self.stage else {
            return Ok(Step::Searching);
        };
        let end = if self.follow { u64::MAX } else { self.before };
        let page = match *next < end {
            true => self.log.read(*next, MAX_READ)?,
            false => return Ok(Step::End),
        };
        if page.is_empty() {
            return Ok(match self.follow {
                true => Step::Wait(*next),
                false => Step::End,
            });
        }
        let mut lines = Vec::new();
        for line in page {
            if line.index >= end || self.left == 0 {
                *next = end;
                break;
            }
            *next = line.index + 1;
            match self.matcher.judge(&line) {
                Fit::Shown if line.index >= *from => {
                    self.left -= 1;
                    lines.push(line);
                }
                Fit::Unknown if line.index >= *from => self.left_out += 1,
                _ => {}
            }
        }
        Ok(match lines.is_empty() {
            true => Step::Searching,
            false => Step::Lines(lines),
        })
    }
}
