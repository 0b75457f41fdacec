//! No log line and no span holds a token, a password or a prompt, even at trace level.
//!
//! Every test's daemon logs into one folder, every collector writes what it takes there, and every token
//! and prompt is noted beside them. This
//! test adds the awkward cases itself and searches whatever is there; `make test` runs it once
//! more after all others.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{Collector, Daemon, Issuer, Setup, Span, chat, claims, http, secrets};

/// By so many bytes a needle is looked up. Shorter ones aren't noted.
const KEY: usize = 16;
/// Starts of a token's needles, so that any `KEY + STRIDE - 1` characters of it in a row are found.
const STRIDE: usize = 8;
/// As much of a prompt's beginning as must never be in a log.
const BEGINNING: usize = 24;
/// Requests of [`provoke`]; each leaves a line in the log, and spans.
const ASKED: usize = 6;

#[test]
fn no_log_holds_a_token_or_a_prompt() {
    let collector = Collector::start();
    for format in ["text", "json"] {
        provoke(format, &collector);
    }
    let spans = collector.spans();
    let own = |span: &&Span| span.text("slmd.request_id").is_some();
    assert_eq!(spans.iter().filter(own).count(), 2 * ASKED, "{spans:#?}");
    let needles = Needles::read();
    for kind in ["token", "prompt"] {
        assert!(needles.count(kind) > 0, "the support noted no {kind}");
    }
    let lines = search(&secrets::folder(), &needles).unwrap_or_else(|found| panic!("{found}"));
    assert!(lines >= ASKED, "only {lines} lines were searched");
}

#[test]
fn a_planted_secret_is_found() {
    let issuer = Issuer::new("ES256", "secrets-2");
    let token = issuer.token(claims());
    let prompt = "Never tell \"anyone\" what this planted sentence says.";
    secrets::body(chat(prompt, 1, false).as_bytes());
    let needles = Needles::read();
    let (_, signature) = token.rsplit_once('.').expect("a token has three parts");
    let payload = token.split('.').nth(1).expect("a token has three parts");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = folder.path().join("planted.log");
    let search_in = |line: &str| {
        let text = format!("TRACE all is well\n{line}\nTRACE so it goes\n");
        fs::write(&log, text).expect("a temporary file");
        search(folder.path(), &needles)
    };
    assert_eq!(search_in("TRACE nothing"), Ok(3));
    assert_eq!(search_in(&format!("kid={}", &signature[..15])), Ok(3));
    for (line, kind) in [
        (token.clone(), "token"),
        (format!("token={}", &signature[13..36]), "token"),
        (format!("claims={}...", &payload[100..140]), "token"),
        (format!("{:?}", signature.as_bytes()), "token"),
        (format!("body: {prompt}"), "prompt"),
        (format!("body: {prompt:?}"), "prompt"),
        (format!("payload: {:?}", prompt.as_bytes()), "prompt"),
        (format!("{}...", &prompt[..BEGINNING]), "prompt"),
    ] {
        let found = search_in(&line).expect_err("a planted secret isn't found");
        assert!(
            found.contains("planted.log:2") && found.contains(kind),
            "{found}"
        );
    }
}

/// The number of lines in the folder's logs, or where a secret is in one.
fn search(folder: &Path, needles: &Needles) -> Result<usize, String> {
    let mut searched = 0;
    for entry in fs::read_dir(folder).expect("the folder of logs") {
        let path = entry.expect("a folder entry").path();
        if path.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        let log = fs::read(&path).expect("a log is readable");
        for (index, line) in log.split_inclusive(|byte| *byte == b'\n').enumerate() {
            if let Some(kind) = needles.find(line) {
                let (path, number) = (path.display(), index + 1);
                return Err(format!("{path}:{number}: a {kind} is in the log"));
            }
            searched += 1;
        }
    }
    Ok(searched)
}

/// Good and bad tokens, and bodies that can't be read, each with a secret in it.
fn provoke(format: &str, collector: &Collector) {
    let issuer = Issuer::new("RS256", "secrets-1");
    let stranger = Issuer::new("RS256", "secrets-1");
    let format = format!("log_format = {format:?}\n{}", collector.setting());
    let daemon = Daemon::start(Setup::new().issuer(&issuer).with(&format));
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
    let logged = daemon.log().matches("/v1/chat/completions").count();
    assert!(logged >= ASKED, "the log has {logged} of {ASKED} requests");
    let last = daemon.audit(0).into_iter().rev().find_map(|line| {
        let record: Value = serde_json::from_str(&line).expect("a record");
        record["request_id"].as_str().map(str::to_owned)
    });
    // Spans come in the order of their requests' ends.
    collector.request(&last.expect("a request is on record"));
}

/// What must not be found: kind and text by the text's first bytes.
#[derive(Default)]
struct Needles(HashMap<[u8; KEY], Vec<(String, Vec<u8>)>>);

impl Needles {
    fn read() -> Needles {
        let notes = fs::read_to_string(secrets::notes()).expect("the tests noted secrets");
        let mut needles = Needles::default();
        for line in notes.lines() {
            let note: Value = serde_json::from_str(line).expect("a note is JSON");
            let (kind, text) = (note["kind"].as_str(), note["text"].as_str());
            let (kind, text) = (kind.expect("a kind"), text.expect("a text"));
            match kind {
                "token" => needles.add_token(text),
                _ => needles.add_text(kind, text),
            }
        }
        needles
    }

    /// Claims and signature; a header is no secret.
    fn add_token(&mut self, token: &str) {
        for part in token.split('.').skip(1) {
            let windows = part.as_bytes().windows(KEY).step_by(STRIDE);
            windows.for_each(|window| self.add("token", window));
        }
        let signature = token.rsplit('.').next().unwrap_or_default();
        self.add(
            "token",
            &debug(&signature.as_bytes()[..KEY.min(signature.len())]),
        );
    }

    /// Plain, as in JSON, and as Debug prints bytes.
    fn add_text(&mut self, kind: &str, text: &str) {
        let json = Value::from(text).to_string();
        let json = json.trim_matches('"').as_bytes();
        let beginning = |bytes: &[u8]| bytes[..BEGINNING.min(bytes.len())].to_vec();
        let plain = beginning(text.as_bytes());
        self.add(kind, &debug(&plain));
        self.add(kind, &plain);
        self.add(kind, &beginning(json));
    }

    fn add(&mut self, kind: &str, text: &[u8]) {
        let Some(key) = text.first_chunk::<KEY>() else {
            return;
        };
        let same_key = self.0.entry(*key).or_default();
        if !same_key.iter().any(|(_, known)| known == text) {
            same_key.push((kind.to_owned(), text.to_owned()));
        }
    }

    fn count(&self, kind: &str) -> usize {
        let all = self.0.values().flatten();
        all.filter(|(known, _)| known == kind).count()
    }

    /// What kind of secret the line holds.
    fn find(&self, line: &[u8]) -> Option<&str> {
        line.windows(KEY).enumerate().find_map(|(at, key)| {
            let same_key = self.0.get(key)?;
            let found = same_key
                .iter()
                .find(|(_, text)| line[at..].starts_with(text));
            found.map(|(kind, _)| kind.as_str())
        })
    }
}

/// The bytes as Debug prints a list of them, without its brackets.
fn debug(bytes: &[u8]) -> Vec<u8> {
    let list = format!("{bytes:?}");
    list.trim_matches(['[', ']']).as_bytes().to_vec()
}
