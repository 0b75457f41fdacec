//! What of a record must be known to verify it, without parsing it: most are only hashed.

use serde::Deserialize;

/// The index that a record says it has, and whether it tells of removed ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Glance {
    pub(super) index: u64,
    pub(super) is_truncation: bool,
}

impl Glance {
    /// `None` where it says none: a newer release may have another form.
    pub(super) fn of(json: &[u8]) -> Option<Glance> {
        Glance::of_ours(json).or_else(|| Glance::of_any(json))
    }

    /// As every record of a release with versions begins.
    fn of_ours(json: &[u8]) -> Option<Glance> {
        let (_, rest) = number(json.strip_prefix(br#"{"version":"#)?)?;
        let (index, rest) = number(rest.strip_prefix(br#","index":"#)?)?;
        let (_, rest) = number(rest.strip_prefix(br#","time":"#)?)?;
        let rest = rest.strip_prefix(br#","synchronised":"#)?;
        let rest = rest.strip_prefix(b"true").or(rest.strip_prefix(b"false"))?;
        let rest = rest.strip_prefix(br#","boot_id":""#)?;
        let end = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
        let event = rest[end..].strip_prefix(br#"","event":""#)?;
        Some(Glance {
            index,
            is_truncation: event.starts_with(br#"truncated""#),
        })
    }

    fn of_any(json: &[u8]) -> Option<Glance> {
        #[derive(Deserialize)]
        struct Any<'a> {
            index: u64,
            #[serde(borrow)]
            event: Option<std::borrow::Cow<'a, str>>,
        }
        let Any { index, event } = serde_json::from_slice(json).ok()?;
        let is_truncation = event.is_some_and(|event| event == "truncated");
        Some(Glance {
            index,
            is_truncation,
        })
    }
}

/// A number of one digit at least, and what follows it.
fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let end = text.iter().position(|byte| !byte.is_ascii_digit())?;
    let (digits, rest) = text.split_at(end);
    let number = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some((number, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::tests::{SALT, START, access, open, settings};
    use crate::audit::{Change, Verdict};
    use crate::prompt::Origin;

    #[test]
    fn a_glance_tells_what_a_look_would() {
        let folder = tempfile::tempdir().unwrap();
        let small = crate::audit::Settings {
            max_bytes: 0,
            ..settings()
        };
        let log = open(&folder, small);
        for _ in 0..100 {
            log.permit(access(Verdict::Permit), SALT, START).unwrap();
        }
        let detail = serde_json::json!({"event": "truncated"});
        log.change(Origin::Daemon, Change::Start, detail, START)
            .unwrap();
        let mut truncations = 0;
        for line in log.read(0, 256).unwrap() {
            let glance = Glance::of_ours(&line.json);
            assert_eq!(glance, Glance::of_any(&line.json));
            assert_eq!(glance.unwrap().index, line.index);
            truncations += usize::from(glance.unwrap().is_truncation);
        }
        assert!(truncations > 0);
    }

    #[test]
    fn other_forms_are_looked_at_or_say_nothing() {
        let of = |text: &str| Glance::of(text.as_bytes());
        let sound = |index, is_truncation| {
            Some(Glance {
                index,
                is_truncation,
            })
        };
        assert_eq!(of(r#"{"index":7,"event":"access"}"#), sound(7, false));
        assert_eq!(of(r#"{"event":"truncated","index":7}"#), sound(7, true));
        let newer = r#"{"version":3,"index":9,"time":1,"place":"x","event":"truncated"}"#;
        assert_eq!(of(newer), sound(9, true));
        for none in [
            "",
            "{",
            "{}",
            r#"{"index":-1}"#,
            r#"{"version":1,"index":1"#,
        ] {
            assert_eq!(of(none), None, "{none}");
        }
    }
}
