//! Judges records one after the other by a filter.
//!
//! A finish names nobody, so it goes with the access that it ends: a [`Matcher`] is shown the records
//! in their order and remembers whose are under way.

use std::collections::VecDeque;

use serde::Deserialize;

use super::filter::{Filter, Meant};
use super::record::{Access, Event, Finished, Line, Verdict};
use crate::time::Timestamp;

/// Requests whose finish is waited for. More than can run at once: what a crash ended goes first.
const MAX_RUNNING: usize = 4096;

/// What becomes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    Shown,
    Hidden,
    /// A newer release wrote it, so nobody can tell.
    Unknown,
}

#[derive(Debug, Default)]
pub(super) struct Matcher {
    filter: Filter,
    /// Permitted prompts that haven't finished, oldest first, of whom is asked for.
    running: VecDeque<(String, Meant)>,
}

impl Matcher {
    pub(super) fn new(filter: Filter) -> Matcher {
        let running = VecDeque::new();
        Matcher { filter, running }
    }

    pub(super) fn judge(&mut self, line: &Line) -> Fit {
        let Some(record) = line.record() else {
            return unread(&self.filter, line);
        };
        // Before the time, because what finishes later may have begun earlier.
        let fits = !self.filter.narrows() || self.fits(&record.event);
        let (time, event) = (Some(record.time), Some(record.event.name()));
        match fits && self.filter.is_told(time, event, &line.json) {
            true => Fit::Shown,
            false => Fit::Hidden,
        }
    }

    fn fits(&mut self, event: &Event) -> bool {
        match event {
            Event::Access(access) => self.access(access),
            Event::Finish(finished) => self.finish(finished),
            other => self.filter.means_event(other),
        }
    }

    fn access(&mut self, access: &Access) -> bool {
        let meant = self.filter.means(access);
        // Nothing else finishes.
        let finishes = access.decision == Verdict::Permit && access.prompt_hash.is_some();
        if finishes && meant != Meant::Not {
            if self.running.len() >= MAX_RUNNING {
                self.running.pop_front();
            }
            let id = access.request_id.as_str().to_owned();
            self.running.push_back((id, meant));
        }
        meant.is_whole()
    }

    fn finish(&mut self, finished: &Finished) -> bool {
        let id = finished.request_id.as_str();
        let place = self.running.iter().position(|(running, _)| running == id);
        let access = place.and_then(|place| self.running.remove(place));
        let meant = access.map(|(_, meant)| meant);
        self.filter.means_finish(finished, meant)
    }
}

/// Of a newer release: its time and event may be where they are today.
pub(super) fn unread(filter: &Filter, line: &Line) -> Fit {
    #[derive(Deserialize)]
    struct Outline {
        time: Option<Timestamp>,
        event: Option<String>,
    }
    let outline = serde_json::from_slice::<Outline>(&line.json).ok();
    let time = outline.as_ref().and_then(|outline| outline.time);
    let event = outline
        .as_ref()
        .and_then(|outline| outline.event.as_deref());
    if !filter.is_told(time, event, &line.json) {
        return Fit::Hidden;
    }
    match filter.narrows() {
        true => Fit::Unknown,
        false => Fit::Shown,
    }
}
