//! TLS on both sides: HTTPS with client certificates, reload of certificates, names that are
//! refused; and MQTT to a broker that wants a certificate.

use std::fs::Permissions;
use std::io;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serde_json::{Value, json};
use slmd::for_tests::time::Known;
use slmd::for_tests::tls::{KeyPair, client, fingerprint};

use crate::support::{
    Ca, Certificate, Clock, Daemon, Exchange, Issuer, Kept, Mosquitto, Publish, Response, Setup,
    chat, claims, exchange, free_port, http, python, run, secrets, within,
};

const PATIENCE: Duration = Duration::from_secs(120);
const CHAT: &str = "/v1/chat/completions";

/// A daemon that serves HTTPS.
struct Scene {
    ca: Ca,
    own: Certificate,
    issuer: Issuer,
    daemon: Daemon,
    port: u16,
}

impl Scene {
    /// `toml` is added to `[http.tls]`.
    fn start(toml: &str) -> Scene {
        Scene::with_ca(Ca::new("tests"), toml)
    }

    fn with_ca(ca: Ca, toml: &str) -> Scene {
        Scene::of(Setup::new(), ca, toml)
    }

    fn of(setup: Setup, ca: Ca, toml: &str) -> Scene {
        let own = ca.issue("server");
        let issuer = Issuer::new("ES256", "tls-1");
        let port = free_port();
        let listen = listen(port, &own);
        let setup = setup.issuer(&issuer).with(&format!("{listen}{toml}\n"));
        let daemon = Daemon::start(setup);
        Scene {
            ca,
            own,
            issuer,
            daemon,
            port,
        }
    }

    fn listen(&self) -> String {
        listen(self.port, &self.own)
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// A client that trusts the test's CA, and comes with a certificate or without.
    fn client(&self, own: Option<&Certificate>) -> Arc<ClientConfig> {
        let own = own.map(|own| KeyPair {
            cert_file: own.cert.clone(),
            key_file: own.key.clone(),
        });
        client(&self.ca.file(), own.as_ref(), &Known::default())
            .expect("the test's certificates are good")
    }

    fn connect(&self, config: Arc<ClientConfig>) -> io::Result<Connection> {
        let name = ServerName::try_from("localhost").expect("a name");
        let mut tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
        let mut tcp = TcpStream::connect(("127.0.0.1", self.port))?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        tls.complete_io(&mut tcp)?;
        Ok(StreamOwned::new(tls, tcp))
    }

    fn get(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        let stream = self.connect(self.client(None)).expect("a handshake");
        let answer = exchange(stream, "GET", path, headers, "");
        answer.and_then(Exchange::finish).expect("an answer")
    }

    fn get_as(&self, role: &str, path: &str) -> Response {
        let mut claims = claims();
        claims["resource_access"] = json!({"slm": {"roles": [role]}});
        let bearer = format!("Bearer {}", self.issuer.token(claims));
        self.get(path, &[("authorization", &bearer)])
    }

    /// Of the certificate that a new client is greeted with.
    fn shown(&self) -> String {
        let stream = self.connect(self.client(None)).expect("a handshake");
        let chain = stream.conn.peer_certificates().expect("a certificate");
        fingerprint(&chain[0])
    }
}

fn listen(port: u16, own: &Certificate) -> String {
    format!(
        "[http.tls]\nlisten = \"127.0.0.1:{port}\"\ncert_file = {:?}\nkey_file = {:?}\n",
        own.cert, own.key
    )
}

type Connection = StreamOwned<ClientConnection, TcpStream>;

#[test]
fn the_official_openai_client_asks_over_https() {
    let scene = Scene::start("");
    let ca = scene.ca.file().display().to_string();
    let token = scene.issuer.token(claims());
    let output = python(
        "openai_tls.py",
        &[&scene.url(), &ca],
        &[("SLMD_TOKEN", &token)],
    );
    succeeded(&output);
    let audit = scene.daemon.audit(0).join("\n");
    assert!(audit.contains(r#""transport":"tcp""#), "{audit}");
}

#[test]
fn another_name_or_site_is_turned_away() {
    let scene = Scene::start("");
    let bearer = format!("Bearer {}", scene.issuer.token(claims()));
    let code = |extra: (&str, &str)| {
        let answer = scene.get("/v1/models", &[("authorization", &bearer), extra]);
        let json = answer.json();
        let code = json["error"]["code"].as_str().map(str::to_owned);
        (answer.status, code)
    };
    let own = format!("localhost:{}", scene.port);
    assert_eq!(code(("host", &own)), (200, None));
    let refused = |status, code: &str| (status, Some(code.to_owned()));
    assert_eq!(
        code(("host", "evil.example")),
        refused(421, "host_rejected")
    );
    assert_eq!(
        code(("origin", "https://evil.example")),
        refused(403, "origin_rejected")
    );
    assert_eq!(code(("origin", &scene.url())), (200, None));
}

#[test]
fn metrics_over_tcp_are_for_auditors() {
    let scene = Scene::start("");
    let none = scene.get("/metrics", &[]);
    assert_eq!(none.status, 401, "{none:?}");
    assert_eq!(
        none.header("www-authenticate"),
        Some(r#"Bearer realm="slmd""#)
    );
    assert_eq!(scene.get_as("read", "/metrics").status, 403);
    let metrics = scene.get_as("audit", "/metrics");
    assert_eq!(metrics.status, 200, "{metrics:?}");
    assert!(metrics.body.contains("slmd_"), "{metrics:?}");
}

#[test]
fn over_tcp_the_status_is_for_auditors_and_readiness_is_a_word() {
    let mut scene = Scene::start("");
    assert_eq!(scene.get("/readyz", &[]).body, "ready\n");
    let bare = scene.get("/readyz?verbose", &[]);
    assert_eq!(bare.status, 200, "{bare:?}");
    let (word, hint) = bare.body.split_once('\n').expect("two lines");
    assert_eq!(word, "ready");
    assert!(hint.contains("the scope `audit`"), "{bare:?}");

    let reader = scene.get_as("read", "/readyz?verbose");
    assert_eq!(reader.status, 403, "{reader:?}");
    let challenge = reader.header("www-authenticate").expect("a challenge");
    assert!(challenge.contains(r#"scope="audit""#), "{challenge}");
    let whole = scene.get_as("audit", "/readyz?verbose");
    assert_eq!(whole.json()["realms"][0]["name"], "dev", "{whole:?}");
    let audit = scene.daemon.audit(0).join("\n");
    assert!(audit.contains(r#""action":"read_status""#), "{audit}");

    // Without keys: why that is names realms, and is for this machine.
    scene.daemon.terminate();
    scene.daemon = Daemon::start(Setup::new().with(&scene.listen()));
    for path in ["/readyz", "/readyz?verbose"] {
        let unready = scene.get(path, &[]);
        assert_eq!(unready.status, 503, "{unready:?}");
        assert_eq!(unready.body.lines().next(), Some("not ready"));
        assert!(!unready.body.contains("realm"), "{unready:?}");
    }
    let own = http(&scene.daemon.socket(), "GET", "/readyz", &[], "");
    assert!(own.body.contains("no realm has pinned keys"), "{own:?}");
}

/// That the clock is off is what a monitor is there to see.
#[test]
fn a_monitor_is_let_in_while_the_clock_is_off_unless_the_realm_says_no() {
    let clock = Clock::new();
    clock.keeps(Kept::ByNobody);
    let setup = Setup::new().realm_default("unsynchronised_scopes");
    let scene = Scene::of(clock.of(setup), Ca::new("tests"), "");
    let metrics = scene.get_as("audit", "/metrics");
    assert_eq!(metrics.status, 200, "{metrics:?}");
    let says = metrics.body.contains("slmd_clock_synchronised 0\n");
    assert!(says, "{metrics:?}");
    let status = scene.get_as("audit", "/readyz?verbose").json();
    assert_eq!(status["clock"]["synchronised"], false, "{status}");

    let path = scene.daemon.config_path();
    let text = std::fs::read_to_string(&path).expect("its configuration");
    let strict = "[[realm]]\nunsynchronised_scopes = [\"read\"]\n";
    let text = text.replacen("[[realm]]\n", strict, 1);
    std::fs::write(&path, text).expect("its configuration");
    succeeded(&scene.daemon.slmd(&["reload"]));
    for path in ["/metrics", "/readyz?verbose"] {
        let refused = scene.get_as("audit", path);
        let code = &refused.json()["error"]["code"];
        assert_eq!(code, "clock_unsynchronised", "{refused:?}");
    }
    assert_eq!(scene.get("/readyz", &[]).body, "ready\n");
}

/// Looks of each kind over both ways, and one change among them.
#[test]
fn a_monitor_wears_no_flash_and_each_of_its_looks_is_on_record() {
    const LOOKS: u64 = 60;
    let mut scene = Scene::start("");
    let before = scene.daemon.audit(0).len();
    for _ in 0..LOOKS {
        for path in ["/status", "/keys", "/audit?last=1", "/metrics"] {
            let look = scene.daemon.admin_http("GET", path, "");
            assert_eq!(look.status, 200, "{look:?}");
        }
        for path in ["/metrics", "/readyz?verbose"] {
            let look = scene.get_as("audit", path);
            assert_eq!(look.status, 200, "{look:?}");
        }
    }
    for _ in 0..2 {
        succeeded(&scene.daemon.slmd(&["reload"]));
    }
    scene.daemon.restart();
    let records = scene.daemon.audit(0);
    let records: Vec<Value> = records[before..]
        .iter()
        .map(|line| serde_json::from_str(line).expect("a record is JSON"))
        .collect();
    let of = |what: &str| -> Vec<u64> {
        let of = |r: &&Value| r["what"] == what || r["action"] == what;
        let told = records.iter().filter(of);
        told.map(|r| r["count"].as_u64().unwrap_or(1)).collect()
    };
    for kind in ["keys list", "metrics", "read_metrics", "read_status"] {
        assert_eq!(of(kind), [1, LOOKS - 1], "{kind}");
    }
    // These are how the test itself looks.
    for kind in ["status", "audit read"] {
        let told = of(kind);
        assert!(told.len() <= 2, "{kind}: {told:?}");
        assert!(told.iter().sum::<u64>() >= LOOKS, "{kind}: {told:?}");
    }
    assert_eq!(of("reload"), [1, 1], "a change is a record");
}

#[test]
fn a_client_certificate_that_is_required_is_on_record() {
    let ca = Ca::new("tests");
    let required = format!(
        "client_ca_file = {:?}\nclient_certificate = \"required\"",
        ca.file()
    );
    let scene = Scene::with_ca(ca, &required);
    let refused = scene.connect(scene.client(None)).and_then(|stream| {
        // In TLS 1.3 the client is done before the server has judged it.
        exchange(stream, "GET", "/livez", &[], "").map(|answer| answer.status)
    });
    assert!(refused.is_err(), "{refused:?}");
    let strangers = Ca::new("strangers");
    let stranger = strangers.issue("stranger");
    let refused = scene
        .connect(scene.client(Some(&stranger)))
        .and_then(|stream| exchange(stream, "GET", "/livez", &[], "").map(|a| a.status));
    assert!(refused.is_err(), "{refused:?}");

    let known = scene.ca.issue("client");
    let token = scene.issuer.token(claims());
    let arguments = [
        scene.url(),
        scene.ca.file().display().to_string(),
        known.cert.display().to_string(),
        known.key.display().to_string(),
    ];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output = python("openai_tls.py", &arguments, &[("SLMD_TOKEN", &token)]);
    succeeded(&output);
    let audit = scene.daemon.audit(0).join("\n");
    assert!(audit.contains(&known.fingerprint()), "{audit}");
}

#[test]
fn certificates_are_replaced_by_a_reload() {
    let scene = Scene::start("");
    let first = scene.own.fingerprint();
    assert_eq!(scene.shown(), first);
    let next = scene.ca.issue("next");
    next.replace(&scene.own);
    assert_eq!(scene.shown(), first, "files are read at a reload only");
    succeeded(&scene.daemon.slmd(&["reload"]));
    assert_eq!(scene.shown(), next.fingerprint());

    std::fs::write(&scene.own.cert, "no certificate").expect("a temporary file");
    let refused = scene.daemon.slmd(&["reload"]);
    assert!(!refused.status.success(), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    let path = scene.own.cert.display().to_string();
    assert!(said.contains("http.tls") && said.contains(&path), "{said}");
    assert_eq!(scene.shown(), next.fingerprint(), "the old one stays");
}

#[test]
fn plain_tcp_is_for_loopback_only() {
    let check = |listen: &str| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("slmd.toml");
        let text = format!(
            "[http]\nlisten = {listen:?}\n[[realm]]\nname = \"dev\"\nissuer = \"https://k/dev\"\n\
             [[realm.endpoint]]\nclient_id = \"slm\"\nmodel = \"small\"\n"
        );
        std::fs::write(&file, text).expect("a temporary file");
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_slmd"));
        command.arg("--config").arg(&file).args(["config", "check"]);
        run(&mut command, b"", PATIENCE)
    };
    succeeded(&check("127.0.0.1:8080"));
    let refused = check("0.0.0.0:8080");
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        said.contains("http.listen") && said.contains("[http.tls]"),
        "{said}"
    );

    let issuer = Issuer::new("ES256", "tcp-1");
    let port = free_port();
    let listen = format!("[http]\nlisten = \"127.0.0.1:{port}\"");
    let _daemon = Daemon::start(Setup::new().issuer(&issuer).with(&listen));
    let tcp = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    let bearer = format!("Bearer {}", issuer.token(claims()));
    let host = format!("127.0.0.1:{port}");
    let headers = [("authorization", bearer.as_str()), ("host", &host)];
    let body = chat("What is the highest mountain?", 4, false);
    let answer = exchange(tcp, "POST", CHAT, &headers, &body).expect("an answer");
    assert_eq!(answer.status, 200);
}

/// A broker with a plain listener for the test's own clients, and one with TLS for the daemon.
fn broker(ca: &Ca, own: &Certificate, port: u16, more: &str) -> Mosquitto {
    Mosquitto::start_with(&format!(
        "per_listener_settings true\nallow_anonymous true\nlistener {port} 127.0.0.1\n\
         cafile {}\ncertfile {}\nkeyfile {}\n{more}",
        ca.file().display(),
        own.cert.display(),
        own.key.display(),
    ))
}

fn mqtts(port: u16, ca_file: &Path, more: &str) -> String {
    format!(
        "[mqtt]\nurl = \"mqtts://localhost:{port}\"\nreconnect_min = \"1s\"\n\
         reconnect_max = \"2s\"\n{more}\n[mqtt.tls]\nca_file = {ca_file:?}\n"
    )
}

fn asks(broker: &Mosquitto, issuer: &Issuer, correlation: &str) {
    let answers = broker.subscribe("slm/edge-1/reply/#");
    broker.publish(&Publish {
        topic: "slm/edge-1/v1/chat/completions",
        payload: &chat("Say one word, any word.", 4, false),
        response_topic: Some("slm/edge-1/reply/device-1/tls"),
        correlation: Some(correlation),
        token: Some(&issuer.token(claims())),
        ..Publish::default()
    });
    let answer = answers.next(PATIENCE).expect("an answer");
    assert_eq!(answer.user("status"), Some("200"), "{answer:?}");
}

#[test]
fn a_broker_that_wants_a_certificate_is_shown_one() {
    let ca = Ca::new("brokers");
    let (server, own) = (ca.issue("broker"), ca.issue("slmd"));
    let port = free_port();
    let broker = broker(
        &ca,
        &server,
        port,
        "allow_anonymous true\nrequire_certificate true",
    );
    let issuer = Issuer::new("ES256", "mqtts-1");
    let toml = format!(
        "{}cert_file = {:?}\nkey_file = {:?}\n",
        mqtts(port, &ca.file(), ""),
        own.cert,
        own.key
    );
    let daemon = Daemon::start(Setup::new().issuer(&issuer).with(&toml));
    until_connected(&daemon);
    asks(&broker, &issuer, "over-tls");

    // Without a certificate of its own it isn't let in.
    let bare = Daemon::start(
        Setup::new()
            .issuer(&issuer)
            .with("device = \"edge-2\"")
            .with(&mqtts(port, &ca.file(), "")),
    );
    until_problem(&bare, "certificate");
}

#[test]
fn a_broker_of_another_ca_is_not_trusted() {
    let ca = Ca::new("brokers");
    let port = free_port();
    let _broker = broker(&ca, &ca.issue("broker"), port, "allow_anonymous true");
    let issuer = Issuer::new("ES256", "mqtts-2");
    let other = Ca::new("others");
    let toml = mqtts(port, &other.file(), "");
    let daemon = Daemon::start(Setup::new().issuer(&issuer).with(&toml));
    until_problem(&daemon, "certificate");
    assert_eq!(daemon.status()["mqtt"]["connected"], false);
}

#[test]
fn the_password_file_is_read_again_at_each_connect() {
    let ca = Ca::new("brokers");
    let port = free_port();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (users, own) = (folder.path().join("users"), folder.path().join("own"));
    let set = |password: &str| {
        secrets::password(password);
        let mut command = std::process::Command::new("mosquitto_passwd");
        command
            .args(["-b", "-c"])
            .arg(&users)
            .args(["edge-1", password]);
        succeeded(&run(&mut command, b"", PATIENCE));
    };
    set("first-password-0123456789");
    std::fs::write(&own, "first-password-0123456789\n").expect("a temporary file");
    std::fs::set_permissions(&own, Permissions::from_mode(0o600)).expect("it is ours");
    let more = format!("allow_anonymous false\npassword_file {}", users.display());
    let mut broker = broker(&ca, &ca.issue("broker"), port, &more);
    let issuer = Issuer::new("ES256", "mqtts-3");
    let more = format!("username = \"edge-1\"\npassword_file = {own:?}");
    let toml = mqtts(port, &ca.file(), &more);
    let daemon = Daemon::start(Setup::new().issuer(&issuer).with(&toml));
    until_connected(&daemon);

    set("second-password-0123456789");
    broker.restart();
    until_problem(&daemon, "not authorized");
    std::fs::write(&own, "second-password-0123456789\n").expect("a temporary file");
    until_connected(&daemon);
    asks(&broker, &issuer, "with-the-new-one");
}

fn until_connected(daemon: &Daemon) {
    within(PATIENCE, "the broker connection", || {
        (daemon.status()["mqtt"]["connected"] == true).then_some(())
    });
}

/// Waits until the daemon is without its broker and says why.
#[track_caller]
fn until_problem(daemon: &Daemon, what: &str) {
    let end = slmd::for_tests::time::instant() + Duration::from_secs(30);
    loop {
        let mqtt = daemon.status()["mqtt"].clone();
        let problem = mqtt["problem"].as_str().unwrap_or_default().to_lowercase();
        if mqtt["connected"] == false && problem.contains(what) {
            return;
        }
        assert!(slmd::for_tests::time::instant() < end, "{mqtt}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[track_caller]
fn succeeded(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}
