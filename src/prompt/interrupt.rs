//! A running answer's stop switch, cheap enough to look at between two tokens.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::Finish;

/// Shared by whoever may stop an answer and the engine that produces it. The first cause wins.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicU8>);

/// What may stop an answer from outside, by the value that stands for it; 0 is "go on".
const CAUSES: [Finish; 4] = [
    Finish::Cancelled,
    Finish::Deadline,
    Finish::Revoked,
    Finish::Shutdown,
];

impl Interrupt {
    /// Asks the engine to end the answer with `cause`. Causes that only the engine can find
    /// (`Stop`, `Length`, `Failed`) count as `Cancelled`.
    pub fn raise(&self, cause: Finish) {
        let index = CAUSES.iter().position(|c| *c == cause).unwrap_or(0);
        let _ = self
            .0
            .compare_exchange(0, index as u8 + 1, Ordering::AcqRel, Ordering::Acquire);
    }

    pub fn raised(&self) -> Option<Finish> {
        let value = self.0.load(Ordering::Acquire);
        CAUSES.get(usize::from(value).checked_sub(1)?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_cause_wins() {
        let interrupt = Interrupt::default();
        assert_eq!(interrupt.raised(), None);
        interrupt.raise(Finish::Revoked);
        interrupt.raise(Finish::Cancelled);
        assert_eq!(interrupt.clone().raised(), Some(Finish::Revoked));
    }
}
