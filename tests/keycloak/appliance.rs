//! The real daemon in front of realms of the real Keycloak.

use std::net::TcpStream;
use std::process::{Command, Output};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::grants::Realm;
use crate::proof::ProofKey;
use crate::support::{Daemon, Exchange, Response, Setup, chat, exchange, http, run};

/// What proofs for a chat over the socket name, by the device of [`Setup::new`].
pub const TARGET: &str = "http://edge-1/v1/chat/completions";
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A realm's section as the README has it; `more` goes before its tables.
pub fn section(realm: &Realm, more: &str) -> String {
    format!(
        "[[realm]]\nname = {:?}\nissuer = {:?}\ndefault_endpoint = \"slm-chat\"\n\
         unsynchronised_scopes = [\"read\", \"write\", \"fine-tune\", \"audit\"]\n\
         max_lifetime_by_client = {{ device-2 = \"24h\", slmd-technician = \"10h\" }}\n{more}\n\
         [realm.claims]\ntokens_per_minute = \"slmd_tokens_per_minute\"\n\
         max_context = \"slmd_max_context\"\npriority = \"slmd_priority\"\n\
         [[realm.endpoint]]\nclient_id = \"slm-chat\"\nmodel = \"smollm2-135m-instruct\"\n",
        realm.name,
        realm.issuer()
    )
}

/// The lines that have a realm's keys fetched; a section's `more` ends with them.
pub fn jwks(realm: &Realm, interval: &str) -> String {
    format!(
        "[realm.jwks]\nuri = \"{}/protocol/openid-connect/certs\"\nca_file = {:?}\n\
         min_interval = \"{interval}\"\ntimeout = \"10s\"\n",
        realm.issuer(),
        realm.server.ca_file()
    )
}

/// A daemon's setup with these realms, whose keys it has.
pub fn setup(realms: &[&Realm]) -> Setup {
    let sections = realms.iter().map(|realm| section(realm, ""));
    let setup = Setup::new().with(&sections.collect::<String>());
    realms
        .iter()
        .fold(setup, |setup, realm| setup.keys(&realm.name, &realm.jwks()))
}

/// A prompt of `words` as a bearer of `token` sends it; at most four tokens are answered.
pub fn ask(daemon: &Daemon, token: &str, words: &str) -> Response {
    daemon.chat(token, &body(words))
}

pub fn body(words: &str) -> String {
    chat(words, 4, false).replace("\"slm\"", "\"slm-chat\"")
}

#[track_caller]
pub fn answered(response: &Response) {
    assert_eq!(response.status, 200, "{}", response.body);
}

#[track_caller]
pub fn refused(response: &Response, status: u16, code: &str) {
    let found = response.json();
    let found = (response.status, found["error"]["code"].as_str());
    assert_eq!(found, (status, Some(code)), "{}", response.body);
}

/// A prompt with a bound token and the proof that goes with it.
pub fn ask_bound(daemon: &Daemon, token: &str, proof: &str, words: &str) -> Response {
    let authorization = format!("DPoP {token}");
    let headers = [("authorization", authorization.as_str()), ("dpop", proof)];
    let path = "/v1/chat/completions";
    http(&daemon.socket(), "POST", path, &headers, &body(words))
}

/// What a bearer of `token` gets at a path over TCP.
#[track_caller]
pub fn over_tcp(port: u16, token: &str, path: &str) -> Response {
    let tcp = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str()), ("host", "localhost")];
    let answer = exchange(tcp, "GET", path, &headers, "");
    answer.and_then(Exchange::finish).expect("an answer")
}

/// A proof for a prompt over the socket.
pub fn proof(key: &ProofKey, token: &str) -> String {
    key.proof("POST", TARGET, &json!({"ath": hash(token.as_bytes())}))
}

pub fn hash(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, bytes))
}

/// `slmd keys explain` on a token: what it says, and its exit code.
#[track_caller]
pub fn explained(daemon: &Daemon, token: &str, more: &[&str]) -> (Value, Option<i32>) {
    let mut command = daemon.binary();
    command.args(["keys", "explain", "--json"]).args(more);
    command.env_remove("SLMD_TOKEN_FILE");
    let output = run(&mut command, token.as_bytes(), PATIENCE);
    let said = said(&output);
    let signature = token.rsplit('.').next().expect("a compact JWS");
    assert!(!said.contains(signature), "the signature is shown: {said}");
    let explanation = serde_json::from_slice(&output.stdout);
    let explanation = explanation.unwrap_or_else(|e| panic!("no JSON ({e}): {said}"));
    (explanation, output.status.code())
}

pub fn said(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

#[track_caller]
pub fn succeeded(mut command: Command) -> String {
    let output = run(&mut command, b"", PATIENCE);
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    said(&output)
}
