//! What can be wrong with a daemon, under names that don't change.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// Requests that should be answered aren't, or will be that shouldn't.
pub const CRITICAL: &str = "critical";
/// It needs somebody before it becomes critical.
pub const WARNING: &str = "warning";

macro_rules! kinds {
    ($($kind:ident = $name:literal, $severity:ident;)+) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind { $($kind,)+ }

        impl Kind {
            pub const ALL: &'static [Kind] = &[$(Kind::$kind,)+];

            /// In status, metrics and alerts.
            pub fn name(self) -> &'static str {
                match self { $(Kind::$kind => $name,)+ }
            }

            pub fn severity(self) -> &'static str {
                match self { $(Kind::$kind => $severity,)+ }
            }
        }
    };
}

// In the order in which people are told of them.
kinds! {
    Draining = "draining", CRITICAL;
    StoreFull = "store_full", CRITICAL;
    StoreFailed = "store_failed", CRITICAL;
    KeysMissing = "keys_missing", CRITICAL;
    FleetUnread = "fleet_unread", CRITICAL;
    LogRewritten = "log_rewritten", CRITICAL;
    KeysTooOld = "keys_too_old", CRITICAL;
    DenyListRefused = "deny_list_refused", CRITICAL;
    ModelNotListed = "model_not_listed", CRITICAL;
    ClockBelieved = "clock_believed", CRITICAL;
    CertificateEnded = "certificate_ended", CRITICAL;
    BrokerAway = "broker_away", CRITICAL;
    BrokerTrouble = "broker_trouble", WARNING;
    KeysHeld = "keys_held", WARNING;
    KeysAgeing = "keys_ageing", WARNING;
    ScopeStopped = "scope_stopped", WARNING;
    ClockUnsynchronised = "clock_unsynchronised", WARNING;
    ClockMoved = "clock_moved", WARNING;
    FleetRootMissing = "fleet_root_missing", WARNING;
    FleetEnded = "fleet_ended", WARNING;
    MirrorRefused = "mirror_refused", WARNING;
    WitnessRefused = "witness_refused", WARNING;
    ExportStopped = "export_stopped", WARNING;
    CertificateEnds = "certificate_ends", WARNING;
    DiskLow = "disk_low", WARNING;
}

/// One thing that is wrong. Its words are for people and may change; `name` doesn't.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// A [`Kind`]'s, or one that a newer daemon knows.
    pub name: String,
    pub severity: String,
    /// Of which realm, client, model, mirror, witness or export.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    pub what: String,
    pub mend: String,
    /// `None`: nobody has kept count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

impl Problem {
    pub fn new(kind: Kind, what: impl Into<String>, mend: impl Into<String>) -> Problem {
        Problem {
            name: kind.name().to_owned(),
            severity: kind.severity().to_owned(),
            about: None,
            what: what.into(),
            mend: mend.into(),
            since: None,
        }
    }

    #[must_use]
    pub fn about(self, about: impl Into<String>) -> Problem {
        let about = Some(about.into());
        Problem { about, ..self }
    }

    #[must_use]
    pub fn since(self, at: impl Into<Option<Timestamp>>) -> Problem {
        let since = at.into().map(|at| at.to_string());
        Problem { since, ..self }
    }

    pub fn is_critical(&self) -> bool {
        self.severity == CRITICAL
    }

    /// The same problem, whatever its words and since when.
    pub fn is_same(&self, other: &Problem) -> bool {
        self.name == other.name && self.about == other.about
    }
}

/// In one line, as a log and `/readyz` have it.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.mend)
    }
}
