//! TLS by rustls on aws-lc-rs: the one place that reads certificates and keys and makes
//! configurations of them.

mod validity;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::files::{self, Care};
use crate::secret::Secret;
use crate::time::{Known, Timestamp};

/// No sound chain, bundle of CAs or key comes near.
const MAX_PEM: u64 = 1 << 20;

/// A file that can't be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {why}", file = .file.display())]
pub struct TlsError {
    pub file: PathBuf,
    pub why: String,
}

/// A certificate chain and its key, as PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPair {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}

/// For connections to a server whose CA is pinned, with our own certificate where there is one. The
/// server's certificate has to be good at the time that is known, whatever the machine's clock says.
pub fn client(
    ca_file: &Path,
    own: Option<&KeyPair>,
    known: &Known,
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(default_provider());
    let builder = ClientConfig::builder_with_details(provider, Arc::new(At(known.clone())))
        .with_safe_default_protocol_versions()
        .map_err(|e| error(ca_file, &e))?
        .with_root_certificates(roots(ca_file)?);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => builder
            .with_client_auth_cert(chain(&own.cert_file)?, key(&own.key_file)?)
            .map_err(|e| error(&own.cert_file, &e))?,
    };
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct At(Known);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        let now = Duration::from_secs(self.0.now().as_secs());
        Some(UnixTime::since_unix_epoch(now))
    }
}

/// A server's side of TLS.
#[derive(Debug, Clone)]
pub struct Server {
    pub config: Arc<ServerConfig>,
    /// The end of its own certificate.
    pub ends_at: Option<Timestamp>,
}

/// For our own server, HTTP/1.1 only. With `client_ca` clients may show a certificate of it, and
/// must where it is `required`.
pub fn server(own: &KeyPair, client_ca: Option<&Path>, required: bool) -> Result<Server, TlsError> {
    let provider = Arc::new(default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| error(&own.cert_file, &e))?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let roots = Arc::new(roots(file)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            let verifier = match required {
                true => verifier,
                false => verifier.allow_unauthenticated(),
            };
            builder.with_client_cert_verifier(verifier.build().map_err(|e| error(file, &e))?)
        }
    };
    let chain = chain(&own.cert_file)?;
    let ends_at = chain.first().and_then(|own| validity::ends_at(own));
    let mut config = builder
        .with_single_cert(chain, key(&own.key_file)?)
        .map_err(|e| error(&own.cert_file, &e))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let config = Arc::new(config);
    Ok(Server { config, ends_at })
}

/// Whether a file of certificates, CAs too, can be used.
pub fn check_certificates(file: &Path) -> Result<(), TlsError> {
    roots(file).map(drop)
}

/// Whether a private key can be read and used.
pub fn check_key(file: &Path) -> Result<(), TlsError> {
    key(file).map(drop)
}

/// Whether certificate and key belong together; what is wrong with either alone isn't told here.
pub fn check_pair(own: &KeyPair) -> Result<(), TlsError> {
    let (Ok(chain), Ok(key)) = (chain(&own.cert_file), key(&own.key_file)) else {
        return Ok(());
    };
    let pair = CertifiedKey::from_der(chain, key, &default_provider());
    pair.map(drop).map_err(|e| error(&own.key_file, &e))
}

/// When a certificate ends, as its file has it now.
pub fn ends_at(own: &KeyPair) -> Option<Timestamp> {
    validity::ends_at(chain(&own.cert_file).ok()?.first()?)
}

/// `sha256:` and the hash of a certificate, as `openssl x509 -fingerprint -sha256` tells it.
pub fn fingerprint(certificate: &[u8]) -> String {
    let hash = crate::digest::sha256(certificate);
    let mut text = "sha256:".to_owned();
    for byte in hash.as_ref() {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn roots(ca_file: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(ca_file)? {
        roots.add(certificate).map_err(|e| error(ca_file, &e))?;
    }
    Ok(roots)
}

fn chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = files::read(file, MAX_PEM, Care::Trusted).map_err(|e| error(file, &e))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates.map_err(|e| error(file, &e))? {
        none if none.is_empty() => Err(error(file, &"it holds no PEM certificate")),
        certificates => Ok(certificates),
    }
}

fn key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let pem = files::read(file, MAX_PEM, Care::Secret).map_err(|e| error(file, &e))?;
    let pem = Secret::new(pem);
    PrivateKeyDer::from_pem_slice(pem.expose()).map_err(|e| error(file, &e))
}

fn error(file: &Path, why: &dyn std::fmt::Display) -> TlsError {
    TlsError {
        file: file.to_owned(),
        why: why.to_string(),
    }
}
