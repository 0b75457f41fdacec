//! The server's certificate in force: read at start, and again at each reload.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::ServerConfig;

use crate::tls::{self, KeyPair, TlsError};

/// `[http.tls]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    pub listen: SocketAddr,
    pub own: KeyPair,
    /// Who signs the certificates of clients.
    pub client_ca_file: Option<PathBuf>,
    /// Whether a client without a certificate is turned away.
    pub client_certificate_required: bool,
}

/// The certificate that new connections are greeted with.
pub struct Certificates {
    settings: Option<TlsSettings>,
    config: ArcSwapOption<ServerConfig>,
}

impl Certificates {
    /// Reads the files, where there is TLS at all.
    pub fn open(settings: Option<&TlsSettings>) -> Result<Certificates, TlsError> {
        let certificates = Certificates {
            settings: settings.cloned(),
            config: ArcSwapOption::empty(),
        };
        certificates.reload()?;
        Ok(certificates)
    }

    /// Reads the files again. When one can't be used, the certificate in force stays.
    pub fn reload(&self) -> Result<(), TlsError> {
        if let Some(settings) = &self.settings {
            let client_ca = settings.client_ca_file.as_deref();
            let required = settings.client_certificate_required;
            let config = tls::server(&settings.own, client_ca, required)?;
            self.config.store(Some(config));
        }
        Ok(())
    }

    pub(super) fn current(&self) -> Option<Arc<ServerConfig>> {
        self.config.load_full()
    }
}
