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

/// Notes the messages of a chat request's body, where it is one.
pub fn body(body: &[u8]) {
    let Ok(body) = serde_json::from_slice::<Value>(body) else {
        return;
    };
    for message in body["messages"].as_array().into_iter().flatten() {
        if let Some(text) = message["content"].as_str() {
            prompt(text);
        }
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
