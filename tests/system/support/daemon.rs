//! The real binary with a configuration, a state folder and logs of its own.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use toml::Table;

use super::http::{self, Response};
use super::mqtt::Mosquitto;
use super::secrets;
use super::wait::{exit, run, within};
use super::{Issuer, target};

/// Until a debug build has mapped and checked its model on a busy machine.
const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(60);

/// What a daemon is started with. [`Setup::new`] is the realm `dev` with one endpoint and no
/// broker.
pub struct Setup {
    config: Table,
    keys: Vec<(String, String)>,
    env: Vec<(String, String)>,
    program: Vec<PathBuf>,
    patience: Duration,
}

impl Setup {
    pub fn new() -> Setup {
        let defaults = r#"
            device = "edge-1"
            drain_deadline = "5s"
            log = "trace"

            [[realm]]
            name = "dev"
            issuer = "https://keycloak.test/realms/dev"
            default_endpoint = "slm"
            max_lifetime = "1h"
            leeway = "30s"
            offline_grace = "none"
            unsynchronised_scopes = ["read", "write", "fine-tune", "audit"]
            tokens_per_minute = 1000000

            [[realm.endpoint]]
            client_id = "slm"
            model = "smollm2-135m-instruct"
        "#;
        Setup {
            config: parse(defaults),
            keys: Vec::new(),
            env: Vec::new(),
            program: vec![env!("CARGO_BIN_EXE_slmd").into()],
            patience: START,
        }
    }

    /// Pins the issuer's key for the realm `dev`.
    pub fn issuer(self, issuer: &Issuer) -> Setup {
        self.keys("dev", &issuer.jwks())
    }

    /// Pins a key set for a realm.
    pub fn keys(mut self, realm: &str, jwks: &str) -> Setup {
        self.keys.push((realm.to_owned(), jwks.to_owned()));
        self
    }

    pub fn broker(self, broker: &Mosquitto) -> Setup {
        self.broker_port(broker.port())
    }

    pub fn broker_port(self, port: u16) -> Setup {
        self.with(&format!(
            "[mqtt]\nurl = \"mqtt://127.0.0.1:{port}\"\nreconnect_max = \"2s\"\n"
        ))
    }

    /// Merges TOML into the configuration: tables member by member, all else replaced.
    pub fn with(mut self, toml: &str) -> Setup {
        merge(&mut self.config, parse(toml));
        self
    }

    /// Merges TOML into the first realm.
    pub fn realm(mut self, toml: &str) -> Setup {
        let realm = self.config["realm"][0].as_table_mut();
        merge(realm.expect("a realm is a table"), parse(toml));
        self
    }

    /// Leaves a setting of the first realm to slmd's default.
    pub fn realm_default(mut self, key: &str) -> Setup {
        let realm = self.config["realm"][0].as_table_mut();
        realm.expect("a realm is a table").remove(key);
        self
    }

    /// Another binary than this build's, with what it is run by before it.
    pub fn program(mut self, program: &[&Path]) -> Setup {
        self.program = program.iter().map(|part| part.to_path_buf()).collect();
        self
    }

    /// How long its start may take.
    pub fn patience(mut self, patience: Duration) -> Setup {
        self.patience = patience;
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Setup {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A running daemon. Dropping it kills it.
pub struct Daemon {
    folder: TempDir,
    log: PathBuf,
    env: Vec<(String, String)>,
    program: Vec<PathBuf>,
    patience: Duration,
    process: Option<Child>,
}

impl Daemon {
    /// Starts it, pins the keys, and waits until it is ready.
    pub fn start(mut setup: Setup) -> Daemon {
        let keys = std::mem::take(&mut setup.keys);
        let mut daemon = Daemon::prepare(setup);
        daemon.spawn();
        for (realm, jwks) in &keys {
            let response = daemon.admin_http("PUT", &format!("/keys/{realm}"), jwks);
            assert_eq!(
                response.status, 200,
                "keys aren't pinned: {}",
                response.body
            );
        }
        if !keys.is_empty() {
            daemon.until_ready();
        }
        daemon
    }

    /// Folders that the test names itself stay as they are.
    fn prepare(setup: Setup) -> Daemon {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        let mut config = parse(&format!(
            "state_dir = {:?}\nmodels_dir = {:?}\n\
             [http]\nsocket = {:?}\nadmin_socket = {:?}\n",
            path("state"),
            target().join("models"),
            path("slmd.sock"),
            path("admin.sock"),
        ));
        merge(&mut config, setup.config);
        let text = toml::to_string(&config).expect("a table is TOML");
        fs::write(folder.path().join("slmd.toml"), text).expect("a temporary file");
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let test = std::thread::current()
            .name()
            .unwrap_or("main")
            .replace("::", "-");
        let name = format!("{test}-{}-{number}.log", std::process::id());
        Daemon {
            folder,
            log: secrets::folder().join(name),
            env: setup.env,
            program: setup.program,
            patience: setup.patience,
            process: None,
        }
    }

    fn spawn(&mut self) {
        self.launch();
        self.until("the admin socket", |daemon| {
            http::send(&daemon.admin(), "GET", "/status", &[], "").ok()
        });
    }

    fn launch(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .expect("the build folder is writable");
        let process = self
            .binary()
            .arg("run")
            .stdin(Stdio::null())
            .stdout(
                log.try_clone()
                    .expect("a file has more than one descriptor"),
            )
            .stderr(log)
            .spawn()
            .expect("the daemon's binary is there");
        self.process = Some(process);
    }

    /// Waits until prompts can be answered.
    pub fn until_ready(&mut self) {
        self.until("readiness", |daemon| {
            let response = http::send(&daemon.socket(), "GET", "/readyz", &[], "").ok()?;
            (response.status == 200).then_some(())
        });
    }

    fn until<T>(&mut self, what: &str, ready: impl Fn(&Daemon) -> Option<T>) {
        within(self.patience, what, || {
            if let Some(status) = self.exited() {
                panic!(
                    "the daemon ended with {status}; its log:\n{}",
                    self.log_tail()
                );
            }
            ready(self)
        });
    }

    fn exited(&mut self) -> Option<ExitStatus> {
        let process = self.process.as_mut().expect("the daemon was started");
        process.try_wait().expect("a child can be waited for")
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("slmd.sock")
    }

    pub fn admin(&self) -> PathBuf {
        self.folder.path().join("admin.sock")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// The configuration file, for tests of `reload`.
    pub fn config_path(&self) -> PathBuf {
        self.folder.path().join("slmd.toml")
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the daemon runs").id()
    }

    /// Everything that it has logged, over restarts too.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// `POST /v1/chat/completions` with a token.
    pub fn chat(&self, token: &str, body: &str) -> Response {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str())];
        http::http(
            &self.socket(),
            "POST",
            "/v1/chat/completions",
            &headers,
            body,
        )
    }

    pub fn admin_http(&self, method: &str, path: &str, body: &str) -> Response {
        http::http(&self.admin(), method, path, &[], body)
    }

    pub fn status(&self) -> Value {
        self.admin_http("GET", "/status", "").json()
    }

    /// The audit log's lines from `index` on, byte for byte. Each reading is recorded too, so the
    /// end is fixed first: otherwise this would follow its own traces.
    pub fn audit(&self, index: u64) -> Vec<String> {
        let next = &self.status()["audit"]["next_index"];
        let end = next.as_u64().expect("the log has an end");
        let path = format!("/audit?from={index}&before={end}");
        let page = self.admin_http("GET", &path, "");
        assert_eq!(page.status, 200, "{}", page.body);
        page.body.lines().map(str::to_owned).collect()
    }

    /// Ends it as a power cut would end the process: nothing is said, nothing is written.
    pub fn kill9(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("our own child can be killed");
            process.wait().expect("our own child can be waited for");
        }
    }

    /// Starts it and kills it after a while, wherever it is then.
    pub fn start_and_kill9(&mut self, after: Duration) {
        self.launch();
        std::thread::sleep(after);
        assert!(self.exited().is_none(), "{}", self.log_tail());
        self.kill9();
    }

    /// Asks it to end, and waits until it has.
    pub fn terminate(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("the daemon runs");
        signal(&process, libc::SIGTERM);
        exit(&mut process, STOP).expect("the daemon ends when asked")
    }

    pub fn signal(&self, signal_number: i32) {
        signal(
            self.process.as_ref().expect("the daemon runs"),
            signal_number,
        );
    }

    /// Starts it again on the same state; in an orderly way where it still runs.
    pub fn restart(&mut self) {
        if self.process.is_some() {
            self.terminate();
        }
        self.spawn();
        self.until_ready();
    }

    /// Starts it after a kill; it needn't become ready.
    pub fn launch_again(&mut self) {
        self.spawn();
    }

    /// The binary with this daemon's configuration and sockets, for a command of the test's own.
    pub fn binary(&self) -> Command {
        let mut command = Command::new(&self.program[0]);
        command.args(&self.program[1..]);
        command.arg("--config").arg(self.config_path());
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a command of the command line against this daemon.
    pub fn slmd<S: AsRef<OsStr>>(&self, args: &[S]) -> Output {
        run(self.binary().args(args), b"", Duration::from_secs(120))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

pub fn signal(process: &Child, signal: i32) {
    let pid = i32::try_from(process.id()).expect("a pid is small");
    // SAFETY: kill(2) takes plain numbers; the child hasn't been waited for, so the pid is its own.
    let result = unsafe { libc::kill(pid, signal) };
    assert_eq!(result, 0, "our own child can be signalled");
}

fn parse(text: &str) -> Table {
    text.parse()
        .unwrap_or_else(|e| panic!("the test's TOML is wrong: {e}"))
}

fn merge(into: &mut Table, from: Table) {
    for (name, value) in from {
        match (into.get_mut(&name), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            (_, value) => {
                into.insert(name, value);
            }
        }
    }
}
