//! The closed enum of changes and administrators' looks: one name for record and text.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! changes {
    ($($variant:ident = $name:literal;)+) => {
        /// What happened to the daemon, or what an administrator asked of it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Change { $($variant,)+ }

        impl Change {
            pub const ALL: &'static [Change] = &[$(Change::$variant,)+];

            /// The name in records.
            pub fn as_str(self) -> &'static str {
                match self { $(Change::$variant => $name,)+ }
            }
        }
    };
}

impl Change {
    /// Whether its record's particulars are one realm's, which they name.
    pub(super) fn is_of_one_realm(self) -> bool {
        use Change::{
            DenyListRefused, DenyListReplaced, KeysCopyIgnored, KeysHeld, KeysPinned,
            KeysRefreshed, KeysRestored, SaltErased, SaltShown, TextsErased,
        };
        matches!(
            self,
            DenyListRefused
                | DenyListReplaced
                | KeysCopyIgnored
                | KeysHeld
                | KeysPinned
                | KeysRefreshed
                | KeysRestored
                | SaltErased
                | SaltShown
                | TextsErased
        )
    }

    /// Whether its record says which realm it is of.
    fn is_of_realm(self) -> bool {
        use Change::{AskedFetch, AskedPin, AskedPinHeld, AskedRefresh};
        matches!(self, AskedPin | AskedFetch | AskedPinHeld | AskedRefresh)
    }
}

changes! {
    Start = "start";
    StartRefused = "start_refused";
    Stop = "stop";
    StoreRecovered = "store_recovered";
    AuditWitnessRefused = "audit_witness_refused";
    AuditEpochBegun = "audit_epoch_begun";
    ConfigurationReloaded = "configuration_reloaded";
    DenyListReplaced = "deny_list_replaced";
    DenyListRefused = "deny_list_refused";
    TimeReset = "time_reset";
    KeysPinned = "keys_pinned";
    KeysRefreshed = "keys_refreshed";
    KeysHeld = "keys_held";
    KeysRestored = "keys_restored";
    KeysCopyIgnored = "keys_copy_ignored";
    TrustPinned = "trust_pinned";
    TrustUpdated = "trust_updated";
    TrustRefused = "trust_refused";
    TrustRestored = "trust_restored";
    TrustUnread = "trust_unread";
    MqttSubscriptionDenied = "mqtt_subscription_denied";
    MqttTakenOver = "mqtt_taken_over";
    MqttUnstable = "mqtt_unstable";
    SaltErased = "salt_erased";
    SaltShown = "salt_shown";
    TextsErased = "texts_erased";
    AskedStatus = "status";
    AskedMetrics = "metrics";
    AskedAudit = "audit read";
    AskedText = "audit text";
    AskedForget = "audit forget";
    AskedSalt = "audit salt";
    AskedSign = "audit sign";
    AskedVerify = "audit verify";
    AskedReload = "reload";
    AskedTimeReset = "time reset";
    AskedKeys = "keys list";
    AskedExplain = "keys explain";
    AskedPin = "keys pin";
    AskedFetch = "keys fetch";
    AskedPinHeld = "keys pin held";
    AskedRefresh = "keys refresh";
    AskedTrust = "trust show";
    AskedPinRoot = "trust pin";
}

/// A change as its record names it: what an administrator asked for says of which realm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct What {
    pub change: Change,
    pub realm: Option<String>,
}

impl What {
    /// `None` for the name of a newer release.
    pub fn parse(text: &str) -> Option<What> {
        let read = |change: Change| match text.strip_prefix(change.as_str())? {
            "" => (!change.is_of_realm()).then(|| change.into()),
            rest if change.is_of_realm() => {
                let realm = Some(rest.strip_prefix(' ')?.to_owned());
                Some(What { change, realm })
            }
            _ => None,
        };
        let found = Change::ALL.iter().copied().filter_map(read);
        // `keys pin held dev` is of the realm `dev`, and `keys pin held` of the realm `held`.
        found.max_by_key(|what| what.change.as_str().len())
    }
}

impl From<Change> for What {
    fn from(change: Change) -> What {
        let realm = None;
        What { change, realm }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.realm {
            Some(realm) => write!(f, "{} {realm}", self.change),
            None => self.change.fmt(f),
        }
    }
}

impl Serialize for What {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for What {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let name = String::deserialize(d)?;
        What::parse(&name)
            .ok_or_else(|| serde::de::Error::custom(format_args!("unknown change {name:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_read_back() {
        let names: BTreeSet<_> = Change::ALL.iter().map(|change| change.as_str()).collect();
        assert_eq!(names.len(), Change::ALL.len());
        for change in Change::ALL.iter().copied() {
            for realm in ["dev", "held"] {
                let realm = change.is_of_realm().then(|| realm.to_owned());
                let what = What { change, realm };
                assert_eq!(What::parse(&what.to_string()), Some(what));
            }
        }
        for unknown in [
            "",
            "started",
            "start dev",
            "status page",
            "keys",
            "keys pin",
            " start",
        ] {
            assert_eq!(What::parse(unknown), None, "{unknown}");
        }
    }
}
