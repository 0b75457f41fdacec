//! A reload that is refused, at whatever step, leaves nothing of the refused configuration.

use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use serde_json::json;
use slmd::for_tests::time::Known;
use slmd::for_tests::tls::{client, fingerprint};
use tempfile::TempDir;
use toml::{Table, Value};

use crate::support::{
    Ca, Certificate, Daemon, Disk, Issuer, Response, Setup, chat, claims, free_port, within,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon with a certificate and a deny-list that revokes one token.
struct Scene {
    folder: TempDir,
    disk: Disk,
    ca: Ca,
    own: Certificate,
    first: Certificate,
    port: u16,
    daemon: Daemon,
    /// The configuration in force.
    config: Table,
    good: String,
    revoked: String,
}

impl Scene {
    fn start() -> Scene {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (disk, ca, issuer) = (
            Disk::new("size=16m"),
            Ca::new("tests"),
            Issuer::new("ES256", "a"),
        );
        let (own, first, port) = (ca.issue("own"), ca.issue("first"), free_port());
        first.replace(&own);
        let claims_of_revoked = claims();
        let list = json!({"version": 1, "revoked": [{"jti": claims_of_revoked["jti"]}]});
        let deny = folder.path().join("deny.json");
        fs::write(&deny, list.to_string()).expect("a temporary file");
        let setup = Setup::new()
            .issuer(&issuer)
            .realm(&format!("deny_file = {deny:?}"))
            .with(&format!(
                "state_dir = {:?}\n[http.tls]\nlisten = \"127.0.0.1:{port}\"\n\
                 cert_file = {:?}\nkey_file = {:?}\n",
                disk.path().join("state"),
                own.cert,
                own.key
            ));
        let daemon = Daemon::start(setup);
        let text = fs::read_to_string(daemon.config_path()).expect("the daemon's own file");
        Scene {
            config: text.parse().expect("the daemon's own TOML"),
            good: issuer.token(claims()),
            revoked: issuer.token(claims_of_revoked),
            folder,
            disk,
            ca,
            own,
            first,
            port,
            daemon,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A sound configuration that differs in all that a reload changes: it revokes nobody, has
    /// one more realm, and its files have another certificate.
    fn change(&self) -> Table {
        self.ca.issue("next").replace(&self.own);
        let empty = self.path("empty.json");
        fs::write(&empty, r#"{"version":1}"#).expect("a temporary file");
        let mut config = self.config.clone();
        let realms = config["realm"].as_array_mut().expect("a list of realms");
        realms[0]["deny_file"] = text(&empty);
        let mut other = realms[0].clone();
        other["name"] = Value::from("other");
        other["issuer"] = Value::from("https://keycloak.test/realms/other");
        realms.push(other);
        config
    }

    fn write(&self, config: &Table) {
        let text = toml::to_string(config).expect("a table is TOML");
        fs::write(self.daemon.config_path(), text).expect("a temporary file");
    }

    fn ask(&self, token: &str) -> Response {
        self.daemon.chat(token, &chat("Hi.", 1, false))
    }

    /// The fingerprint of the certificate that a new client is greeted with.
    fn shown(&self) -> String {
        let config =
            client(&self.ca.file(), None, &Known::default()).expect("the test's CA is good");
        let name = ServerName::try_from("localhost").expect("a name");
        let mut tls = ClientConnection::new(config, name).expect("a client");
        let mut tcp = TcpStream::connect(("127.0.0.1", self.port)).expect("a connection");
        tcp.set_read_timeout(Some(PATIENCE)).expect("a limit");
        tls.complete_io(&mut tcp).expect("a handshake");
        let stream = StreamOwned::new(tls, tcp);
        fingerprint(&stream.conn.peer_certificates().expect("a certificate")[0])
    }

    #[track_caller]
    fn assert_as_before(&self, step: &str) {
        let revoked = self.ask(&self.revoked);
        assert_eq!(revoked.status, 401, "{step}: a revoked token passed");
        assert_eq!(revoked.json()["error"]["code"], "revoked", "{step}");
        assert_eq!(self.ask(&self.good).status, 200, "{step}");
        let realms = &self.daemon.status()["realms"];
        assert_eq!(realms.as_array().map(Vec::len), Some(1), "{step}");
        assert_eq!(realms[0]["deny_list"]["entries"], 1, "{step}");
        assert_eq!(self.shown(), self.first.fingerprint(), "{step}");
        let audit = self.daemon.audit(0).join("\n");
        assert!(!audit.contains("configuration_reloaded"), "{step}");
    }
}

fn text(path: &std::path::Path) -> Value {
    Value::from(path.display().to_string())
}

#[test]
fn a_refused_reload_leaves_nothing_of_it_in_force() {
    let scene = Scene::start();
    scene.assert_as_before("before");
    let missing = scene.path("missing");
    let damaged = scene.path("damaged");
    fs::write(&damaged, "{").expect("a temporary file");
    type Step<'a> = (&'a str, &'a str, &'a dyn Fn(&mut Table));
    let steps: &[Step<'_>] = &[
        ("a value", "drain_deadline", &|config| {
            config["drain_deadline"] = Value::from("soon");
        }),
        ("certificate", "http.tls", &|_| {
            fs::write(&scene.own.cert, "no certificate").expect("a temporary file");
        }),
        ("deny file that isn't there", "missing", &|config| {
            config["realm"][1]["deny_file"] = text(&missing);
        }),
        ("damaged deny file", "damaged", &|config| {
            config["realm"][1]["deny_file"] = text(&damaged);
        }),
        ("CA file that isn't there", "missing", &|config| {
            let jwks = "uri = \"https://keycloak.test/certs\"\nca_file = \"/\"\n";
            let mut jwks: Table = jwks.parse().expect("the test's TOML");
            jwks["ca_file"] = text(&missing);
            let realm = config["realm"][1].as_table_mut().expect("a realm");
            realm.insert("jwks".to_owned(), Value::Table(jwks));
        }),
    ];
    for (step, said, break_it) in steps {
        let mut config = scene.change();
        break_it(&mut config);
        scene.write(&config);
        let refused = scene.daemon.admin_http("POST", "/reload", "");
        assert_eq!(refused.status, 400, "{step}: {}", refused.body);
        assert!(refused.body.contains(said), "{step}: {}", refused.body);
        scene.assert_as_before(step);
    }

    // The last step is the record. A signal needs none to be heard.
    scene.write(&scene.change());
    let ballast = scene.disk.path().join("ballast");
    scene.disk.fill(&ballast);
    within(PATIENCE, "a refusal for want of room", || {
        (scene.ask(&scene.good).status == 503).then_some(())
    });
    scene.daemon.signal(libc::SIGHUP);
    within(PATIENCE, "the refusal in the log", || {
        scene
            .daemon
            .log()
            .contains("configuration refused")
            .then_some(())
    });
    fs::remove_file(&ballast).expect("the ballast");
    within(PATIENCE, "an answer once there is room", || {
        (scene.ask(&scene.good).status == 200).then_some(())
    });
    scene.assert_as_before("no room for the record");

    let reloaded = scene.daemon.admin_http("POST", "/reload", "");
    assert_eq!(reloaded.status, 200, "{}", reloaded.body);
    assert_eq!(scene.ask(&scene.revoked).status, 200, "nobody is revoked");
    assert_ne!(scene.shown(), scene.first.fingerprint());
    let realms = &scene.daemon.status()["realms"];
    assert_eq!(realms.as_array().map(Vec::len), Some(2));
}
