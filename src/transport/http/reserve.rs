//! A door that still opens when the process has no descriptor left: whoever is to find out why
//! mustn't have to wait for those who took them.

use std::fs::File;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::{Mutex, MutexGuard};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::door::{Door, Whose};

/// Connections that find a descriptor whatever the others do.
pub(super) const KEPT: usize = 4;

/// Opens `door` with descriptors of its own.
pub(super) struct Reserved<D> {
    door: D,
    reserve: Reserve,
}

/// Placeholders, given up one by one for connections, and taken again when these end.
#[derive(Clone, Default)]
struct Reserve(Arc<Mutex<Vec<File>>>);

impl Reserve {
    fn fill(&self) {
        let mut kept = self.kept();
        while kept.len() < KEPT {
            match File::open("/dev/null") {
                Ok(file) => kept.push(file),
                Err(_) => return,
            }
        }
    }

    /// Whether there was one to give.
    fn give(&self) -> bool {
        self.kept().pop().is_some()
    }

    fn kept(&self) -> MutexGuard<'_, Vec<File>> {
        self.0.lock()
    }
}

impl<D: Door> Reserved<D> {
    pub(super) fn new(door: D) -> Reserved<D> {
        let reserve = Reserve::default();
        reserve.fill();
        Reserved { door, reserve }
    }
}

impl<D: Door> Door for Reserved<D> {
    type Raw = D::Raw;
    type Stream = Returning<D::Stream>;
    type Peer = D::Peer;

    async fn accept(&self) -> io::Result<D::Raw> {
        loop {
            match self.door.accept().await {
                Err(error) if is_out_of_descriptors(&error) && self.reserve.give() => {}
                accepted => return accepted,
            }
        }
    }

    fn whose(&self, raw: &D::Raw) -> io::Result<Whose> {
        self.door.whose(raw)
    }

    async fn greet(&self, raw: D::Raw) -> io::Result<(Self::Stream, D::Peer)> {
        let (stream, peer) = self.door.greet(raw).await?;
        let (stream, reserve) = (Some(stream), self.reserve.clone());
        Ok((Returning { stream, reserve }, peer))
    }

    fn close(&self) {
        self.door.close();
    }
}

/// Neither this process's limit nor the machine's allows another one (accept(2)).
fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// A stream whose descriptor goes back to the reserve.
pub(super) struct Returning<S> {
    /// `None` only while this is dropped.
    stream: Option<S>,
    reserve: Reserve,
}

impl<S> Drop for Returning<S> {
    fn drop(&mut self) {
        drop(self.stream.take());
        self.reserve.fill();
    }
}

impl<S: Unpin> Returning<S> {
    fn stream(self: Pin<&mut Self>) -> io::Result<Pin<&mut S>> {
        let stream = self.get_mut().stream.as_mut();
        stream
            .map(Pin::new)
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Returning<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream()?.poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Returning<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }
}
