//! `slmd keys`: the pinned keys of each realm.

use std::io::{BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::{Value, json};
use ureq::http::Method;

use super::client::Problem;
use super::exit::{Done, Exit, Failure};
use super::{Global, offline, output};
use crate::auth::{KeyInfo, KeySet};
use crate::config::Config;
use crate::time::now;

/// Far above any realm's key set.
const MAX_JWKS: u64 = 1 << 20;

/// Show and pin the keys that tokens are verified with.
#[derive(Debug, Subcommand)]
pub(super) enum Keys {
    /// List the pinned keys of every realm, with RFC 7638 thumbprints and age.
    #[command(
        after_help = "Examples:\n  slmd keys list\n  slmd keys list --json | jq '.realms[].keys[].kid'"
    )]
    List,
    /// Trust exactly the keys in FILE for REALM, from now on and across restarts.
    #[command(after_help = "\
FILE is a JWKS, as Keycloak serves it. Compare the thumbprints with those of a second source
before you confirm: whoever holds one of these keys can issue tokens for the realm.

Examples:
  curl -fsS https://keycloak.example/realms/dev/protocol/openid-connect/certs > dev.json
  slmd keys pin dev dev.json")]
    Pin {
        /// The realm's name in the configuration.
        realm: String,
        /// The key set (JWKS); `-` is standard input, which needs --yes.
        file: PathBuf,
        /// Don't ask for confirmation.
        #[arg(long, short)]
        yes: bool,
    },
}

impl Keys {
    pub(super) fn execute(&self, global: &Global) -> Done {
        match self {
            Keys::List => list(global),
            Keys::Pin { realm, file, yes } => pin(global, realm, file, *yes),
        }
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

fn list_offline(config: &Config) -> Result<Value, Failure> {
    let state = offline::open(config)?;
    let mut realms = Vec::new();
    for realm in &config.realms {
        let pinned = state.keyring.get(&realm.name).map_err(Failure::failed)?;
        let confirmed_at = pinned.as_ref().map(|p| p.confirmed_at.to_string());
        let keys = pinned.map(|p| p.keys.keys()).unwrap_or_default();
        realms.push(json!({
            "name": realm.name,
            "issuer": realm.issuer,
            "keys": keys.iter().map(describe).collect::<Value>(),
            "keys_confirmed_at": confirmed_at,
        }));
    }
    Ok(json!({"realms": realms}))
}

fn pin(global: &Global, realm: &str, file: &Path, yes: bool) -> Done {
    let jwks = read(file)?;
    let keys = KeySet::parse(&jwks)
        .map_err(|error| Failure::failed(format!("{}: {error}", file.display())))?;
    if !yes {
        confirm(realm, &keys.keys())?;
    }
    let path = format!("/keys/{}", segment(realm)?);
    let pinned = match global.admin()?.send(Method::PUT, &path, None, jwks.clone()) {
        Ok(answer) => answer.json()?,
        Err(Problem::Down(_)) => pin_offline(&global.load()?, realm, &jwks)?,
        Err(problem) => return Err(problem.into()),
    };
    if global.json {
        return output::show(global, &pinned);
    }
    output::line(&format!("pinned for realm {realm}:"))?;
    keys.keys()
        .iter()
        .try_for_each(|key| output::line(&line(key)))
}

fn pin_offline(config: &Config, realm: &str, jwks: &[u8]) -> Result<Value, Failure> {
    if !config.realms.iter().any(|known| known.name == realm) {
        let names: Vec<&str> = config.realms.iter().map(|r| r.name.as_str()).collect();
        let names = names.join(", ");
        return Err(Failure::failed(format!(
            "no realm {realm:?} is configured; there are: {names}"
        )));
    }
    let state = offline::open(config)?;
    let keys = state
        .keyring
        .pin(realm, jwks, now())
        .map_err(Failure::failed)?;
    let keys: Value = keys.iter().map(describe).collect();
    let detail = json!({"realm": realm, "keys": keys});
    state
        .log
        .change(offline::origin(), "keys_pinned", detail.clone(), now())
        .map_err(Failure::failed)?;
    Ok(detail)
}

/// Shows what would be trusted, and asks.
fn confirm(realm: &str, keys: &[KeyInfo]) -> Done {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::new(
            Exit::Usage,
            "there is no terminal to confirm on; compare the thumbprints and give --yes",
        ));
    }
    let mut out = std::io::stderr().lock();
    writeln!(
        out,
        "These keys will be trusted for realm {realm}, and no others:"
    )?;
    for key in keys {
        writeln!(out, "{}", line(key))?;
    }
    write!(out, "Pin them? [y/N] ")?;
    out.flush()?;
    let mut answer = String::new();
    stdin.lock().take(16).read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::failed("nothing was changed")),
    }
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let read = || {
        let mut bytes = Vec::new();
        let input: Box<dyn Read> = if file == Path::new("-") {
            Box::new(std::io::stdin().lock())
        } else {
            Box::new(std::fs::File::open(file)?)
        };
        input.take(MAX_JWKS).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|error: std::io::Error| Failure::failed(format!("{}: {error}", file.display())))
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

fn line(key: &KeyInfo) -> String {
    let kid = output::printable(&key.kid);
    let algorithms = key.algorithms.join("/");
    format!("  {} {algorithms} (kid {kid})", key.thumbprint)
}
