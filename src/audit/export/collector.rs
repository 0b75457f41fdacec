//! A connection to a syslog collector, over TLS or within this machine.
//!
//! Syslog has no acknowledgement, and TCP's says only that bytes lie in the other machine's kernel. What
//! a collector has read shows when a connection ends in order: it closes its side when it has come to
//! the end of ours. One that was killed, or has turned us away, answers what it hasn't read with a
//! reset, and never acknowledges what comes after. So [`Collector::end`] succeeds when the other side
//! has closed and all of ours was acknowledged.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt::set_socket_send_buffer_size;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Syslog;
use super::failure::Failure;
use crate::time::Known;
use crate::{sys, tls};

/// To connect, and for TLS's handshake.
const CONNECT: Duration = Duration::from_secs(20);

/// What is given to the kernel at once, and how long that may take.
const PIECE: usize = 16 * 1024;
const PATIENCE: Duration = Duration::from_secs(60);

/// What the kernel keeps for a slow collector.
const SEND_BUFFER: usize = 64 * 1024;

/// To learn of what has come already.
const GLANCE: Duration = Duration::from_millis(1);

/// Between two looks at what the other side has acknowledged.
const LOOK: Duration = Duration::from_millis(10);

pub(super) enum Collector {
    Tls(Box<TlsStream<TcpStream>>),
    Plain(TcpStream),
}

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

impl Collector {
    /// Its files are read anew. `known`: when certificates have to be good.
    pub(super) async fn connect(settings: &Syslog, known: &Known) -> Result<Collector, Failure> {
        let tls = settings.ca_file.as_deref();
        let tls = tls.map(|ca| tls::client(ca, settings.own.as_ref(), known));
        let tls = tls.transpose()?;
        let connected = timeout(CONNECT, connect(settings, tls)).await;
        connected.unwrap_or_else(|_| Err(Failure::Unreachable(format!("no answer in {CONNECT:?}"))))
    }

    /// Returns when the kernel has taken all of it.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        for piece in bytes.chunks(PIECE) {
            let written = async {
                self.both().write_all(piece).await?;
                self.both().flush().await
            };
            match timeout(PATIENCE, written).await {
                Ok(written) => written.map_err(Failure::Broken)?,
                Err(_) => return Err(Failure::Stalled(PATIENCE)),
            }
        }
        Ok(())
    }

    /// Resolves with what the other side has done, which it shouldn't.
    pub(super) async fn disturbed(&mut self) -> Failure {
        match self.both().read(&mut [0]).await {
            Ok(0) => Failure::Closed,
            Ok(_) => Failure::Answers,
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Failure::Closed,
            Err(error) => Failure::Broken(error),
        }
    }

    /// Succeeds when all that was sent has been read.
    pub(super) async fn end(mut self) -> Result<(), Failure> {
        let ended = async {
            // Who had closed before the end of ours has read no end.
            if let Ok(failure) = timeout(GLANCE, self.disturbed()).await {
                return Err(failure);
            }
            self.both().shutdown().await.map_err(Failure::Broken)?;
            // Over TLS, too, many close without `close_notify`.
            match self.disturbed().await {
                Failure::Closed => self.acknowledged().await.map_err(Failure::Broken),
                failure => Err(failure),
            }
        };
        let ended = timeout(PATIENCE, ended).await;
        ended.unwrap_or(Err(Failure::Unconfirmed(PATIENCE)))
    }

    async fn acknowledged(&self) -> io::Result<()> {
        let socket = match self {
            Collector::Tls(stream) => stream.get_ref().0,
            Collector::Plain(stream) => stream,
        };
        loop {
            let left = sys::unacknowledged(socket.as_fd());
            if let Some(error) = socket.take_error()? {
                return Err(error);
            }
            if left? == 0 {
                return Ok(());
            }
            sleep(LOOK).await;
        }
    }

    fn both(&mut self) -> &mut dyn Duplex {
        match self {
            Collector::Tls(stream) => stream,
            Collector::Plain(stream) => stream,
        }
    }
}

async fn connect(
    settings: &Syslog,
    tls: Option<Arc<rustls::ClientConfig>>,
) -> Result<Collector, Failure> {
    let unreachable = |error: io::Error| Failure::Unreachable(error.to_string());
    let address = &settings.address;
    let stream = TcpStream::connect((address.host.as_str(), address.port)).await;
    let stream = stream.map_err(unreachable)?;
    let bounded = set_socket_send_buffer_size(&stream, SEND_BUFFER);
    bounded.map_err(|error| unreachable(error.into()))?;
    let Some(tls) = tls else {
        return Ok(Collector::Plain(stream));
    };
    let name = settings.server_name.as_ref().unwrap_or(&address.host);
    let name = ServerName::try_from(name.clone());
    let name = name.map_err(|error| Failure::Tls(io::Error::other(error)))?;
    let stream = TlsConnector::from(tls).connect(name, stream).await;
    let stream = stream.map_err(Failure::Tls)?;
    Ok(Collector::Tls(Box::new(stream)))
}

#[cfg(test)]
mod tests {
    //! What a connection's end tells, by sockets that do what no real collector can be brought to do
    //! at the right moment. A real one is in `tests/system/export.rs`.

    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::thread;

    use super::*;
    use crate::audit::export::Facility;

    const SENT: &[u8] = b"3 abc";

    /// A collector within this machine that does so with its one connection; how `end` goes, when what
    /// the other side does first has come.
    async fn ended_by(
        first: bool,
        behave: impl FnOnce(TcpStream) + Send + 'static,
    ) -> Result<(), Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let other = thread::spawn(move || behave(listener.accept().unwrap().0));
        let settings = Syslog {
            address: address.parse().unwrap(),
            ca_file: None,
            server_name: None,
            own: None,
            facility: Facility::of("audit").unwrap(),
            enterprise: None,
        };
        let known = Known::default();
        let mut collector = Collector::connect(&settings, &known).await.unwrap();
        collector.send(SENT).await.unwrap();
        if let (true, Collector::Plain(stream)) = (first, &collector) {
            stream.readable().await.unwrap();
        }
        let ended = collector.end().await;
        other.join().unwrap();
        ended
    }

    fn read_all(stream: &mut TcpStream) {
        let mut read = Vec::new();
        io::Read::read_to_end(stream, &mut read).unwrap();
        assert_eq!(read, SENT);
    }

    #[tokio::test]
    async fn one_that_has_read_all_confirms_it_by_closing() {
        let closes = |mut stream: TcpStream| read_all(&mut stream);
        assert!(ended_by(false, closes).await.is_ok());
    }

    #[tokio::test]
    async fn one_that_closes_without_having_read_confirms_nothing() {
        let turns_away = |stream: TcpStream| {
            let mut byte = [0];
            stream.peek(&mut byte).unwrap();
        };
        let broken = ended_by(false, turns_away).await;
        assert!(matches!(broken, Err(Failure::Broken(_))), "{broken:?}");
    }

    /// As who refuses a client's certificate, and is gone before what is sent has come.
    #[tokio::test]
    async fn one_that_has_closed_before_it_could_read_confirms_nothing() {
        let gone = |stream: TcpStream| {
            stream.shutdown(Shutdown::Write).unwrap();
            let mut bytes = [0; 64];
            // The end of ours has come, unread.
            while stream.peek(&mut bytes).unwrap() < SENT.len() {}
        };
        let closed = ended_by(true, gone).await;
        assert!(matches!(closed, Err(Failure::Closed)), "{closed:?}");
    }

    #[tokio::test]
    async fn one_that_answers_is_none() {
        let answers = |mut stream: TcpStream| {
            io::Write::write_all(&mut stream, b"220 hello").unwrap();
            // Until it is left.
            let _ = io::copy(&mut stream, &mut io::sink());
        };
        let other = ended_by(true, answers).await;
        assert!(matches!(other, Err(Failure::Answers)), "{other:?}");
    }
}
