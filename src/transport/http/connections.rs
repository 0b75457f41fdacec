//! Connections: accepted while there are [`seats`](super::seats), served with timeouts, drained in order.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinSet;

use super::Settings;
use super::door::Door;
pub(super) use super::door::Peer;
use super::metrics::Connections;
use super::reply::{self, Body};
use super::seats::{Room, Seat};
use super::stall::StallGuard;
use crate::reason::{Refusal, RefuseReason};
use crate::shutdown::Shutdown;
use crate::time;

/// Room for a token of 16 KiB, a DPoP proof and the usual headers.
const MAX_HEAD: usize = 48 * 1024;
const MAX_HEADERS: usize = 64;
/// How long a connection without a seat may take to hear so.
const FAREWELL: Duration = Duration::from_millis(500);
/// How long one that gave up its seat is served: a request may be on its way.
const LAST_REQUEST: Duration = Duration::from_secs(1);
/// After the drain deadline: time for the engine's last word to reach the readers.
const LAST_WORD: Duration = Duration::from_secs(1);
/// A failing accept (no file descriptors left) is tried again after this.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// and said in the log at most this often.
const ACCEPT_COMPLAINTS: Duration = Duration::from_secs(10);

/// What answers the requests of one socket.
pub(super) trait Service<P = Peer>: Send + Sync + 'static {
    fn answer(
        &self,
        peer: P,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Body>> + Send;

    /// A connection that finds no room, or whose request has no head that can be read. It is told so
    /// by the caller, as far as that can be told.
    fn turned_away(&self, peer: P, refusal: &Refusal) -> impl Future<Output = ()> + Send;
}

/// Serves until `shutdown` drains, then lets what runs finish until it ends.
pub(super) async fn run<D: Door, S: Service<D::Peer>>(
    door: D,
    settings: Arc<Settings>,
    connections: Connections,
    service: Arc<S>,
    shutdown: Shutdown,
) {
    let door = Arc::new(door);
    let (total, per_peer) = (settings.max_connections, settings.max_connections_per_uid);
    let acceptor = Acceptor {
        room: Arc::new(Room::new(total, per_peer, connections)),
        door: Arc::clone(&door),
        settings,
        service,
        shutdown: shutdown.clone(),
    };
    let mut tasks = JoinSet::new();
    let mut complaints = Complaints::default();
    loop {
        tokio::select! {
            () = shutdown.draining() => break,
            accepted = door.accept() => match accepted {
                Ok(raw) => acceptor.take(raw, &mut tasks),
                Err(error) => {
                    complaints.tell(&error);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(joined) = tasks.join_next() => report(joined),
        }
    }
    // Closed before the drain, so that new clients see it at once.
    door.close();
    let end = async {
        shutdown.ended().await;
        tokio::time::sleep(LAST_WORD).await;
    };
    let drained = async {
        while let Some(joined) = tasks.join_next().await {
            report(joined);
        }
    };
    tokio::select! { () = drained => {}, () = end => {} }
    // What is left is aborted with the set.
}

/// Says that no connection can be accepted: at first, then now and then.
#[derive(Default)]
struct Complaints {
    last: Option<Instant>,
    untold: u64,
}

impl Complaints {
    fn tell(&mut self, error: &io::Error) {
        let now = time::instant();
        self.untold += 1;
        let recent = |last| now.saturating_duration_since(last) < ACCEPT_COMPLAINTS;
        if self.last.is_some_and(recent) {
            return;
        }
        let times = std::mem::take(&mut self.untold);
        self.last = Some(now);
        tracing::warn!(%error, times, "can't accept connections; where files are short, raise LimitNOFILE= or lower http.max_connections");
    }
}

struct Acceptor<D, S> {
    room: Arc<Room>,
    door: Arc<D>,
    settings: Arc<Settings>,
    service: Arc<S>,
    shutdown: Shutdown,
}

impl<D: Door, S: Service<D::Peer>> Acceptor<D, S> {
    fn take(&self, raw: D::Raw, tasks: &mut JoinSet<()>) {
        let whose = match self.door.whose(&raw) {
            Ok(whose) => whose,
            Err(error) => {
                tracing::warn!(%error, "a connection without credentials is closed");
                return;
            }
        };
        let service = Arc::clone(&self.service);
        let door = Arc::clone(&self.door);
        match self.room.take(whose) {
            Some(seat) => {
                let shutdown = self.shutdown.clone();
                let settings = Arc::clone(&self.settings);
                tasks.spawn(async move {
                    let greeted = tokio::select! {
                        // Without a handshake to wait for, a request may be on its way already.
                        biased;
                        greeted = greeted(&*door, raw, &settings, &shutdown) => greeted,
                        () = seat.given_up() => None,
                    };
                    if let Some((stream, peer)) = greeted {
                        serve(stream, peer, &seat, &settings, &*service, &shutdown).await;
                    }
                });
            }
            // Where too many are told already, the connection is closed without a word.
            None => {
                if let Some(leave) = self.room.farewell(whose) {
                    tasks.spawn(async move {
                        let farewell = turn_away(&*door, raw, &*service);
                        // A client that is gone or mute needs no answer.
                        let _ = tokio::time::timeout(FAREWELL, farewell).await;
                        drop(leave);
                    });
                }
            }
        }
    }
}

/// The stream once it may carry requests. A handshake has as long as a request's head.
async fn greeted<D: Door>(
    door: &D,
    raw: D::Raw,
    settings: &Settings,
    shutdown: &Shutdown,
) -> Option<(D::Stream, D::Peer)> {
    let greeting = tokio::time::timeout(settings.header_timeout, door.greet(raw));
    let greeted = tokio::select! {
        greeted = greeting => greeted,
        () = shutdown.draining() => return None,
    };
    match greeted {
        Ok(Ok(greeted)) => Some(greeted),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a connection's handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!("a connection's handshake took too long");
            None
        }
    }
}

async fn serve<P: Clone + Send + Sync + 'static, S: Service<P>>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: P,
    seat: &Seat,
    settings: &Settings,
    service: &S,
    shutdown: &Shutdown,
) {
    let answer = service_fn(async |mut request: Request<Incoming>| {
        let turn = seat.turn();
        match request.body().is_end_stream() {
            true => turn.is_whole(),
            // Whoever reads the body says when.
            false => drop(request.extensions_mut().insert(turn.clone())),
        }
        let response = service.answer(peer.clone(), request).await;
        Ok::<_, Infallible>(response.map(|body| turn.answering(body)))
    });
    let stream = StallGuard::new(stream, settings.body_timeout);
    let hears = stream.hears();
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // Also bounds an idle connection: the wait for the next request's head counts.
        .header_read_timeout(settings.header_timeout)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), answer);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.draining() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = seat.given_up() => {
            let leave = seat.farewell();
            let patience = leave.as_ref().map_or(Duration::ZERO, |_| LAST_REQUEST);
            match tokio::time::timeout(patience, connection.as_mut()).await {
                Ok(ended) => ended,
                Err(_) if seat.is_answered() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
        if let Some(refusal) = unheard(&error, hears.load(Ordering::Relaxed)) {
            service.turned_away(peer.clone(), &refusal).await;
        }
    }
}

/// What hyper has refused by itself, if that is how the connection ended. `midway`: the client had
/// begun to say something.
fn unheard(error: &hyper::Error, midway: bool) -> Option<Refusal> {
    if error.is_parse_too_large() {
        return Some(RefuseReason::HeadTooLarge.into());
    }
    if error.is_parse() {
        let refusal = Refusal::new(RefuseReason::BadRequest);
        return Some(refusal.detail("its head isn't HTTP/1.1"));
    }
    let late = Refusal::new(RefuseReason::RequestTimeout).detail("its head");
    (error.is_timeout() && midway).then_some(late)
}

/// Reads what is there of the request, so that the client gets to reading, answers and closes.
async fn turn_away<D: Door, S: Service<D::Peer>>(
    door: &D,
    raw: D::Raw,
    service: &S,
) -> io::Result<()> {
    let (mut stream, peer) = door.greet(raw).await?;
    let refusal =
        Refusal::new(RefuseReason::TooManyConnections).retry_after(Duration::from_secs(1));
    service.turned_away(peer, &refusal).await;
    let _ = stream.read(&mut [0; 4096]).await?;
    stream.write_all(&reply::raw(&refusal)).await?;
    stream.shutdown().await
}

fn report(joined: Result<(), tokio::task::JoinError>) {
    if let Err(error) = joined {
        tracing::error!(%error, "a connection's task failed");
    }
}
