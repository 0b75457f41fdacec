//! Notes every token and prompt that the tests use, so that the logs can be searched for them.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use serde_json::{Value, json};

/// Shorter prompts turn up in logs by chance.
const MIN_PROMPT: usize = 16;

/// Where the daemons of the tests log, and the notes lie.
pub fn folder() -> PathBuf {
    let folder = super::target().join("test-logs");
    fs::create_dir_all(&folder).expect("the build folder is writable");
    folder
}

pub fn notes() -> PathBuf {
    folder().join("secrets.jsonl")
}

pub fn token(token: &str) {
    note("token", token);
}

pub fn password(password: &str) {
    note("password", password);
}

pub fn prompt(prompt: &str) {
    if prompt.len() >= MIN_PROMPT {
        note("prompt", prompt);
    }
}

/// Notes the token of an `authorization` value, where it has one.
pub fn authorization(value: &str) {
    if let Some((_, token)) = value.split_once(' ') {
        self::token(token.trim());
    }
}

/// Notes the messages or the prompt of a request's body, and the token of the 3.1.1 form, where it is one.
pub fn body(body: &[u8]) {
    let Ok(body) = serde_json::from_slice::<Value>(body) else {
        return;
    };
    if let Some(value) = body["authorization"].as_str() {
        authorization(value);
    }
    body["prompt"].as_str().into_iter().for_each(prompt);
    for message in body["messages"].as_array().into_iter().flatten() {
        let content = &message["content"];
        let parts = content.as_array().into_iter().flatten();
        let texts = parts.map(|part| &part["text"]).chain([content]);
        texts.filter_map(Value::as_str).for_each(prompt);
    }
}

fn note(kind: &str, text: &str) {
    let line = format!("{}\n", json!({"kind": kind, "text": text}));
    // One write in append mode: tests of several processes may note at once.
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(notes())
        .and_then(|mut file| file.write_all(line.as_bytes()))
        .expect("the build folder is writable");
}
