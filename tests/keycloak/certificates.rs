//! Throw-away certificates and keys, made by openssl.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::support::run;

const PATIENCE: Duration = Duration::from_secs(60);

/// A certificate authority in a folder of its own.
pub struct Authority {
    folder: PathBuf,
}

/// Files of one key: PEM of both parts, and the private one as PKCS #1 DER where it is RSA.
pub struct Pair {
    pub key: PathBuf,
    pub certificate: PathBuf,
}

impl Authority {
    pub fn new(folder: &Path) -> Authority {
        fs::create_dir_all(folder).expect("the test's folder is writable");
        let authority = Authority {
            folder: folder.to_owned(),
        };
        let (key, certificate) = (authority.path("ca.key"), authority.path("ca.pem"));
        openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj",
            &["/CN=slmd tests", "-keyout", &key, "-out", &certificate],
        );
        authority
    }

    pub fn certificate(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// A server's certificate for `localhost` and 127.0.0.1.
    pub fn server(&self, name: &str) -> Pair {
        let path = |ending: &str| self.path(&format!("{name}.{ending}"));
        let (key, request, certificate) = (path("key"), path("csr"), path("pem"));
        let extensions = path("ext");
        fs::write(&extensions, "subjectAltName=DNS:localhost,IP:127.0.0.1\n")
            .expect("the test's folder is writable");
        openssl(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost",
            &["-keyout", &key, "-out", &request],
        );
        let (ca, ca_key) = (self.path("ca.pem"), self.path("ca.key"));
        openssl(
            "x509 -req -days 2 -CAcreateserial",
            &[
                "-in",
                &request,
                "-CA",
                &ca,
                "-CAkey",
                &ca_key,
                "-extfile",
                &extensions,
                "-out",
                &certificate,
            ],
        );
        Pair {
            key: key.into(),
            certificate: certificate.into(),
        }
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}

/// An RSA key with a certificate signed by itself, as Keycloak takes keys in.
pub fn rsa(folder: &Path, name: &str) -> Pair {
    let path = |ending: &str| folder.join(format!("{name}.{ending}"));
    let pair = Pair {
        key: path("key"),
        certificate: path("pem"),
    };
    let (key, certificate) = (pair.key.display(), pair.certificate.display());
    openssl(
        "req -x509 -newkey rsa:2048 -nodes -days 2",
        &[
            "-subj",
            &format!("/CN={name}"),
            "-keyout",
            &key.to_string(),
            "-out",
            &certificate.to_string(),
        ],
    );
    pair
}

impl Pair {
    /// The private key as `jsonwebtoken` takes it (RFC 8017 appendix A.1.2).
    pub fn pkcs1(&self) -> Vec<u8> {
        let key = self.key.display().to_string();
        openssl("rsa -traditional -outform DER", &["-in", key.as_str()])
    }

    /// A token of the key's own making, with Keycloak's header and any claims.
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let mut made = Header::new(Algorithm::RS256);
        made.kid = header["kid"].as_str().map(str::to_owned);
        let key = EncodingKey::from_rsa_der(&self.pkcs1());
        jsonwebtoken::encode(&made, claims, &key).expect("RSA signs")
    }

    /// What Keycloak's key provider `rsa` is configured with, to sign with this key.
    pub fn component(&self, priority: u32) -> Value {
        json!({
            "priority": [priority.to_string()],
            "algorithm": ["RS256"],
            "privateKey": [self.key_pem()],
            "certificate": [self.certificate_pem()],
        })
    }

    fn key_pem(&self) -> String {
        fs::read_to_string(&self.key).expect("openssl wrote it")
    }

    fn certificate_pem(&self) -> String {
        fs::read_to_string(&self.certificate).expect("openssl wrote it")
    }

    /// The certificate's base64 on one line, without its PEM frame.
    pub fn certificate_line(&self) -> String {
        let pem = self.certificate_pem();
        let lines = pem.lines().filter(|line| !line.starts_with("-----"));
        lines.collect()
    }
}

/// Runs openssl with plain words and then `more`; returns what it printed.
fn openssl(words: &str, more: &[&str]) -> Vec<u8> {
    let mut command = Command::new("openssl");
    command.args(words.split(' ')).args(more);
    let output = run(&mut command, b"", PATIENCE);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    output.stdout
}
