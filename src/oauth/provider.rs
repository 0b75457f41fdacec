//! An authorization server as its client sees it: discovery, tokens, revocation.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::Value;

use super::dpop::ProofKey;
use super::error::OauthError;
use crate::https::{Answer, Https, HttpsError};
use crate::json;
use crate::secret::Secret;
use crate::time::{Clocks, Timestamp};

/// Keycloak's discovery document has 8 KB, its token answers fewer.
const MAX_ANSWER: u64 = 256 << 10;
/// What is worth repeating of somebody else's words.
const MAX_SAID: usize = 300;

/// Where a login happens, and as which client.
#[derive(Debug, Clone)]
pub struct Client {
    pub issuer: String,
    pub client_id: String,
    pub ca_file: Option<PathBuf>,
}

/// What a token endpoint gave.
#[derive(Debug, Clone)]
pub struct Tokens {
    pub access: Secret<String>,
    /// Bound to the proof key: of no use without it.
    pub dpop_bound: bool,
    pub expires_at: Timestamp,
    pub refresh: Option<Secret<String>>,
    /// `None`: Keycloak names no end.
    pub refresh_expires_at: Option<Timestamp>,
}

/// An issuer whose discovery document was read and names itself as expected.
#[derive(Debug)]
pub struct Provider {
    https: Https,
    client: Client,
    device: Option<String>,
    token: String,
    revocation: Option<String>,
    /// The nonce that the token endpoint wants next (RFC 9449 section 8).
    nonce: Option<String>,
}

impl Provider {
    /// Reads `{issuer}/.well-known/openid-configuration` (OpenID Connect Discovery section 4).
    pub fn discover(client: &Client, timeout: Duration) -> Result<Provider, OauthError> {
        let trouble = |error| unreachable(client, error);
        let https = Https::new(client.ca_file.as_deref(), timeout).map_err(trouble)?;
        let issuer = &client.issuer;
        let url = format!(
            "{}/.well-known/openid-configuration",
            issuer.trim_end_matches('/')
        );
        let answer = https.get(&url, MAX_ANSWER).map_err(trouble)?;
        if answer.status != 200 {
            let status = answer.status;
            return Err(OauthError::NoDiscovery { url, status });
        }
        let malformed = |what| OauthError::Malformed {
            url: url.clone(),
            what,
        };
        let document = json::parse(&answer.body)
            .map_err(|_| malformed("the answer isn't JSON; is this the issuer's address?"))?;
        // OpenID Connect Discovery section 4.3; else one realm could stand in for another.
        match document["issuer"].as_str() {
            Some(named) if named == issuer => {}
            named => {
                let named = short(named.unwrap_or("nothing"));
                return Err(OauthError::OtherIssuer { url, named });
            }
        }
        let endpoint = |name: &str| document[name].as_str().map(str::to_owned);
        Ok(Provider {
            https,
            client: client.clone(),
            device: endpoint("device_authorization_endpoint"),
            token: endpoint("token_endpoint")
                .ok_or_else(|| malformed("it names no token_endpoint"))?,
            revocation: endpoint("revocation_endpoint"),
            nonce: None,
        })
    }

    /// Asks for a device code (RFC 8628 section 3.1); no proof is wanted here.
    pub(super) fn device_code<T>(
        &self,
        scope: Option<&str>,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<T, OauthError> {
        let url = self.device.as_deref().ok_or(OauthError::NoDeviceGrant)?;
        let mut fields = vec![("client_id", self.client.client_id.as_str())];
        fields.extend(scope.map(|scope| ("scope", scope)));
        let answer = self.post(url, &fields, &[])?;
        read(&parsed(url, &answer)?).ok_or_else(|| OauthError::Malformed {
            url: url.to_owned(),
            what: "the answer lacks a code or an address",
        })
    }

    /// A token request with a proof (RFC 9449 section 5), once more with the server's nonce where
    /// it asks for one.
    pub fn tokens(
        &mut self,
        key: &ProofKey,
        fields: &[(&str, &str)],
    ) -> Result<Tokens, OauthError> {
        let first = self.ask_tokens(key, fields);
        match first {
            Err(OauthError::Refused { error, .. })
                if error == "use_dpop_nonce" && self.nonce.is_some() =>
            {
                self.ask_tokens(key, fields)
            }
            other => other,
        }
    }

    fn ask_tokens(
        &mut self,
        key: &ProofKey,
        fields: &[(&str, &str)],
    ) -> Result<Tokens, OauthError> {
        let asked_at = Clocks::default().now();
        let proof = key.proof(("POST", &self.token), None, self.nonce.as_deref(), asked_at)?;
        let mut all = vec![("client_id", self.client.client_id.as_str())];
        all.extend_from_slice(fields);
        let answer = self.post(&self.token, &all, &[("dpop", proof.expose())])?;
        let nonce = answer.headers.get("dpop-nonce");
        if let Some(nonce) = nonce.and_then(|nonce| nonce.to_str().ok()) {
            self.nonce = Some(nonce.to_owned());
        }
        let answer = parsed(&self.token, &answer)?;
        Tokens::read(&answer, asked_at).map_err(|what| OauthError::Malformed {
            url: self.token.clone(),
            what,
        })
    }

    /// Ends the login at Keycloak (RFC 7009). Whether there was anything to ask.
    pub fn revoke(&self, token: &Secret<String>) -> Result<bool, OauthError> {
        let Some(url) = self.revocation.as_deref() else {
            return Ok(false);
        };
        let fields = [
            ("client_id", self.client.client_id.as_str()),
            ("token", token.expose()),
            ("token_type_hint", "refresh_token"),
        ];
        let answer = self.post(url, &fields, &[])?;
        match answer.status {
            200 => Ok(true),
            _ => parsed(url, &answer).map(|_| true),
        }
    }

    fn post(
        &self,
        url: &str,
        fields: &[(&str, &str)],
        headers: &[(&str, &str)],
    ) -> Result<Answer, OauthError> {
        let answer = self.https.post_form(url, fields, headers, MAX_ANSWER);
        answer.map_err(|error| unreachable(&self.client, error))
    }
}

impl Tokens {
    /// RFC 6749 section 5.1, with Keycloak's `refresh_expires_in`.
    fn read(answer: &Value, asked_at: Timestamp) -> Result<Tokens, &'static str> {
        let secret = |name: &str| answer[name].as_str().map(|t| Secret::new(t.to_owned()));
        let access = secret("access_token").ok_or("the answer holds no access token")?;
        let dpop_bound = match answer["token_type"].as_str() {
            Some(kind) if kind.eq_ignore_ascii_case("dpop") => true,
            Some(kind) if kind.eq_ignore_ascii_case("bearer") => false,
            _ => return Err("the token's type is neither DPoP nor Bearer"),
        };
        let within = |name: &str| {
            let seconds = answer[name].as_u64().filter(|seconds| *seconds > 0);
            seconds.map(|seconds| asked_at.saturating_add(Duration::from_secs(seconds)))
        };
        let expires_at = expiry(&access).or_else(|| within("expires_in"));
        Ok(Tokens {
            expires_at: expires_at.ok_or("the answer doesn't say when the token expires")?,
            access,
            dpop_bound,
            refresh: secret("refresh_token"),
            refresh_expires_at: within("refresh_expires_in"),
        })
    }
}

/// The token's own `exp`, for display and for the time of a refresh. Nothing is decided by it.
fn expiry(token: &Secret<String>) -> Option<Timestamp> {
    let payload = BASE64URL.decode(token.expose().split('.').nth(1)?).ok()?;
    let payload: Value = serde_json::from_slice(&payload).ok()?;
    payload["exp"].as_u64().map(Timestamp::from_secs)
}

fn parsed(url: &str, answer: &Answer) -> Result<Value, OauthError> {
    let value = json::parse(&answer.body).unwrap_or_default();
    if answer.status == 200 && value.is_object() {
        return Ok(value);
    }
    let said = |name: &str| value[name].as_str().map(short);
    Err(match said("error") {
        Some(error) => OauthError::Refused {
            error,
            said: said("error_description").unwrap_or_default(),
        },
        None => OauthError::Status {
            url: url.to_owned(),
            status: answer.status,
        },
    })
}

fn short(text: &str) -> String {
    text.chars().take(MAX_SAID).collect()
}

fn unreachable(client: &Client, error: HttpsError) -> OauthError {
    let issuer = client.issuer.clone();
    match error {
        // rustls has no error type of its own behind ureq's words.
        HttpsError::Unreachable(why) if why.contains("certificate") => {
            OauthError::Untrusted { issuer, why }
        }
        HttpsError::Unreachable(why) => OauthError::Unreachable { issuer, why },
        wrong @ (HttpsError::Url { .. } | HttpsError::CaFile { .. }) => OauthError::Unusable(wrong),
        error @ HttpsError::TooLarge(_) => OauthError::Answer { issuer, error },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_tokens_own_end_counts_before_the_answers() {
        let payload = BASE64URL.encode(r#"{"exp":5000}"#);
        let answer = json!({
            "access_token": format!("x.{payload}.y"), "token_type": "DPoP", "expires_in": 60,
            "refresh_token": "r", "refresh_expires_in": 0,
        });
        let tokens = Tokens::read(&answer, Timestamp::from_secs(1000)).unwrap();
        assert_eq!(tokens.expires_at, Timestamp::from_secs(5000));
        assert!(tokens.dpop_bound && tokens.refresh_expires_at.is_none());
        let opaque = json!({"access_token": "x", "token_type": "bearer", "expires_in": 60});
        let tokens = Tokens::read(&opaque, Timestamp::from_secs(1000)).unwrap();
        assert_eq!(tokens.expires_at, Timestamp::from_secs(1060));
        assert!(!tokens.dpop_bound);
        for bad in [
            json!({"token_type": "DPoP", "expires_in": 60}),
            json!({"access_token": "x", "token_type": "mac", "expires_in": 60}),
            json!({"access_token": "x", "token_type": "DPoP"}),
        ] {
            assert!(Tokens::read(&bad, Timestamp(0)).is_err(), "{bad}");
        }
    }
}
