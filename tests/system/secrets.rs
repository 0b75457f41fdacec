//! No log line holds a token, a password or a prompt, even at trace level.
//!
//! Every test's daemon logs into one folder and every token and prompt is noted beside them. This
//! test adds the awkward cases itself and searches whatever is there; `make test` runs it once
//! more after all others.

use std::collections::HashSet;
use std::fs;

use serde_json::Value;

use crate::support::{Daemon, Issuer, Setup, chat, claims, http, secrets};

/// As much of a signature as must never be in a log.
const WINDOW: usize = 20;

#[test]
fn no_log_holds_a_token_or_a_prompt() {
    provoke();
    let needles = Needles::read();
    assert!(!needles.signatures.is_empty() && !needles.texts.is_empty());
    let mut searched = 0;
    for entry in fs::read_dir(secrets::folder()).expect("the folder of logs") {
        let path = entry.expect("a folder entry").path();
        if path.extension().is_some_and(|extension| extension == "log") {
            let log = fs::read(&path).expect("a log is readable");
            let log = String::from_utf8_lossy(&log);
            for (number, line) in log.lines().enumerate() {
                let found = needles.find(line);
                assert!(
                    found.is_none(),
                    "{}:{}: a {} is in the log",
                    path.display(),
                    number + 1,
                    found.unwrap_or_default()
                );
            }
            searched += log.lines().count();
        }
    }
    assert!(
        searched > 100,
        "the daemons of the tests log at trace level"
    );
}

#[test]
fn the_search_finds_what_it_looks_for() {
    let notes = [
        r#"{"kind":"token","text":"aa.bb.abcdefghijklmnopqrstuvwxyz0123456789"}"#,
        r#"{"kind":"prompt","text":"say \"nothing\" to anyone"}"#,
    ];
    let needles = Needles::parse(&notes.join("\n"));
    assert_eq!(needles.find("token=ghijklmnopqrstuvwxyz"), Some("token"));
    assert_eq!(needles.find("token=ghijklmnopqrstuvwxy"), None);
    assert_eq!(needles.find(r#"{say "nothing" to anyone}"#), Some("prompt"));
    assert_eq!(needles.find(r#"say \"nothing\" to anyone"#), Some("prompt"));
    let bytes: Vec<u8> = b"say \"nothing\" to anyone".to_vec();
    assert_eq!(needles.find(&format!("payload: {bytes:?}")), Some("prompt"));
}

/// Good and bad tokens, and bodies that can't be read, each with a secret in it.
fn provoke() {
    let issuer = Issuer::new("RS256", "secrets-1");
    let stranger = Issuer::new("RS256", "secrets-1");
    let daemon = Daemon::start(Setup::new().issuer(&issuer));
    let body = chat("Please keep this sentence to yourself.", 8, false);
    let good = issuer.token(claims());
    assert_eq!(daemon.chat(&good, &body).status, 200);

    let mut expired = claims();
    expired["exp"] = 1.into();
    for token in [
        issuer.token(expired),
        stranger.token(claims()),
        issuer.token_with(serde_json::json!({"alg": "none"}), claims()),
    ] {
        assert_eq!(daemon.chat(&token, &body).status, 401);
    }
    let broken = body.replace("\"stream\":false", "\"stream\":fal");
    assert_eq!(daemon.chat(&good, &broken).status, 400);
    let headers = [("authorization", good.as_str())];
    let path = format!("/v1/chat/completions?access_token={good}");
    let response = http(&daemon.socket(), "POST", &path, &headers, &body);
    assert!((400..500).contains(&response.status), "{}", response.status);
}

struct Needles {
    /// Every stretch of [`WINDOW`] characters of every token's signature.
    signatures: HashSet<String>,
    /// Kind and text: plain, as in JSON, and as Debug prints bytes.
    texts: Vec<(String, String)>,
}

impl Needles {
    fn read() -> Needles {
        Needles::parse(&fs::read_to_string(secrets::notes()).expect("the tests noted secrets"))
    }

    fn parse(notes: &str) -> Needles {
        let mut signatures = HashSet::new();
        let mut texts = HashSet::new();
        for line in notes.lines() {
            let note: Value = serde_json::from_str(line).expect("a note is JSON");
            let (kind, text) = (&note["kind"], note["text"].as_str().expect("a text"));
            if kind == "token" {
                let signature = text.rsplit('.').next().unwrap_or_default();
                let windows = signature.as_bytes().windows(WINDOW);
                signatures.extend(windows.map(|w| String::from_utf8_lossy(w).into_owned()));
                continue;
            }
            let kind = kind.as_str().expect("a kind");
            let json = Value::from(text).to_string();
            let bytes = format!("{:?}", text.as_bytes());
            for form in [text, json.trim_matches('"'), bytes.trim_matches(['[', ']'])] {
                texts.insert((kind.to_owned(), form.to_owned()));
            }
        }
        let texts = texts.into_iter().collect();
        Needles { signatures, texts }
    }

    /// What kind of secret the line holds.
    fn find(&self, line: &str) -> Option<&str> {
        let base64 = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let token = line.split(|c| !base64(c)).any(|run| {
            let windows = run.as_bytes().windows(WINDOW);
            windows
                .filter_map(|w| std::str::from_utf8(w).ok())
                .any(|w| self.signatures.contains(w))
        });
        if token {
            return Some("token");
        }
        let found = self.texts.iter().find(|(_, text)| line.contains(text));
        found.map(|(kind, _)| kind.as_str())
    }
}
