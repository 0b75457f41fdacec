//! What the engine has done since its start, in numbers for people; [`super::metrics`] has the
//! distributions.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Report;

/// Only the engine thread adds, but for what never ran.
#[derive(Debug, Default)]
pub(super) struct Totals {
    answers: AtomicU64,
    prompt_tokens: AtomicU64,
    completion_tokens: AtomicU64,
    /// Tokens after each answer's first, and what they took.
    timed_tokens: AtomicU64,
    timed_micros: AtomicU64,
}

/// [`Totals`] at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Done {
    /// Answers that had a token at least.
    pub answers: u64,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    /// Of a running answer, in the mean; `None` before there was one of two tokens.
    pub tokens_per_second: Option<f64>,
}

impl Totals {
    pub(super) fn add(&self, report: &Report) {
        let Some(first) = report.first_token else {
            return;
        };
        let usage = report.outcome.usage;
        let add = |total: &AtomicU64, value: u64| total.fetch_add(value, Ordering::Relaxed);
        add(&self.answers, 1);
        add(&self.prompt_tokens, usage.prompt_tokens.into());
        add(&self.completion_tokens, usage.completion_tokens.into());
        let timed = usage.completion_tokens.saturating_sub(1);
        if timed > 0 {
            let micros = report.total.saturating_sub(first).as_micros();
            add(&self.timed_tokens, timed.into());
            add(
                &self.timed_micros,
                u64::try_from(micros).unwrap_or(u64::MAX),
            );
        }
    }

    pub(super) fn get(&self) -> Done {
        let get = |total: &AtomicU64| total.load(Ordering::Relaxed);
        let (tokens, micros) = (get(&self.timed_tokens), get(&self.timed_micros));
        let per_second = tokens as f64 * 1e6 / micros as f64;
        Done {
            answers: get(&self.answers),
            prompt_tokens: get(&self.prompt_tokens),
            completion_tokens: get(&self.completion_tokens),
            tokens_per_second: (micros > 0).then_some(per_second),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::prompt::{Finish, Outcome, Usage};

    #[test]
    fn the_speed_is_that_of_tokens_after_the_first() {
        let totals = Totals::default();
        assert_eq!(totals.get().tokens_per_second, None);
        let mut report = Report {
            outcome: Outcome {
                finish: Finish::Stop,
                usage: Usage {
                    prompt_tokens: 30,
                    completion_tokens: 11,
                },
            },
            answer_hash: [0; 32],
            answer: None,
            queued: Duration::from_secs(5),
            first_token: Some(Duration::from_secs(7)),
            total: Duration::from_secs(9),
        };
        totals.add(&report);
        report.outcome.usage.completion_tokens = 1;
        totals.add(&report);
        // Refused or given up while it waited.
        report.first_token = None;
        totals.add(&report);
        let expected = Done {
            answers: 2,
            prompt_tokens: 60,
            completion_tokens: 12,
            tokens_per_second: Some(5.0),
        };
        assert_eq!(totals.get(), expected);
    }
}
