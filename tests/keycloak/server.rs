//! One Keycloak for all tests: started when the first one asks, gone with this process. A test that
//! takes Keycloak away has one of its own.

use std::fs::{self, File};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::certificates::{Authority, Pair, rsa};
use crate::directory::{self, Directory, dies_with_us};
use crate::support::{free_port, root, run, target, within};

/// It takes 20 s on two free cores, and eight times as long where eight others want them.
const START: Duration = Duration::from_secs(600);
/// The first run may have to fetch and build it.
const FETCH: Duration = Duration::from_secs(900);
/// Making a realm takes a loaded machine minutes.
const ANSWER: Duration = Duration::from_secs(300);

pub const ADMIN: &str = "admin";
pub const ADMIN_PASSWORD: &str = "admin-of-the-tests";

pub struct Keycloak {
    /// With the realm files, the certificates and the log; for files of the tests as well.
    pub folder: PathBuf,
    pub directory: Directory,
    /// What the client `gateway` signs its assertions with.
    pub gateway: Pair,
    ca: PathBuf,
    port: u16,
    management: u16,
    agent: Agent,
    process: Mutex<Child>,
}

/// What Keycloak answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body)
            .unwrap_or_else(|e| panic!("{}: no JSON ({e}): {}", self.status, self.body))
    }

    #[track_caller]
    pub fn success(self) -> Answer {
        assert!(
            (200..300).contains(&self.status),
            "{}: {}",
            self.status,
            self.body
        );
        self
    }
}

pub fn keycloak() -> &'static Keycloak {
    static KEYCLOAK: OnceLock<Keycloak> = OnceLock::new();
    KEYCLOAK.get_or_init(|| {
        // Of a thread that never ends, because the processes end with the one that started them.
        let (sender, receiver) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let _ = sender.send(Keycloak::start("shared", &[]));
            loop {
                thread::park();
            }
        });
        receiver.recv().expect("Keycloak starts; see above")
    })
}

impl Keycloak {
    /// One for the calling test alone, gone with its thread at the latest. These realms get keys of
    /// the test with their files, and sign with them.
    pub fn of_one_test(name: &str, keys: &[(&str, &Pair)]) -> &'static Keycloak {
        Box::leak(Box::new(Keycloak::start(name, keys)))
    }

    fn start(name: &str, keys: &[(&str, &Pair)]) -> Keycloak {
        // An error says that another Keycloak of this process has done it.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = run_folder().join(name);
        let authority = Authority::new(&folder.join("tls"));
        let server = authority.server("keycloak");
        let gateway = rsa(&folder.join("tls"), "gateway");
        let directory = Directory::start(&folder.join("ldap"));
        lay_out(&folder.join("home"), keys);
        let java = mortal_java(&folder);
        let (port, management) = (free_port(), free_port());
        let mut command = Command::new(folder.join("home/bin/kc.sh"));
        command.args(["start", "--optimized", "--import-realm", "--cache=local"]);
        command.args(["--http-enabled=false", "--http-host=127.0.0.1"]);
        command.args(["--http-management-scheme=http"]);
        command.args(["--event-metrics-user-tags=realm,clientId"]);
        command.arg(format!("--hostname=https://localhost:{port}"));
        command.arg(format!("--https-port={port}"));
        command.arg(format!("--http-management-port={management}"));
        command.arg(path("--https-certificate-file", &server.certificate));
        command.arg(path("--https-certificate-key-file", &server.key));
        command.env("KC_BOOTSTRAP_ADMIN_USERNAME", ADMIN);
        command.env("KC_BOOTSTRAP_ADMIN_PASSWORD", ADMIN_PASSWORD);
        command.env("JAVA_HOME", java);
        // It lives for a minute: compiling well doesn't pay.
        command.env("JAVA_OPTS_APPEND", "-XX:TieredStopAtLevel=1");
        command.env("SLMD_LDAP_ENABLED", "true");
        command.env("SLMD_LDAP_URL", directory.url());
        command.env("SLMD_LDAP_BIND_DN", directory::BIND_DN);
        command.env("SLMD_LDAP_PASSWORD", directory::BIND_PASSWORD);
        command.env("SLMD_GATEWAY_CERTIFICATE", gateway.certificate_line());
        let keycloak = Keycloak {
            process: Mutex::new(spawn(&mut command, &folder.join("keycloak.log"))),
            agent: agent(&authority.certificate()),
            ca: authority.certificate(),
            port,
            management,
            folder,
            directory,
            gateway,
        };
        keycloak.until_ready();
        keycloak
    }

    fn until_ready(&self) {
        let url = format!("http://127.0.0.1:{}/health/ready", self.management);
        within(START, "Keycloak's health", || {
            let mut process = self.process.lock().expect("no test thread panicked");
            if let Some(status) = process.try_wait().expect("it is our child") {
                panic!("Keycloak ended with {status}:\n{}", self.log_tail());
            }
            // Each question costs it time that it needs for starting.
            thread::sleep(Duration::from_millis(250));
            let answer = self.agent.get(&url).call().ok()?;
            (answer.status() == 200).then_some(())
        });
    }

    /// Ends its process, by the id that it was started with, and waits until nobody listens.
    pub fn stop(&self) {
        let mut process = self.process.lock().expect("no test thread panicked");
        process.kill().expect("our own child can be killed");
        process.wait().expect("our own child can be waited for");
        within(ANSWER, "Keycloak's end", || {
            TcpStream::connect(("127.0.0.1", self.port)).err()
        });
    }

    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.folder.join("keycloak.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// Where its metrics are.
    pub fn management_port(&self) -> u16 {
        self.management
    }

    pub fn ca_file(&self) -> &Path {
        &self.ca
    }

    /// Keycloak's own command line for administrators.
    pub fn kcadm(&self) -> PathBuf {
        self.folder.join("home/bin/kcadm.sh")
    }

    pub fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = self.agent.get(format!("{}{path}", self.url()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        answer(request.call())
    }

    pub fn form(&self, path: &str, fields: &[(&str, &str)], headers: &[(&str, &str)]) -> Answer {
        let mut request = self.agent.post(format!("{}{path}", self.url()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        answer(request.send_form(fields.iter().copied()))
    }

    /// A request with a JSON body and a bearer token: the admin interface.
    pub fn json(&self, method: &str, path: &str, token: &str, body: Option<&Value>) -> Answer {
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url()))
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json");
        let text = body.map(Value::to_string).unwrap_or_default();
        let request = request.body(text).expect("a request of this test");
        answer(self.agent.run(request))
    }
}

fn answer(result: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Answer {
    let mut response = result.unwrap_or_else(|e| panic!("Keycloak doesn't answer: {e}"));
    Answer {
        status: response.status().as_u16(),
        body: response.body_mut().read_to_string().expect("text"),
    }
}

fn agent(ca: &Path) -> Agent {
    let pem = fs::read(ca).expect("openssl wrote it");
    let certificate = Certificate::from_pem(&pem).expect("openssl wrote it");
    let tls = TlsConfig::builder().root_certs(RootCerts::new_with_certs(&[certificate]));
    let config = Agent::config_builder()
        .tls_config(tls.build())
        .timeout_global(Some(ANSWER))
        .http_status_as_error(false);
    config.build().into()
}

fn spawn(command: &mut Command, log: &Path) -> Child {
    let log = File::create(log).expect("the test's folder is writable");
    let again = log
        .try_clone()
        .expect("a file has more than one descriptor");
    command.stdin(Stdio::null()).stdout(again).stderr(log);
    dies_with_us(command);
    command.spawn().expect("kc.sh is there")
}

/// A folder of this run; those of runs that are over go.
fn run_folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(new_run_folder)
}

fn new_run_folder() -> PathBuf {
    let all = target().join("test-keycloak");
    fs::create_dir_all(&all).expect("the build folder is writable");
    for entry in fs::read_dir(&all).expect("it was just made").flatten() {
        let process = Path::new("/proc").join(entry.file_name());
        if !process.exists() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let folder = all.join(std::process::id().to_string());
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("the build folder is writable");
    folder
}

/// A Keycloak of this run: its own data and settings, the program of the cache.
fn lay_out(home: &Path, keys: &[(&str, &Pair)]) {
    let output = run(
        &mut Command::new(root().join("tests/keycloak/fetch")),
        b"",
        FETCH,
    );
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "Keycloak isn't there: {said}");
    let program = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    let import = home.join("data/import");
    for folder in ["bin", "conf", "providers", "themes", "data/import"] {
        fs::create_dir_all(home.join(folder)).expect("the build folder is writable");
    }
    symlink(program.join("lib"), home.join("lib")).expect("a link can be made");
    symlink(program.join("bin/client"), home.join("bin/client")).expect("a link can be made");
    // Not links: they look for their own folder.
    for file in ["bin/kc.sh", "bin/kcadm.sh", "conf/cache-ispn.xml"] {
        fs::copy(program.join(file), home.join(file)).expect("Keycloak's files are there");
    }
    for realm in ["prod", "staging", "dev"] {
        let own = keys.iter().find(|(of, _)| *of == realm);
        let mut body = realm_file(if realm == "dev" { "staging" } else { realm });
        body["realm"] = realm.into();
        if let Some((_, pair)) = own {
            body["components"]["org.keycloak.keys.KeyProvider"] = json!([{
                "name": "of-the-test",
                "providerId": "rsa",
                "config": pair.component(300),
            }]);
        }
        let file = import.join(format!("realm-{realm}.json"));
        fs::write(file, body.to_string()).expect("the build folder is writable");
    }
}

/// A realm file of `deploy/keycloak` as it stands.
pub fn realm_file(name: &str) -> Value {
    let file = root().join(format!("deploy/keycloak/realm-{name}.json"));
    let text = fs::read_to_string(file).expect("the realm file is there");
    serde_json::from_str(&text).expect("the realm file is JSON")
}

/// kc.sh runs Java as a child of its own, which would outlive it. This one ends with kc.sh.
fn mortal_java(folder: &Path) -> PathBuf {
    let home = folder.join("java");
    let program = home.join("bin/java");
    fs::create_dir_all(home.join("bin")).expect("the build folder is writable");
    let script = "#!/bin/sh\nunset JAVA_HOME\nexec setpriv --pdeathsig KILL java \"$@\"\n";
    fs::write(&program, script).expect("the build folder is writable");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is ours");
    home
}

fn path(option: &str, path: &Path) -> String {
    format!("{option}={}", path.display())
}
