//! The arm64 binary, run by an emulator: the whole daemon with the real model takes the kernels that
//! each kind of CPU is meant to get, and answers as the host does with its own.
//!
//! `make test-cross` builds the binary and runs this; plain `cargo test` doesn't, because not every
//! machine may take arm64 packages.

#[path = "system/support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};

use support::{Daemon, Issuer, Setup, claims, run, send};

const EMULATOR: [&str; 2] = ["qemu-aarch64-static", "-cpu"];
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

/// The README's, asked as it is there, without instructions.
const README: &str = "What is the capital of Japan?";

/// Questions with a clear answer: the products are the same bits in all families of vector kernels,
/// but norms and activations are rounded differently, which a near tie would show.
const QUESTIONS: [&str; 7] = [
    README,
    "What is the capital city of France?",
    "What is the capital city of Italy?",
    "What is the color of snow?",
    "What is the boiling point of water in Celsius?",
    "What is the largest ocean?",
    "Name the planet we live on.",
];

/// The answers to all questions, and what the daemon has logged.
fn answers(setup: Setup) -> (Vec<String>, String) {
    let issuer = Issuer::new("ES256", "key-1");
    let mut daemon = Daemon::start(setup.issuer(&issuer));
    let bearer = format!("Bearer {}", issuer.token(claims()));
    let texts = QUESTIONS.map(|question| answer(&daemon, &bearer, question));
    assert!(daemon.terminate().success());
    (texts.into(), daemon.log())
}

/// The answer's text, streamed, so that each silence is short even where the whole takes long.
fn answer(daemon: &Daemon, bearer: &str, question: &str) -> String {
    let mut messages = vec![json!({"role": "user", "content": question})];
    if question != README {
        let brief = json!({"role": "system", "content": "Answer in one short sentence."});
        messages.insert(0, brief);
    }
    let body = json!({
        "messages": messages,
        "max_completion_tokens": 12,
        "temperature": 0,
        "stream": true,
    });
    let headers = [("authorization", bearer)];
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
    assert!(finish == "stop" || finish == "length", "{finish}: {text}");
    text
}

/// The host's answers, with its vector kernels.
fn expected() -> &'static [String] {
    static EXPECTED: OnceLock<Vec<String>> = OnceLock::new();
    EXPECTED.get_or_init(|| {
        let (texts, log) = answers(Setup::new().with("[engine]\nkernels = \"avx2\"\n"));
        assert!(log.contains("kernels=\"avx2\""), "{log}");
        assert!(
            texts[0].starts_with("The capital of Japan is Tokyo"),
            "{texts:?}"
        );
        texts
    })
}

fn it_answers_as_the_host_does(cpu: &str, kernels: &str) {
    let binary = binary();
    let mut program: Vec<&Path> = EMULATOR.iter().map(Path::new).collect();
    program.extend([Path::new(cpu), &binary]);
    let (texts, log) = answers(Setup::new().program(&program).patience(PATIENCE));
    assert!(log.contains(&format!("kernels=\"{kernels}\"")), "{log}");
    assert_eq!(texts, expected());
}

/// What a Raspberry Pi 4 has.
#[test]
fn neon() {
    it_answers_as_the_host_does("cortex-a72", "neon");
}

/// What a Raspberry Pi 5 has.
#[test]
fn neon_with_dot_products() {
    it_answers_as_the_host_does("cortex-a76", "neon-dotprod");
}

#[test]
fn neon_with_matrix_products() {
    it_answers_as_the_host_does("max", "neon-i8mm");
}

#[test]
fn it_says_its_version() {
    let mut command = Command::new(EMULATOR[0]);
    command.args([EMULATOR[1], "cortex-a72"]);
    command.arg(binary()).arg("--version");
    let output = run(&mut command, b"", PATIENCE);
    let version = concat!("slmd ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(String::from_utf8_lossy(&output.stdout), version);
}
