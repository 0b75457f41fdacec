//! `slmd ask` and `slmd endpoints` as a person runs them: how a token is handed in, and what is said
//! where it, or the endpoint, isn't right.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Daemon, Exchange, Issuer, Setup, claims, run, secrets, send};

const PATIENCE: Duration = Duration::from_secs(60);
const FAILED: i32 = 1;
const REFUSED: i32 = 3;
/// A group of every Debian that nothing else here is in.
const GROUP: &str = "games";
const QUESTION: &str = "What is the capital of Denmark?";

/// The realm's endpoints are `slm`, its default, and `other`.
fn started() -> (Issuer, Daemon) {
    let issuer = Issuer::new("ES256", "key-1");
    let endpoints = "endpoint = [
        {client_id = \"slm\", model = \"smollm2-135m-instruct\"},
        {client_id = \"other\", model = \"smollm2-135m-instruct\"},
    ]";
    let daemon = Daemon::start(Setup::new().realm(endpoints).issuer(&issuer));
    (issuer, daemon)
}

/// Claims that open these endpoints.
fn opening(endpoints: &[&str]) -> Value {
    let mut claims = claims();
    claims["aud"] = endpoints.into();
    for endpoint in endpoints {
        claims["resource_access"][endpoint] = json!({"roles": ["read"]});
    }
    claims
}

/// A command of somebody who has nothing in the environment and hasn't logged in.
fn person(mut command: Command, home: &Path) -> Command {
    command.env("XDG_STATE_HOME", home);
    for name in ["SLMD_TOKEN", "SLMD_TOKEN_FILE", "SLMD_SOCKET"] {
        command.env_remove(name);
    }
    command
}

fn ask(daemon: &Daemon, home: &Path) -> Command {
    secrets::prompt(QUESTION);
    let mut ask = person(daemon.binary(), home);
    ask.args(["ask", "--max-tokens", "2", "--temperature", "0"]);
    ask.arg(QUESTION);
    ask
}

fn done(command: &mut Command) -> Output {
    run(command, b"", PATIENCE)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// What was said on the way out.
#[track_caller]
fn ended(output: &Output, code: i32) -> String {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

#[test]
fn a_token_is_taken_as_people_have_it() {
    let (issuer, daemon) = started();
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("token");
    let token = issuer.token(claims());
    let answer = json!({"access_token": token, "expires_in": 300, "token_type": "Bearer"});
    for handed_in in [
        format!("{token}\n"),
        format!("Bearer {token}\n"),
        answer.to_string(),
    ] {
        fs::write(&file, &handed_in).unwrap();
        succeeded(&done(
            ask(&daemon, home.path()).arg("--token-file").arg(&file),
        ));
        succeeded(&done(
            ask(&daemon, home.path()).env("SLMD_TOKEN", handed_in.trim()),
        ));
        let mut piped = ask(&daemon, home.path());
        piped.args(["--token-file", "-"]);
        succeeded(&run(&mut piped, handed_in.as_bytes(), PATIENCE));
        let mut explain = person(daemon.binary(), home.path());
        explain.args(["keys", "explain"]);
        succeeded(&run(&mut explain, handed_in.as_bytes(), PATIENCE));
    }
}

/// Nor is another one looked for in its place.
#[test]
fn what_holds_no_token_is_refused_in_words() {
    let (issuer, daemon) = started();
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("token");
    let token = issuer.token(claims());
    for (handed_in, expected) in [
        ("\n", "is empty"),
        (
            "{\"error\":\"invalid_grant\"}",
            "Keycloak's refusal instead of a token: invalid_grant",
        ),
    ] {
        fs::write(&file, handed_in).unwrap();
        let mut by_file = ask(&daemon, home.path());
        by_file.arg("--token-file").arg(&file);
        let said = ended(&done(by_file.env("SLMD_TOKEN", &token)), FAILED);
        assert!(said.contains(&format!("{}", file.display())), "{said}");
        assert!(said.contains(expected), "{said}");
        let mut by_variable = ask(&daemon, home.path());
        let said = ended(&done(by_variable.env("SLMD_TOKEN", handed_in)), FAILED);
        assert!(
            said.contains("SLMD_TOKEN") && said.contains(expected),
            "{said}"
        );
    }
}

#[test]
fn without_a_token_the_ways_to_one_are_said_where_no_group_is_enough() {
    let (_, daemon) = started();
    let home = tempfile::tempdir().unwrap();
    let as_group = |command: &Command| {
        let mut other = Command::new("setpriv");
        other.args(["--regid", GROUP, "--clear-groups"]);
        other.arg(command.get_program()).args(command.get_args());
        person(other, home.path())
    };
    let all_ways = |said: &str| {
        for way in ["slmd login", "--token-file", "SLMD_TOKEN"] {
            assert!(said.contains(way), "{said}");
        }
    };
    let said = ended(&done(&mut ask(&daemon, home.path())), REFUSED);
    assert!(said.contains("token_missing"), "{said}");
    all_ways(&said);

    let file = daemon.config_path();
    let before = fs::read_to_string(&file).unwrap();
    let after = format!("{before}\n[realm.local_groups]\n{GROUP} = [\"read\"]\n");
    fs::write(&file, after).unwrap();
    succeeded(&daemon.slmd(&["reload"]));
    succeeded(&done(&mut as_group(&ask(&daemon, home.path()))));
    let mut endpoints = daemon.binary();
    endpoints.arg("endpoints");
    let listed = succeeded(&done(&mut as_group(&endpoints)));
    assert_eq!(listed, "slm\nother\n");
    // Root is in no group that is listed.
    let said = ended(&done(&mut ask(&daemon, home.path())), REFUSED);
    assert!(said.contains("peer_not_allowed"), "{said}");
    all_ways(&said);
}

#[test]
fn each_token_lists_the_endpoints_that_it_opens() {
    let (issuer, daemon) = started();
    let home = tempfile::tempdir().unwrap();
    let list = |endpoints: &[&str], arguments: &[&str]| {
        let mut list = person(daemon.binary(), home.path());
        list.arg("endpoints").args(arguments);
        done(list.env("SLMD_TOKEN", issuer.token(opening(endpoints))))
    };
    assert_eq!(succeeded(&list(&["slm", "other"], &[])), "slm\nother\n");
    let as_json: Value = serde_json::from_str(&succeeded(&list(&["other"], &["--json"]))).unwrap();
    assert_eq!(as_json, json!({"endpoints": [{"name": "other"}]}));
    let said = ended(&list(&["account"], &[]), REFUSED);
    assert!(said.contains("audience_mismatch"), "{said}");
}

#[test]
fn a_wrong_endpoint_is_named_with_those_that_the_token_opens() {
    let (issuer, daemon) = started();
    let home = tempfile::tempdir().unwrap();
    let refused = |endpoints: &[&str], model: &str| {
        let mut ask = ask(&daemon, home.path());
        ask.args(["--model", model]);
        ask.env("SLMD_TOKEN", issuer.token(opening(endpoints)));
        ended(&done(&mut ask), REFUSED)
    };
    let said = refused(&["slm", "other"], "othre2");
    assert!(said.contains("endpoint_unknown: `othre2`"), "{said}");
    assert!(
        said.contains("you may ask slm, other; did you mean other?"),
        "{said}"
    );
    let said = refused(&["slm"], "othr");
    assert!(said.contains("`othr`"), "{said}");
    assert!(said.trim_end().ends_with("you may ask slm"), "{said}");
    let said = refused(&["slm"], "other");
    assert!(said.contains("audience_mismatch"), "{said}");
    assert!(said.trim_end().ends_with("you may ask slm"), "{said}");
    // Who may ask nothing is told what the daemon says, and no name.
    let said = refused(&["account"], "smol");
    assert!(!said.contains("you may ask"), "{said}");
}

/// Runs the command with all its output at a terminal, which is read from standard output.
fn at_a_terminal(command: &Command) -> Child {
    let quoted = |word: &OsStr| format!("'{}'", word.to_str().expect("no quotes, all UTF-8"));
    let words: Vec<String> = [command.get_program()]
        .into_iter()
        .chain(command.get_args())
        .map(quoted)
        .collect();
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &words.join(" ")]);
    script.arg("/dev/null");
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => script.env(name, value),
            None => script.env_remove(name),
        };
    }
    // Its end would be typed on the terminal.
    script.stdin(Stdio::piped()).stdout(Stdio::piped());
    script.spawn().expect("bsdutils is there")
}

/// Others' answers, each of a principal of its own and longer than any test waits.
fn busy(daemon: &Daemon, issuer: &Issuer, others: &[&str]) -> Vec<Exchange> {
    let answers = others.iter().map(|subject| {
        let mut claims = claims();
        claims["sub"] = (*subject).into();
        let bearer = format!("Bearer {}", issuer.token(claims));
        // A song that has no reason to end.
        let body = json!({
            "prompt": "la la la ".repeat(12), "max_tokens": 1900, "temperature": 0, "stream": true,
        });
        let body = body.to_string();
        let headers = [("authorization", bearer.as_str())];
        let sent = send(&daemon.socket(), "POST", "/v1/completions", &headers, &body);
        sent.expect("the daemon answers")
    });
    answers.collect()
}

/// In a comment of the stream, which a person's terminal shows as a line until the answer comes.
#[test]
fn who_waits_is_told_their_place() {
    let (issuer, daemon) = started();
    let home = tempfile::tempdir().unwrap();
    let mut others = busy(&daemon, &issuer, &["one", "two", "three"]);
    let mut heard = String::new();
    while !heard.contains(": queued 2\n\n") {
        let chunk = others[2].chunk().unwrap().unwrap();
        heard.push_str(&String::from_utf8(chunk).unwrap());
    }
    let mut ask = ask(&daemon, home.path());
    ask.env("SLMD_TOKEN", issuer.token(claims()));
    let mut process = at_a_terminal(&ask);
    let mut shown = process.stdout.take().unwrap();
    let mut seen = Vec::new();
    while !text(&seen).contains("\r3rd in the queue") {
        let mut byte = [0];
        assert_eq!(shown.read(&mut byte).unwrap(), 1, "{}", text(&seen));
        seen.extend(byte);
    }
    drop(others);
    shown.read_to_end(&mut seen).unwrap();
    assert!(process.wait().unwrap().success(), "{}", text(&seen));
    let seen = text(&seen);
    let line = "3rd in the queue";
    let (_, after) = seen.rsplit_once(" in the queue").unwrap();
    let blank = " ".repeat(line.len());
    let answer = after.strip_prefix(&format!("\r{blank}\r")).expect(&seen);
    let mut piped = self::ask(&daemon, home.path());
    let piped = done(piped.env("SLMD_TOKEN", issuer.token(claims())));
    let expected = succeeded(&piped) + &text(&piped.stderr);
    assert_eq!(answer.replace("\r\n", "\n"), expected);
}
