//! When this user's saved login ends, for `slmd status`.

use super::saved::Place;
use crate::cli::exit::Failure;
use crate::time::Timestamp;

/// Of a saved login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct End {
    pub(in crate::cli) issuer: String,
    pub(in crate::cli) token: Timestamp,
    pub(in crate::cli) refresh: Refresh,
}

/// How long the token can be prolonged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Refresh {
    Never,
    Until(Timestamp),
    /// Keycloak named no end.
    Open,
}

impl End {
    /// `None` where nobody has logged in, nor can.
    pub(in crate::cli) fn of_this_user() -> Result<Option<End>, Failure> {
        let Ok(place) = Place::of_this_user() else {
            return Ok(None);
        };
        let login = place.load()?;
        Ok(login.map(|login| End {
            issuer: login.client.issuer,
            token: login.tokens.expires_at,
            refresh: match (&login.tokens.refresh, login.tokens.refresh_expires_at) {
                (None, _) => Refresh::Never,
                (Some(_), Some(at)) => Refresh::Until(at),
                (Some(_), None) => Refresh::Open,
            },
        }))
    }
}
