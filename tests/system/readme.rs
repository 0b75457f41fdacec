//! README.md is true: what it tells people to type works as it is written there.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};

use crate::mqtt::until_up;
use crate::support::{Daemon, Issuer, Mosquitto, Setup, claims, root, run, target};

const PATIENCE: Duration = Duration::from_secs(120);
const GGUF: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// The fenced blocks of one language.
pub fn blocks(language: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join("README.md")).expect("README.md is there");
    let fence = format!("```{language}\n");
    let parts = text.split(&fence).skip(1);
    let blocks: Vec<String> = parts
        .map(|part| part.split("```").next().unwrap_or_default().to_owned())
        .collect();
    assert!(!blocks.is_empty(), "README.md has no {language} block");
    blocks
}

/// The words of each line of the shell blocks, without comments and variables set for the command.
fn commands() -> Vec<Vec<String>> {
    let lines = blocks("sh").concat();
    let commands = lines.lines().map(|line| {
        let mut words = words(line);
        let is_variable = |word: &String| word.split('=').next().is_some_and(is_upper);
        let variables = words.iter().take_while(|word| is_variable(word)).count();
        words.drain(..variables);
        words
    });
    commands.filter(|words| !words.is_empty()).collect()
}

fn is_upper(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
}

/// As a shell splits a plain line: spaces, quotes, comments.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            ('#', None) if word.is_none() => break,
            (' ', None) => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

pub fn model_file() -> PathBuf {
    let set = std::env::var_os("SLMD_GGUF").map(PathBuf::from);
    let cache = || {
        let home = PathBuf::from(std::env::var_os("HOME").expect("HOME is set"));
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.unwrap_or_else(|| home.join(".cache"));
        cache.join("slmd").join(GGUF)
    };
    let file = set.unwrap_or_else(cache);
    assert!(
        file.is_file(),
        "{} is missing; run `make model`",
        file.display()
    );
    file
}

#[track_caller]
fn assert_success(command: &Command, output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

/// Runs one of README.md's `slmd` commands against a daemon, in a folder that holds its files.
fn slmd(daemon: &Daemon, folder: &Path, token: &str, words: &[String]) {
    let mut command = daemon.binary();
    let fetched = |word: &String| match word.as_str() {
        "$(models/fetch)" => GGUF.to_owned(),
        "$(slmd audit checkpoint --key)" => {
            let key = daemon.slmd(&["audit", "checkpoint", "--key"]);
            String::from_utf8_lossy(&key.stdout).trim().to_owned()
        }
        _ => word.clone(),
    };
    command.args(words.iter().map(fetched)).current_dir(folder);
    command.env("SLMD_TOKEN", token).env_remove("SLMD_SOCKET");
    match words[0].as_str() {
        "model" => command.args(["--models-dir", "models"]),
        // A terminal would be asked.
        "keys" => command.arg("--yes"),
        "ask" => command.args(["--seed", "0"]),
        // As root.
        "audit" if ["checkpoint", "prove"].contains(&words[1].as_str()) => {
            command.env_remove("SLMD_TOKEN")
        }
        _ => &mut command,
    };
    let output = run(&mut command, b"", PATIENCE);
    assert_success(&command, &output);
    if words[0] == "ask" {
        let answer = String::from_utf8_lossy(&output.stdout);
        assert!(answer.contains("Tokyo"), "{answer}");
    }
}

/// Asks over MQTT, as a shell would with the token.
fn mosquitto_rr(broker: &Mosquitto, token: &str, words: &[String]) {
    let mut command = Command::new("mosquitto_rr");
    command.args(words.iter().map(|word| word.replace("$SLMD_TOKEN", token)));
    command.args(["-p", &broker.port().to_string()]);
    let output = run(&mut command, b"", PATIENCE);
    assert_success(&command, &output);
    let answer: Value = serde_json::from_slice(&output.stdout).expect("an answer");
    assert_eq!(answer["object"], "chat.completion", "{answer}");
}

/// Prints what make would do, which needs every target and file that it names.
fn make(words: &[String]) {
    let mut command = Command::new("make");
    command.arg("-n").args(words).current_dir(root());
    for inherited in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL"] {
        command.env_remove(inherited);
    }
    let output = run(&mut command, b"", PATIENCE);
    assert_success(&command, &output);
}

/// A daemon with README.md's realm and endpoint.
fn prod(issuer: &Issuer) -> Setup {
    let realm = "name = \"prod\"\ndefault_endpoint = \"slm-chat\"\n\
                 [[endpoint]]\nclient_id = \"slm-chat\"\nmodel = \"smollm2-135m-instruct\"\n";
    Setup::new().realm(realm).keys("prod", &issuer.jwks())
}

/// What a token says that opens it.
pub fn prods_claims() -> Value {
    let mut claims = claims();
    claims["aud"] = json!(["slm-chat"]);
    claims["resource_access"] = json!({"slm-chat": {"roles": ["read", "audit"]}});
    claims
}

#[test]
fn every_command_works() {
    let issuer = Issuer::new("ES256", "key-1");
    let broker = Mosquitto::start();
    let daemon = Daemon::start(prod(&issuer).broker(&broker));
    until_up(&broker);
    let folder = tempfile::tempdir().expect("a temporary folder");
    symlink(model_file(), folder.path().join(GGUF)).expect("a link can be made");
    fs::write(folder.path().join("jwks.json"), issuer.jwks()).expect("a file can be written");
    let token = issuer.token(prods_claims());

    let commands = commands();
    let mut programs: Vec<&str> = commands.iter().map(|words| words[0].as_str()).collect();
    for words in &commands {
        match words[0].as_str() {
            "make" => make(&words[1..]),
            "slmd" => slmd(&daemon, folder.path(), &token, &words[1..]),
            "mosquitto_rr" => mosquitto_rr(&broker, &token, &words[1..]),
            "systemctl" => {
                for unit in words.iter().filter(|word| word.starts_with("slmd.")) {
                    let file = root().join("systemd").join(unit);
                    assert!(file.is_file(), "there is no unit {unit}");
                }
            }
            // `newcomer.rs` types all of them.
            "editor" | "usermod" => {}
            other => panic!("README.md names {other}, which this test doesn't know"),
        }
    }
    programs.sort_unstable();
    programs.dedup();
    assert_eq!(
        programs,
        [
            "editor",
            "make",
            "mosquitto_rr",
            "slmd",
            "systemctl",
            "usermod"
        ]
    );
}

/// The example's one line of installation is enough: `openai` itself requires what it imports.
const BROUGHT: &str = "\
import importlib.metadata, os
assert any(name.startswith('httpx2') for name in importlib.metadata.requires('openai'))
";

#[test]
fn the_python_example_works() {
    let issuer = Issuer::new("ES256", "key-1");
    let daemon = Daemon::start(prod(&issuer));
    let socket = daemon.socket();
    let socket = socket.to_str().expect("a path of this test");
    for block in blocks("python") {
        let (path, model) = ("/run/slmd/slmd.sock", "model=\"slm-chat\"");
        assert!(block.contains(path) && block.contains(model), "{block}");
        let short = format!("{model}, max_completion_tokens=16");
        let block = block.replace(path, socket).replace(model, &short);
        assert!(block.contains("# pip install openai "), "{block}");
        let program = format!("{BROUGHT}token = os.environ['TOKEN']\n{block}");
        let mut command = Command::new(target().join("venv/bin/python"));
        command.args(["-c", &program]);
        command.env("TOKEN", issuer.token(prods_claims()));
        let output = run(&mut command, b"", PATIENCE);
        assert_success(&command, &output);
    }
    let audit = daemon.audit(0).join("\n");
    assert!(audit.contains("\"finish\""), "{audit}");
}

#[test]
fn lines_are_split_as_a_shell_does() {
    let split = words("A=b slmd ask \"What is it?\" 'a # b' x#y  # a comment");
    assert_eq!(split, ["A=b", "slmd", "ask", "What is it?", "a # b", "x#y"]);
    assert!(words("# nothing").is_empty());
}
