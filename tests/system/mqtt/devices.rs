//! What a device maker takes from `deploy/mqtt`: the clients, at a broker that is set up as it says
//! there, and what this broker keeps from a device.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{ANSWER, CONNECT, succeeded};
use crate::support::{
    Ca, Daemon, Holder, Issuer, Mosquitto, Setup, chat, claims, exit, root, run, secrets, target,
    within,
};

const QUESTION: &str = "Name three colours of the rainbow, please.";
const CLIENTS: [&str; 3] = ["device.py", "device.mjs", "device.c"];

/// A broker with users, and an appliance as one of them.
struct Site {
    ca: Ca,
    issuer: Issuer,
    holder: Holder,
    broker: Mosquitto,
    daemon: Daemon,
    /// With the clients as a device has them.
    folder: TempDir,
}

impl Site {
    fn start(toml: &str) -> Site {
        let (ca, issuer) = (Ca::new("brokers"), Issuer::new("ES256", "site-1"));
        let certificate = ca.issue("broker");
        let broker = Mosquitto::deployed(&certificate, &["edge-1", "device-1", "device-2"]);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let password = folder.path().join("password");
        fs::write(&password, Mosquitto::password("edge-1")).expect("a temporary file");
        fs::set_permissions(&password, Permissions::from_mode(0o600)).expect("it is ours");
        let mqtt = format!(
            "[mqtt]\nurl = \"mqtts://localhost:{}\"\nusername = \"edge-1\"\n\
             password_file = {password:?}\n[mqtt.tls]\nca_file = {:?}\n",
            broker.port(),
            ca.file()
        );
        let setup = Setup::new().issuer(&issuer).with(&mqtt).with(toml);
        let daemon = Daemon::start(setup);
        let site = Site {
            holder: Holder::new(),
            ca,
            issuer,
            broker,
            daemon,
            folder,
        };
        site.until_up();
        site
    }

    /// Its subscriptions are in force once it says so.
    fn until_up(&self) {
        let port = self.broker.port().to_string();
        within(CONNECT, "the appliance's status", || {
            let mut command = Command::new("mosquitto_sub");
            command.args(["-h", "localhost", "-p", &port, "-u", "device-1"]);
            command.args(["-P", &Mosquitto::password("device-1"), "--cafile"]);
            command.arg(self.ca.file());
            command.args(["-C", "1", "-W", "2", "-t", "slm/edge-1/status"]);
            let output = run(&mut command, b"", CONNECT);
            let status: Value = serde_json::from_slice(&output.stdout).ok()?;
            (status["status"] == "up").then_some(())
        });
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn ask(&self, client: &str, token: &str, bound: bool) -> Output {
        run(&mut self.command(client, token, bound), b"", ANSWER)
    }

    /// One of the clients, of which a device has made what it needs.
    fn command(&self, client: &str, token: &str, bound: bool) -> Command {
        secrets::prompt(QUESTION);
        let port = self.broker.port().to_string();
        let mut command = program(client, self.folder.path());
        match client {
            "device.c" => command.args(["localhost", &port]),
            _ => command.arg(format!("mqtts://localhost:{port}")),
        };
        command.args(["edge-1", "device-1", QUESTION]);
        command.env("MQTT_PASSWORD", Mosquitto::password("device-1"));
        command.env("MQTT_CA_FILE", self.ca.file());
        command.env("SLMD_TOKEN", token);
        if bound {
            let key = self.path("key.pem");
            fs::write(&key, self.holder.pem()).expect("a temporary file");
            command.env("SLMD_DPOP_KEY", key);
        }
        command
    }

    /// Answers over MQTT with this status.
    fn answered(&self, status: u16) -> u64 {
        let metrics = self.daemon.admin_http("GET", "/metrics", "").body;
        let name = format!("slmd_mqtt_requests_total{{status=\"{status}\"}} ");
        let count = metrics.lines().find_map(|line| line.strip_prefix(&name));
        count.map_or(0, |count| count.parse().expect("a number"))
    }
}

/// The client, ready to be run in this folder.
pub fn program(client: &str, folder: &Path) -> Command {
    let source = root().join("deploy/mqtt/clients").join(client);
    match client {
        "device.py" => {
            let mut python = Command::new(target().join("venv/bin/python"));
            python.arg(source);
            python
        }
        "device.mjs" => {
            let program = folder.join(client);
            let modules = target().join("node/node_modules");
            if !program.exists() {
                fs::copy(source, &program).expect("a temporary file");
                symlink(modules, folder.join("node_modules")).expect("a link can be made");
            }
            let mut node = Command::new("node");
            node.arg(program);
            node
        }
        _ => {
            let program = folder.join("device");
            let mut cc = Command::new("cc");
            cc.args(["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-o"]);
            cc.arg(&program)
                .arg(source)
                .args(["-lmosquitto", "-lcjson"]);
            succeeded(&run(&mut cc, b"", ANSWER));
            Command::new(program)
        }
    }
}

#[track_caller]
fn said(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("text")
}

#[test]
fn each_client_prints_the_answer() {
    let site = Site::start("");
    let token = site.issuer.token(claims());
    let answer = said(&site.ask("device.py", &token, false));
    assert!(answer.trim().len() > 10, "{answer}");
    for client in &CLIENTS[1..] {
        assert_eq!(said(&site.ask(client, &token, false)), answer, "{client}");
    }
    let bound = site.holder.token(&site.issuer);
    for client in &CLIENTS[..2] {
        assert_eq!(said(&site.ask(client, &bound, true)), answer, "{client}");
        let unproven = site.ask(client, &bound, false);
        assert!(!unproven.status.success(), "{client}");
        let why = String::from_utf8_lossy(&unproven.stderr).into_owned();
        assert!(why.contains("proof_missing"), "{client}: {why}");
    }
    // Both have read the nonce before: what is refused has no proof.
    assert_eq!(site.answered(401), 2);
}

/// Whoever asks beside it takes its turns until it has been refused once.
#[test]
fn each_client_comes_again_when_it_is_told_to() {
    let site = Site::start("[admission]\nprompts_per_minute = 30\n");
    let token = site.issuer.token(claims());
    let short = chat("Say one word, any word.", 1, false);
    for client in CLIENTS {
        while site.daemon.chat(&token, &short).status != 429 {}
        let before = site.answered(429);
        let mut command = site.command(client, &token, false);
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let child = child.expect("it is there");
        within(ANSWER, "its refusal", || {
            site.daemon.chat(&token, &short);
            (site.answered(429) > before).then_some(())
        });
        let output = child
            .wait_with_output()
            .expect("our own child can be waited for");
        assert!(said(&output).trim().len() > 10, "{client}");
    }
}

#[test]
fn each_client_outlives_a_restart_of_the_broker() {
    let mut site = Site::start("");
    let token = site.issuer.token(claims());
    let answer = said(&site.ask("device.py", &token, false));
    for client in CLIENTS {
        let mut command = site.command(client, &token, false);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it is there");
        let mut stdout = child.stdout.take().expect("piped above");
        let mut said = vec![0];
        stdout.read_exact(&mut said).expect("the answer begins");
        site.broker.restart();
        stdout.read_to_end(&mut said).expect("text");
        let status = exit(&mut child, ANSWER).expect("it ends");
        let said = String::from_utf8(said).expect("text");
        assert!(status.success(), "{client}: {said}");
        assert_eq!(said, answer, "{client}");
    }
}

const MAY: [&str; 3] = [
    "slm/edge-1/v1/chat/completions",
    "slm/edge-1/v1/completions/cancel",
    "slm/edge-1/v1/chat/completions/device-2/7",
];
const MAY_NOT: [&str; 10] = [
    "slm/edge-1/v1/chat/completions/device-1/7",
    "slm/edge-1/v1/models",
    "slm/edge-1/reply/device-1/1",
    "slm/edge-1/reply/device-2/1",
    "slm/edge-1/status",
    "slm/edge-1/nonce",
    "slm/edge-1/trust",
    "slm/edge-2/v1/chat/completions",
    "subscribed/1",
    "elsewhere",
];
/// MQTT 5 section 3.4.2.1 and 3.2.2.2.
const NOT_AUTHORIZED: u64 = 135;

#[test]
fn a_device_may_ask_and_hears_its_own_answers_only() {
    let site = Site::start("[mqtt]\nreport = true\n");
    let mut device = Command::new(target().join("venv/bin/python"))
        .arg(root().join("tests/clients/mqtt_acl.py"))
        .arg(site.broker.port().to_string())
        .arg(site.ca.file())
        .arg("device-2")
        .args(MAY.iter().chain(&MAY_NOT))
        .env("MQTT_PASSWORD", Mosquitto::password("device-2"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the Python clients are installed; run `make venv`");
    let mut stdout = BufReader::new(device.stdout.take().expect("piped above"));
    let mut line = String::new();
    stdout
        .read_line(&mut line)
        .expect("the script prints a line");
    let tried: Value = serde_json::from_str(&line).expect("the script prints JSON");
    assert_eq!(
        tried["connects"],
        json!([NOT_AUTHORIZED, NOT_AUTHORIZED, 0])
    );
    for topic in MAY {
        let code = tried["publishes"][topic].as_u64();
        assert!(code.is_some_and(|code| code < 128), "{topic}: {tried}");
    }
    for topic in MAY_NOT {
        assert_eq!(tried["publishes"][topic], NOT_AUTHORIZED, "{topic}");
    }

    // Another's answer goes by.
    let token = site.issuer.token(claims());
    said(&site.ask("device.py", &token, false));
    drop(device.stdin.take());
    let mut rest = String::new();
    stdout
        .read_to_string(&mut rest)
        .expect("the script prints a line");
    device.wait().expect("our own child can be waited for");
    let mut heard: Vec<String> = serde_json::from_str(&rest).expect("the script prints JSON");
    heard.sort();
    heard.dedup();
    let own = [
        "slm/edge-1/nonce",
        "slm/edge-1/reply/device-2/1",
        "slm/edge-1/reply/device-2/7/rejected",
        "slm/edge-1/status",
    ];
    assert_eq!(heard, own);

    // It has said that it is the appliance.
    let status = site.daemon.status();
    assert_eq!(status["mqtt"]["connected"], true);
    assert_eq!(status["mqtt"]["reconnects"], 0, "its session was taken");
    assert!(status["mqtt"]["problem"].is_null(), "{status}");
}
