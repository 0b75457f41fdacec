//! `slmd keys explain`: every check of a token in order, and what mends the one that fails.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::de::{DeserializeOwned, IntoDeserializer};

use super::super::client::{Problem, body};
use super::super::exit::{Done, Exit, Failure};
use super::super::{Global, offline, output, token};
use crate::admin::route;
use crate::auth::{Explanation, Outcome, ToExplain};
use crate::prompt::{Scope, Transport};

/// Tell, check by check, why a token is accepted or refused, and what to change in Keycloak.
///
/// Nothing is asked of the model, and the token's signature is never shown.
#[derive(Debug, Args)]
#[command(after_help = "\
Ends with 0 when the token would be accepted, and with 3 when it would be refused.

Examples:
  slmd keys explain --token-file token
  slmd keys explain --token-file token --scope write --transport mqtt
  printf %s \"$token\" | slmd keys explain --json | jq '.checks[] | select(.mend)'")]
pub(in crate::cli) struct Explain {
    /// A file that holds the token; without it, standard input.
    #[arg(long, env = "SLMD_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The way that the token is to come: socket, tcp or mqtt.
    #[arg(long, value_name = "T", default_value = "socket", value_parser = named::<Transport>)]
    transport: Transport,
    /// The endpoint's client id (default: the realm's default endpoint).
    #[arg(long, value_name = "M")]
    model: Option<String>,
    /// What the token is to be used for: read, write, fine-tune or audit.
    #[arg(long, value_name = "S", default_value = "read", value_parser = named::<Scope>)]
    scope: Scope,
}

/// It tells a thief what a stolen token still lacks, so the public socket doesn't.
const CLOSED: &str = "keys explain is for root and the daemon's user (sudo slmd keys explain); the \
    first reason why a token is refused comes with the refusal itself (slmd ask --token-file FILE \
    hello), and slmd keys list shows issuers, keys and when scopes stop";

impl Explain {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let file = self.token_file.as_deref().unwrap_or(Path::new("-"));
        let asked = ToExplain {
            token: token::in_file(file)?,
            transport: Some(self.transport),
            model: self.model.clone(),
            scope: Some(self.scope),
        };
        let told = global.admin()?.call_with(route::EXPLAIN, "", body(&asked)?);
        let explanation = match told {
            Err(Problem::Down(_)) => {
                let (state, snapshot) = offline::survey(&global.load()?)?;
                state.explain(&snapshot, &asked)
            }
            Err(Problem::Denied(denied)) => return Err(Failure::new(denied.exit, CLOSED)),
            told => told?,
        };
        if global.json {
            output::show(global, &explanation)?;
        } else {
            human(&explanation)
                .iter()
                .try_for_each(|text| output::line(text))?;
        }
        match &explanation.verdict {
            None => Ok(()),
            Some(reason) => Err(Failure::new(
                Exit::Refused,
                format!("this token would be refused: {}", output::printable(reason)),
            )),
        }
    }
}

/// A value by the name that JSON has for it.
fn named<T: DeserializeOwned>(name: &str) -> Result<T, String> {
    let found = T::deserialize(name.into_deserializer());
    found.map_err(|error: serde::de::value::Error| error.to_string())
}

/// A line a check, then what to do.
fn human(explanation: &Explanation) -> Vec<String> {
    let checks = explanation.checks.iter();
    let mut lines: Vec<String> = checks
        .map(|check| {
            let (mark, reason) = match &check.outcome {
                Outcome::Passed => ("✓", String::new()),
                Outcome::Skipped => ("–", String::new()),
                Outcome::Failed(reason) => ("✗", format!(" ({})", output::printable(reason))),
            };
            let name = output::printable(&check.name);
            let detail = check.detail.as_ref().filter(|detail| !detail.is_empty());
            let detail = detail.map(|detail| format!(": {}", output::printable(detail)));
            format!("{mark} {name}{reason}{}", detail.unwrap_or_default())
        })
        .collect();
    let mends = explanation
        .checks
        .iter()
        .filter_map(|check| check.mend.as_ref());
    let mends: Vec<String> = mends
        .map(|mend| format!("  {}", output::printable(mend)))
        .collect();
    if !mends.is_empty() {
        lines.extend([String::new(), "What to do:".to_owned()]);
        lines.extend(mends);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_a_check_then_what_to_do() {
        let explanation = r#"{"verdict": "audience_missing", "genuine": true, "checks": [
            {"name": "form", "outcome": "passed", "detail": "RS256, kid a"},
            {"name": "audience", "outcome": "audience_missing",
             "detail": "aud is account\u001b", "mend": "give the user a role of slm-chat"},
            {"name": "roles", "outcome": "skipped", "detail": "", "mend": null}
        ]}"#;
        let expected = "\
✓ form: RS256, kid a
✗ audience (audience_missing): aud is account\u{fffd}
– roles

What to do:
  give the user a role of slm-chat";
        let explanation = serde_json::from_str(explanation).unwrap();
        assert_eq!(human(&explanation).join("\n"), expected);
    }
}
