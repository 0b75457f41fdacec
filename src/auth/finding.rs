//! A check that failed, before it is known whom to tell.

use crate::reason::DenyReason;

#[derive(Debug)]
pub(super) struct Finding {
    pub(super) reason: DenyReason,
    pub(super) detail: Option<String>,
}

impl Finding {
    pub(super) fn new(reason: DenyReason, detail: String) -> Finding {
        Finding {
            reason,
            detail: Some(detail),
        }
    }
}

impl From<DenyReason> for Finding {
    fn from(reason: DenyReason) -> Finding {
        Finding {
            reason,
            detail: None,
        }
    }
}
