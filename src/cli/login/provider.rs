//! Keycloak as an OAuth client sees it: discovery, tokens, revocation, and errors in plain words.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::Value;

use super::dpop::ProofKey;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::printable;
use crate::https::{Answer, Https, HttpsError};
use crate::json;
use crate::secret::Secret;
use crate::time::{Timestamp, now};

/// Keycloak's discovery document has 8 KB, its token answers fewer.
const MAX_ANSWER: u64 = 256 << 10;
/// What is worth repeating of somebody else's words.
const MAX_SAID: usize = 300;

/// Where a login happens, and as which client.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub(super) issuer: String,
    pub(super) client_id: String,
    pub(super) ca_file: Option<PathBuf>,
}

/// What a token endpoint gave.
#[derive(Debug, Clone)]
pub(super) struct Tokens {
    pub(super) access: Secret<String>,
    /// Bound to the proof key: of no use without it.
    pub(super) dpop_bound: bool,
    pub(super) expires_at: Timestamp,
    pub(super) refresh: Option<Secret<String>>,
    /// `None`: Keycloak names no end.
    pub(super) refresh_expires_at: Option<Timestamp>,
}

/// Why there is no good answer.
#[derive(Debug)]
pub(super) enum Trouble {
    /// No connection, or Keycloak is ill: what may work the next time.
    Away(Failure),
    /// Keycloak's answer in OAuth's words (RFC 6749 section 5.2, RFC 8628 section 3.5).
    Refused {
        error: String,
        said: String,
    },
    Other(Failure),
}

/// An issuer whose discovery document was read and names itself as expected.
#[derive(Debug)]
pub(super) struct Provider {
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
    pub(super) fn discover(client: &Client, timeout: Duration) -> Result<Provider, Trouble> {
        let trouble = |error| unreachable(client, error);
        let https = Https::new(client.ca_file.as_deref(), timeout).map_err(trouble)?;
        let issuer = &client.issuer;
        let url = format!(
            "{}/.well-known/openid-configuration",
            issuer.trim_end_matches('/')
        );
        let answer = https.get(&url, MAX_ANSWER).map_err(trouble)?;
        if answer.status != 200 {
            return Err(not_found(&url, answer.status));
        }
        let other = |what: String| Trouble::Other(Failure::failed(format!("{url}: {what}")));
        let document = json::parse(&answer.body).map_err(|_| {
            other("the answer isn't JSON; is this the issuer's address?".to_owned())
        })?;
        // OpenID Connect Discovery section 4.3; else one realm could stand in for another.
        match document["issuer"].as_str() {
            Some(named) if named == issuer => {}
            named => {
                let named = printable(named.unwrap_or("nothing"));
                return Err(other(format!(
                    "it says that it is {named}; log in with exactly that --issuer if it is the one you mean"
                )));
            }
        }
        let endpoint = |name: &str| document[name].as_str().map(str::to_owned);
        Ok(Provider {
            https,
            client: client.clone(),
            device: endpoint("device_authorization_endpoint"),
            token: endpoint("token_endpoint")
                .ok_or_else(|| other("it names no token_endpoint".to_owned()))?,
            revocation: endpoint("revocation_endpoint"),
            nonce: None,
        })
    }

    /// Asks for a device code (RFC 8628 section 3.1); no proof is wanted here.
    pub(super) fn device_code(&self, scope: Option<&str>) -> Result<Value, Trouble> {
        let url = self.device.as_deref().ok_or_else(|| {
            Trouble::Other(Failure::failed(
                "the issuer offers no device authorization grant (RFC 8628)",
            ))
        })?;
        let mut fields = vec![("client_id", self.client.client_id.as_str())];
        fields.extend(scope.map(|scope| ("scope", scope)));
        let answer = self.post(url, &fields, &[])?;
        parsed(url, &answer)
    }

    /// A token request with a proof (RFC 9449 section 5), once more with the server's nonce where
    /// it asks for one.
    pub(super) fn tokens(
        &mut self,
        key: &ProofKey,
        fields: &[(&str, &str)],
    ) -> Result<Tokens, Trouble> {
        let first = self.ask_tokens(key, fields);
        match first {
            Err(Trouble::Refused { error, .. })
                if error == "use_dpop_nonce" && self.nonce.is_some() =>
            {
                self.ask_tokens(key, fields)
            }
            other => other,
        }
    }

    fn ask_tokens(&mut self, key: &ProofKey, fields: &[(&str, &str)]) -> Result<Tokens, Trouble> {
        let asked_at = now();
        let proof = key.proof(&self.token, None, self.nonce.as_deref(), asked_at);
        let proof = proof.map_err(Trouble::Other)?;
        let mut all = vec![("client_id", self.client.client_id.as_str())];
        all.extend_from_slice(fields);
        let answer = self.post(&self.token, &all, &[("dpop", proof.expose())])?;
        let nonce = answer.headers.get("dpop-nonce");
        if let Some(nonce) = nonce.and_then(|nonce| nonce.to_str().ok()) {
            self.nonce = Some(nonce.to_owned());
        }
        let answer = parsed(&self.token, &answer)?;
        Tokens::read(&answer, asked_at)
            .map_err(|what| Trouble::Other(Failure::failed(format!("{}: {what}", self.token))))
    }

    /// Ends the login at Keycloak (RFC 7009). Whether there was anything to ask.
    pub(super) fn revoke(&self, token: &Secret<String>) -> Result<bool, Trouble> {
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
    ) -> Result<Answer, Trouble> {
        let answer = self.https.post_form(url, fields, headers, MAX_ANSWER);
        answer.map_err(|error| unreachable(&self.client, error))
    }
}

impl Tokens {
    /// RFC 6749 section 5.1, with Keycloak's `refresh_expires_in`.
    fn read(answer: &Value, asked_at: Timestamp) -> Result<Tokens, String> {
        let secret = |name: &str| answer[name].as_str().map(|t| Secret::new(t.to_owned()));
        let access = secret("access_token").ok_or("the answer holds no access token")?;
        let dpop_bound = match answer["token_type"].as_str() {
            Some(kind) if kind.eq_ignore_ascii_case("dpop") => true,
            Some(kind) if kind.eq_ignore_ascii_case("bearer") => false,
            _ => return Err("the token's type is neither DPoP nor Bearer".to_owned()),
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

fn parsed(url: &str, answer: &Answer) -> Result<Value, Trouble> {
    let value = json::parse(&answer.body).unwrap_or_default();
    if answer.status == 200 && value.is_object() {
        return Ok(value);
    }
    if let Some(error) = value["error"].as_str() {
        let said = value["error_description"].as_str().unwrap_or_default();
        let short = |text: &str| printable(text).chars().take(MAX_SAID).collect();
        return Err(Trouble::Refused {
            error: short(error),
            said: short(said),
        });
    }
    let what = format!("{url} answered {}", answer.status);
    Err(match answer.status {
        429 | 500.. => Trouble::Away(Failure::new(Exit::Unreachable, what)),
        _ => Trouble::Other(Failure::failed(what)),
    })
}

fn not_found(url: &str, status: u16) -> Trouble {
    let what = format!("{url} answered {status}");
    match status {
        429 | 500.. => Trouble::Away(Failure::new(Exit::Unreachable, what)),
        _ => Trouble::Other(Failure::failed(format!(
            "{what}; --issuer is a realm's URL, e.g. https://keycloak.example/realms/dev"
        ))),
    }
}

fn unreachable(client: &Client, error: HttpsError) -> Trouble {
    let issuer = &client.issuer;
    match error {
        // rustls has no error type of its own behind ureq's words.
        HttpsError::Unreachable(why) if why.contains("certificate") => {
            Trouble::Other(Failure::new(
                Exit::Unreachable,
                format!("{issuer}: {why}; {}", trust(client.ca_file.as_deref())),
            ))
        }
        HttpsError::Unreachable(why) => Trouble::Away(Failure::new(
            Exit::Unreachable,
            format!("{issuer} can't be reached: {why}"),
        )),
        wrong @ (HttpsError::Url { .. } | HttpsError::CaFile { .. }) => {
            Trouble::Other(Failure::new(Exit::Usage, wrong.to_string()))
        }
        other => Trouble::Other(Failure::failed(format!("{issuer}: {other}"))),
    }
}

fn trust(ca_file: Option<&Path>) -> String {
    match ca_file {
        None => "name the CA that signed Keycloak's certificate with --ca-file PEM".to_owned(),
        Some(file) => format!(
            "{} doesn't vouch for this server: give the CA that signed its certificate with --ca-file, and check the host's name",
            file.display()
        ),
    }
}

impl Trouble {
    /// In words that say what to do.
    pub(super) fn into_failure(self, client: &Client) -> Failure {
        let (error, said) = match self {
            Trouble::Away(failure) | Trouble::Other(failure) => return failure,
            Trouble::Refused { error, said } => (error, said),
        };
        let id = &client.client_id;
        let what = match error.as_str() {
            // So Keycloak 26 answers for a confidential client that shows no secret.
            "unauthorized_client" if said.contains("credentials") => {
                format!("client {id} isn't a public one; switch its \"Client authentication\" off")
            }
            "unauthorized_client" => format!(
                "Keycloak doesn't let client {id} log in by device; switch on \"OAuth 2.0 Device \
                 Authorization Grant\" in the client's capability config \
                 (oauth2.device.authorization.grant.enabled=true), and see that it is enabled"
            ),
            "invalid_client" => format!(
                "Keycloak knows no public client {id} in {}; check --client-id, and that the \
                 client's \"Client authentication\" is off",
                client.issuer
            ),
            "access_denied" => {
                "the login was denied in the browser; run slmd login again".to_owned()
            }
            "expired_token" => {
                "the code has expired before anybody entered it; run slmd login again".to_owned()
            }
            "invalid_grant" => "the login has ended at Keycloak; run slmd login".to_owned(),
            "invalid_scope" => "Keycloak doesn't know the --scope for this client".to_owned(),
            "invalid_dpop_proof" | "use_dpop_nonce" => {
                "Keycloak refuses the DPoP proof; check this machine's clock".to_owned()
            }
            _ => "Keycloak refused".to_owned(),
        };
        let said = if said.is_empty() {
            error
        } else {
            format!("{error}: {said}")
        };
        Failure::new(Exit::Refused, format!("{what} ({said})"))
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

    #[test]
    fn refusals_name_the_switch() {
        let client = Client {
            issuer: "https://k/realms/dev".to_owned(),
            client_id: "slmd-technician".to_owned(),
            ca_file: None,
        };
        let said = |error: &str| {
            let (error, said) = (error.to_owned(), "because".to_owned());
            Trouble::Refused { error, said }.into_failure(&client)
        };
        let (error, told) = ("unauthorized_client", "Invalid client credentials");
        let (error, told) = (error.to_owned(), told.to_owned());
        let confidential = Trouble::Refused { error, said: told }.into_failure(&client);
        assert!(confidential.message.contains("isn't a public one"));
        let failure = said("unauthorized_client");
        assert_eq!(failure.exit, Exit::Refused);
        assert!(
            failure
                .message
                .contains("oauth2.device.authorization.grant.enabled")
        );
        assert!(said("invalid_client").message.contains("slmd-technician"));
        assert!(
            said("something_new")
                .message
                .ends_with("(something_new: because)")
        );
    }
}
