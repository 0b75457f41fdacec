//! Requests over HTTPS: pinned CA, no redirects, no proxies, every size and wait bounded.
//!
//! Used by `keysync` for key sets, by `witness` for checkpoints, by the command line's login, and by
//! `telemetry` for traces. Blocks.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ureq::Agent;
use ureq::http::{HeaderMap, Request, Uri};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider};

use crate::digest::percent_encoded;
use crate::files::{self, Care};

/// Certificates of a CA file; no sound one comes near.
const MAX_CA: u64 = 1 << 20;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HttpsError {
    #[error("{url:?} is no usable URL: {why}")]
    Url { url: String, why: &'static str },
    #[error("CA file {file}: {why}", file = .file.display())]
    CaFile { file: PathBuf, why: String },
    /// Network, TLS, time-out: what may work the next time.
    #[error("{0}")]
    Unreachable(String),
    #[error("the answer is larger than {0} bytes")]
    TooLarge(u64),
}

/// An answer, whatever its status.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// A client that trusts one CA. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Https {
    agent: Agent,
    /// Plain HTTP may leave this machine.
    plain: bool,
}

impl Https {
    /// Without a CA only plain HTTP to this machine is possible ([`check_url`]).
    pub fn new(ca_file: Option<&Path>, timeout: Duration) -> Result<Https, HttpsError> {
        let roots = match ca_file {
            Some(file) => certificates(file)?,
            None => Vec::new(),
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(provider)
            .root_certs(RootCerts::new_with_certs(&roots))
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .timeout_global(Some(timeout))
            .timeout_connect(Some(timeout.min(Duration::from_secs(5))))
            .user_agent(concat!("slmd/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Https {
            agent: Agent::new_with_config(config),
            plain: false,
        })
    }

    /// Where somebody has said that whoever is in between may read all of it.
    #[must_use]
    pub fn or_plain(self, plain: bool) -> Https {
        Https { plain, ..self }
    }

    pub fn get(&self, url: &str, max: u64) -> Result<Answer, HttpsError> {
        self.check(url)?;
        self.send(Request::get(url).body(Vec::new()), max)
    }

    /// `application/x-www-form-urlencoded`, as OAuth's endpoints take it. The body is written before
    /// the answer is read: codes and tokens are a few KiB, which no server refuses halfway.
    pub fn post_form(
        &self,
        url: &str,
        fields: &[(&str, &str)],
        headers: &[(&str, &str)],
        max: u64,
    ) -> Result<Answer, HttpsError> {
        let pairs = fields.iter();
        let body: Vec<String> = pairs
            .map(|(name, value)| format!("{}={}", percent_encoded(name), percent_encoded(value)))
            .collect();
        let form = [("content-type", "application/x-www-form-urlencoded")];
        let headers = [&form, headers].concat();
        self.post(url, body.join("&").into_bytes(), &headers, max)
    }

    pub fn post(
        &self,
        url: &str,
        body: Vec<u8>,
        headers: &[(&str, &str)],
        max: u64,
    ) -> Result<Answer, HttpsError> {
        self.check(url)?;
        let mut request = Request::post(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body), max)
    }

    fn check(&self, url: &str) -> Result<(), HttpsError> {
        match self.plain {
            true => check_any_url(url),
            false => check_url(url),
        }
    }

    fn send(
        &self,
        request: Result<Request<Vec<u8>>, ureq::http::Error>,
        max: u64,
    ) -> Result<Answer, HttpsError> {
        let unreachable =
            |error: &dyn std::fmt::Display| HttpsError::Unreachable(error.to_string());
        let request = request.map_err(|e| unreachable(&e))?;
        let mut response = self.agent.run(request).map_err(|e| unreachable(&e))?;
        let body = response.body_mut().with_config().limit(max).read_to_vec();
        let body = body.map_err(|error| match error {
            ureq::Error::BodyExceedsLimit(_) => HttpsError::TooLarge(max),
            other => unreachable(&other),
        })?;
        Ok(Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body,
        })
    }
}

/// HTTPS anywhere; plain HTTP to this machine only, where nobody is in between.
pub fn check_url(url: &str) -> Result<(), HttpsError> {
    let uri = parsed(url)?;
    match uri.host() {
        Some(host) if uri.scheme_str() == Some("http") && !is_loopback(host) => Err(wrong(
            url,
            "plain HTTP goes to this machine only; write https://",
        )),
        _ => Ok(()),
    }
}

/// Plain HTTP anywhere, too.
pub fn check_any_url(url: &str) -> Result<(), HttpsError> {
    parsed(url).map(drop)
}

fn parsed(url: &str) -> Result<Uri, HttpsError> {
    let uri: Uri = url.parse().map_err(|_| wrong(url, "it can't be parsed"))?;
    if uri.authority().is_some_and(|a| a.as_str().contains('@')) {
        return Err(wrong(url, "it holds credentials"));
    }
    match (uri.scheme_str(), uri.host()) {
        (Some("https" | "http"), Some(host)) if !host.is_empty() => Ok(uri),
        _ => Err(wrong(url, "write https://host/path")),
    }
}

fn wrong(url: &str, why: &'static str) -> HttpsError {
    let url = url.to_owned();
    HttpsError::Url { url, why }
}

/// Whether a URL's host is this machine, without asking anybody.
pub fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let address: Option<std::net::IpAddr> = bare.parse().ok();
    bare.eq_ignore_ascii_case("localhost") || address.is_some_and(|address| address.is_loopback())
}

fn certificates(file: &Path) -> Result<Vec<Certificate<'static>>, HttpsError> {
    let wrong = |why: String| HttpsError::CaFile {
        file: file.to_owned(),
        why,
    };
    let pem = files::read(file, MAX_CA, Care::Trusted).map_err(|e| wrong(e.to_string()))?;
    let mut certificates = Vec::new();
    for item in ureq::tls::parse_pem(&pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(_) => {}
            Err(error) => return Err(wrong(error.to_string())),
        }
    }
    if certificates.is_empty() {
        return Err(wrong("it holds no PEM certificate".to_owned()));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_stays_on_this_machine() {
        for good in [
            "https://k.example/certs",
            "http://127.0.0.1:8080/x",
            "http://[::1]/x",
        ] {
            assert_eq!(check_url(good), Ok(()), "{good}");
        }
        for bad in [
            "http://k.example/certs",
            "ftp://x/",
            "/x",
            "https://u:p@k.example/",
            "",
        ] {
            assert!(check_url(bad).is_err(), "{bad}");
        }
        assert_eq!(check_any_url("http://k.example/certs"), Ok(()));
        for bad in ["ftp://x/", "/x", "http://u:p@k.example/", "http:///x", ""] {
            assert!(check_any_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_ca_file_must_hold_a_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        let second = Duration::from_secs(1);
        assert!(matches!(
            Https::new(Some(&file), second),
            Err(HttpsError::CaFile { .. })
        ));
        std::fs::write(&file, "no PEM").unwrap();
        assert!(matches!(
            Https::new(Some(&file), second),
            Err(HttpsError::CaFile { .. })
        ));
    }
}
