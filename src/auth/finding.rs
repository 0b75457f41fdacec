//! A check that failed, before it is known whom to tell.

use super::clock::Moved;
use crate::reason::DenyReason;

/// To whoever sent the token: what has moved the time is for administrators to know.
const MOVED: &str = "an earlier token told this time; where it is wrong, `slmd keys reset-time`";

#[derive(Debug)]
pub(super) struct Finding {
    pub(super) reason: DenyReason,
    pub(super) detail: Option<String>,
    /// By the clock alone the check would have passed.
    pub(super) moved: Option<Moved>,
}

impl Finding {
    pub(super) fn new(reason: DenyReason, detail: String) -> Finding {
        Finding {
            reason,
            detail: Some(detail),
            moved: None,
        }
    }

    pub(super) fn because(self, moved: Moved) -> Finding {
        let detail = self.detail.map(|detail| format!("{detail}; {MOVED}"));
        Finding {
            detail: Some(detail.unwrap_or_else(|| MOVED.to_owned())),
            moved: Some(moved),
            ..self
        }
    }
}

impl From<DenyReason> for Finding {
    fn from(reason: DenyReason) -> Finding {
        Finding {
            reason,
            detail: None,
            moved: None,
        }
    }
}
