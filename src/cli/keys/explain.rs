//! `slmd keys explain`: every check of a token in order, and what mends the one that fails.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use ureq::http::Method;

use super::super::client::{Problem, Shown};
use super::super::exit::{Done, Exit, Failure};
use super::super::{Global, input, offline, output};
use crate::auth::{Clock, ExplainContext, explain};
use crate::config::Config;
use crate::prompt::{Scope, Transport};
use crate::secret::Secret;
use crate::time::{now, synchronised, uptime};

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
    /// The way that the token is to come.
    #[arg(long, value_enum, default_value_t = Way::Socket)]
    transport: Way,
    /// The endpoint's client id (default: the realm's default endpoint).
    #[arg(long, value_name = "M")]
    model: Option<String>,
    /// What the token is to be used for.
    #[arg(long, value_name = "S", default_value = "read", value_parser = scope)]
    scope: Scope,
}

/// [`Transport`], as it is typed.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Way {
    Socket,
    Tcp,
    Mqtt,
}

impl Way {
    fn transport(self) -> Transport {
        match self {
            Way::Socket => Transport::Socket,
            Way::Tcp => Transport::Tcp,
            Way::Mqtt => Transport::Mqtt,
        }
    }
}

impl Explain {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let file = self.token_file.as_deref().unwrap_or(Path::new("-"));
        let token = input::token(file)?;
        let body = json!({
            "token": token.expose(),
            "transport": self.transport.transport().as_str(),
            "model": self.model,
            "scope": self.scope.as_str(),
        });
        let body = body.to_string().into_bytes();
        let admin = global.admin()?;
        let explanation = match admin.send(Method::POST, "/keys/explain", &Shown::Nothing, body) {
            Ok(answer) => answer.json()?,
            Err(Problem::Down(_)) => self.offline(&global.load()?, &token)?,
            Err(problem) => return Err(problem.into()),
        };
        if global.json {
            output::show(global, &explanation)?;
        } else {
            human(&explanation)
                .iter()
                .try_for_each(|text| output::line(text))?;
        }
        match refused(&explanation) {
            None => Ok(()),
            Some(reason) => Err(Failure::new(
                Exit::Refused,
                format!("this token would be refused: {}", output::printable(reason)),
            )),
        }
    }

    /// Without what only the running daemon knows: deny-lists and the floors of single realms.
    fn offline(&self, config: &Config, token: &Secret<String>) -> Result<Value, Failure> {
        let state = offline::open(config)?;
        let snapshot = state.snapshot(config).map_err(Failure::failed)?;
        let clock = Clock {
            now: now(),
            floor: state.floor.get(uptime()),
            uptime: uptime(),
            synchronised: synchronised(),
            realm_floors: Arc::default(),
        };
        let context = ExplainContext {
            transport: Some(self.transport.transport()),
            model: self.model.clone(),
            scope: self.scope,
        };
        let explanation = explain(token.expose(), &snapshot, &clock, &context);
        serde_json::to_value(explanation).map_err(Failure::failed)
    }
}

fn scope(name: &str) -> Result<Scope, String> {
    let found = Scope::ALL.into_iter().find(|scope| scope.as_str() == name);
    found.ok_or_else(|| format!("known are {}", Scope::ALL.map(Scope::as_str).join(", ")))
}

fn checks(explanation: &Value) -> impl Iterator<Item = &Value> {
    explanation["checks"].as_array().into_iter().flatten()
}

/// The reason; `None` where the token is good.
fn refused(explanation: &Value) -> Option<&str> {
    explanation["verdict"].as_str()
}

/// A line a check, then what to do.
fn human(explanation: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().map(output::printable);
    let mut lines: Vec<String> = checks(explanation)
        .map(|check| {
            // An outcome is `passed`, `skipped`, or the reason of the failure.
            let outcome = text(&check["outcome"]).unwrap_or_default();
            let (mark, reason) = match outcome.as_str() {
                "passed" => ("✓", String::new()),
                "skipped" => ("–", String::new()),
                reason => ("✗", format!(" ({reason})")),
            };
            let name = text(&check["name"]).unwrap_or_default();
            let detail = text(&check["detail"]).filter(|detail| !detail.is_empty());
            let detail = detail.map(|detail| format!(": {detail}"));
            format!("{mark} {name}{reason}{}", detail.unwrap_or_default())
        })
        .collect();
    let mends: Vec<String> = checks(explanation)
        .filter_map(|check| text(&check["mend"]))
        .collect();
    if !mends.is_empty() {
        lines.push(String::new());
        lines.push("What to do:".to_owned());
        lines.extend(mends.iter().map(|mend| format!("  {mend}")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_a_check_then_what_to_do() {
        let explanation = json!({"verdict": "audience_missing", "checks": [
            {"name": "form", "outcome": "passed", "detail": "RS256, kid a"},
            {"name": "audience", "outcome": "audience_missing",
             "detail": "aud is account\u{1b}", "mend": "give the user a role of slm-chat"},
            {"name": "roles", "outcome": "skipped", "detail": "", "mend": null},
        ]});
        let expected = "\
✓ form: RS256, kid a
✗ audience (audience_missing): aud is account\u{fffd}
– roles

What to do:
  give the user a role of slm-chat";
        assert_eq!(human(&explanation).join("\n"), expected);
        assert_eq!(refused(&explanation), Some("audience_missing"));
        assert_eq!(refused(&json!({"verdict": null})), None);
    }
}
