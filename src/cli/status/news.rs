//! What has changed between two looks, for who watches without a terminal: a line each.

use serde_json::json;

use super::super::exit::Failure;
use super::super::output::{local_second, printable};
use super::super::terminal::Terminal;
use super::{Look, page, problems, told};
use crate::admin::Problem;
use crate::cli::login::End;
use crate::cli::watch::Listener;
use crate::time::Clocks;

/// The last look, as far as a change of it is news.
pub(super) struct News {
    as_json: bool,
    last: Option<Last>,
}

#[derive(Clone)]
struct Last {
    /// `Err`: why nobody answered.
    ready: Result<bool, String>,
    problems: Vec<Problem>,
}

impl News {
    pub(super) fn new(as_json: bool) -> News {
        let last = None;
        News { as_json, last }
    }
}

impl Listener<Look> for News {
    fn wants_all(&self) -> bool {
        self.as_json
    }

    fn hear(&mut self, look: &Look) -> Vec<String> {
        let next = Last::of(look, self.last.as_ref());
        let before = self.last.replace(next.clone());
        if before.as_ref().is_some_and(|before| before.is_same(&next)) {
            return Vec::new();
        }
        if self.as_json {
            return vec![json(look)];
        }
        match (before, look) {
            (None, Ok(seen)) => page::page(seen, End::of_this_user(), Terminal::stdout()),
            (before, _) => {
                let at = local_second(Clocks::default().now());
                let lines = next.after(before.as_ref());
                lines.iter().map(|line| format!("{at} {line}")).collect()
            }
        }
    }
}

impl Last {
    /// Who doesn't answer is still what it was, for all that is known.
    fn of(look: &Look, before: Option<&Last>) -> Last {
        match look {
            Ok(seen) => Last {
                ready: Ok(seen.what.ready),
                problems: problems(&seen.what),
            },
            Err(failure) => Last {
                ready: Err(failure.message.clone()),
                problems: before.map_or_else(Vec::new, |before| before.problems.clone()),
            },
        }
    }

    /// Words, times and numbers that go on by themselves are no news.
    fn is_same(&self, other: &Last) -> bool {
        self.ready == other.ready
            && self.problems.iter().all(|one| other.has(one))
            && other.problems.iter().all(|one| self.has(one))
    }

    fn has(&self, problem: &Problem) -> bool {
        self.problems.iter().any(|one| one.is_same(problem))
    }

    fn after(&self, before: Option<&Last>) -> Vec<String> {
        let mut lines = Vec::new();
        if before.is_none_or(|before| before.ready != self.ready) {
            lines.push(match &self.ready {
                Ok(true) => "ready".to_owned(),
                Ok(false) => "not ready".to_owned(),
                Err(why) => format!("no answer: {}", printable(why)),
            });
        }
        let known = |one: &&Problem| before.is_some_and(|before| before.has(one));
        let come = self.problems.iter().filter(|one| !known(one));
        lines.extend(come.map(|one| format!("! {}", printable(&one.to_string()))));
        let before = before.iter().flat_map(|before| &before.problems);
        let gone = before.filter(|one| !self.has(one));
        lines.extend(gone.map(|one| format!("over: {}", printable(&one.what))));
        lines
    }
}

fn json(look: &Look) -> String {
    let value = match look {
        Ok(seen) => serde_json::to_value(told(&seen.what, End::of_this_user())),
        Err(Failure { message, .. }) => Ok(json!({"error": {"message": message}})),
    };
    value.map_or_else(
        |error| printable(&error.to_string()),
        |value| value.to_string(),
    )
}
