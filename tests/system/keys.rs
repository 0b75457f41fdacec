//! Keys that change and rights that end while the daemon runs: refreshes from an issuer, sets that
//! a person must pin, deny files, the time floor.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Daemon, Issuer, Response, Setup, chat, claims, http, send, within};

const CHAT: &str = "/v1/chat/completions";
const PATIENCE: Duration = Duration::from_secs(120);

/// What Keycloak's certs endpoint would answer, on a free port of this machine.
pub struct Certs {
    pub uri: String,
    set: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
}

impl Certs {
    pub fn serving(issuers: &[&Issuer]) -> Certs {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let certs = Certs {
            uri: format!("http://127.0.0.1:{port}/certs"),
            set: Arc::new(Mutex::new(set(issuers))),
            asked: Arc::default(),
        };
        let (set, asked) = (Arc::clone(&certs.set), Arc::clone(&certs.asked));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                asked.fetch_add(1, Ordering::SeqCst);
                answer(stream, &set.lock().expect("no test thread panicked"));
            }
        });
        certs
    }

    fn serves(&self, issuers: &[&Issuer]) {
        *self.set.lock().expect("no test thread panicked") = set(issuers);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn answer(mut stream: TcpStream, body: &str) {
    let _ = stream.read(&mut [0; 4096]);
    let length = body.len();
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n{body}"
    );
}

fn set(issuers: &[&Issuer]) -> String {
    let keys: Vec<Value> = issuers.iter().map(|issuer| issuer.jwk()).collect();
    json!({ "keys": keys }).to_string()
}

/// The realm `dev` with something of its own.
fn realm(own: &str) -> String {
    format!(
        r#"
        [[realm]]
        name = "dev"
        issuer = "https://keycloak.test/realms/dev"
        default_endpoint = "slm"
        offline_grace = "none"
        unsynchronised_scopes = ["read", "write", "fine-tune", "audit"]
        tokens_per_minute = 1000000
        {own}
        [[realm.endpoint]]
        client_id = "slm"
        model = "smollm2-135m-instruct"
        "#
    )
}

fn refreshed_from(certs: &Certs, min_interval: &str) -> String {
    let uri = &certs.uri;
    realm(&format!(
        "jwks = {{ uri = \"{uri}\", plain_http_trusts_this_host = true, \
         min_interval = \"{min_interval}\" }}"
    ))
}

/// Asks with a fresh token of this issuer.
fn ask(daemon: &Daemon, issuer: &Issuer) -> Response {
    let body = chat("Name one colour.", 2, false);
    daemon.chat(&issuer.token(claims()), &body)
}

#[track_caller]
fn assert_refused(response: &Response, status: u16, code: &str) {
    assert_eq!(response.status, status, "{response:?}");
    assert_eq!(response.json()["error"]["code"], code, "{response:?}");
}

/// The details of the audit's changes of this name.
fn changes(daemon: &Daemon, what: &str) -> Vec<Value> {
    let records = daemon.audit(0);
    let records = records
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    records
        .filter(|record| record["what"] == what)
        .map(|record| record["detail"].clone())
        .collect()
}

fn post(daemon: &Daemon, path: &str, body: &Value) -> Value {
    let response = daemon.admin_http("POST", path, &body.to_string());
    assert_eq!(response.status, 200, "{response:?}");
    response.json()
}

#[test]
fn rotated_keys_are_followed_without_refusing_a_good_token() {
    let (old, new) = (Issuer::new("ES256", "old"), Issuer::new("ES256", "new"));
    let certs = Certs::serving(&[&old]);
    let setup = Setup::new().issuer(&old);
    let daemon = Daemon::start(setup.with(&refreshed_from(&certs, "1s")));
    assert_eq!(ask(&daemon, &old).status, 200);
    // The first fetch, at the start, is over.
    within(PATIENCE, "the first refresh", || {
        let status = daemon.status();
        (!status["realms"][0]["refresh"]["last_outcome"].is_null()).then_some(())
    });
    certs.serves(&[&old, &new]);
    thread::sleep(Duration::from_millis(1100));
    assert_eq!(ask(&daemon, &new).status, 200);
    assert_eq!(ask(&daemon, &old).status, 200);
    certs.serves(&[&new]);
    let outcome = post(&daemon, "/keys/dev/refresh", &json!({}));
    assert_eq!(outcome["outcome"], "replaced");
    assert_eq!(ask(&daemon, &new).status, 200);
    assert_ne!(ask(&daemon, &old).status, 200);
    assert_eq!(changes(&daemon, "keys_refreshed").len(), 2);
    let metrics = daemon.admin_http("GET", "/metrics", "").body;
    let counted = r#"slmd_keys_refreshes_total{realm="dev",outcome="replaced"} 2"#;
    assert!(metrics.contains(counted), "{metrics}");
    assert!(metrics.contains(r#"slmd_keys_held{realm="dev"} 0"#));
}

#[test]
fn a_realm_isnt_handed_over_in_three_fetches() {
    let [own, added, next] = ["K", "A", "B"].map(|kid| Issuer::new("ES256", kid));
    let certs = Certs::serving(&[&own]);
    let setup = Setup::new().issuer(&own);
    let daemon = Daemon::start(setup.with(&refreshed_from(&certs, "1s")));
    within(PATIENCE, "the first refresh", || {
        let status = daemon.status();
        (!status["realms"][0]["refresh"]["last_outcome"].is_null()).then_some(())
    });
    let refreshed = |issuers: &[&Issuer]| {
        certs.serves(issuers);
        post(&daemon, "/keys/dev/refresh", &json!({}))["outcome"].clone()
    };
    assert_eq!(refreshed(&[&own, &added]), "replaced");
    assert_eq!(refreshed(&[&added]), "replaced");
    assert_ne!(ask(&daemon, &own).status, 200, "what left has left at once");
    assert_eq!(refreshed(&[&added, &next]), "held");
    assert_eq!(refreshed(&[&next]), "held");
    assert_ne!(ask(&daemon, &next).status, 200);
    // The realm's own set comes back by itself.
    assert_eq!(refreshed(&[&own]), "replaced");
    assert_eq!(ask(&daemon, &own).status, 200);
    assert_ne!(ask(&daemon, &added).status, 200);
    let thumbprint = |issuer: &Issuer| {
        let set =
            slmd::for_tests::auth::KeySet::parse(set(&[issuer]).as_bytes()).expect("a sound key");
        json!([set.keys()[0].thumbprint])
    };
    let (k, a) = (thumbprint(&own), thumbprint(&added));
    let changes: Vec<(Value, Value)> = changes(&daemon, "keys_refreshed")
        .into_iter()
        .map(|detail| (detail["added"].clone(), detail["removed"].clone()))
        .collect();
    let none = json!([]);
    let expected = [(&a, &none), (&none, &k), (&k, &a)];
    assert_eq!(
        changes,
        expected.map(|(added, removed)| (added.clone(), removed.clone()))
    );
    let realm = daemon.status()["realms"][0].clone();
    assert_eq!(
        (
            &realm["keys_changed"]["added"],
            &realm["keys_changed"]["removed"]
        ),
        (&k, &a)
    );
    assert_eq!(realm["refresh"]["vouching"], k);
}

#[test]
fn a_foreign_set_is_held_until_a_person_pins_it() {
    let (old, foreign) = (Issuer::new("ES256", "a"), Issuer::new("ES256", "b"));
    let certs = Certs::serving(&[&foreign]);
    let setup = Setup::new().issuer(&old);
    let daemon = Daemon::start(setup.with(&refreshed_from(&certs, "1s")));
    let held_again = || {
        let outcome = post(&daemon, "/keys/dev/refresh", &json!({}));
        assert_eq!(outcome["outcome"], "held");
        changes(&daemon, "keys_held").len()
    };
    // The daemon's own first fetch may have been before the pin, which settles what was held.
    let told = held_again();
    assert_ne!(told, 0);
    for _ in 0..2 {
        assert_eq!(held_again(), told, "the same set is no news");
    }
    assert_eq!(ask(&daemon, &old).status, 200);
    assert_ne!(ask(&daemon, &foreign).status, 200);
    let held = daemon.status()["realms"][0]["held"].clone();
    let wrong = json!({"fingerprint": "0".repeat(64)}).to_string();
    let wrong = daemon.admin_http("POST", "/keys/dev/pin-held", &wrong);
    assert_ne!(wrong.status, 200, "{wrong:?}");
    let right = json!({"fingerprint": held["fingerprint"]});
    post(&daemon, "/keys/dev/pin-held", &right);
    assert_eq!(ask(&daemon, &foreign).status, 200);
    assert_ne!(ask(&daemon, &old).status, 200);
    let status = daemon.status();
    assert!(status["realms"][0]["held"].is_null(), "{status}");
    // What is pinned is nothing to be held.
    let fetched = post(&daemon, "/keys/dev/fetch", &json!({}));
    assert_eq!(fetched["pinned"], true);
    // By hand, too, what is held is settled.
    certs.serves(&[&old]);
    let fetched = post(&daemon, "/keys/dev/fetch", &json!({}));
    assert_eq!(fetched["pinned"], false);
    daemon.admin_http("PUT", "/keys/dev", &old.jwks());
    assert!(daemon.status()["realms"][0]["held"].is_null());
}

#[test]
fn a_thousand_unknown_keys_cause_one_fetch_at_most() {
    let (pinned, unknown) = (Issuer::new("ES256", "a"), Issuer::new("ES256", "b"));
    let certs = Certs::serving(&[&pinned]);
    let setup = Setup::new().issuer(&pinned);
    let daemon = Daemon::start(setup.with(&refreshed_from(&certs, "15m")));
    within(PATIENCE, "the first refresh", || {
        (certs.asked() > 0).then_some(())
    });
    let before = certs.asked();
    thread::scope(|scope| {
        for worker in 0..4 {
            let (daemon, unknown) = (&daemon, &unknown);
            scope.spawn(move || {
                for n in 0..250 {
                    let mut header = unknown.header();
                    header["kid"] = json!(format!("{worker}-{n}"));
                    let token = unknown.token_with(header, claims());
                    let response = daemon.chat(&token, &chat("Hi there.", 1, false));
                    assert!(matches!(response.status, 401 | 503), "{response:?}");
                }
            });
        }
    });
    assert!(certs.asked() <= before + 1, "{} fetches", certs.asked());
    assert_eq!(ask(&daemon, &pinned).status, 200);
}

fn deny_file(folder: &TempDir) -> String {
    let path = folder.path().join("deny.json");
    fs::write(&path, r#"{"version":1}"#).expect("a temporary file");
    realm(&format!("deny_file = {path:?}"))
}

/// As an operator's tool would: whole or not at all.
fn replace(folder: &Path, text: &str) {
    let new = folder.join("deny.new");
    fs::write(&new, text).expect("a temporary file");
    fs::rename(new, folder.join("deny.json")).expect("a temporary file");
}

/// The last finish in the audit.
fn finish(daemon: &Daemon) -> Value {
    within(PATIENCE, "the finish", || {
        let records = daemon.audit(0);
        let records = records
            .iter()
            .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        records
            .filter(|record| record["event"] == "finish")
            .fold(None, |_, record| Some(record))
    })
}

#[test]
fn a_removed_key_ends_what_runs_and_is_named_as_the_reason() {
    let (old, new) = (Issuer::new("ES256", "old"), Issuer::new("ES256", "new"));
    let daemon = Daemon::start(Setup::new().issuer(&old));
    let bearer = format!("Bearer {}", old.token(claims()));
    let headers = [("authorization", bearer.as_str())];
    let body = chat("Write a very long story about the sea.", 1000, true);
    let mut stream = send(&daemon.socket(), "POST", CHAT, &headers, &body).expect("an answer");
    stream.chunk().expect("a piece").expect("a piece");
    let pinned = daemon.admin_http("PUT", "/keys/dev", &new.jwks());
    assert_eq!(pinned.status, 200, "{pinned:?}");
    let mut rest = String::new();
    while let Some(piece) = stream.chunk().expect("the stream ends in order") {
        rest.push_str(&String::from_utf8_lossy(&piece));
    }
    assert!(
        rest.contains("key_unknown") && !rest.contains("names this token"),
        "{rest}"
    );
    let finish = finish(&daemon);
    assert_eq!(
        (&finish["finish"], &finish["reason"]),
        (&json!("revoked"), &json!("key_unknown"))
    );
    let metrics = daemon.admin_http("GET", "/metrics", "").body;
    let counted = r#"finish="revoked",reason="key_unknown"} 1"#;
    assert!(metrics.contains(counted), "{metrics}");
}

/// Keys that are no longer good enough, or never were, are named wherever keys are.
#[test]
fn what_is_left_out_of_a_set_is_named_everywhere() {
    let sound = Issuer::new("ES256", "sound");
    let daemon = Daemon::start(Setup::new().issuer(&sound));
    let mut rivals = ["twice", "twice"].map(|kid| Issuer::new("ES256", kid).jwk());
    rivals[0]["alg"] = json!("ES256");
    let [one, other] = rivals;
    let newer =
        json!({"kty": "EC", "crv": "P-521", "alg": "ES512", "kid": "newer", "x": "", "y": ""});
    let set = json!({"keys": [one, sound.jwk(), other, newer]}).to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("set.json");
    fs::write(&file, &set).expect("a temporary file");
    let file = file.to_str().expect("UTF-8");

    // Without a terminal it shows what there is to compare, and does nothing.
    let asked = daemon.slmd(&["keys", "pin", "dev", file]);
    let shown = String::from_utf8_lossy(&asked.stderr);
    assert_eq!(asked.status.code(), Some(2), "{shown}");
    let keys = slmd::for_tests::auth::KeySet::parse(set.as_bytes()).expect("a sound key");
    for word in [
        &keys.keys()[0].thumbprint,
        &keys.fingerprint(),
        "P-521",
        "twice",
        "--yes",
    ] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    assert!(
        changes(&daemon, "keys_pinned").len() == 1,
        "the setup's own"
    );

    let pinned = daemon.slmd(&["keys", "pin", "dev", file, "--yes"]);
    assert!(pinned.status.success(), "{pinned:?}");
    assert!(String::from_utf8_lossy(&pinned.stdout).contains("left out: kid newer"));
    let left_out = |value: &Value| {
        let list = value["left_out"].as_array().expect("a list").iter();
        list.map(|key| key["kid"].clone()).collect::<Vec<_>>()
    };
    let expected = ["twice", "twice", "newer"].map(|kid| json!(kid));
    assert_eq!(left_out(&daemon.status()["realms"][0]), expected);
    let listed = daemon.admin_http("GET", "/keys", "").json();
    assert_eq!(left_out(&listed["realms"][0]), expected);
    assert_eq!(left_out(&changes(&daemon, "keys_pinned")[1]), expected);
    assert_eq!(ask(&daemon, &sound).status, 200);
    let token = Issuer::new("ES256", "twice").token(claims());
    let refused = daemon.chat(&token, &chat("Hi.", 1, false));
    assert_refused(&refused, 401, "key_unusable");
    assert!(refused.body.contains("of its own"), "{refused:?}");
}

#[test]
fn a_deny_file_stops_what_runs_within_a_second() {
    let (folder, issuer) = (
        tempfile::tempdir().expect("a folder"),
        Issuer::new("ES256", "a"),
    );
    let setup = Setup::new().issuer(&issuer).with(&deny_file(&folder));
    let daemon = Daemon::start(setup);
    let claims = claims();
    let token = issuer.token(&claims);
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str())];
    let body = chat("Write a very long story about the sea.", 1000, true);
    let mut stream = send(&daemon.socket(), "POST", CHAT, &headers, &body).expect("an answer");
    assert_eq!(stream.status, 200);
    stream.chunk().expect("a piece").expect("a piece");
    let list = json!({"version": 1, "revoked": [{"jti": claims["jti"]}]});
    replace(folder.path(), &list.to_string());
    let start = slmd::for_tests::time::instant();
    let mut rest = String::new();
    while let Some(piece) = stream.chunk().expect("the stream ends in order") {
        rest.push_str(&String::from_utf8_lossy(&piece));
    }
    let took = slmd::for_tests::time::instant().saturating_duration_since(start);
    // Half a second between looks, and the token under way.
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(rest.contains("revoked"), "{rest}");
    let finish = finish(&daemon);
    assert_eq!(
        (&finish["finish"], &finish["reason"]),
        (&json!("revoked"), &json!("revoked"))
    );
    assert_refused(&daemon.chat(&token, &chat("Hi.", 1, false)), 401, "revoked");
    assert_eq!(ask(&daemon, &issuer).status, 200, "another token");
    assert_eq!(changes(&daemon, "deny_list_replaced").len(), 1);
}

#[test]
fn a_bad_deny_file_keeps_the_old_list_and_says_so() {
    let (folder, issuer) = (
        tempfile::tempdir().expect("a folder"),
        Issuer::new("ES256", "a"),
    );
    let mut daemon = Daemon::start(Setup::new().issuer(&issuer).with(&deny_file(&folder)));
    let everybody = json!({"version": 1, "revoked": [{"azp": "device-1"}]}).to_string();
    let entries = |daemon: &Daemon| daemon.status()["realms"][0]["deny_list"].clone();
    replace(folder.path(), &everybody);
    within(PATIENCE, "the list", || {
        (entries(&daemon)["entries"] == 1).then_some(())
    });
    assert_refused(&ask(&daemon, &issuer), 401, "revoked");
    replace(folder.path(), "{\"version\":1,");
    let problem = within(PATIENCE, "the problem", || {
        entries(&daemon)["problem"].as_str().map(str::to_owned)
    });
    assert!(problem.contains("JSON"), "{problem}");
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(entries(&daemon)["entries"], 1);
    assert_refused(&ask(&daemon, &issuer), 401, "revoked");
    assert_eq!(changes(&daemon, "deny_list_refused").len(), 1);
    let metrics = daemon.admin_http("GET", "/metrics", "").body;
    assert!(metrics.contains(r#"slmd_deny_list_entries{realm="dev"} 1"#));
    // It doesn't start with a list that it can't understand.
    daemon.terminate();
    let run = daemon.slmd(&["run"]);
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(!run.status.success());
    assert!(said.contains("deny_file"), "{said}");
    replace(folder.path(), &everybody);
    daemon.restart();
    assert_refused(&ask(&daemon, &issuer), 401, "revoked");
}

#[test]
fn a_deny_list_is_told_without_a_daemon_as_with_one() {
    let (folder, issuer) = (
        tempfile::tempdir().expect("a folder"),
        Issuer::new("ES256", "a"),
    );
    let setup = Setup::new().issuer(&issuer).with(&deny_file(&folder));
    let everybody = json!({"version": 1, "revoked": [{"azp": "device-1"}]});
    replace(folder.path(), &everybody.to_string());
    let mut daemon = Daemon::start(setup);
    let token = folder.path().join("token");
    fs::write(&token, issuer.token(claims())).expect("a temporary file");
    let token = token.to_str().expect("UTF-8");
    let told = |daemon: &Daemon, command: &[&str]| {
        let output = daemon.slmd(command);
        let told = serde_json::from_slice::<Value>(&output.stdout);
        (output.status.code(), told.expect("JSON"))
    };
    let both = |daemon: &Daemon| {
        let (_, listed) = told(daemon, &["keys", "list", "--json"]);
        let explain = ["keys", "explain", "--json", "--token-file", token];
        let (code, mut explained) = told(daemon, &explain);
        let (verdict, checks) = (explained["verdict"].take(), explained["checks"].take());
        (
            listed["realms"][0]["deny_list"].clone(),
            code,
            verdict,
            checks,
        )
    };
    let with = both(&daemon);
    assert_eq!(with.0, json!({"entries": 1, "problem": null}));
    assert_eq!((with.1, &with.2), (Some(3), &json!("revoked")));
    daemon.terminate();
    assert_eq!(both(&daemon), with);
}

#[test]
fn the_time_is_reset_and_a_token_explained_over_the_admin_socket() {
    let issuer = Issuer::new("ES256", "a");
    let daemon = Daemon::start(Setup::new().issuer(&issuer));
    let now = slmd::for_tests::time::now().as_secs();
    // Beyond every token's end.
    let later = now + 7200;
    post(&daemon, "/time/reset", &json!({ "to": later }));
    assert_refused(&ask(&daemon, &issuer), 401, "expired");
    let token = issuer.token(claims());
    let question = json!({"token": token, "transport": "socket", "scope": "read"});
    let explained = post(&daemon, "/keys/explain", &question);
    assert_eq!(explained["verdict"], "expired", "{explained}");
    assert_eq!(explained["genuine"], true);
    let signature = token.rsplit('.').next().expect("a signature");
    assert!(!explained.to_string().contains(signature));
    post(&daemon, "/time/reset", &json!({"to": "now"}));
    assert_eq!(ask(&daemon, &issuer).status, 200);
    let explained = post(&daemon, "/keys/explain", &question);
    assert!(explained["verdict"].is_null(), "{explained}");
    assert_eq!(changes(&daemon, "time_reset").len(), 2);
    let none = http(&daemon.admin(), "POST", "/keys/explain", &[], "{}");
    assert_eq!(none.status, 400, "{none:?}");
}
