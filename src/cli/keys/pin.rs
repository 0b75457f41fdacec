//! `slmd keys pin`: a person decides which keys a realm's tokens are verified with.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::super::client::{Problem, body};
use super::super::exit::{Done, Failure};
use super::super::{Global, offline, output};
use super::{lines, segment};
use crate::admin::{Keys, PinHeld, Pinned, route};
use crate::auth::KeySet;
use crate::cli::input;
use clap::Args;

/// Far above any realm's key set.
const MAX_JWKS: u64 = 1 << 20;

/// Trust exactly the keys in FILE, or those that Keycloak serves now, for REALM, from now on and
/// across restarts.
#[derive(Debug, Args)]
#[command(after_help = "\
FILE is a JWKS, as Keycloak serves it. With --fetch the running daemon gets the set over HTTPS from
the realm's jwks.uri, trusting only its ca_file, and holds it until you agree. Compare the
thumbprints, or the set's fingerprint, with those of a second source before you confirm: whoever
holds one of these keys can issue tokens for the realm.

Examples:
  slmd keys pin prod --fetch
  slmd keys pin prod --fetch --fingerprint \"$fingerprint\"
  curl -fsS https://keycloak.example/realms/prod/protocol/openid-connect/certs > jwks.json
  slmd keys pin prod jwks.json")]
pub(in crate::cli) struct Pin {
    /// The realm's name in the configuration.
    realm: String,
    /// The key set (JWKS); `-` is standard input, which needs --yes.
    #[arg(required_unless_present = "fetch", conflicts_with = "fetch")]
    file: Option<PathBuf>,
    /// Let the daemon fetch the set over HTTPS.
    #[arg(long)]
    fetch: bool,
    /// Pin without asking if the fetched set has this fingerprint, and not otherwise.
    #[arg(long, value_name = "F", requires = "fetch", conflicts_with = "yes")]
    fingerprint: Option<String>,
    /// Don't ask for confirmation.
    #[arg(long, short)]
    yes: bool,
}

impl Pin {
    pub(super) fn execute(&self, global: &Global) -> Done {
        match &self.file {
            Some(file) => self.use_file(global, file),
            None => self.fetched(global),
        }
    }

    fn use_file(&self, global: &Global, file: &Path) -> Done {
        let realm = &self.realm;
        let jwks = input::read(file, MAX_JWKS)?;
        let keys = KeySet::parse(&jwks)
            .map_err(|error| Failure::failed(format!("{}: {error}", file.display())))?;
        let set = Keys::from(&keys);
        if !self.yes {
            confirm(realm, &set, "give --yes")?;
        }
        let pinned = global
            .admin()?
            .call_with(route::PIN_KEYS, segment(realm)?, jwks.clone());
        let pinned = match pinned {
            Err(Problem::Down(_)) => {
                let config = global.load()?;
                let state = offline::open(&config)?;
                let pinned = state.pin(&config, realm, &jwks, &offline::origin());
                pinned.map_err(Failure::failed)?
            }
            pinned => pinned?,
        };
        self.report(global, &pinned, &set)
    }

    /// The set is held by the daemon, so that what is confirmed is what is pinned.
    fn fetched(&self, global: &Global) -> Done {
        let realm = segment(&self.realm)?;
        let admin = global.admin()?;
        let fetched = admin.call_with(route::FETCH_KEYS, realm, Vec::new())?;
        // Keys that are in force already, too: from now on they are a person's choice.
        self.agree(&fetched.keys)?;
        let fingerprint = fetched.keys.fingerprint.clone();
        let body = body(&PinHeld { fingerprint })?;
        let pinned = admin.call_with(route::PIN_HELD, realm, body)?;
        self.report(global, &pinned, &fetched.keys)
    }

    fn agree(&self, fetched: &Keys) -> Done {
        match &self.fingerprint {
            Some(expected) if expected.eq_ignore_ascii_case(&fetched.fingerprint) => Ok(()),
            Some(_) => Err(Failure::failed(format!(
                "nothing was changed: Keycloak serves a set with the fingerprint {}",
                output::printable(&fetched.fingerprint)
            ))),
            None if self.yes => Ok(()),
            None => confirm(&self.realm, fetched, "give --fingerprint F or --yes"),
        }
    }

    fn report(&self, global: &Global, answer: &Pinned, set: &Keys) -> Done {
        if global.json {
            return output::show(global, answer);
        }
        output::line(&format!("pinned for realm {}:", self.realm))?;
        lines(set).iter().try_for_each(|text| output::line(text))
    }
}

/// Shows what would be trusted, and asks.
fn confirm(realm: &str, set: &Keys, instead: &str) -> Done {
    let mut out = std::io::stderr().lock();
    writeln!(
        out,
        "These keys will be trusted for realm {realm}, and no others:"
    )?;
    for text in lines(set) {
        writeln!(out, "{text}")?;
    }
    writeln!(out, "  fingerprint {}", output::printable(&set.fingerprint))?;
    drop(out);
    let instead = format!("compare these thumbprints with a second source's, then {instead}");
    input::confirm("Pin them?", &instead)
}
