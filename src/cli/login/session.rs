//! What `slmd ask` makes of a saved login: a token that is as fresh as the connection allows, and
//! proofs for it.

use std::time::Duration;

use super::saved::Place;
use super::words::explain;
use crate::cli::exit::Failure;
use crate::cli::output;
use crate::oauth::{Login, OauthError, ProofKey};
use crate::secret::Secret;
use crate::time::{Clocks, Timestamp};

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
    /// `None` where nobody has logged in, nor can: a service may have no home.
    pub(in crate::cli) fn open() -> Result<Option<Session>, Failure> {
        let Ok(place) = Place::of_this_user() else {
            return Ok(None);
        };
        Session::open_at(&place, Clocks::default().now())
    }

    pub(super) fn open_at(place: &Place, now: Timestamp) -> Result<Option<Session>, Failure> {
        let Some(login) = place.load()? else {
            return Ok(None);
        };
        let login = match needs_refresh(&login, now) {
            true => refreshed(place, login, now)?,
            false => login,
        };
        let tokens = login.tokens;
        Ok(Some(Session {
            token: tokens.access,
            key: tokens.dpop_bound.then_some(login.key),
        }))
    }
}

fn needs_refresh(login: &Login, now: Timestamp) -> bool {
    login.tokens.expires_at < now.saturating_add(LEAST)
}

/// Refreshes where that is possible. Without a connection it goes on with what it has: the daemon
/// decides, by its own clock.
fn refreshed(place: &Place, login: Login, now: Timestamp) -> Result<Login, Failure> {
    let Some(_lock) = place.lock()? else {
        return Ok(login);
    };
    // Another command may have done it meanwhile.
    let login = place.load()?.unwrap_or(login);
    if !needs_refresh(&login, now) {
        return Ok(login);
    }
    let expired = login.tokens.expires_at <= now;
    match login.refreshed(PATIENCE) {
        Ok(fresh) => {
            place.save(&fresh)?;
            Ok(fresh)
        }
        // Its own words say to log in again.
        Err(error @ OauthError::Refused { .. }) if expired => Err(explain(&error, &login.client)),
        Err(error) => {
            let why = explain(&error, &login.client).message;
            let end = output::local_time(login.tokens.expires_at);
            let verb = if expired { "ended" } else { "ends" };
            eprintln!("slmd: warning: the login isn't prolonged: {why}");
            eprintln!("slmd: warning: going on with the saved token, which {verb} at {end}");
            Ok(login)
        }
    }
}
