//! The ways in: a Unix socket, TCP on loopback, TLS. Each says who comes and makes a stream of it.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::certificates::Certificates;
use crate::prompt::network;
use crate::sys;

/// Who is at the other end of a Unix socket, as the kernel tells it (`SO_PEERCRED`,
/// `SO_PEERGROUPS`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) pid: Option<i32>,
    /// Besides `gid`.
    pub(super) groups: Arc<[u32]>,
}

/// Who is at the other end of a TCP connection, and which of our addresses it came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TcpPeer {
    pub(super) address: SocketAddr,
    pub(super) local: SocketAddr,
    /// Of the client's certificate, where it showed one.
    pub(super) certificate: Option<String>,
}

/// Whose share of the connections one takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Whose {
    User(u32),
    Address(IpAddr),
}

/// One listening socket.
pub(super) trait Door: Send + Sync + 'static {
    type Raw: Send + 'static;
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    type Peer: Clone + Send + Sync + 'static;

    fn accept(&self) -> impl Future<Output = io::Result<Self::Raw>> + Send;
    fn whose(&self, raw: &Self::Raw) -> io::Result<Whose>;
    /// The handshake, where there is one. The caller bounds its time.
    fn greet(
        &self,
        raw: Self::Raw,
    ) -> impl Future<Output = io::Result<(Self::Stream, Self::Peer)>> + Send;
    /// New clients are refused from here on. Not to be called while an `accept` waits.
    fn close(&self);
}

/// A listener that can be closed while connections still share the door.
pub(super) struct Listening<L>(Mutex<Option<Arc<L>>>);

impl<L> Listening<L> {
    pub(super) fn new(listener: L) -> Listening<L> {
        Listening(Mutex::new(Some(Arc::new(listener))))
    }

    fn open(&self) -> io::Result<Arc<L>> {
        let listener = self.0.lock();
        listener
            .clone()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn close(&self) {
        drop(self.0.lock().take());
    }
}

impl Door for Listening<UnixListener> {
    type Raw = UnixStream;
    type Stream = UnixStream;
    type Peer = Peer;

    async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.open()?.accept().await?.0)
    }

    fn whose(&self, raw: &UnixStream) -> io::Result<Whose> {
        Ok(Whose::User(raw.peer_cred()?.uid()))
    }

    async fn greet(&self, raw: UnixStream) -> io::Result<(UnixStream, Peer)> {
        let cred = raw.peer_cred()?;
        let peer = Peer {
            uid: cred.uid(),
            gid: cred.gid(),
            pid: cred.pid(),
            groups: sys::peer_groups(raw.as_fd()).into(),
        };
        Ok((raw, peer))
    }

    fn close(&self) {
        Listening::close(self);
    }
}

impl Door for Listening<TcpListener> {
    type Raw = TcpStream;
    type Stream = TcpStream;
    type Peer = TcpPeer;

    async fn accept(&self) -> io::Result<TcpStream> {
        Ok(self.open()?.accept().await?.0)
    }

    fn whose(&self, raw: &TcpStream) -> io::Result<Whose> {
        Ok(Whose::Address(network(raw.peer_addr()?.ip())))
    }

    async fn greet(&self, raw: TcpStream) -> io::Result<(TcpStream, TcpPeer)> {
        // Streamed answers are many small writes.
        raw.set_nodelay(true)?;
        let peer = TcpPeer {
            address: raw.peer_addr()?,
            local: raw.local_addr()?,
            certificate: None,
        };
        Ok((raw, peer))
    }

    fn close(&self) {
        Listening::close(self);
    }
}

/// TCP with TLS on it, by whatever certificate is in force when a client comes.
pub(super) struct TlsDoor {
    pub(super) tcp: Listening<TcpListener>,
    pub(super) certificates: Arc<Certificates>,
}

impl Door for TlsDoor {
    type Raw = TcpStream;
    type Stream = TlsStream<TcpStream>;
    type Peer = TcpPeer;

    async fn accept(&self) -> io::Result<TcpStream> {
        self.tcp.accept().await
    }

    fn whose(&self, raw: &TcpStream) -> io::Result<Whose> {
        self.tcp.whose(raw)
    }

    async fn greet(&self, raw: TcpStream) -> io::Result<(TlsStream<TcpStream>, TcpPeer)> {
        let config = self
            .certificates
            .current()
            .ok_or(io::ErrorKind::NotConnected)?;
        let (stream, peer) = self.tcp.greet(raw).await?;
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let shown = stream.get_ref().1.peer_certificates();
        let certificate = shown.and_then(|chain| chain.first());
        let certificate = certificate.map(|own| crate::tls::fingerprint(own));
        Ok((
            stream,
            TcpPeer {
                certificate,
                ..peer
            },
        ))
    }

    fn close(&self) {
        Listening::close(&self.tcp);
    }
}
