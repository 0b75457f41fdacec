//! What Keycloak's refusals mean, and what to do about them.

use std::path::Path;

use super::super::exit::{Exit, Failure};
use super::super::output::printable;
use crate::oauth::{Client, KeyError, OauthError};

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Failure {
        Failure::failed(error)
    }
}

/// In words that say what to do.
pub(super) fn explain(error: &OauthError, client: &Client) -> Failure {
    let what = printable(&error.to_string());
    let (exit, message) = match error {
        OauthError::Refused { error, said } => {
            (Exit::Refused, refused(error, &printable(said), client))
        }
        passing if passing.is_passing() => (Exit::Unreachable, what),
        OauthError::Untrusted { .. } => {
            let trust = trust(client.ca_file.as_deref());
            (Exit::Unreachable, format!("{what}; {trust}"))
        }
        OauthError::Unusable(_) => (Exit::Usage, what),
        OauthError::NoDiscovery { .. } => (
            Exit::Failed,
            format!("{what}; --issuer is a realm's URL, e.g. https://keycloak.example/realms/prod"),
        ),
        OauthError::OtherIssuer { .. } => (
            Exit::Failed,
            format!("{what}; log in with exactly that --issuer if it is the one you mean"),
        ),
        OauthError::NoRefreshToken => (
            Exit::Failed,
            "Keycloak gave no refresh token; run slmd login".to_owned(),
        ),
        _ => (Exit::Failed, what),
    };
    Failure::new(exit, message)
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

fn refused(error: &str, said: &str, client: &Client) -> String {
    let id = &client.client_id;
    let what = match error {
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
        "access_denied" => "the login was denied in the browser; run slmd login again".to_owned(),
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
    let error = printable(error);
    match said {
        "" => format!("{what} ({error})"),
        said => format!("{what} ({error}: {said})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_switch() {
        let client = Client {
            issuer: "https://k/realms/dev".to_owned(),
            client_id: "slmd-technician".to_owned(),
            ca_file: None,
        };
        let said = |error: &str, said: &str| {
            let (error, said) = (error.to_owned(), said.to_owned());
            explain(&OauthError::Refused { error, said }, &client)
        };
        for (error, because, expected) in [
            (
                "unauthorized_client",
                "Invalid client credentials",
                "isn't a public one",
            ),
            (
                "unauthorized_client",
                "because",
                "oauth2.device.authorization.grant.enabled",
            ),
            ("access_denied", "because", "denied in the browser"),
            (
                "expired_token",
                "",
                "has expired before anybody entered it; run slmd login again (expired_token)",
            ),
            ("invalid_client", "because", "slmd-technician"),
            ("something_new", "\u{1b}[2J", "(something_new: \u{fffd}[2J)"),
        ] {
            let failure = said(error, because);
            assert_eq!(failure.exit, Exit::Refused);
            assert!(failure.message.contains(expected), "{}", failure.message);
        }
    }

    #[test]
    fn what_may_work_the_next_time_is_unreachable() {
        let client = Client {
            issuer: "https://k/realms/dev".to_owned(),
            client_id: "slmd-technician".to_owned(),
            ca_file: None,
        };
        for (status, exit) in [
            (404, Exit::Failed),
            (429, Exit::Unreachable),
            (503, Exit::Unreachable),
        ] {
            let url = client.issuer.clone();
            let failure = explain(&OauthError::NoDiscovery { url, status }, &client);
            assert_eq!(failure.exit, exit, "{}", failure.message);
        }
    }
}
