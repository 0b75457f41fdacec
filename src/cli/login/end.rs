//! When this user's saved login ends, for `slmd status`.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::saved::Place;
use crate::cli::exit::Failure;
use crate::secret::Secret;
use crate::time::Timestamp;

/// Of a saved login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct End {
    pub(in crate::cli) issuer: String,
    /// As the token calls whose it is, where it does.
    pub(in crate::cli) user: Option<String>,
    /// Until then it works offline.
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
            user: user(&login.tokens.access),
            token: login.tokens.expires_at,
            refresh: match (&login.tokens.refresh, login.tokens.refresh_expires_at) {
                (None, _) => Refresh::Never,
                (Some(_), Some(at)) => Refresh::Until(at),
                (Some(_), None) => Refresh::Open,
            },
        }))
    }

    /// When nothing of it is good any more; `None` where nobody can tell.
    pub(in crate::cli) fn last(&self) -> Option<Timestamp> {
        match self.refresh {
            Refresh::Never => Some(self.token),
            Refresh::Until(at) => Some(at.max(self.token)),
            Refresh::Open => None,
        }
    }

    /// For scripts, in the words of `slmd login --json`.
    pub(in crate::cli) fn json(&self) -> Value {
        json!({
            "issuer": self.issuer,
            "user": self.user,
            "works_offline_until": self.token.to_string(),
            "ends_at": self.last().map(|at| at.to_string()),
        })
    }
}

/// The token is this user's own and decides nothing here, so its signature doesn't matter.
fn user(token: &Secret<String>) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        preferred_username: Option<String>,
        sub: Option<String>,
    }
    let claims = token.expose().split('.').nth(1)?;
    let claims = Secret::new(URL_SAFE_NO_PAD.decode(claims).ok()?);
    let named: Named = serde_json::from_slice(claims.expose()).ok()?;
    named.preferred_username.or(named.sub)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_whose_it_is() {
        let user = |claims: &str| {
            let claims = URL_SAFE_NO_PAD.encode(claims);
            user(&Secret::new(format!("e30.{claims}.c2ln")))
        };
        let named = |name: &str| Some(name.to_owned());
        assert_eq!(
            user(r#"{"sub":"1","preferred_username":"alice"}"#),
            named("alice")
        );
        assert_eq!(user(r#"{"sub":"1"}"#), named("1"));
        for odd in ["{}", "", r#"{"sub":1}"#] {
            assert_eq!(user(odd), None, "{odd}");
        }
        assert_eq!(super::user(&Secret::new("opaque".to_owned())), None);
    }
}
