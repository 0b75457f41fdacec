//! Every way to a token: what devices, services, technicians and portals send to Keycloak.

use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::directory::PASSWORD;
use crate::proof::ProofKey;
use crate::server::{Answer, Keycloak, keycloak};
use crate::support::{root, run, secrets};

const DEVICE_CODE: &str = "urn:ietf:params:oauth:grant-type:device_code";
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const ASSERTION: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const PATIENCE: Duration = Duration::from_secs(120);

/// One realm of the running Keycloak.
#[derive(Clone)]
pub struct Realm {
    pub server: &'static Keycloak,
    pub name: String,
}

/// What the token endpoint gave.
#[derive(Debug, Clone)]
pub struct Tokens {
    pub access: String,
    pub refresh: Option<String>,
    pub kind: String,
    pub expires_in: u64,
}

pub fn realm(name: &str) -> Realm {
    Realm::of(keycloak(), name)
}

impl Realm {
    pub fn of(server: &'static Keycloak, name: &str) -> Realm {
        Realm {
            server,
            name: name.to_owned(),
        }
    }

    pub fn issuer(&self) -> String {
        format!("{}/realms/{}", self.server.url(), self.name)
    }

    /// The key set as Keycloak publishes it, encryption keys and all.
    pub fn jwks(&self) -> String {
        let path = format!("/realms/{}/protocol/openid-connect/certs", self.name);
        self.server.get(&path, &[]).success().body
    }

    pub fn token_url(&self) -> String {
        format!("{}/protocol/openid-connect/token", self.issuer())
    }

    /// The token endpoint's answer, whatever it is.
    pub fn ask(&self, fields: &[(&str, &str)], key: Option<&ProofKey>) -> Answer {
        // Keycloak takes a user over from the directory at the first login: of two at once, one is
        // told that the credentials are wrong.
        static LOGINS: Mutex<()> = Mutex::new(());
        let by_password = fields.contains(&("grant_type", "password"));
        let _turn = by_password.then(|| LOGINS.lock().unwrap_or_else(PoisonError::into_inner));
        let path = format!("/realms/{}/protocol/openid-connect/token", self.name);
        let proof = key.map(|key| key.proof("POST", &self.token_url(), &json!({})));
        let headers: Vec<(&str, &str)> = proof.iter().map(|p| ("DPoP", p.as_str())).collect();
        self.server.form(&path, fields, &headers)
    }

    #[track_caller]
    pub fn tokens(&self, fields: &[(&str, &str)], key: Option<&ProofKey>) -> Tokens {
        Tokens::read(&self.ask(fields, key).success())
    }

    /// Client credentials with the client's secret (RFC 6749 section 4.4).
    #[track_caller]
    pub fn service(&self, client: &str, key: Option<&ProofKey>) -> Tokens {
        let secret = self.secret(client);
        let fields = [
            ("grant_type", "client_credentials"),
            ("client_id", client),
            ("client_secret", &secret),
        ];
        self.tokens(&fields, key)
    }

    /// Client credentials with a signed assertion (RFC 7523): the client `gateway`.
    #[track_caller]
    pub fn gateway(&self) -> Tokens {
        let now = slmd::for_tests::time::now().as_secs();
        let claims = json!({
            "iss": "gateway", "sub": "gateway", "aud": self.issuer(),
            "jti": slmd::for_tests::identity::random_hex::<16>(), "iat": now, "exp": now + 60,
        });
        let assertion = self.server.gateway.sign(&json!({}), &claims);
        let fields = [
            ("grant_type", "client_credentials"),
            ("client_assertion_type", ASSERTION),
            ("client_assertion", &assertion),
        ];
        self.tokens(&fields, None)
    }

    /// The device authorization grant (RFC 8628), with a person at a browser.
    #[track_caller]
    pub fn technician(&self, username: &str, key: &ProofKey) -> Tokens {
        let path = format!("/realms/{}/protocol/openid-connect/auth/device", self.name);
        let fields = [("client_id", "slmd-technician")];
        let device = self.server.form(&path, &fields, &[]).success().json();
        let page = device["verification_uri_complete"].as_str();
        self.approve(page.expect("RFC 8628 section 3.2"), username);
        let code = device["device_code"]
            .as_str()
            .expect("RFC 8628 section 3.2");
        let fields = [
            ("grant_type", DEVICE_CODE),
            ("client_id", "slmd-technician"),
            ("device_code", code),
        ];
        self.tokens(&fields, Some(key))
    }

    /// A person opens the verification page, logs in with the directory's password, and agrees.
    #[track_caller]
    pub fn approve(&self, page: &str, username: &str) {
        let mut command = Command::new("python3");
        command.arg(root().join("tests/clients/keycloak_login.py"));
        command.arg(page).arg(self.server.ca_file());
        command.envs([("USERNAME", username), ("PASSWORD", PASSWORD)]);
        let output = run(&mut command, b"", PATIENCE);
        let said = String::from_utf8_lossy(&output.stdout);
        let more = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}\n{more}");
    }

    #[track_caller]
    pub fn refresh(&self, refresh_token: &str, key: &ProofKey) -> Tokens {
        let fields = [
            ("grant_type", "refresh_token"),
            ("client_id", "slmd-technician"),
            ("refresh_token", refresh_token),
        ];
        self.tokens(&fields, Some(key))
    }

    /// A user's token for the portal. It is got by password, which the realm files don't allow:
    /// see [`crate::admin::Admin::allow_passwords`].
    #[track_caller]
    pub fn user(&self, username: &str) -> Tokens {
        let fields = [
            ("grant_type", "password"),
            ("client_id", "workshop-app"),
            ("username", username),
            ("password", PASSWORD),
        ];
        self.tokens(&fields, None)
    }

    /// The portal exchanges a user's token (RFC 8693) for one that opens the endpoint.
    #[track_caller]
    pub fn exchange(&self, subject: &str) -> Tokens {
        Tokens::read(&self.ask_exchange(subject).success())
    }

    pub fn ask_exchange(&self, subject: &str) -> Answer {
        let secret = self.secret("portal");
        let fields = [
            ("grant_type", EXCHANGE),
            ("client_id", "portal"),
            ("client_secret", &secret),
            ("subject_token", subject),
            ("subject_token_type", ACCESS_TOKEN),
            ("requested_token_type", ACCESS_TOKEN),
            ("audience", "slm-chat"),
        ];
        self.ask(&fields, None)
    }

    /// The secret that Keycloak made up when it imported the client.
    fn secret(&self, client: &str) -> String {
        let client = self.admin().client(client);
        let secret = client["secret"].as_str().expect("it has a secret");
        secrets::password(secret);
        secret.to_owned()
    }
}

impl Tokens {
    #[track_caller]
    fn read(answer: &Answer) -> Tokens {
        let body = answer.json();
        let text = |name: &str| body[name].as_str().map(str::to_owned);
        let tokens = Tokens {
            access: text("access_token").expect("a token answer has one"),
            refresh: text("refresh_token"),
            kind: text("token_type").expect("a token answer has one"),
            expires_in: body["expires_in"].as_u64().expect("a token answer has one"),
        };
        secrets::token(&tokens.access);
        tokens
            .refresh
            .iter()
            .for_each(|token| secrets::token(token));
        tokens
    }
}

/// A token's payload, unverified.
pub fn claims(token: &str) -> Value {
    part(token, 1)
}

pub fn header(token: &str) -> Value {
    part(token, 0)
}

fn part(token: &str, index: usize) -> Value {
    use base64::Engine;
    let part = token.split('.').nth(index).expect("a compact JWS");
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part);
    serde_json::from_slice(&bytes.expect("base64url")).expect("JSON")
}
