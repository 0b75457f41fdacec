//! What a collector files a record by: its name, how grave it is, when it was. Read from the record's
//! JSON as it is stored, so that a newer release's has them too.

use serde::Deserialize;

use crate::audit::{Change, Line, What};
use crate::time::{MAX_SECS, Timestamp};

/// RFC 5424 has it in 32 octets at most.
const LONGEST_NAME: usize = 32;

/// Of RFC 5424 section 6.2.1; the journal's priorities are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Severity {
    Error = 3,
    Warning = 4,
    Notice = 5,
    Informational = 6,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Outline {
    event: String,
    what: String,
    decision: String,
    reason: String,
    action: String,
    realm: String,
    endpoint: String,
    pub(super) time: Option<Timestamp>,
    pub(super) synchronised: Option<bool>,
}

impl Outline {
    pub(super) fn of(line: &Line) -> Outline {
        let read: Outline = serde_json::from_slice(&line.json).unwrap_or_default();
        // RFC 3339 has years of four digits.
        let time = read.time.filter(|time| time.as_secs() <= MAX_SECS);
        Outline { time, ..read }
    }

    /// The event, or which change it was.
    pub(super) fn name(&self) -> String {
        let what = What::parse(&self.what);
        let told = match what.as_ref().map(|what| what.change.as_str()) {
            Some(change) => change,
            None if !self.event.is_empty() => &self.event,
            None => "unknown",
        };
        let plain = |c: char| if c.is_ascii_graphic() { c } else { '_' };
        told.chars().map(plain).take(LONGEST_NAME).collect()
    }

    /// What was refused, lost or is wrong stands out.
    pub(super) fn severity(&self) -> Severity {
        match (self.event.as_str(), self.decision.as_str()) {
            (_, "deny") | ("refusals_summary" | "truncated", _) => Severity::Warning,
            ("change", _) => What::parse(&self.what).map_or(Severity::Notice, |w| of(w.change)),
            ("access" | "finish" | "accesses_summary", _) => Severity::Informational,
            _ => Severity::Notice,
        }
    }

    /// For a person who sees the name alone beside it.
    pub(super) fn words(&self) -> String {
        let place = match (self.realm.is_empty(), self.endpoint.is_empty()) {
            (false, false) => format!("{}/{}", self.realm, self.endpoint),
            _ => self.realm.clone(),
        };
        let name = self.name();
        let parts = [&name, &self.decision, &self.reason, &self.action, &place];
        let parts: Vec<&str> = parts.into_iter().map(String::as_str).collect();
        let told = parts.into_iter().filter(|part| !part.is_empty());
        told.collect::<Vec<_>>().join(" ")
    }
}

fn of(change: Change) -> Severity {
    match change {
        Change::StartRefused | Change::StoreRecovered => Severity::Error,
        Change::DenyListRefused
        | Change::TimeReset
        | Change::KeysHeld
        | Change::KeysCopyIgnored
        | Change::TrustRefused
        | Change::MqttSubscriptionDenied
        | Change::MqttTakenOver
        | Change::MqttUnstable => Severity::Warning,
        Change::AskedStatus
        | Change::AskedMetrics
        | Change::AskedAudit
        | Change::AskedText
        | Change::AskedKeys
        | Change::AskedExplain
        | Change::AskedTrust => Severity::Informational,
        _ => Severity::Notice,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outline(json: &str) -> Outline {
        Outline::of(&Line {
            index: 7,
            json: json.as_bytes().to_vec(),
        })
    }

    #[test]
    fn a_record_is_filed_by_what_it_says() {
        for (json, name, severity) in [
            (r#"{"event":"access","decision":"permit"}"#, "access", 6),
            (r#"{"event":"access","decision":"deny"}"#, "access", 4),
            (r#"{"event":"finish"}"#, "finish", 6),
            (
                r#"{"event":"accesses_summary","decision":"deny"}"#,
                "accesses_summary",
                4,
            ),
            (r#"{"event":"refusals_summary"}"#, "refusals_summary", 4),
            (r#"{"event":"truncated"}"#, "truncated", 4),
            (r#"{"event":"change","what":"start"}"#, "start", 5),
            (
                r#"{"event":"change","what":"start_refused"}"#,
                "start_refused",
                3,
            ),
            (
                r#"{"event":"change","what":"keys pin prod"}"#,
                "keys_pin",
                5,
            ),
            (r#"{"event":"change","what":"status"}"#, "status", 6),
            (r#"{"event":"change","what":"of tomorrow"}"#, "change", 5),
            (
                r#"{"event":"of \u00e4 newer release, with a long name"}"#,
                "of___newer_release,_with_a_long_",
                5,
            ),
            (r#"{"event":5}"#, "unknown", 5),
            ("no JSON", "unknown", 5),
        ] {
            let outline = outline(json);
            assert_eq!(outline.name(), name, "{json}");
            assert_eq!(outline.severity() as u8, severity, "{json}");
            assert!(outline.name().len() <= LONGEST_NAME, "{json}");
        }
    }

    #[test]
    fn a_time_that_no_date_has_is_none() {
        assert_eq!(outline(r#"{"time":5}"#).time, Some(Timestamp(5)));
        assert_eq!(outline(r#"{"time":18446744073709551615}"#).time, None);
    }
}
