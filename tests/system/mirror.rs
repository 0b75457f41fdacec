//! A fleet's files from a web server, under a pinned CA and under another one.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::{Ca, Daemon, Fleet, Issuer, Setup, claims, http, root, target, within};

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
    within(PATIENCE, "the mirror's failure", || {
        (mirror(&daemon)["refused"]["reason"] == "unreachable").then_some(())
    });
    assert_eq!(look(&daemon, &new), 200);

    let web = Web::serve(fleet.folder(), &stranger);
    let other = web.follower(&ca);
    fleet.pin(&other);
    within(PATIENCE, "the stranger's refusal", || {
        (mirror(&other)["refused"]["reason"] == "unreachable").then_some(())
    });
    assert_eq!(look(&other, &new), 503, "no key has come");
}
