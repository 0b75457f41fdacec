//! `slmd login` and `slmd logout`: a technician's Keycloak login, kept for when there is no
//! connection.
//!
//! [`crate::oauth`] speaks with Keycloak, [`words`] says what its refusals mean, [`saved`] is the
//! file, [`session`] what `slmd ask` makes of it.

mod end;
mod saved;
mod session;
#[cfg(test)]
mod tests;
mod words;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::exit::{Done, Exit, Failure};
use super::{Global, output};
use crate::config::{self, Config};
use crate::oauth::{self, Client, Code, OauthError, ProofKey, Provider, Tokens};
use crate::time::{Clocks, Timestamp};
pub(super) use end::{End, Refresh};
pub(super) use saved::Place;
pub(super) use session::Session;
use words::explain;

/// For each request of a command that somebody waits for.
const PATIENCE: Duration = Duration::from_secs(15);

/// Log in at Keycloak with a browser, so that `slmd ask` works offline afterwards.
#[derive(Debug, Args)]
#[command(after_help = "\
Shows an address and a code. Open the address in a browser on any machine, enter the code, and log
in; this command waits. The token is bound to a key that never leaves this account's login file,
$XDG_STATE_HOME/slmd/login.json (~/.local/state/slmd/login.json), which only you may read.

The issuer, the client and the CA come from [login] of the configuration where it can be read.

Examples:
  slmd login
  slmd login --issuer https://keycloak.example/realms/prod --client-id slmd-technician \\
      --ca-file keycloak-ca.pem
  slmd ask 'Why is the sky blue?'
  slmd logout")]
pub(super) struct Login {
    /// The realm's address, as in its tokens' `iss`.
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,
    /// A public client of the realm with the device authorization grant switched on.
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,
    /// The CA that signed Keycloak's certificate; no other is trusted.
    #[arg(long, value_name = "PEM")]
    ca_file: Option<PathBuf>,
    /// Client scopes to ask for, beyond the client's defaults.
    #[arg(long, value_name = "SCOPES")]
    scope: Option<String>,
}

/// End the saved login: at Keycloak where it can be reached, and on this machine.
#[derive(Debug, Args)]
#[command(after_help = "\
The file is removed even when Keycloak can't be told; the access token is then good until it expires.

Examples:
  slmd logout
  slmd logout --json | jq .revoked")]
pub(super) struct Logout {}

impl Login {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let place = Place::of_this_user()?;
        let client = self.client(global)?;
        let (global, scope) = (global.clone(), self.scope.clone());
        interruptible(move || log_in(&global, &place, &client, scope.as_deref()))
    }

    /// What wasn't given comes from the configuration, which a technician needn't be able to read.
    fn client(&self, global: &Global) -> Result<Client, Failure> {
        let config = Config::load(&global.config);
        let known = config.map_or_else(|_| config::Login::default(), |config| config.login);
        let missing = |name: &str| {
            Failure::new(
                Exit::Usage,
                format!("no {name}; give it, or set it in [login] of the configuration"),
            )
        };
        // Another issuer has another CA.
        let own_issuer = self.issuer.is_some() && self.issuer != known.issuer;
        let ca_file = known.ca_file.filter(|_| !own_issuer);
        let ca_file = self.ca_file.clone().or(ca_file).map(std::path::absolute);
        Ok(Client {
            issuer: self
                .issuer
                .clone()
                .or(known.issuer)
                .ok_or_else(|| missing("--issuer"))?,
            client_id: self
                .client_id
                .clone()
                .or(known.client_id)
                .ok_or_else(|| missing("--client-id"))?,
            ca_file: ca_file.transpose()?,
        })
    }
}

impl Logout {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let place = Place::of_this_user()?;
        let saved = place.load().unwrap_or_else(|failure| {
            eprintln!("slmd: warning: {}", failure.message);
            None
        });
        let revoke = |login: &oauth::Login| {
            let revoked = login.revoke(PATIENCE);
            revoked.map_err(|error| explain(&error, &login.client))
        };
        let revoked = saved.as_ref().map(revoke);
        let removed = place.remove()?;
        let why_not = match &revoked {
            Some(Err(failure)) => Some(failure.message.clone()),
            _ => None,
        };
        let revoked = matches!(revoked, Some(Ok(true)));
        if global.json {
            let report =
                json!({"removed": removed, "revoked": revoked, "not_revoked_because": why_not});
            return output::show(global, &report);
        }
        if let (Some(why), Some(saved)) = (&why_not, &saved) {
            eprintln!("slmd: warning: Keycloak wasn't told: {why}");
            let until = output::local_time(saved.tokens.expires_at);
            eprintln!("slmd: warning: the removed token stays good until {until}");
        }
        output::line(match (removed, revoked) {
            (false, _) => "there was no saved login",
            (true, true) => "logged out, here and at Keycloak",
            (true, false) => "logged out here",
        })
    }
}

fn log_in(global: &Global, place: &Place, client: &Client, scope: Option<&str>) -> Done {
    let fail = |error: OauthError| explain(&error, client);
    // The key stays the same, so that what is tied to its thumbprint goes on.
    let known = place.load().ok().flatten();
    let known = known.filter(|saved| saved.client.issuer == client.issuer);
    let key = match known {
        Some(saved) => saved.key,
        None => ProofKey::generate()?,
    };
    let mut provider = Provider::discover(client, PATIENCE).map_err(fail)?;
    let code = Code::request(&provider, scope).map_err(fail)?;
    show_code(global, &code)?;
    let tokens = code
        .poll(&mut provider, &key, std::thread::sleep)
        .map_err(fail)?;
    let saved = oauth::Login {
        client: client.clone(),
        key,
        tokens,
    };
    place.save(&saved)?;
    show_login(global, place, &saved)
}

/// On standard error, so that the result alone is the output; scripts get a line of JSON.
fn show_code(global: &Global, code: &Code) -> Done {
    if global.json {
        return output::line(
            &json!({
                "verification_uri": code.verification_uri,
                "verification_uri_complete": code.complete_uri,
                "user_code": code.user_code,
                "expires_in": code.expires_in.as_secs(),
            })
            .to_string(),
        );
    }
    let address = output::printable(&code.verification_uri);
    eprintln!("Open {address}");
    eprintln!("and enter the code {}", output::printable(&code.user_code));
    if let Some(complete) = &code.complete_uri {
        eprintln!("(or open {})", output::printable(complete));
    }
    eprintln!("Waiting; Ctrl-C gives up.");
    Ok(())
}

fn show_login(global: &Global, place: &Place, saved: &oauth::Login) -> Done {
    let tokens = &saved.tokens;
    if global.json {
        return output::line(&report(place, saved).to_string());
    }
    let until = output::local_time(tokens.expires_at);
    output::line(&format!(
        "logged in at {}; works offline until {until}",
        saved.client.issuer
    ))?;
    output::line(&renewal(tokens, Clocks::default().now()))?;
    if !tokens.dpop_bound {
        eprintln!(
            "slmd: warning: the token isn't bound to this machine's key; switch on \"Require DPoP \
             bound tokens\" in the client (dpop.bound.access.tokens=true)"
        );
    }
    Ok(())
}

/// How long a connection can still prolong the login.
fn renewal(tokens: &Tokens, now: Timestamp) -> String {
    match (&tokens.refresh, tokens.refresh_expires_at) {
        (None, _) => "it can't be prolonged: Keycloak gave no refresh token".to_owned(),
        (Some(_), None) => "slmd ask prolongs it whenever there is a connection".to_owned(),
        (Some(_), Some(end)) if end <= now => "it can't be prolonged any more".to_owned(),
        (Some(_), Some(end)) => format!(
            "slmd ask prolongs it while there is a connection before {}",
            output::local_time(end)
        ),
    }
}

fn report(place: &Place, saved: &oauth::Login) -> Value {
    let tokens = &saved.tokens;
    json!({
        "issuer": saved.client.issuer,
        "client_id": saved.client.client_id,
        "works_offline_until": tokens.expires_at.to_string(),
        "refreshable_until": tokens.refresh_expires_at.map(|at| at.to_string()),
        "dpop_bound": tokens.dpop_bound,
        "file": place.file(),
    })
}

/// Runs `command` until it ends or Ctrl-C does; what is under way then saves nothing.
fn interruptible(command: impl FnOnce() -> Done + Send + 'static) -> Done {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let running = tokio::task::spawn_blocking(command);
        let interrupted = || Failure::new(Exit::Interrupted, "interrupted; nothing was changed");
        tokio::select! {
            done = running => done.map_err(Failure::failed)?,
            _ = interrupt.recv() => Err(interrupted()),
            _ = terminate.recv() => Err(interrupted()),
        }
    });
    // A request that is still under way ends with the process.
    runtime.shutdown_background();
    result
}
