//! What `slmd ask` makes of a saved login: a token that is as fresh as the connection allows, and
//! proofs for it.

use std::time::Duration;

use super::dpop::ProofKey;
use super::provider::{Client, Provider, Trouble};
use super::saved::{Place, Saved};
use crate::cli::exit::Failure;
use crate::cli::output;
use crate::secret::Secret;
use crate::time::{Timestamp, now};

/// With less left a token is refreshed, so that it doesn't run out on its way.
const LEAST: Duration = Duration::from_secs(60);
/// What somebody who is offline waits for each of a refresh's two requests, at most.
const PATIENCE: Duration = Duration::from_secs(4);

/// A saved login, ready to be shown to the daemon.
#[derive(Debug)]
pub(in crate::cli) struct Session {
    pub(in crate::cli) token: Secret<String>,
    /// Where the token is bound to it.
    pub(in crate::cli) key: Option<ProofKey>,
}

impl Session {
    /// `None` where nobody has logged in.
    pub(in crate::cli) fn open() -> Result<Option<Session>, Failure> {
        Session::open_at(&Place::of_this_user()?, now())
    }

    pub(super) fn open_at(place: &Place, now: Timestamp) -> Result<Option<Session>, Failure> {
        let Some(saved) = place.load()? else {
            return Ok(None);
        };
        let saved = match needs_refresh(&saved, now) {
            true => refreshed(place, saved, now)?,
            false => saved,
        };
        let tokens = saved.tokens;
        Ok(Some(Session {
            token: tokens.access,
            key: tokens.dpop_bound.then_some(saved.key),
        }))
    }
}

fn needs_refresh(saved: &Saved, now: Timestamp) -> bool {
    saved.tokens.expires_at < now.saturating_add(LEAST)
}

/// Refreshes where that is possible. Without a connection it goes on with what it has: the daemon
/// decides, by its own clock.
fn refreshed(place: &Place, saved: Saved, now: Timestamp) -> Result<Saved, Failure> {
    let Some(_lock) = place.lock()? else {
        return Ok(saved);
    };
    // Another command may have done it meanwhile.
    let saved = place.load()?.unwrap_or(saved);
    if !needs_refresh(&saved, now) {
        return Ok(saved);
    }
    let client = saved.client();
    let expired = saved.tokens.expires_at <= now;
    match refresh(&saved, &client) {
        Ok(fresh) => {
            place.save(&fresh)?;
            Ok(fresh)
        }
        // Its own words say to log in again.
        Err(trouble @ Trouble::Refused { .. }) if expired => Err(trouble.into_failure(&client)),
        Err(trouble) => {
            let why = trouble.into_failure(&client).message;
            let end = output::local_time(saved.tokens.expires_at);
            let verb = if expired { "ended" } else { "ends" };
            eprintln!("slmd: warning: the login isn't prolonged: {why}");
            eprintln!("slmd: warning: going on with the saved token, which {verb} at {end}");
            Ok(saved)
        }
    }
}

fn refresh(saved: &Saved, client: &Client) -> Result<Saved, Trouble> {
    let token = saved.tokens.refresh.as_ref().ok_or_else(|| {
        Trouble::Other(Failure::failed(
            "Keycloak gave no refresh token; run slmd login",
        ))
    })?;
    let mut provider = Provider::discover(client, PATIENCE)?;
    let fields = [
        ("grant_type", "refresh_token"),
        ("refresh_token", token.expose().as_str()),
    ];
    let mut tokens = provider.tokens(&saved.key, &fields)?;
    // RFC 6749 section 6: without a new one the old one stays.
    if tokens.refresh.is_none() {
        tokens.refresh = Some(token.clone());
        tokens.refresh_expires_at = saved.tokens.refresh_expires_at;
    }
    Ok(Saved {
        tokens,
        ..saved.clone()
    })
}
