//! Throw-away certificates, made by openssl.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::wait::run;

const PATIENCE: Duration = Duration::from_secs(30);

/// A certificate authority of one test.
pub struct Ca {
    folder: TempDir,
    name: String,
}

/// A certificate and its key, as PEM files.
pub struct Certificate {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Ca {
    pub fn new(name: &str) -> Ca {
        let ca = Ca {
            folder: tempfile::tempdir().expect("a temporary folder"),
            name: name.to_owned(),
        };
        let subject = format!("/CN={name}");
        let mut command = ca.openssl(&["req", "-x509", "-out", "ca.pem", "-keyout", "ca.key"]);
        command.args(KEY).args(["-days", "2", "-subj", &subject]);
        succeed(command);
        ca
    }

    /// Its own certificate.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for `localhost` and 127.0.0.1, to serve with and to come with.
    pub fn issue(&self, name: &str) -> Certificate {
        let path = |kind: &str| self.folder.path().join(format!("{name}.{kind}"));
        let (request, extensions) = (path("csr"), path("ext"));
        let certificate = Certificate {
            cert: path("pem"),
            key: path("key"),
        };
        let subject = format!("/O={}/CN={name}", self.name);
        let mut command = self.openssl(&["req", "-new", "-subj", &subject]);
        command.args(KEY).arg("-keyout").arg(&certificate.key);
        command.arg("-out").arg(&request);
        succeed(command);
        let text = "subjectAltName=DNS:localhost,IP:127.0.0.1\n\
                    extendedKeyUsage=serverAuth,clientAuth\n";
        std::fs::write(&extensions, text).expect("a temporary file");
        let mut command = self.openssl(&["x509", "-req", "-days", "2", "-CAcreateserial"]);
        command.args(["-CA", "ca.pem", "-CAkey", "ca.key"]);
        command.arg("-in").arg(&request);
        command.arg("-extfile").arg(&extensions);
        command.arg("-out").arg(&certificate.cert);
        succeed(command);
        certificate
    }

    fn openssl(&self, args: &[&str]) -> Command {
        let mut command = Command::new("openssl");
        command.current_dir(self.folder.path()).args(args);
        command
    }
}

const KEY: [&str; 5] = [
    "-nodes",
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:prime256v1",
];

impl Certificate {
    /// As `slmd` names it.
    pub fn fingerprint(&self) -> String {
        let mut command = Command::new("openssl");
        command.args(["x509", "-noout", "-fingerprint", "-sha256", "-in"]);
        command.arg(&self.cert);
        let said = succeed(command);
        let (_, hex) = said.trim().split_once('=').expect("a fingerprint");
        format!("sha256:{}", hex.replace(':', "").to_lowercase())
    }

    /// Takes the place of another one's files.
    pub fn replace(&self, other: &Certificate) {
        copy(&self.cert, &other.cert);
        copy(&self.key, &other.key);
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::copy(from, to).expect("a temporary file");
}

fn succeed(mut command: Command) -> String {
    let output = run(&mut command, b"", PATIENCE);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout).expect("text")
}
