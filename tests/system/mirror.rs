//! A fleet's files from a web server, under a pinned CA and under another one, and from mirrors that
//! are away at first.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fs, io};

use serde_json::{Value, json};
use slmd::for_tests::store::Store;

use crate::support::fleet::{TOPICS, retain};
use crate::support::{
    Ca, Daemon, Fleet, Issuer, Mosquitto, Setup, claims, http, root, target, within,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// Python's own server, gone when dropped.
struct Web {
    process: Child,
    port: u16,
}

impl Web {
    fn serve(folder: &Path, ca: &Ca) -> Web {
        let own = ca.issue("mirror");
        let mut process = Command::new(target().join("venv/bin/python"))
            .arg(root().join("tests/system/support/mirror.py"))
            .args([folder, &own.cert, &own.key])
            .stdout(Stdio::piped())
            .spawn()
            .expect("python runs");
        let mut line = String::new();
        let said = process.stdout.take().expect("piped above");
        BufReader::new(said).read_line(&mut line).expect("its port");
        let port = line.trim().parse().expect("its port");
        Web { process, port }
    }

    fn follower(&self, ca: &Ca) -> Daemon {
        let fleet = format!(
            "[fleet]\nname = \"plant\"\nmirrors = [\"https://localhost:{}\"]\nca_file = {:?}\n\
             interval = \"1s\"\n",
            self.port,
            ca.file()
        );
        Daemon::start(Setup::new().with(&fleet))
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn look(daemon: &Daemon, issuer: &Issuer) -> u16 {
    let bearer = format!("Bearer {}", issuer.token(claims()));
    let headers = [("authorization", bearer.as_str())];
    http(&daemon.socket(), "GET", "/v1/models", &headers, "").status
}

fn mirror(daemon: &Daemon) -> Value {
    daemon.status()["fleet"]["mirrors"][0].clone()
}

fn until_refused(daemon: &Daemon, reason: &str) {
    within(PATIENCE, reason, || {
        (mirror(daemon)["refused"]["reason"] == reason).then_some(())
    });
}

/// What comes sooner than the interval comes for another reason.
fn hourly(mirror: &str) -> Setup {
    Setup::new().with(&format!(
        "[fleet]\nname = \"plant\"\nmirrors = [{mirror:?}]\ninterval = \"1h\"\n"
    ))
}

#[test]
fn a_web_server_under_the_pinned_ca_is_a_mirror_and_another_ones_is_none() {
    let (old, new) = (Issuer::new("ES256", "old"), Issuer::new("EdDSA", "new"));
    let (ca, stranger) = (Ca::new("pinned"), Ca::new("stranger"));
    let mut fleet = Fleet::new();
    fleet.keys(&old.jwks());
    let web = Web::serve(fleet.folder(), &ca);
    let mut daemon = web.follower(&ca);
    fleet.pin(&daemon);
    daemon.until_ready();
    assert_eq!(look(&daemon, &old), 200);
    assert_eq!(mirror(&daemon)["refused"], Value::Null);

    let versions = fleet.keys(&new.jwks());
    within(PATIENCE, "the new key", || {
        (look(&daemon, &new) == 200).then_some(())
    });
    assert_eq!(look(&daemon, &old), 401);
    assert_eq!(daemon.status()["fleet"]["timestamp"], versions["timestamp"]);

    // Gone, what is trusted stays in force.
    drop(web);
    until_refused(&daemon, "unreachable");
    assert_eq!(look(&daemon, &new), 200);

    let web = Web::serve(fleet.folder(), &stranger);
    let other = web.follower(&ca);
    fleet.pin(&other);
    until_refused(&other, "unreachable");
    assert_eq!(look(&other, &new), 503, "no key has come");
}

/// The broker's line takes its time: a look that begins before it is up waits for it.
#[test]
fn a_look_waits_for_the_brokers_line_and_comes_again_after_one_that_failed() {
    let issuer = Issuer::new("ES256", "a");
    let (broker, mut fleet) = (Mosquitto::start(), Fleet::new());
    fleet.keys(&issuer.jwks());
    fleet.broadcast(&broker);
    let gate = Gate::before(broker.port());
    let mut daemon = Daemon::start(hourly("mqtt").broker_port(gate.port));
    fleet.pin(&daemon);
    std::thread::sleep(Duration::from_millis(500));
    gate.open.store(true, Ordering::SeqCst);
    daemon.until_ready();
    assert_eq!(look(&daemon, &issuer), 200);
    let metrics = daemon.admin_http("GET", "/metrics", "").body;
    assert!(!metrics.contains(r#"{reason="unreachable"}"#), "{metrics}");

    // The files come after the timestamp that says so; none of them is news by itself.
    let versions = fleet.revoke(&json!([{"sub": "nobody"}]));
    let name = "metadata/timestamp.json";
    let timestamp = fs::read(fleet.folder().join(name)).expect("a file");
    retain(&broker, &format!("{TOPICS}/{name}"), &timestamp);
    until_refused(&daemon, "missing");
    fleet.broadcast(&broker);
    within(PATIENCE, "the fleet's news", || {
        let trusted = daemon.status()["fleet"]["timestamp"].clone();
        (trusted == versions["timestamp"]).then_some(())
    });
}

/// A stick that is put in later.
#[test]
fn a_folder_that_is_away_at_first_is_found_within_seconds() {
    let folder = tempfile::tempdir().expect("a folder");
    let stick = folder.path().join("stick");
    let mut fleet = Fleet::new();
    let issuer = Issuer::new("ES256", "a");
    fleet.keys(&issuer.jwks());
    let mut daemon = Daemon::start(hourly(stick.to_str().expect("UTF-8")));
    fleet.pin(&daemon);
    until_refused(&daemon, "unreachable");
    fleet.copy_to(&stick);
    daemon.until_ready();
    assert_eq!(look(&daemon, &issuer), 200);
}

/// Damaged on the disk, or left by a newer release.
#[test]
fn what_is_kept_and_cant_be_read_lets_nobody_in_until_it_is_mended() {
    let folder = tempfile::tempdir().expect("a folder");
    let (stick, away) = (folder.path().join("stick"), folder.path().join("away"));
    let (mut fleet, issuer) = (Fleet::new(), Issuer::new("ES256", "a"));
    fleet.keys(&issuer.jwks());
    fleet.revoke(&json!([{"sub": "nobody"}]));
    fleet.copy_to(&stick);
    let setup = hourly(stick.to_str().expect("UTF-8"));
    let mut daemon = Daemon::start(setup.with("[fleet]\ninterval = \"1s\""));
    fleet.pin(&daemon);
    daemon.until_ready();
    assert_eq!(look(&daemon, &issuer), 200);
    for (row, content) in [
        ("d:dev:000", "{\"version\""),
        ("t:policy.json:000", "{\"version\": 2}"),
        ("z:newer:000", "{}"),
    ] {
        fs::rename(&stick, &away).expect("a folder");
        daemon.terminate();
        spoil(&daemon, row, content);
        for start in 0..2 {
            daemon.launch_again();
            assert_eq!(look(&daemon, &issuer), 503, "{row} at start {start}");
            daemon.terminate();
        }
        daemon.launch_again();
        let ready = http(&daemon.socket(), "GET", "/readyz", &[], "");
        assert!(
            ready.status == 503 && ready.body.contains("trust pin"),
            "{}",
            ready.body
        );
        let unread = daemon.status()["fleet"]["unread"].clone();
        let told = last(&daemon, "trust_unread");
        assert_eq!(told["why"], unread);
        assert_eq!(told["all_realms"], row != "d:dev:000", "{told}");
        match row {
            // A person begins again from the root.
            "z:newer:000" => fleet.pin(&daemon),
            _ => fs::rename(&away, &stick).expect("a folder"),
        }
        daemon.until_ready();
        assert_eq!(look(&daemon, &issuer), 200);
        assert_eq!(daemon.status()["fleet"]["unread"], Value::Null);
        if row != "z:newer:000" {
            let told = last(&daemon, "trust_updated");
            assert_eq!(told.get("unread"), Some(&Value::Null), "{told}");
        }
    }
}

/// Of the store of a daemon that doesn't run.
fn spoil(daemon: &Daemon, row: &str, content: &str) {
    let store = Store::open(&daemon.state_dir().join("db")).expect("nobody else has it");
    let tree = store.tree("trust").expect("a tree");
    let spoiled = store.commit(|| tree.insert(row.as_bytes(), content.as_bytes()));
    spoiled.expect("it is written");
}

/// The detail of the last record of it.
fn last(daemon: &Daemon, what: &str) -> Value {
    let lines = daemon.audit(0).into_iter();
    let records = lines.map(|line| serde_json::from_str::<Value>(&line).expect("JSON"));
    let mut of_it = records.filter(|record| record["what"] == what);
    of_it.next_back().expect("a record")["detail"].clone()
}

/// Stands before a broker and lets nobody through until it is open.
struct Gate {
    port: u16,
    open: Arc<AtomicBool>,
}

impl Gate {
    fn before(broker: u16) -> Gate {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let gate = Gate {
            port: listener.local_addr().expect("it is bound").port(),
            open: Arc::default(),
        };
        let open = Arc::clone(&gate.open);
        std::thread::spawn(move || {
            for device in listener.incoming().flatten() {
                let open = Arc::clone(&open);
                std::thread::spawn(move || {
                    within(PATIENCE, "the gate", || {
                        open.load(Ordering::SeqCst).then_some(())
                    });
                    let broker = TcpStream::connect(("127.0.0.1", broker))?;
                    let (mut from, mut to) = (device.try_clone()?, broker.try_clone()?);
                    std::thread::spawn(move || io::copy(&mut from, &mut to));
                    io::copy(&mut &broker, &mut &device)
                });
            }
        });
        gate
    }
}
