//! Login, refresh and logout against a fake of Keycloak's endpoints, for the protocol's edges.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::{Value, json};

use super::device::Code;
use super::dpop::ProofKey;
use super::provider::{Client, Provider, Tokens, Trouble};
use super::saved::{Place, Saved};
use super::session::Session;
use crate::secret::Secret;
use crate::time::Timestamp;

/// What the token endpoint says, one answer a request: status, further header, body.
type Script = VecDeque<(u16, &'static str, Value)>;

struct Fake {
    issuer: String,
    script: Arc<Mutex<Script>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

#[derive(Debug, Clone)]
struct Seen {
    path: String,
    proof: Option<Value>,
    body: String,
}

impl Fake {
    fn start(script: impl IntoIterator<Item = (u16, &'static str, Value)>) -> Fake {
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

    fn client(&self) -> Client {
        Client {
            issuer: self.issuer.clone(),
            client_id: "slmd-technician".to_owned(),
            ca_file: None,
        }
    }

    fn provider(&self) -> Provider {
        Provider::discover(&self.client(), Duration::from_secs(5)).unwrap()
    }

    fn token_requests(&self) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap();
        let tokens = seen.iter().filter(|seen| seen.path.ends_with("/token"));
        tokens.cloned().collect()
    }

    /// Polls without sleeping; what came of it, and the waits that were asked for.
    fn poll(&self) -> (Result<Tokens, Trouble>, Vec<u64>) {
        let mut provider = self.provider();
        let code = Code::request(&provider, None).unwrap();
        let key = ProofKey::generate().unwrap();
        let mut waits = Vec::new();
        let tokens = code.poll(&mut provider, &key, |wait| waits.push(wait.as_secs()));
        (tokens, waits)
    }

    fn saved(&self, expires_at: Timestamp) -> Saved {
        let client = self.client();
        Saved {
            issuer: client.issuer,
            client_id: client.client_id,
            ca_file: None,
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

fn error(code: &str) -> (u16, &'static str, Value) {
    (400, "", json!({"error": code, "error_description": "said"}))
}

fn good() -> (u16, &'static str, Value) {
    let body = json!({
        "access_token": "new", "token_type": "DPoP", "expires_in": 36_000,
        "refresh_token": "refresh-2", "refresh_expires_in": 36_000,
    });
    (200, "", body)
}

#[test]
fn polling_waits_as_it_is_told_and_proves_its_key() {
    let fake = Fake::start([error("authorization_pending"), error("slow_down"), good()]);
    let (tokens, waits) = fake.poll();
    assert_eq!(tokens.unwrap().access.expose(), "new");
    assert_eq!(waits, [2, 2, 7]);
    let requests = fake.token_requests();
    let mut ids = Vec::new();
    for request in &requests {
        assert!(
            request.body.contains("device_code=secret-code"),
            "{request:?}"
        );
        let proof = request.proof.as_ref().unwrap();
        assert_eq!(proof["htu"], format!("{}/token", fake.issuer));
        ids.push(proof["jti"].clone());
    }
    ids.dedup();
    assert_eq!(ids.len(), 3);
    let seen = fake.seen.lock().unwrap();
    let device = seen.iter().find(|seen| seen.path.ends_with("/device"));
    assert!(
        device.unwrap().proof.is_none(),
        "the device endpoint needs none"
    );
}

#[test]
fn a_nonce_is_sent_when_it_is_asked_for_and_kept() {
    let wanted = (
        400,
        "DPoP-Nonce: n-1\r\n",
        json!({"error": "use_dpop_nonce"}),
    );
    let fake = Fake::start([wanted, error("authorization_pending"), good()]);
    let (tokens, waits) = fake.poll();
    assert!(tokens.is_ok(), "{tokens:?}");
    assert_eq!(waits, [2, 2]);
    let nonces: Vec<Value> = fake
        .token_requests()
        .into_iter()
        .map(|seen| seen.proof.unwrap()["nonce"].clone())
        .collect();
    assert_eq!(nonces, [Value::Null, "n-1".into(), "n-1".into()]);

    let insists = || (400, "DPoP-Nonce: n\r\n", json!({"error": "use_dpop_nonce"}));
    let fake = Fake::start([insists(), insists(), insists()]);
    assert!(fake.poll().0.is_err());
    assert_eq!(
        fake.token_requests().len(),
        2,
        "asked once more, not for ever"
    );
}

#[test]
fn decisions_end_the_polling_and_say_what_to_do() {
    for (code, expected) in [
        ("access_denied", "denied in the browser"),
        ("expired_token", "has expired"),
        (
            "unauthorized_client",
            "oauth2.device.authorization.grant.enabled",
        ),
    ] {
        let fake = Fake::start([error("authorization_pending"), error(code), good()]);
        let (tokens, _) = fake.poll();
        let failure = tokens.unwrap_err().into_failure(&fake.client());
        assert!(failure.message.contains(expected), "{}", failure.message);
        assert_eq!(fake.token_requests().len(), 2, "{code}");
    }
}

#[test]
fn polling_outlives_an_outage_but_not_the_code() {
    let ill = || (503, "", Value::Null);
    let fake = Fake::start([ill(), good()]);
    let (tokens, waits) = fake.poll();
    assert!(tokens.is_ok(), "{tokens:?}");
    assert_eq!(waits, [2, 4]);
    let fake = Fake::start((0..1000).map(|_| error("authorization_pending")));
    let (tokens, waits) = fake.poll();
    let failure = tokens.unwrap_err().into_failure(&fake.client());
    assert!(
        failure.message.contains("has expired"),
        "{}",
        failure.message
    );
    assert_eq!(waits.iter().sum::<u64>(), 60);
}

#[test]
fn another_issuer_than_the_named_one_is_refused() {
    let fake = Fake::start([]);
    let mut client = fake.client();
    client.issuer.push('/');
    let trouble = Provider::discover(&client, Duration::from_secs(5)).unwrap_err();
    let said = trouble.into_failure(&client).message;
    assert!(
        said.contains(&format!("says that it is {}", fake.issuer)),
        "{said}"
    );
}

#[test]
fn a_token_that_runs_out_is_refreshed_and_saved() {
    let fake = Fake::start([good()]);
    let folder = tempfile::tempdir().unwrap();
    let place = Place::at(folder.path().join("slmd"));
    let now = Timestamp::from_secs(1_000_000);
    let saved = fake.saved(now.saturating_add(Duration::from_secs(61)));
    place.save(&saved).unwrap();
    let session = Session::open_at(&place, now).unwrap().unwrap();
    assert_eq!(session.token.expose(), "old");
    assert!(fake.token_requests().is_empty());

    let later = now.saturating_add(Duration::from_secs(2));
    let session = Session::open_at(&place, later).unwrap().unwrap();
    assert_eq!(session.token.expose(), "new");
    assert!(session.key.is_some());
    let request = &fake.token_requests()[0];
    assert!(
        request.body.contains("refresh_token=refresh-1"),
        "{request:?}"
    );
    assert!(request.proof.is_some());
    let kept = place.load().unwrap().unwrap();
    assert_eq!(kept.tokens.refresh.unwrap().expose(), "refresh-2");
}

#[test]
fn without_a_connection_the_saved_token_goes_on() {
    let fake = Fake::start([error("invalid_grant"), error("invalid_grant")]);
    let folder = tempfile::tempdir().unwrap();
    let place = Place::at(folder.path().join("slmd"));
    let now = Timestamp::from_secs(1_000_000);
    let mut saved = fake.saved(now.saturating_add(Duration::from_secs(30)));
    place.save(&saved).unwrap();
    let open = |at| Session::open_at(&place, at);
    assert_eq!(open(now).unwrap().unwrap().token.expose(), "old");
    let ended = open(now.saturating_add(Duration::from_secs(31))).unwrap_err();
    assert!(
        ended.message.contains("run slmd login"),
        "{}",
        ended.message
    );

    // Bound and dropped: nobody listens there.
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    saved.issuer = format!("http://{nobody}/realms/dev");
    place.save(&saved).unwrap();
    for late in [0, 31] {
        let session = open(now.saturating_add(Duration::from_secs(late)));
        assert_eq!(session.unwrap().unwrap().token.expose(), "old");
    }
}

#[test]
fn logging_out_revokes_the_refresh_token() {
    let fake = Fake::start([]);
    let saved = fake.saved(Timestamp(0));
    assert!(super::revoke(&saved).unwrap());
    let seen = fake.seen.lock().unwrap();
    let revoked = seen
        .iter()
        .find(|seen| seen.path.ends_with("/revoke"))
        .unwrap();
    assert!(revoked.body.contains("token=refresh-1"), "{revoked:?}");
}
