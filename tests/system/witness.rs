//! A witness that others wrote (litewitness, of filippo.io/torchwood) watches the audit log.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Ca, Daemon, Setup, free_port, python, root, run, target, within};

const PATIENCE: Duration = Duration::from_secs(90);
/// Until it is built, where it isn't yet.
const BUILD: Duration = Duration::from_secs(600);
const NAME: &str = "witness.example/lite";

/// The program, and the agent that holds its key.
struct Witness {
    folder: TempDir,
    port: u16,
    processes: Vec<Child>,
}

impl Witness {
    fn start() -> Witness {
        let mut witness = Witness {
            folder: tempfile::tempdir().expect("a temporary folder"),
            port: free_port(),
            processes: Vec::new(),
        };
        let place = witness.folder.path().to_owned();
        let program = root().join("tests/litewitness/fetch");
        let built = run(&mut Command::new(program), b"", BUILD);
        assert!(built.status.success(), "{built:?}");
        let program = String::from_utf8(built.stdout).expect("a path");

        let agent = place.join("agent");
        let tool = |name: &str, arguments: &[&str]| {
            let mut command = Command::new(name);
            command.args(arguments).current_dir(&place);
            let output = run(command.env("SSH_AUTH_SOCK", &agent), b"", PATIENCE);
            assert!(output.status.success(), "{name}: {output:?}");
            String::from_utf8(output.stdout).expect("text")
        };
        tool(
            "ssh-keygen",
            &["-q", "-t", "ed25519", "-N", "", "-f", "key"],
        );
        witness.spawn(Command::new("ssh-agent").arg("-D").arg("-a").arg(&agent));
        within(PATIENCE, "ssh-agent", || agent.exists().then_some(()));
        tool("ssh-add", &["-q", "key"]);
        let shown = tool("ssh-keygen", &["-l", "-f", "key.pub"]);
        let fingerprint = shown.split(' ').nth(1).expect("a fingerprint");
        let listen = format!("127.0.0.1:{}", witness.port);
        witness.spawn(
            Command::new(program.trim())
                .args(["-name", NAME, "-db", "log.db", "-listen", &listen])
                .args(["-key", fingerprint, "-ssh-agent"])
                .arg(&agent),
        );
        within(PATIENCE, "litewitness", || {
            witness.log().contains("listening").then_some(())
        });
        witness
    }

    fn spawn(&mut self, command: &mut Command) {
        let log = self.folder.path().join("log");
        let log = File::options().create(true).append(true).open(log);
        let log = log.expect("a temporary file");
        let child = command
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(
                log.try_clone()
                    .expect("a file has more than one descriptor"),
            )
            .stderr(log)
            .spawn();
        self.processes.push(child.expect("run `make setup-tests`"));
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Has it served over TLS, too, by software that isn't ours, and says at which port.
    fn serve_tls(&mut self, ca: &Ca) -> u16 {
        let (own, port) = (ca.issue("witness"), free_port());
        let ready = File::create(self.folder.path().join("front")).expect("a temporary file");
        let front = Command::new(target().join("venv/bin/python"))
            .arg(root().join("tests/clients/tls_front.py"))
            .arg(port.to_string())
            .args([&own.cert, &own.key])
            .arg(self.port.to_string())
            .stdin(Stdio::piped())
            .stdout(ready)
            .spawn();
        self.processes.push(front.expect("run `make venv`"));
        within(PATIENCE, "the front", || {
            let said = fs::read_to_string(self.folder.path().join("front"));
            said.ok().filter(|said| said.contains("ready"))
        });
        port
    }

    /// What devices are configured with, as it prints it.
    fn key(&self) -> String {
        let log = self.log();
        let (_, key) = log.split_once("vkey=").expect("it prints its key");
        key.split_whitespace().next().unwrap_or("").to_owned()
    }

    fn add_log_of(&self, device: &Daemon) {
        let shown = device.slmd(&["device", "id", "--json"]);
        let shown: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
        let database = self.folder.path().join("log.db").display().to_string();
        let checkpoint = device.state_dir().join("audit/checkpoint");
        let checkpoint = checkpoint.display().to_string();
        let x = shown["x"].as_str().expect("it has a key");
        let added = python("litewitness_log.py", &[&database, &checkpoint, x], &[]);
        assert!(added.status.success(), "{added:?}");
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn standing(device: &Daemon) -> Value {
    device.status()["audit"]["witnesses"][0].clone()
}

fn until_refused(device: &Daemon, reason: &str) {
    within(PATIENCE, reason, || {
        (standing(device)["refused"]["reason"] == reason).then_some(())
    });
}

/// The size of the log that the witness has cosigned, when that is at least this.
fn until_cosigned(device: &Daemon, least: u64) -> u64 {
    within(PATIENCE, "a cosignature", || {
        let size = standing(device)["cosigned"]["size"].as_u64();
        size.filter(|size| *size >= least)
    })
}

/// Records something, `times` times.
fn grow(device: &Daemon, times: usize) -> u64 {
    for _ in 0..times {
        let reloaded = device.slmd(&["reload"]);
        assert!(reloaded.status.success(), "{reloaded:?}");
    }
    device.status()["audit"]["next_index"]
        .as_u64()
        .expect("a number")
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let copied = run(Command::new("cp").arg("-a").args([from, to]), b"", PATIENCE);
    assert!(copied.status.success(), "{copied:?}");
}

/// The proof of a record has the witness's word, which counts offline, and only for its key.
fn a_third_party_checks(witness: &Witness, device: &Daemon) {
    let file = |name: &str| witness.folder.path().join(name).display().to_string();
    let (proof, record) = (file("0.tlog-proof"), file("0.json"));
    let prove = ["audit", "prove", "0", "-o", &proof, "--record", &record];
    let proven = device.slmd(&prove);
    assert!(proven.status.success(), "{proven:?}");
    let id = device.slmd(&["device", "id", "--json"]);
    let id: Value = serde_json::from_slice(&id.stdout).expect("JSON");
    let x = id["x"].as_str().expect("it has a key");
    // On a machine that has nothing else: no daemon, no configuration.
    let check = |key: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slmd"));
        command.args(["audit", "check-proof", &proof, "--record", &record]);
        command.args(["--key", x, "--witness", key]);
        let elsewhere = tempfile::tempdir().expect("a temporary folder");
        command.env_clear().current_dir(elsewhere.path());
        run(&mut command, b"", PATIENCE)
    };
    let checked = check(&witness.key());
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.status.success(), "{checked:?}");
    assert!(said.contains(&format!("cosigned by {NAME}")), "{said}");
    let stranger = "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2";
    assert!(!check(stranger).status.success());
}

/// What a daemon that is gone leaves behind has the witness's word, too.
fn what_is_left_is_cosigned(witness: &Witness, device: &mut Daemon) {
    let cosigned = |note: &str| note.contains(&format!("\u{2014} {NAME} "));
    // The first look is a record of its own, which the next checkpoint covers.
    device.admin_http("GET", "/audit/checkpoint", "");
    let note = within(PATIENCE, "a cosigned checkpoint", || {
        let note = device.admin_http("GET", "/audit/checkpoint", "").body;
        cosigned(&note).then_some(note)
    });
    device.kill9();
    let shown = device.slmd(&["audit", "checkpoint"]);
    assert!(shown.status.success(), "{shown:?}");
    assert_eq!(String::from_utf8_lossy(&shown.stdout), note);
    a_third_party_checks(witness, device);
}

#[test]
fn a_witness_that_others_wrote_cosigns_the_log_and_refuses_a_rewritten_one() {
    let witness = Witness::start();
    let settings = format!(
        "[audit]\ncheckpoint_records = 1\ncheckpoint_interval = \"1s\"\n\
         [[audit.witness]]\nkey = {:?}\nurl = \"http://127.0.0.1:{}\"\n",
        witness.key(),
        witness.port
    );
    let mut device = Daemon::start(Setup::new().with(&settings));
    until_refused(&device, "denied");
    witness.add_log_of(&device);
    let size = grow(&device, 2);
    until_cosigned(&device, size);
    let standing_now = standing(&device);
    assert_eq!(standing_now["name"], NAME);
    assert_eq!(
        (&standing_now["alarm"], &standing_now["refused"]),
        (&Value::Bool(false), &Value::Null)
    );
    let shown = device.slmd(&["status"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains(&format!("witness {NAME}: ")), "{shown}");
    let metrics = device.admin_http("GET", "/metrics", "").body;
    let age = format!("slmd_audit_witness_age_seconds{{witness=\"{NAME}\"}}");
    let denied =
        format!("slmd_audit_witness_refusals_total{{witness=\"{NAME}\",reason=\"denied\"}}");
    assert!(
        metrics.contains(&age) && metrics.contains(&denied),
        "{metrics}"
    );

    a_third_party_checks(&witness, &device);
    what_is_left_is_cosigned(&witness, &mut device);

    // The whole state as it was, with the device's key and its last checkpoint.
    let (state, kept) = (device.state_dir(), witness.folder.path().join("kept"));
    copy(&state, &kept);
    device.launch_again();
    let seen = until_cosigned(&device, grow(&device, 3));
    device.terminate();
    fs::remove_dir_all(&state).expect("it is there");
    copy(&kept, &state);
    device.launch_again();
    until_refused(&device, "ahead");
    let alarm = |device: &Daemon| {
        let records = device.audit(0).join("\n");
        records.matches("\"audit_witness_refused\"").count()
    };
    assert_eq!(alarm(&device), 1);
    assert_eq!(standing(&device)["alarm"], true);

    // It has as many records again, signed by the same key, and they aren't those.
    within(PATIENCE, "the log to grow again", || {
        (grow(&device, 1) > seen + 2).then_some(())
    });
    device.terminate();
    device.launch_again();
    until_refused(&device, "rewritten");
    let shown = device.slmd(&["status"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("! ALARM: the witness"), "{shown}");
    assert!(alarm(&device) >= 2);
}

/// By its own authority alone.
#[test]
fn a_witness_is_reached_over_tls_by_the_authority_that_is_named_and_no_other() {
    let mut witness = Witness::start();
    let (ca, other) = (Ca::new("witnesses"), Ca::new("others"));
    let port = witness.serve_tls(&ca);
    let device = |ca: &Ca| {
        let settings = format!(
            "[audit]\ncheckpoint_records = 1\ncheckpoint_interval = \"1s\"\n\
             [[audit.witness]]\nkey = {:?}\nurl = \"https://localhost:{port}\"\nca_file = {:?}\n",
            witness.key(),
            ca.file()
        );
        Daemon::start(Setup::new().with(&settings))
    };
    let stranger = device(&other);
    until_refused(&stranger, "unreachable");
    let why = standing(&stranger)["refused"].to_string();
    assert!(why.to_lowercase().contains("certificate"), "{why}");
    drop(stranger);
    let device = device(&ca);
    until_refused(&device, "denied");
    witness.add_log_of(&device);
    until_cosigned(&device, grow(&device, 2));
}
