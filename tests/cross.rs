//! The arm64 binary, run by an emulator: the whole daemon with the real model answers as the
//! host's does with the portable kernels.
//!
//! `make test-cross` builds the binary and runs this; plain `cargo test` doesn't, because not every
//! machine may take arm64 packages.

// A test binary exports nothing: `pub` is between its own modules.
#![allow(unreachable_pub)]

#[path = "system/support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use support::{Daemon, Issuer, Setup, claims, run, send};

/// What a Raspberry Pi 4 has.
const EMULATOR: [&str; 3] = ["qemu-aarch64-static", "-cpu", "cortex-a72"];
/// An emulated CPU is some thirty times slower, and checks a model of 98 MB when it starts.
const PATIENCE: Duration = Duration::from_secs(300);

/// Next to this build's own.
fn binary() -> PathBuf {
    let own = Path::new(env!("CARGO_BIN_EXE_slmd"));
    let build = own.ancestors().nth(2).expect("a profile's folder is in it");
    let binary = build.join("aarch64-unknown-linux-gnu/debug/slmd");
    assert!(
        binary.exists(),
        "{} is missing; run `make test-cross`",
        binary.display()
    );
    binary
}

/// The answer's text, streamed, so that each silence is short even where the whole takes long.
fn answer(setup: Setup) -> String {
    let issuer = Issuer::new("ES256", "key-1");
    let portable = "[engine]\nkernels = \"scalar\"\n";
    let mut daemon = Daemon::start(setup.issuer(&issuer).with(portable));
    let body = json!({
        "messages": [
            {"role": "system", "content": "You answer questions about geography in one short sentence."},
            {"role": "user", "content": "What is the capital city of France?"},
        ],
        "max_completion_tokens": 24,
        "temperature": 0,
        "stream": true,
    });
    let bearer = format!("Bearer {}", issuer.token(claims()));
    let headers = [("authorization", bearer.as_str())];
    let path = "/v1/chat/completions";
    let mut exchange = send(&daemon.socket(), "POST", path, &headers, &body.to_string())
        .expect("the daemon takes a prompt");
    assert_eq!(exchange.status, 200);
    let (mut text, mut finish) = (String::new(), Value::Null);
    while let Some(event) = exchange.event().expect("the stream goes on") {
        if event == "[DONE]" {
            continue;
        }
        let event: Value = serde_json::from_str(&event).expect("an event is JSON");
        let choice = &event["choices"][0];
        text.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
        if !choice["finish_reason"].is_null() {
            finish = choice["finish_reason"].clone();
        }
    }
    assert_eq!(finish, "stop", "{text}");
    assert!(daemon.terminate().success());
    text
}

#[test]
fn it_says_its_version() {
    let mut command = Command::new(EMULATOR[0]);
    command.args(&EMULATOR[1..]).arg(binary()).arg("--version");
    let output = run(&mut command, b"", PATIENCE);
    let version = concat!("slmd ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(String::from_utf8_lossy(&output.stdout), version);
}

#[test]
fn it_answers_as_the_host_does() {
    let binary = binary();
    let mut program: Vec<&Path> = EMULATOR.iter().map(Path::new).collect();
    program.push(&binary);
    let emulated = answer(Setup::new().program(&program).patience(PATIENCE));
    assert_eq!(emulated, answer(Setup::new()));
    assert_eq!(emulated.trim(), "The capital city of France is Paris.");
}
