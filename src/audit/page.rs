//! Pages of the log for clients: each has a bound of work, whatever the filter finds.
//!
//! A page is judged by itself, so that who asks for the next needs no more than an index. What a
//! finish doesn't say is looked up in its access.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use super::filter::Filter;
use super::matcher::{Fit, unread};
use super::record::{Access, Event, Finished, Line, Verdict};
use super::view::View;
use super::{AuditError, Log, MAX_READ};

/// The most records on a page.
pub const MAX_PAGE: usize = MAX_READ;

/// After so many records a page ends, with what was found until then.
const MAX_LOOKED_AT: usize = 2048;

/// How far before a finish its access is looked for, in records. Only earlier releases' finishes
/// don't say where it stands.
const LOOK_BACK: u64 = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    OldestFirst,
    NewestFirst,
}

/// What somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The index to begin at; `None`: the first, or the last where the newest come first.
    pub from: Option<u64>,
    /// [`MAX_PAGE`] at most.
    pub limit: usize,
    pub order: Order,
    pub filter: Filter,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    pub lines: Vec<Line>,
    /// There are records beyond, which may match.
    pub more: bool,
    /// Where to go on, now or when there are new records; `None` at the log's beginning.
    pub next: Option<u64>,
}

impl Page {
    fn end(lines: Vec<Line>, next: Option<u64>) -> Page {
        let more = false;
        Page { lines, more, next }
    }

    fn more(lines: Vec<Line>, next: Option<u64>) -> Page {
        let more = true;
        Page { lines, more, next }
    }
}

impl Log {
    /// Blocks.
    pub fn page(&self, view: &View, asked: &Asked) -> Result<Page, AuditError> {
        match asked.order {
            Order::OldestFirst => self.oldest_first(view, asked),
            Order::NewestFirst => self.newest_first(view, asked),
        }
    }

    fn oldest_first(&self, view: &View, asked: &Asked) -> Result<Page, AuditError> {
        let (mut next, mut looked_at, mut found) = (asked.from.unwrap_or(0), 0, Vec::new());
        loop {
            let lines = self.read(next, MAX_READ)?;
            if lines.is_empty() {
                return Ok(Page::end(found, Some(next)));
            }
            let block = Block::new(self, &lines);
            for line in &lines {
                if found.len() >= asked.limit || looked_at >= MAX_LOOKED_AT {
                    return Ok(Page::more(found, Some(next)));
                }
                (next, looked_at) = (line.index + 1, looked_at + 1);
                if block.shows(line, view, &asked.filter)? {
                    found.push(line.clone());
                }
            }
        }
    }

    fn newest_first(&self, view: &View, asked: &Asked) -> Result<Page, AuditError> {
        let beyond = asked.from.map_or(u64::MAX, |from| from.saturating_add(1));
        let mut end = beyond.min(self.readable()?);
        let (mut looked_at, mut found) = (0, Vec::new());
        loop {
            let mut lines = self.read(self.last(MAX_READ as u64, end)?, MAX_READ)?;
            lines.retain(|line| line.index < end);
            if lines.is_empty() {
                return Ok(Page::end(found, None));
            }
            let block = Block::new(self, &lines);
            for line in lines.iter().rev() {
                if found.len() >= asked.limit || looked_at >= MAX_LOOKED_AT {
                    return Ok(Page::more(found, end.checked_sub(1)));
                }
                (end, looked_at) = (line.index, looked_at + 1);
                if block.shows(line, view, &asked.filter)? {
                    found.push(line.clone());
                }
            }
        }
    }

    /// The index that what may be read ends before.
    fn readable(&self) -> Result<u64, AuditError> {
        let last = self.next_index().saturating_sub(1);
        // Makes durable what isn't, where that can be.
        self.read(last, 1)?;
        Ok(self.state().durable())
    }
}

/// Records in their order, among which a finish's access may be.
struct Block<'a> {
    log: &'a Log,
    lines: &'a [Line],
    /// By request, for finishes that don't say where theirs stands.
    accesses: OnceCell<BTreeMap<String, Access>>,
}

impl<'a> Block<'a> {
    fn new(log: &'a Log, lines: &'a [Line]) -> Block<'a> {
        let accesses = OnceCell::new();
        Block {
            log,
            lines,
            accesses,
        }
    }

    fn shows(&self, line: &Line, view: &View, filter: &Filter) -> Result<bool, AuditError> {
        let Some(record) = line.record() else {
            return Ok(*view == View::Whole && unread(filter, line) == Fit::Shown);
        };
        let event = &record.event;
        let needs_access = filter.narrows() || *view != View::Whole;
        let access = match event {
            Event::Finish(finished) if needs_access => self.access_of(finished)?,
            _ => None,
        };
        let access = access.as_ref();
        let fits = || match event {
            _ if !filter.narrows() => true,
            Event::Access(access) => filter.means(access).is_whole(),
            Event::Finish(finished) => {
                let meant = access.map(|access| filter.means(access));
                filter.means_finish(finished, meant)
            }
            other => filter.means_event(other),
        };
        let (time, name) = (Some(record.time), Some(event.name()));
        Ok(view.shows(event, access) && fits() && filter.is_told(time, name, &line.json))
    }

    fn access_of(&self, finished: &Finished) -> Result<Option<Access>, AuditError> {
        let id = finished.request_id.as_str();
        let Some(index) = finished.access_index else {
            return Ok(self.accesses()?.get(id).cloned());
        };
        let here = self.lines.binary_search_by_key(&index, |line| line.index);
        let line = match here.ok().and_then(|place| self.lines.get(place)) {
            Some(line) => Some(line.clone()),
            None => self.log.line(index)?,
        };
        // Of a log that was lost, another record may have the index now.
        Ok(line
            .as_ref()
            .and_then(access)
            .filter(|access| access.request_id.as_str() == id))
    }

    fn accesses(&self) -> Result<&BTreeMap<String, Access>, AuditError> {
        if let Some(known) = self.accesses.get() {
            return Ok(known);
        }
        let first = self.lines.first().map_or(0, |line| line.index);
        let mut from = first.saturating_sub(LOOK_BACK);
        let mut before = Vec::new();
        while from < first {
            let page = self.log.read(from, MAX_READ)?;
            let Some(last) = page.last() else { break };
            from = last.index + 1;
            before.extend(page.into_iter().filter(|line| line.index < first));
        }
        let accesses = before.iter().chain(self.lines).filter_map(access);
        let by_id = accesses.map(|access| (access.request_id.as_str().to_owned(), access));
        Ok(self.accesses.get_or_init(|| by_id.collect()))
    }
}

/// A permit's: nothing else finishes.
fn access(line: &Line) -> Option<Access> {
    match line.record()?.event {
        Event::Access(access) if access.decision == Verdict::Permit => {
            access.prompt_hash.is_some().then_some(*access)
        }
        _ => None,
    }
}
