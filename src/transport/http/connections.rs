//! Connections: accepted up to a cap in total and per user, served with timeouts, drained in order.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Settings;
use super::metrics::Metrics;
use super::reply::{self, Body};
use super::stall::StallGuard;
use crate::reason::{Refusal, RefuseReason};
use crate::shutdown::Shutdown;

/// Room for a token of 16 KiB, a DPoP proof and the usual headers.
const MAX_HEAD: usize = 48 * 1024;
const MAX_HEADERS: usize = 64;
/// How long a connection beyond the cap may take to hear so, and how many may at a time.
const FAREWELL: Duration = Duration::from_millis(500);
const FAREWELLS: usize = 16;
/// After the drain deadline: time for the engine's last word to reach the readers.
const LAST_WORD: Duration = Duration::from_secs(1);
/// A failing accept (no file descriptors left) is tried again after this.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who is at the other end of a connection, as the kernel tells it (`SO_PEERCRED`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) pid: Option<i32>,
}

/// What answers the requests of one socket.
pub(super) trait Service: Send + Sync + 'static {
    fn answer(
        &self,
        peer: Peer,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Body>> + Send;

    /// A connection that finds no room; it is told so by the caller.
    fn turned_away(&self, peer: Peer, refusal: &Refusal) -> impl Future<Output = ()> + Send;
}

/// Serves until `shutdown` drains, then lets what runs finish until it ends.
pub(super) async fn run<S: Service>(
    listener: UnixListener,
    settings: Arc<Settings>,
    metrics: Metrics,
    service: Arc<S>,
    shutdown: Shutdown,
) {
    let acceptor = Acceptor {
        room: Arc::new(Room::new(&settings, metrics)),
        farewells: Arc::new(Semaphore::new(FAREWELLS)),
        settings,
        service,
        shutdown: shutdown.clone(),
    };
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.draining() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => acceptor.take(stream, &mut tasks),
                Err(error) => {
                    tracing::warn!(%error, "can't accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(joined) = tasks.join_next() => report(joined),
        }
    }
    // Closed before the drain, so that new clients see it at once.
    drop(listener);
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

struct Acceptor<S> {
    room: Arc<Room>,
    farewells: Arc<Semaphore>,
    settings: Arc<Settings>,
    service: Arc<S>,
    shutdown: Shutdown,
}

impl<S: Service> Acceptor<S> {
    fn take(&self, stream: UnixStream, tasks: &mut JoinSet<()>) {
        let peer = match stream.peer_cred() {
            Ok(cred) => Peer {
                uid: cred.uid(),
                gid: cred.gid(),
                pid: cred.pid(),
            },
            Err(error) => {
                tracing::warn!(%error, "a connection without credentials is closed");
                return;
            }
        };
        let service = Arc::clone(&self.service);
        match Seat::take(&self.room, peer.uid) {
            Some(seat) => {
                let shutdown = self.shutdown.clone();
                let settings = Arc::clone(&self.settings);
                tasks.spawn(async move {
                    serve(stream, peer, &settings, &*service, &shutdown).await;
                    drop(seat);
                });
            }
            // Without a permit the connection is closed without a word.
            None => {
                if let Ok(permit) = Arc::clone(&self.farewells).try_acquire_owned() {
                    tasks.spawn(async move {
                        turn_away(stream, peer, &*service).await;
                        drop(permit);
                    });
                }
            }
        }
    }
}

async fn serve<S: Service>(
    stream: UnixStream,
    peer: Peer,
    settings: &Settings,
    service: &S,
    shutdown: &Shutdown,
) {
    let answer =
        service_fn(async |request| Ok::<_, Infallible>(service.answer(peer, request).await));
    let io = TokioIo::new(StallGuard::new(stream, settings.body_timeout));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // Also bounds an idle connection: the wait for the next request's head counts.
        .header_read_timeout(settings.header_timeout)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(io, answer);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.draining() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(uid = peer.uid, %error, "connection ended");
    }
}

/// Reads what is there of the request, so that the client gets to reading, answers and closes.
async fn turn_away<S: Service>(mut stream: UnixStream, peer: Peer, service: &S) {
    let refusal =
        Refusal::new(RefuseReason::TooManyConnections).retry_after(Duration::from_secs(1));
    service.turned_away(peer, &refusal).await;
    let farewell = async {
        stream.readable().await?;
        let _ = stream.try_read(&mut [0; 4096]);
        stream.write_all(&reply::raw(&refusal)).await?;
        stream.shutdown().await
    };
    // A client that is gone or mute needs no answer.
    let _ = tokio::time::timeout(FAREWELL, farewell).await;
}

fn report(joined: Result<(), tokio::task::JoinError>) {
    if let Err(error) = joined {
        tracing::error!(%error, "a connection's task failed");
    }
}

/// The open connections, in total and by user.
struct Room {
    taken: Mutex<BTreeMap<u32, usize>>,
    total: usize,
    per_uid: usize,
    metrics: Metrics,
}

/// One open connection's place; given back when dropped.
struct Seat {
    room: Arc<Room>,
    uid: u32,
}

impl Room {
    fn new(settings: &Settings, metrics: Metrics) -> Room {
        Room {
            taken: Mutex::default(),
            total: settings.max_connections,
            per_uid: settings.max_connections_per_uid,
            metrics,
        }
    }
}

impl Seat {
    fn take(room: &Arc<Room>, uid: u32) -> Option<Seat> {
        let mut taken = room.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = taken.values().sum();
        let own = taken.get(&uid).copied().unwrap_or(0);
        if total >= room.total || own >= room.per_uid {
            return None;
        }
        taken.insert(uid, own + 1);
        room.metrics.connections.inc();
        let room = Arc::clone(room);
        Some(Seat { room, uid })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self
            .room
            .taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.uid) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.uid);
            }
        }
        self.room.metrics.connections.dec();
    }
}
