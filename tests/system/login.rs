//! `slmd login`, `ask` and `logout` as a person runs them, against a fake of Keycloak's OAuth
//! endpoints whose tokens are real ones of the test's issuer.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::support::{
    Daemon, Issuer, Setup, bound, claims, exit, run, secrets, signal, thumbprint, within,
};

const INTERRUPTED: i32 = 130;
const REFUSED: i32 = 3;
const UNREACHABLE: i32 = 4;
const PATIENCE: Duration = Duration::from_secs(60);

/// A realm that answers the token endpoint with [`Tokens`].
struct Realm {
    issuer: String,
    paths: Arc<Mutex<Vec<String>>>,
}

/// What the token endpoint says to who shows this DPoP proof; nothing: it waits.
type Tokens = Box<dyn Fn(&str) -> Option<Value> + Send>;

impl Realm {
    fn start(tokens: Option<Value>) -> Realm {
        Realm::with(Box::new(move |_| tokens.clone()))
    }

    fn with(tokens: Tokens) -> Realm {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let address = listener.local_addr().expect("it is bound");
        let realm = Realm {
            issuer: format!("http://{address}/realms/dev"),
            paths: Arc::default(),
        };
        let (issuer, paths) = (realm.issuer.clone(), Arc::clone(&realm.paths));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut reader = BufReader::new(stream);
                let (path, proof) = request(&mut reader);
                let (status, body) = answer(&issuer, &path, tokens(&proof));
                paths.lock().expect("nothing panics with it").push(path);
                let body = body.to_string();
                let _ = write!(
                    reader.get_mut(),
                    "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
            }
        });
        realm
    }

    fn asked(&self, what: &str) -> bool {
        let paths = self.paths.lock().expect("nothing panics with it");
        paths.iter().any(|path| path.ends_with(what))
    }
}

fn answer(issuer: &str, path: &str, tokens: Option<Value>) -> (u16, Value) {
    let url = |name: &str| format!("{issuer}/{name}");
    match (path.rsplit('/').next().unwrap_or_default(), tokens) {
        ("openid-configuration", _) => (
            200,
            json!({
                "issuer": issuer,
                "device_authorization_endpoint": url("device"),
                "token_endpoint": url("token"),
                "revocation_endpoint": url("revoke"),
            }),
        ),
        ("device", _) => (
            200,
            json!({
                "device_code": "code", "user_code": "ABCD-EFGH", "interval": 1, "expires_in": 600,
                "verification_uri": url("enter"),
            }),
        ),
        ("revoke", _) => (200, json!({})),
        (_, Some(tokens)) => (200, tokens),
        (_, None) => (400, json!({"error": "authorization_pending"})),
    }
}

/// Reads a whole request; its path and its DPoP proof.
fn request(reader: &mut impl BufRead) -> (String, String) {
    let mut line = String::new();
    reader.read_line(&mut line).expect("a request");
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut length, mut proof) = (0, String::new());
    while !line.trim().is_empty() {
        line.clear();
        reader.read_line(&mut line).expect("a header");
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a number");
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("dpop")
        {
            proof = value.trim().to_owned();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    (path, proof)
}

/// A token that is bound to the key of this proof, as Keycloak binds it.
fn bound_to(issuer: &Issuer, proof: &str) -> Option<Value> {
    let header = URL_SAFE_NO_PAD.decode(proof.split('.').next()?).ok()?;
    let header: Value = serde_json::from_slice(&header).ok()?;
    let token = issuer.token(bound(claims(), &thumbprint(&header["jwk"])));
    Some(tokens(&token, "DPoP"))
}

fn tokens(access: &str, kind: &str) -> Value {
    json!({
        "access_token": access, "token_type": kind, "expires_in": 300,
        "refresh_token": "refresh-1", "refresh_expires_in": 600,
    })
}

/// A command of one person, whose home is `home`.
fn person(mut command: Command, home: &Path) -> Command {
    command
        .env("XDG_STATE_HOME", home)
        .env_remove("SLMD_TOKEN")
        .env_remove("SLMD_TOKEN_FILE");
    command
}

fn slmd(home: &Path, args: &[&str]) -> Command {
    let mut command = person(Command::new(env!("CARGO_BIN_EXE_slmd")), home);
    command
        .args(["--config", "/nonexistent/slmd.toml"])
        .args(args);
    command
}

fn login(home: &Path, realm: &Realm) -> Command {
    slmd(
        home,
        &[
            "login",
            "--issuer",
            &realm.issuer,
            "--client-id",
            "slmd-technician",
        ],
    )
}

fn done(mut command: Command) -> Output {
    run(&mut command, b"", PATIENCE)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn file(home: &Path) -> PathBuf {
    home.join("slmd/login.json")
}

#[test]
fn a_login_answers_prompts_until_it_is_ended() {
    let issuer = Issuer::new("ES256", "key-1");
    let daemon = Daemon::start(Setup::new().issuer(&issuer));
    let realm = Realm::start(Some(tokens(&issuer.token(claims()), "Bearer")));
    let home = tempfile::tempdir().unwrap();
    let logged_in = done(login(home.path(), &realm));
    assert!(logged_in.status.success(), "{}", text(&logged_in.stderr));
    assert!(text(&logged_in.stderr).contains("ABCD-EFGH"));
    assert!(text(&logged_in.stdout).contains("works offline until"));
    assert!(text(&logged_in.stderr).contains("dpop.bound.access.tokens"));
    let mode = fs::metadata(file(home.path()))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);

    let prompt = "What is the capital of Norway?";
    secrets::prompt(prompt);
    let ask = || {
        let mut ask = person(daemon.binary(), home.path());
        ask.args(["ask", "--max-tokens", "4", "--socket"]);
        ask.arg(daemon.socket()).arg(prompt);
        done(ask)
    };
    let answered = ask();
    assert!(answered.status.success(), "{}", text(&answered.stderr));

    let ended = done(slmd(home.path(), &["logout"]));
    assert_eq!(
        text(&ended.stdout).trim(),
        "logged out, here and at Keycloak"
    );
    assert!(realm.asked("/revoke") && !file(home.path()).exists());
    let refused = ask();
    assert_eq!(refused.status.code(), Some(REFUSED));
    assert!(text(&refused.stderr).contains("token_missing"));
}

#[test]
fn a_bound_token_goes_with_a_proof_and_never_as_a_bearer_token() {
    let issuer = Issuer::new("ES256", "key-1");
    let daemon = Daemon::start(Setup::new().issuer(&issuer));
    let realm = Realm::with(Box::new(move |proof| bound_to(&issuer, proof)));
    let home = tempfile::tempdir().unwrap();
    assert!(done(login(home.path(), &realm)).status.success());
    let prompt = "What is the capital of Iceland?";
    secrets::prompt(prompt);
    let ask = || {
        let mut ask = person(daemon.binary(), home.path());
        ask.args(["ask", "--max-tokens", "4", "--socket"]);
        ask.arg(daemon.socket()).arg(prompt);
        ask
    };
    // Each with a proof of its own.
    for _ in 0..2 {
        let answered = done(ask());
        assert!(answered.status.success(), "{}", text(&answered.stderr));
    }
    let mut endpoints = person(daemon.binary(), home.path());
    assert_eq!(
        text(&run(endpoints.arg("endpoints"), b"", PATIENCE).stdout),
        "slm\n"
    );
    let mut misspelt = ask();
    let refused = run(misspelt.args(["--model", "slmm"]), b"", PATIENCE);
    let said = text(&refused.stderr);
    assert!(said.contains("did you mean slm?"), "{said}");
    let saved: Value = serde_json::from_slice(&fs::read(file(home.path())).unwrap()).unwrap();
    let token = saved["access_token"].as_str().unwrap();
    let mut bearer = ask();
    bearer.env("SLMD_TOKEN", token);
    let refused = done(bearer);
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(REFUSED), "{said}");
    assert!(said.contains("proof_missing"), "{said}");
}

#[test]
fn an_interrupted_login_leaves_nothing() {
    let realm = Realm::start(None);
    let home = tempfile::tempdir().unwrap();
    let mut command = login(home.path(), &realm);
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    within(PATIENCE, "a poll", || realm.asked("/token").then_some(()));
    signal(&child, libc::SIGINT);
    let status = exit(&mut child, PATIENCE).unwrap();
    assert_eq!(status.code(), Some(INTERRUPTED));
    let mut said = String::new();
    child.stderr.unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("interrupted"), "{said}");
    assert!(!file(home.path()).exists());
}

#[test]
fn nobody_at_the_address_is_said_plainly() {
    let home = tempfile::tempdir().unwrap();
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let url = format!("http://{address}/realms/dev");
    let args = ["login", "--issuer", &url, "--client-id", "x"];
    let failed = done(slmd(home.path(), &args));
    assert_eq!(failed.status.code(), Some(UNREACHABLE));
    assert!(text(&failed.stderr).contains("can't be reached"));
    let nowhere = done(slmd(home.path(), &["login"]));
    assert_eq!(nowhere.status.code(), Some(2));
    assert!(text(&nowhere.stderr).contains("--issuer"));
}
