//! Whether an answer that was made again is the one on record, which is known by its hash alone.

use aws_lc_rs::digest::{Context, SHA256};
use serde::Serialize;

use crate::audit::Finished;
use crate::digest::hex;
use crate::prompt::Finish;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// All of it.
    Same,
    /// Up to where something ended it that isn't there now.
    SameBeginning,
    Different,
    /// The recorded answer has no text, and whatever ended it isn't known.
    NothingToCompare,
}

impl Verdict {
    pub(super) fn is_same(self) -> bool {
        matches!(self, Verdict::Same | Verdict::SameBeginning)
    }

    pub(super) fn words(self) -> &'static str {
        match self {
            Verdict::Same => "the same answer",
            Verdict::SameBeginning => "the same answer, up to where it was ended",
            Verdict::Different => "another answer",
            Verdict::NothingToCompare => "nothing to compare",
        }
    }
}

/// Of the text that came now.
pub(super) fn verdict(text: &str, recorded: &Finished) -> Verdict {
    let (hash, finish) = (&recorded.answer_hash, recorded.finish);
    let mut context = Context::new(&SHA256);
    let is_here = |context: &Context| hex(context.clone().finish().as_ref()) == *hash;
    let empty = is_here(&context);
    let mut beginning = false;
    for (at, c) in text.char_indices() {
        beginning |= at > 0 && is_here(&context);
        context.update(&text.as_bytes()[at..at + c.len_utf8()]);
    }
    match (is_here(&context), finish) {
        (true, _) => Verdict::Same,
        // As many tokens have given another text.
        (false, Finish::Length) => Verdict::Different,
        (false, _) if beginning => Verdict::SameBeginning,
        (false, _) if empty => Verdict::NothingToCompare,
        (false, _) => Verdict::Different,
    }
}

/// What may explain it.
pub(super) fn why(
    verdict: Verdict,
    finish: Finish,
    recorded: Option<&str>,
    kernels: &str,
) -> Vec<String> {
    let stop = "Stop sequences aren't on record; with the request's body as FILE they are known.";
    let why = match (verdict, finish) {
        (Verdict::Same, _) => return Vec::new(),
        (Verdict::SameBeginning, Finish::Stop) => {
            return vec![format!(
                "It ended where a stop sequence of the request will have ended it. {stop}"
            )];
        }
        (Verdict::SameBeginning, _) => {
            return vec![format!("It was broken off then ({}).", finish.as_str())];
        }
        (Verdict::NothingToCompare, Finish::Stop) => {
            return vec![format!("The recorded answer is empty. {stop}")];
        }
        (Verdict::NothingToCompare, _) => {
            return vec![format!(
                "The recorded answer was broken off ({}) before its first character.",
                finish.as_str()
            )];
        }
        (Verdict::Different, _) => match recorded {
            None => format!(
                "The record doesn't say with which kernels it was computed, as that of an older release; \
                 these were {kernels}, and another family rounds otherwise."
            ),
            Some(recorded) if recorded != kernels => format!(
                "It was computed with the kernels {recorded}, which this CPU doesn't have; these were \
                 {kernels}, which round otherwise. Replay it on a CPU of that family."
            ),
            Some(_) => "Text, bundle, sampling, seed and kernels are the recorded ones. A release that \
                 computes otherwise may have answered then (CHANGELOG), or the recorded answer isn't \
                 what this model gave."
                .to_owned(),
        },
    };
    vec![why]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::tests::finished;
    use crate::digest::sha256;

    fn told(now: &str, then: &str, finish: Finish) -> Verdict {
        let recorded = Finished {
            finish,
            answer_hash: hex(&sha256(then.as_bytes())),
            ..finished()
        };
        verdict(now, &recorded)
    }

    #[test]
    fn an_answer_is_the_same_its_beginning_or_another() {
        for (now, then, finish, verdict) in [
            ("Grüße", "Grüße", Finish::Length, Verdict::Same),
            ("Grüße", "Grüße", Finish::Cancelled, Verdict::Same),
            ("", "", Finish::Stop, Verdict::Same),
            ("Grüße.", "Grüße", Finish::Stop, Verdict::SameBeginning),
            ("Grüße.", "Gr", Finish::Failed, Verdict::SameBeginning),
            ("Grüße.", "Grüße", Finish::Length, Verdict::Different),
            ("Grüße.", "grüße", Finish::Stop, Verdict::Different),
            // Every answer begins with nothing.
            ("Grüße.", "", Finish::Stop, Verdict::NothingToCompare),
            ("Grüße.", "", Finish::Length, Verdict::Different),
            ("Gr", "Grüße", Finish::Cancelled, Verdict::Different),
        ] {
            assert_eq!(told(now, then, finish), verdict, "{now:?} {then:?}");
        }
    }

    #[test]
    fn what_differs_is_explained_by_what_is_known() {
        let why = |recorded| why(Verdict::Different, Finish::Length, recorded, "avx2").concat();
        assert!(why(None).contains("doesn't say"));
        assert!(why(Some("neon")).contains("computed with the kernels neon"));
        assert!(why(Some("avx2")).contains("are the recorded ones"));
    }
}
