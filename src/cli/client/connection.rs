//! One HTTP request over a Unix socket, by hyper; blocks, and every wait has an end.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::handshake;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// Longer than any silence of a healthy daemon, which sends a comment line every `keep_alive`.
pub(super) const SILENCE: Duration = Duration::from_secs(120);
/// Until the daemon takes the connection: a full backlog blocks.
const CONNECT: Duration = Duration::from_secs(10);

/// Why a request or its answer ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// Nothing came for as long as was waited.
    #[error("nothing came for too long")]
    Silent,
    #[error(transparent)]
    Io(io::Error),
    #[error("{0}{why}", why = cause(.0))]
    Http(#[from] hyper::Error),
}

/// hyper's own words leave it out.
fn cause(error: &hyper::Error) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(String::new, |source| format!(": {source}"))
}

/// An answer, whatever its status, whose body is still to come.
pub(super) struct Exchange {
    pub(super) head: hyper::http::response::Parts,
    body: Incoming,
    /// Of the body, what has come and wasn't read.
    piece: Bytes,
    /// Drives the connection whenever it is waited for.
    runtime: Runtime,
}

impl Exchange {
    /// Sends `request` and waits for the head of its answer, at most for `patience`.
    pub(super) fn begin(
        socket: &Path,
        request: Request<Full<Bytes>>,
        patience: Duration,
    ) -> Result<Exchange, Broken> {
        let stream = connect(socket, CONNECT)?;
        stream.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let response = runtime.block_on(within(patience, async {
            send(tokio::net::UnixStream::from_std(stream)?, request).await
        }))?;
        let (head, body) = response.into_parts();
        Ok(Exchange {
            head,
            body,
            piece: Bytes::new(),
            runtime,
        })
    }

    /// The next piece of the body; `None` at its end.
    fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        let body = &mut self.body;
        self.runtime.block_on(within(SILENCE, async {
            while let Some(frame) = body.frame().await {
                match frame?.into_data() {
                    Ok(data) if !data.is_empty() => return Ok(Some(data)),
                    _ => {}
                }
            }
            Ok(None)
        }))
    }
}

async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Broken>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = Listening(TokioIo::new(stream));
    let (mut sender, connection) = handshake(stream).await?;
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?)
}

async fn within<T>(
    limit: Duration,
    wait: impl Future<Output = Result<T, Broken>>,
) -> Result<T, Broken> {
    timeout(limit, wait).await.unwrap_or(Err(Broken::Silent))
}

/// A blocking connect waits for room in the backlog, for as long as it may wait to send (unix(7)).
pub(super) fn connect(socket: &Path, limit: Duration) -> io::Result<UnixStream> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
    let flags = SocketFlags::CLOEXEC;
    let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
    let stream = rustix::net::socket_with(family, kind, flags, None)?;
    sockopt::set_socket_timeout(&stream, sockopt::Timeout::Send, Some(limit))?;
    rustix::net::connect(&stream, &SocketAddrUnix::new(socket)?)?;
    Ok(stream.into())
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Broken {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Broken::Silent,
            _ => Broken::Io(error),
        }
    }
}

impl io::Read for Exchange {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() {
            self.piece = self.next().map_err(io::Error::other)?.unwrap_or_default();
        }
        let taken = self.piece.split_to(buffer.len().min(self.piece.len()));
        buffer[..taken.len()].copy_from_slice(&taken);
        Ok(taken.len())
    }
}

/// A stream that goes on listening when its peer takes no more: a server that refuses a request by
/// its head closes before it has read the body, and its answer is there to be read.
struct Listening<S>(S);

impl<S: Read + Unpin> Read for Listening<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<S: Write + Unpin> Write for Listening<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0)
            .poll_write(context, bytes)
            .map(|written| match written {
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
                    ) =>
                {
                    Ok(bytes.len())
                }
                other => other,
            })
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::thread::JoinHandle;
    use tokio::io::ReadBuf;

    /// The real socket, whose second write begins when the server has gone.
    struct Late {
        stream: tokio::net::UnixStream,
        raw: UnixStream,
        server: Option<JoinHandle<()>>,
        begun: bool,
    }

    impl AsyncRead for Late {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_read(context, buffer)
        }
    }

    impl AsyncWrite for Late {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            if self.begun {
                if let Some(server) = self.server.take() {
                    server.join().unwrap();
                }
                // tokio would look for an answer first, which is what a real race leaves out.
                return Poll::Ready(self.raw.write(bytes));
            }
            let written = Pin::new(&mut self.stream).poll_write(context, bytes);
            self.begun |= written.is_ready();
            written
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn an_answer_is_heard_after_the_server_has_closed() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let server = std::thread::spawn(move || {
            let _ = theirs.read(&mut [0; 1024]).unwrap();
            theirs
                .write_all(b"HTTP/1.1 413 X\r\ncontent-length: 2\r\n\r\nno")
                .unwrap();
        });
        ours.set_nonblocking(true).unwrap();
        let stream = Late {
            raw: ours.try_clone().unwrap(),
            stream: tokio::net::UnixStream::from_std(ours).unwrap(),
            server: Some(server),
            begun: false,
        };
        let body = Full::new(Bytes::from(vec![b' '; 8 << 20]));
        let request = Request::post("/").body(body).unwrap();
        let answer = send(stream, request).await.unwrap();
        assert_eq!(answer.status(), 413);
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "no");
    }
}
