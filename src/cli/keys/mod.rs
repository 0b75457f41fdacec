//! `slmd keys`: the pinned keys of each realm, and what they make of a token.

mod explain;
mod pin;
mod verify;

use clap::Subcommand;
use serde::Serialize;

use super::client::{Client, Problem, body};
use super::exit::{Done, Exit, Failure};
use super::look::{self, Seen};
use super::realm::{self, View};
use super::{Global, offline, output};
use crate::admin::{self, Listed, Refreshed, ResetTime, ResetTo, TimeReset, route};
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
        to: ResetTo,
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
            Keys::ResetTime { to } => reset_time(global, *to),
        }
    }
}

fn reset_to(text: &str) -> Result<ResetTo, String> {
    match text.parse::<u64>() {
        Ok(seconds) if seconds <= MAX_SECS => Ok(ResetTo::Seconds(seconds)),
        Ok(_) => Err("that is after the year 9999".to_owned()),
        Err(_) if text == "now" => Ok(ResetTo::Now),
        Err(_) => Err("write now, or seconds since 1970 (date +%s)".to_owned()),
    }
}

fn list(global: &Global) -> Done {
    let of = |status: admin::Status| Listed {
        realms: status.realms,
    };
    let seen = match look::seen(&global.sockets()?, route::KEYS, of) {
        Err(Problem::Down(_)) => {
            let (state, snapshot) = offline::survey(&global.load()?)?;
            let realms = state.realm_statuses(&snapshot);
            Seen {
                what: Listed { realms },
                public: None,
            }
        }
        seen => seen?,
    };
    let left_out = "which leaves nothing out";
    if global.json {
        seen.warn(left_out);
        return output::show(global, &seen.what);
    }
    let view = View::of_now();
    let page = realm::keys(&seen.what.realms, seen.note(left_out), view);
    page.iter().try_for_each(|text| output::line(text))
}

#[derive(Serialize)]
struct Reports {
    realms: Vec<Report>,
}

#[derive(Serialize)]
struct Report {
    name: String,
    #[serde(flatten)]
    refreshed: Refreshed,
}

fn refresh(global: &Global, realm: Option<&str>) -> Done {
    let admin = global.admin()?;
    let names = match realm {
        Some(realm) => vec![segment(realm)?.to_owned()],
        None => refreshable(&admin)?,
    };
    if names.is_empty() {
        let what = "no realm has [realm.jwks]; add it, or pin a file with slmd keys pin";
        return Err(Failure::failed(what));
    }
    let mut realms = Vec::new();
    for name in names {
        let refreshed = admin.call_with(route::REFRESH_KEYS, &name, Vec::new())?;
        realms.push(Report { name, refreshed });
    }
    let reports = Reports { realms };
    match global.json {
        true => output::show(global, &reports)?,
        false => {
            let view = View::of_now();
            let realms = reports.realms.iter();
            let lines =
                realms.flat_map(|report| realm::refresh(&report.name, &report.refreshed, view));
            lines.into_iter().try_for_each(|text| output::line(&text))?;
        }
    }
    let failed = reports
        .realms
        .iter()
        .filter(|r| r.refreshed.outcome == "failed");
    let failed: Vec<&str> = failed.map(|report| report.name.as_str()).collect();
    if failed.is_empty() {
        return Ok(());
    }
    let failed = failed.join(", ");
    Err(Failure::failed(format!(
        "not refreshed: {failed}; the pinned keys stay in force"
    )))
}

fn refreshable(admin: &Client) -> Result<Vec<String>, Failure> {
    let realms = admin.call(route::KEYS)?.realms.into_iter();
    let realms = realms.filter(|realm| realm.refresh.is_some());
    Ok(realms.map(|realm| realm.name).collect())
}

fn reset_time(global: &Global, to: ResetTo) -> Done {
    let body = body(&ResetTime { to })?;
    let reset = global.admin()?.call_with(route::RESET_TIME, "", body)?;
    if global.json {
        return output::show(global, &reset);
    }
    let lines = reset_lines(&reset, View::of_now());
    lines.iter().try_for_each(|text| output::line(text))
}

fn reset_lines(TimeReset { was, floor }: &TimeReset, view: View) -> Vec<String> {
    view.fit(&[
        format!("time floor: {}", view.at(floor)),
        format!("it was: {}", view.at(was)),
    ])
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

/// A set: each key, then what isn't used of it.
fn lines(set: &admin::Keys) -> Vec<String> {
    let keys = set.keys.iter().map(|key| format!("  {}", realm::key(key)));
    keys.chain(set.left_out.iter().map(realm::left_out))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::tests::status;
    use crate::cli::terminal::Terminal;

    #[test]
    fn a_set_is_shown_with_what_is_left_out() {
        let set = status().realms.remove(0).keys;
        let shown = lines(&set);
        assert_eq!(shown[0], "  t ES256 (kid a)");
        assert_eq!(shown[1], "  left out: kid b\u{fffd}: it is weak");
        assert_eq!(shown[2], "  left out: kid none: no kid");
    }

    #[test]
    fn a_refresh_and_a_reset_are_told_in_lines_that_fit() {
        let view = View {
            terminal: Terminal::plain(80),
            now: "2026-01-02T00:00:00.000Z".parse().unwrap(),
        };
        let mut dev = status().realms.remove(0);
        let refreshed = Refreshed {
            realm: "dev".to_owned(),
            outcome: "held".to_owned(),
            why: Some("no key vouches\u{1b}".to_owned()),
            changed: dev.keys_changed.take(),
            held: dev.held.take(),
        };
        let expected = "\
realm dev: held
  no key vouches\u{fffd}
  keys changed 14 hours ago (2026-01-01 10:00 UTC)
    t came
    u left
    v left
  held, of 1 key:
    t ES256 (kid a)
! realm dev: Keycloak serves keys that none in force vouches for (f00d); if that
  is meant, run slmd keys pin dev --fetch";
        let lines = realm::refresh("dev", &refreshed, view);
        assert_eq!(lines.join("\n"), expected);
        let reset = TimeReset {
            was: "2036-01-01T00:00:00.000Z".to_owned(),
            floor: "2026-01-02T00:00:00.000Z".to_owned(),
        };
        let expected = "\
time floor: just now (2026-01-02 00:00 UTC)
it was: in 10 years (2036-01-01 00:00 UTC)";
        assert_eq!(reset_lines(&reset, view).join("\n"), expected);
    }

    #[test]
    fn a_reset_is_to_now_or_to_seconds() {
        assert_eq!(reset_to("now"), Ok(ResetTo::Now));
        let seconds = |text| reset_to(text).ok();
        assert_eq!(seconds("1790000000"), Some(ResetTo::Seconds(1_790_000_000)));
        assert_eq!(seconds("253402300799"), Some(ResetTo::Seconds(MAX_SECS)));
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
