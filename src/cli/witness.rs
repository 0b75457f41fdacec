//! The lines of `slmd status` on who watches the audit log.

use super::output::printable;
use super::realm::View;
use super::terminal::count;
use crate::admin::WitnessStatus;

/// What each has seen.
pub(super) fn lines(witnesses: &[WitnessStatus], view: View) -> Vec<String> {
    let line = |witness: &WitnessStatus| {
        let name = printable(&witness.name);
        match &witness.cosigned {
            None => format!("  witness {name}: nothing cosigned yet"),
            Some(last) => {
                let records = count(last.size, "record");
                format!("  witness {name}: {records} cosigned {}", view.at(&last.at))
            }
        }
    };
    witnesses.iter().map(line).collect()
}

/// What only a person can mend.
pub(super) fn actions(witnesses: &[WitnessStatus]) -> Vec<String> {
    let action = |witness: &WitnessStatus| {
        let (name, refused) = (printable(&witness.name), witness.refused.as_ref()?);
        let why = printable(&refused.why);
        Some(match witness.alarm {
            true => format!(
                "ALARM: the witness {name}: {why}; keep this machine as it is, and find out who \
                 changed it"
            ),
            false => format!("the audit log's witness {name}: {why}"),
        })
    };
    witnesses.iter().filter_map(action).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{Cosigned, TrustFailure};
    use crate::cli::terminal::Terminal;
    use crate::time::Timestamp;

    fn witness(refused: &str, alarm: bool) -> WitnessStatus {
        WitnessStatus {
            name: "w.example".to_owned(),
            alarm,
            refused: (!refused.is_empty()).then(|| TrustFailure {
                reason: "reason".to_owned(),
                why: refused.to_owned(),
            }),
            ..WitnessStatus::default()
        }
    }

    #[test]
    fn it_says_what_was_seen_and_what_is_wrong() {
        let view = View {
            terminal: Terminal::plain(80),
            now: Timestamp::from_secs(1_795_500_120),
        };
        let mut seen = witness("", false);
        assert_eq!(
            lines(std::slice::from_ref(&seen), view),
            ["  witness w.example: nothing cosigned yet"]
        );
        seen.cosigned = Some(Cosigned {
            epoch: 1,
            size: 1,
            at: Timestamp::from_secs(1_795_500_000).to_string(),
        });
        let said = lines(&[seen.clone()], view);
        assert!(
            said[0].starts_with("  witness w.example: 1 record cosigned "),
            "{said:?}"
        );
        assert_eq!(actions(&[seen]), Vec::<String>::new());
        let said = actions(&[witness("away", false), witness("cut", true)]);
        assert_eq!(said[0], "the audit log's witness w.example: away");
        assert!(
            said[1].starts_with("ALARM: the witness w.example: cut"),
            "{said:?}"
        );
    }
}
