//! The server's certificate in force: read at start, and again at each reload.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::ServerConfig;

use crate::time::Timestamp;
use crate::tls::{self, KeyPair, Server, TlsError};

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
    server: ArcSwapOption<Server>,
}

/// Certificates as their files have them, for [`Certificates::renew`].
pub struct Renewed(Option<Server>);

impl Certificates {
    /// Reads the files, where there is TLS at all.
    pub fn open(settings: Option<&TlsSettings>) -> Result<Certificates, TlsError> {
        let certificates = Certificates {
            settings: settings.cloned(),
            server: ArcSwapOption::empty(),
        };
        certificates.renew(certificates.read()?);
        Ok(certificates)
    }

    /// Reads the files again, and changes nothing.
    pub fn read(&self) -> Result<Renewed, TlsError> {
        let read = |settings: &TlsSettings| {
            let client_ca = settings.client_ca_file.as_deref();
            let required = settings.client_certificate_required;
            tls::server(&settings.own, client_ca, required)
        };
        Ok(Renewed(self.settings.as_ref().map(read).transpose()?))
    }

    /// Greets new connections with what was read. Can't fail.
    pub fn renew(&self, renewed: Renewed) {
        self.server.store(renewed.0.map(Arc::new));
    }

    /// When the certificate in force ends, where there is TLS.
    pub fn ends_at(&self) -> Option<Timestamp> {
        self.server.load().as_ref()?.ends_at
    }

    pub(super) fn current(&self) -> Option<Arc<ServerConfig>> {
        let server = self.server.load();
        server.as_ref().map(|server| Arc::clone(&server.config))
    }
}
