//! Whose records somebody may see at all, whatever is asked for.
//!
//! A realm's auditor sees what the realm's own people and devices did, and what became of the
//! realm's keys and revocations. All else is somebody else's: other realms, what administrators
//! did by their socket, and what the log says of everybody at once (truncations, counts of
//! refusals where nobody was verified). Nothing tells of it but that its indexes are missing.

use serde_json::Value;

use super::record::{Access, Event};
use crate::prompt::Origin;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum View {
    /// For who administers the device.
    Whole,
    /// Of the realm of this name.
    Realm(String),
}

impl View {
    /// `access`: the one that a finish ends, where the finish doesn't say whose it is.
    pub(super) fn shows(&self, event: &Event, access: Option<&Access>) -> bool {
        let View::Realm(name) = self else { return true };
        let own = |realm: Option<&String>| realm == Some(name);
        match event {
            Event::Access(access) => own(access.realm.as_ref()),
            Event::Finish(finished) => {
                let of_access = || access.and_then(|access| access.realm.as_ref());
                own(finished.realm.as_ref().or_else(of_access))
            }
            Event::AccessesSummary(summary) => own(summary.realm.as_ref()),
            // An administrator's own socket and process are nobody's business here.
            Event::Change {
                origin: Origin::Daemon,
                what,
                detail,
            } => {
                let realm = detail.get("realm").and_then(Value::as_str);
                what.change.is_of_one_realm() && realm == Some(name)
            }
            Event::Change { .. } | Event::RefusalsSummary { .. } | Event::Truncated { .. } => false,
        }
    }
}
