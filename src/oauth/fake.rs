//! A fake of Keycloak's endpoints, for the protocol's edges.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::{Value, json};

use super::{Client, Code, Login, OauthError, ProofKey, Provider, Tokens};
use crate::secret::Secret;
use crate::time::Timestamp;

/// What the token endpoint says, one answer a request: status, further header, body.
type Script = VecDeque<(u16, &'static str, Value)>;

pub(crate) struct Fake {
    pub(crate) issuer: String,
    script: Arc<Mutex<Script>>,
    pub(crate) seen: Arc<Mutex<Vec<Seen>>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) proof: Option<Value>,
    pub(crate) body: String,
}

impl Fake {
    pub(crate) fn start(script: impl IntoIterator<Item = (u16, &'static str, Value)>) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let issuer = format!("http://{}/realms/dev", listener.local_addr().unwrap());
        let fake = Fake {
            issuer,
            script: Arc::new(Mutex::new(script.into_iter().collect())),
            seen: Arc::default(),
        };
        let (issuer, script) = (fake.issuer.clone(), Arc::clone(&fake.script));
        let seen = Arc::clone(&fake.seen);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let request = read(&mut stream);
                let (status, header, body) = match request.path.rsplit('/').next().unwrap() {
                    "openid-configuration" => (200, "", document(&issuer)),
                    "device" => (200, "", device_answer(&issuer)),
                    "revoke" => (200, "", json!({})),
                    _ => script
                        .lock()
                        .unwrap()
                        .pop_front()
                        .unwrap_or((500, "", Value::Null)),
                };
                seen.lock().unwrap().push(request);
                let body = body.to_string();
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status} X\r\n{header}content-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
            }
        });
        fake
    }

    pub(crate) fn client(&self) -> Client {
        Client {
            issuer: self.issuer.clone(),
            client_id: "slmd-technician".to_owned(),
            ca_file: None,
        }
    }

    fn provider(&self) -> Provider {
        Provider::discover(&self.client(), Duration::from_secs(5)).unwrap()
    }

    pub(crate) fn token_requests(&self) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap();
        let tokens = seen.iter().filter(|seen| seen.path.ends_with("/token"));
        tokens.cloned().collect()
    }

    /// Polls without sleeping; what came of it, and the waits that were asked for.
    pub(crate) fn poll(&self) -> (Result<Tokens, OauthError>, Vec<u64>) {
        let mut provider = self.provider();
        let code = Code::request(&provider, None).unwrap();
        let key = ProofKey::generate().unwrap();
        let mut waits = Vec::new();
        let tokens = code.poll(&mut provider, &key, |wait| waits.push(wait.as_secs()));
        (tokens, waits)
    }

    pub(crate) fn saved(&self, expires_at: Timestamp) -> Login {
        Login {
            client: self.client(),
            key: ProofKey::generate().unwrap(),
            tokens: Tokens {
                access: Secret::new("old".to_owned()),
                dpop_bound: true,
                expires_at,
                refresh: Some(Secret::new("refresh-1".to_owned())),
                refresh_expires_at: None,
            },
        }
    }
}

fn document(issuer: &str) -> Value {
    json!({
        "issuer": issuer,
        "device_authorization_endpoint": format!("{issuer}/device"),
        "token_endpoint": format!("{issuer}/token"),
        "revocation_endpoint": format!("{issuer}/revoke"),
    })
}

fn device_answer(issuer: &str) -> Value {
    json!({
        "device_code": "secret-code", "user_code": "ABCD-EFGH", "expires_in": 60, "interval": 2,
        "verification_uri": format!("{issuer}/enter"),
    })
}

fn read(stream: &mut TcpStream) -> Seen {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let path = line.split(' ').nth(1).unwrap().to_owned();
    let (mut proof, mut length) = (None, 0);
    loop {
        line.clear();
        reader.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim().split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap(),
            "dpop" => {
                let claims = BASE64URL.decode(value.split('.').nth(1).unwrap()).unwrap();
                proof = Some(serde_json::from_slice(&claims).unwrap());
            }
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let body = String::from_utf8(body).unwrap();
    Seen { path, proof, body }
}

pub(crate) fn error(code: &str) -> (u16, &'static str, Value) {
    (400, "", json!({"error": code, "error_description": "said"}))
}

pub(crate) fn good() -> (u16, &'static str, Value) {
    let body = json!({
        "access_token": "new", "token_type": "DPoP", "expires_in": 36_000,
        "refresh_token": "refresh-2", "refresh_expires_in": 36_000,
    });
    (200, "", body)
}
