//! A login: who is logged in where, with what tokens, bound to which key.

use std::time::Duration;

use super::dpop::ProofKey;
use super::error::OauthError;
use super::provider::{Client, Provider, Tokens};

/// A client's tokens and the key that they are bound to.
#[derive(Debug, Clone)]
pub struct Login {
    pub client: Client,
    pub key: ProofKey,
    pub tokens: Tokens,
}

impl Login {
    /// The login with new tokens (RFC 6749 section 6); `patience` is for each of two requests.
    pub fn refreshed(&self, patience: Duration) -> Result<Login, OauthError> {
        let token = self.tokens.refresh.as_ref();
        let token = token.ok_or(OauthError::NoRefreshToken)?;
        let mut provider = Provider::discover(&self.client, patience)?;
        let fields = [
            ("grant_type", "refresh_token"),
            ("refresh_token", token.expose().as_str()),
        ];
        let mut tokens = provider.tokens(&self.key, &fields)?;
        // Without a new one the old one stays.
        if tokens.refresh.is_none() {
            tokens.refresh = Some(token.clone());
            tokens.refresh_expires_at = self.tokens.refresh_expires_at;
        }
        Ok(Login {
            tokens,
            ..self.clone()
        })
    }

    /// Ends it at the server (RFC 7009). Whether there was anything to end, and somebody to tell.
    pub fn revoke(&self, patience: Duration) -> Result<bool, OauthError> {
        match &self.tokens.refresh {
            Some(token) => Provider::discover(&self.client, patience)?.revoke(token),
            None => Ok(false),
        }
    }
}
