//! `slmd keys`: the pinned keys of each realm, and what they make of a token.

mod explain;
mod pin;
mod verify;

use clap::Subcommand;
use serde_json::{Value, json};
use ureq::http::Method;

use super::client::{Client, Problem, Shown};
use super::exit::{Done, Exit, Failure};
use super::{Global, offline, output};
use crate::auth::{KeyInfo, KeySet, Skipped};
use crate::config::Config;
use crate::time::MAX_SECS;

/// Show, pin and refresh the keys that tokens are verified with; explain a token.
#[derive(Debug, Subcommand)]
pub(super) enum Keys {
    /// List the pinned keys of every realm: RFC 7638 thumbprints, age, a set that waits to be
    /// pinned, and when each scope stops.
    #[command(
        after_help = "Examples:\n  slmd keys list\n  slmd keys list --json | jq '.realms[].keys[].kid'"
    )]
    List,
    Pin(pin::Pin),
    /// Fetch key sets over HTTPS now, of REALM or of every realm that has `[realm.jwks]`.
    #[command(after_help = "\
A set that no pinned key, nor one in force for vouch_after, vouches for is held, not trusted: see
slmd keys list. Ends with 1 when a realm couldn't be refreshed.

Examples:
  slmd keys refresh
  slmd keys refresh prod --json | jq .realms[].outcome")]
    Refresh {
        /// The realm's name in the configuration.
        realm: Option<String>,
    },
    Explain(explain::Explain),
    VerifyJws(verify::VerifyJws),
    /// Give up what the daemon learnt of the time, after a wrong clock had moved it ahead.
    #[command(after_help = "\
Decisions never go back before a time that has certainly passed. A clock that was years ahead leaves
such a time behind, and every sound token looks expired. Recorded in the audit log.

Examples:
  slmd keys reset-time
  slmd keys reset-time --to \"$(date -d '2026-11-24 12:00' +%s)\"")]
    ResetTime {
        /// `now` (the machine's clock), or seconds since 1970.
        #[arg(long, value_name = "TIME", default_value = "now", value_parser = reset_to)]
        to: Value,
    },
}

impl Keys {
    pub(super) fn execute(&self, global: &Global) -> Done {
        match self {
            Keys::List => list(global),
            Keys::Pin(pin) => pin.execute(global),
            Keys::Refresh { realm } => refresh(global, realm.as_deref()),
            Keys::Explain(explain) => explain.execute(global),
            Keys::VerifyJws(verify) => verify.execute(global),
            Keys::ResetTime { to } => reset_time(global, to),
        }
    }
}

fn reset_to(text: &str) -> Result<Value, String> {
    match text.parse::<u64>() {
        Ok(seconds) if seconds <= MAX_SECS => Ok(seconds.into()),
        Ok(_) => Err("that is after the year 9999".to_owned()),
        Err(_) if text == "now" => Ok("now".into()),
        Err(_) => Err("write now, or seconds since 1970 (date +%s)".to_owned()),
    }
}

fn list(global: &Global) -> Done {
    let listed = match global.admin()?.get("/keys") {
        Ok(answer) => answer.json()?,
        Err(Problem::Down(_)) => list_offline(&global.load()?)?,
        Err(problem) => return Err(problem.into()),
    };
    output::show(global, &listed)
}

/// What only a running daemon knows (refreshes, a held set) is left out.
fn list_offline(config: &Config) -> Result<Value, Failure> {
    let state = offline::open(config)?;
    let now = state.moment();
    let mut realms = Vec::new();
    for realm in &config.realms {
        let pinned = state.keyring.get(&realm.name).map_err(Failure::failed)?;
        let confirmed = pinned.as_ref().map(|pinned| pinned.confirmed);
        let set = pinned.map(|pinned| pinned.keys).unwrap_or_default();
        let grace = realm.policy.offline_grace.iter();
        let stops = grace.filter_map(|(scope, grace)| {
            let at = confirmed?.shown(now).saturating_add(*grace);
            Some((scope.as_str().to_owned(), Value::from(at.to_string())))
        });
        realms.push(json!({
            "name": realm.name,
            "issuer": realm.issuer,
            "keys": described(&set),
            "left_out": left_out(&set),
            "keys_age_seconds": confirmed.map(|at| at.age(now).as_secs()),
            "keys_confirmed_at": confirmed.map(|at| at.shown(now).to_string()),
            "scope_stops_at": stops.collect::<serde_json::Map<_, _>>(),
        }));
    }
    Ok(json!({"realms": realms}))
}

fn refresh(global: &Global, realm: Option<&str>) -> Done {
    let admin = global.admin()?;
    let names = match realm {
        Some(realm) => vec![segment(realm)?.to_owned()],
        None => refreshable(&admin.get("/keys")?.json()?),
    };
    if names.is_empty() {
        let what = "no realm has [realm.jwks]; add it, or pin a file with slmd keys pin";
        return Err(Failure::failed(what));
    }
    let (mut realms, mut failed) = (Vec::new(), Vec::new());
    for name in names {
        let report = refresh_one(&admin, &name)?;
        if report["outcome"] == "failed" {
            failed.push(name);
        }
        realms.push(report);
    }
    output::show(global, &json!({"realms": realms}))?;
    if failed.is_empty() {
        return Ok(());
    }
    let failed = failed.join(", ");
    Err(Failure::failed(format!(
        "not refreshed: {failed}; the pinned keys stay in force"
    )))
}

fn refresh_one(admin: &Client, name: &str) -> Result<Value, Failure> {
    let path = format!("/keys/{name}/refresh");
    let answer = admin.send(Method::POST, &path, &Shown::Nothing, Vec::new())?;
    let mut report = json!({"name": name});
    if let (Some(report), Value::Object(told)) = (report.as_object_mut(), answer.json()?) {
        report.extend(told);
    }
    Ok(report)
}

fn refreshable(listed: &Value) -> Vec<String> {
    let realms = listed["realms"].as_array().into_iter().flatten();
    let realms = realms.filter(|realm| !realm["refresh"].is_null());
    realms
        .filter_map(|realm| realm["name"].as_str().map(str::to_owned))
        .collect()
}

fn reset_time(global: &Global, to: &Value) -> Done {
    let body = json!({ "to": to }).to_string().into_bytes();
    let admin = global.admin()?;
    let answer = admin.send(Method::POST, "/time/reset", &Shown::Nothing, body)?;
    output::show(global, &answer.json()?)
}

/// Names of realms are plain, so one that isn't can't exist, and none needs escaping.
fn segment(realm: &str) -> Result<&str, Failure> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !realm.is_empty() && realm.chars().all(plain) {
        Ok(realm)
    } else {
        Err(Failure::new(
            Exit::Usage,
            format!("{realm:?} is no realm's name"),
        ))
    }
}

fn describe(key: &KeyInfo) -> Value {
    json!({"kid": key.kid, "algorithms": key.algorithms, "thumbprint": key.thumbprint})
}

fn described(keys: &KeySet) -> Value {
    keys.keys().iter().map(describe).collect()
}

fn left_out(keys: &KeySet) -> Value {
    keys.skipped().iter().map(Skipped::to_json).collect()
}

/// A set: each key, then what isn't used of it.
fn lines(set: &Value) -> Vec<String> {
    let list = |name: &str| set[name].as_array().cloned().unwrap_or_default();
    let keys = list("keys");
    let left_out = list("left_out");
    let unused = left_out.iter().map(|key| {
        let text = |name: &str| output::printable(key[name].as_str().unwrap_or("none"));
        format!("  left out: kid {}: {}", text("kid"), text("why"))
    });
    keys.iter().map(line).chain(unused).collect()
}

/// A key as [`describe`] and the daemon tell it.
fn line(key: &Value) -> String {
    let text = |name: &str| output::printable(key[name].as_str().unwrap_or("?"));
    let algorithms = key["algorithms"].as_array().into_iter().flatten();
    let algorithms: Vec<String> = algorithms
        .filter_map(|name| name.as_str().map(output::printable))
        .collect();
    let algorithms = algorithms.join("/");
    format!(
        "  {} {algorithms} (kid {})",
        text("thumbprint"),
        text("kid")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_realms_with_a_source_are_refreshed() {
        let listed = json!({"realms": [
            {"name": "a", "refresh": {"last_outcome": null}},
            {"name": "b", "refresh": null},
            {"name": "c"},
        ]});
        assert_eq!(refreshable(&listed), ["a"]);
    }

    #[test]
    fn a_set_is_shown_with_what_is_left_out() {
        let set = json!({
            "keys": [{"kid": "a", "algorithms": ["ES256"], "thumbprint": "t"}],
            "left_out": [{"index": 1, "kid": "b\u{1b}", "why": "weak"}, {"index": 2, "why": "no kid"}],
        });
        let shown = lines(&set);
        assert_eq!(shown[0], "  t ES256 (kid a)");
        assert_eq!(shown[1], "  left out: kid b\u{fffd}: weak");
        assert_eq!(shown[2], "  left out: kid none: no kid");
    }

    #[test]
    fn a_reset_is_to_now_or_to_seconds() {
        assert_eq!(reset_to("now"), Ok("now".into()));
        assert_eq!(reset_to("1790000000"), Ok(1_790_000_000_u64.into()));
        assert_eq!(reset_to("253402300799"), Ok(MAX_SECS.into()));
        let year_584556019 = u64::MAX.to_string();
        for bad in [
            "",
            "-1",
            "tomorrow",
            "2026-11-24",
            "253402300800",
            &year_584556019,
        ] {
            assert!(reset_to(bad).is_err(), "{bad}");
        }
    }
}
