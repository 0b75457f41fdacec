//! A running answer's stop switch, cheap enough to look at between two tokens.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::Finish;
use crate::reason::DenyReason;

/// Shared by whoever may stop an answer and the engine that produces it. The first cause wins.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicU8>);

/// What may stop an answer from outside, by the value that stands for it; 0 is "go on". Above them
/// stand the reasons of [`Finish::Revoked`].
const CAUSES: [Finish; 3] = [Finish::Cancelled, Finish::Deadline, Finish::Shutdown];

impl Interrupt {
    /// Asks the engine to end the answer with `cause`. Causes that only the engine can find
    /// (`Stop`, `Length`, `Failed`) count as `Cancelled`.
    pub fn raise(&self, cause: Finish) {
        let index = match cause {
            Finish::Revoked(reason) => {
                let place = DenyReason::ALL.iter().position(|known| *known == reason);
                CAUSES.len() + place.unwrap_or_default()
            }
            cause => CAUSES.iter().position(|c| *c == cause).unwrap_or(0),
        };
        let _ = self
            .0
            .compare_exchange(0, index as u8 + 1, Ordering::AcqRel, Ordering::Acquire);
    }

    pub fn raised(&self) -> Option<Finish> {
        let value = self.0.load(Ordering::Acquire);
        let index = usize::from(value).checked_sub(1)?;
        let revoked = || {
            let reason = DenyReason::ALL.get(index - CAUSES.len())?;
            Some(Finish::Revoked(*reason))
        };
        CAUSES.get(index).copied().or_else(revoked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_cause_wins() {
        let interrupt = Interrupt::default();
        assert_eq!(interrupt.raised(), None);
        interrupt.raise(Finish::Revoked(DenyReason::KeyUnknown));
        interrupt.raise(Finish::Cancelled);
        let raised = Finish::Revoked(DenyReason::KeyUnknown);
        assert_eq!(interrupt.clone().raised(), Some(raised));
    }

    #[test]
    fn every_cause_is_told_as_it_was_raised() {
        let revoked = DenyReason::ALL
            .iter()
            .map(|reason| Finish::Revoked(*reason));
        for cause in CAUSES.into_iter().chain(revoked) {
            let interrupt = Interrupt::default();
            interrupt.raise(cause);
            assert_eq!(interrupt.raised(), Some(cause));
        }
    }
}
