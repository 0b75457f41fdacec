//! The server's bounds over real sockets: timeouts, caps, broken and leaving clients, drain.
//! Prompts are tested in `tests/system/http.rs`.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::stream;
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use super::connections::{Peer, Service};
use super::metrics::Connections;
use super::reply::{Body, Refused};
use super::*;

const TICK: Duration = Duration::from_millis(10);
/// Nothing here takes as long, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Reads a body as the routes do, and answers with its length; `/slow` answers when released,
/// `/flood` never ends.
#[derive(Default)]
struct Echo {
    settings: Option<Arc<Settings>>,
    release: tokio::sync::Notify,
    running: Arc<AtomicUsize>,
    turned_away: AtomicUsize,
}

/// Counts an answer for as long as somebody wants it.
struct Running(Arc<AtomicUsize>);

impl Running {
    fn new(count: &Arc<AtomicUsize>) -> Running {
        count.fetch_add(1, Ordering::SeqCst);
        Running(Arc::clone(count))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Service for Echo {
    async fn answer(&self, _: Peer, request: Request<Incoming>) -> Response<Body> {
        let running = Running::new(&self.running);
        match request.uri().path() {
            "/slow" => self.release.notified().await,
            "/flood" => return flood(running),
            _ => {}
        }
        let settings = self.settings.as_ref().unwrap();
        match request::body(request, settings.max_body, settings.body_timeout).await {
            Ok(body) => reply::full(StatusCode::OK, reply::TEXT, body.len().to_string()),
            Err(refusal) => Refused::from(refusal).into_response(),
        }
    }

    async fn turned_away(&self, _: Peer, _: &Refusal) {
        self.turned_away.fetch_add(1, Ordering::SeqCst);
    }
}

fn flood(running: Running) -> Response<Body> {
    let pieces = stream::unfold(running, async |running| {
        Some((Bytes::from_static(&[b'x'; 4096]), running))
    });
    reply::streamed(reply::TEXT, pieces)
}

struct Server {
    path: PathBuf,
    echo: Arc<Echo>,
    shutdown: Shutdown,
    task: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

pub(super) fn settings() -> Settings {
    Settings {
        socket: PathBuf::new(),
        admin_socket: PathBuf::new(),
        max_body: 1000,
        header_timeout: PATIENCE,
        body_timeout: PATIENCE,
        max_connections: 8,
        max_connections_per_uid: 8,
        keep_alive: PATIENCE,
        listen: None,
        tls: None,
        hosts: Vec::new(),
        public_urls: Vec::new(),
    }
}

/// What `Host` and a proof's `htu` may name follows from the device's name and the ports.
#[test]
fn the_device_and_its_ports_are_named() {
    let plain = Settings {
        listen: Some(([127, 0, 0, 1], 8080).into()),
        public_urls: vec!["https://e.example".to_owned()],
        ..settings()
    };
    let named = plain.of("edge-1");
    assert_eq!(named.hosts, ["edge-1"]);
    assert_eq!(
        named.public_urls,
        [
            "https://e.example",
            "http://edge-1:8080",
            "http://localhost:8080",
            "http://127.0.0.1:8080",
            "http://[::1]:8080"
        ]
    );
}

fn start(settings: Settings) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("slmd.sock");
    let listener = bind(&path, 0o660).unwrap();
    let settings = Arc::new(settings);
    let echo = Arc::new(Echo {
        settings: Some(Arc::clone(&settings)),
        ..Echo::default()
    });
    let shutdown = Shutdown::default();
    let (service, until) = (Arc::clone(&echo), shutdown.clone());
    let run = connections::run(
        Listening::new(listener),
        settings,
        Connections::default(),
        service,
        until,
    );
    Server {
        path,
        echo,
        shutdown,
        task: tokio::spawn(run),
        _folder: folder,
    }
}

/// Sends `bytes` and keeps the connection open.
pub(super) async fn send(path: &Path, bytes: &str) -> UnixStream {
    let mut stream = UnixStream::connect(path).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    stream
}

/// All that comes until the server closes.
pub(super) async fn rest(mut stream: UnixStream) -> String {
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    // A close with unread bytes of ours is a reset, after what was sent.
    let _ = tokio::time::timeout(PATIENCE, read)
        .await
        .expect("the server closes");
    String::from_utf8(bytes).unwrap()
}

async fn until(what: &str, ready: impl Fn() -> bool) {
    let wait = async {
        while !ready() {
            tokio::time::sleep(TICK).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .unwrap_or_else(|_| panic!("no {what}"));
}

#[tokio::test]
async fn slow_and_idle_heads_are_cut_off() {
    let server = start(Settings {
        header_timeout: TICK * 5,
        ..settings()
    });
    for begun in ["", "POST / HTTP/1.1\r\nHost: a\r\nX-Slow: "] {
        assert_eq!(rest(send(&server.path, begun).await).await, "");
    }
    // Kept alive after an answer, then idle.
    let answered = rest(send(&server.path, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await).await;
    assert!(answered.starts_with("HTTP/1.1 200"), "{answered}");
}

#[tokio::test]
async fn bodies_too_large_or_too_slow_are_refused_and_closed() {
    let server = start(Settings {
        body_timeout: TICK * 10,
        ..settings()
    });
    let chunk = format!("400\r\n{}\r\n", "x".repeat(1024));
    for (request, status) in [
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n".to_owned(),
            "413",
        ),
        // The client asks before it sends: refused without `100 Continue`.
        (
            "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1001\r\n\r\n"
                .to_owned(),
            "413",
        ),
        (
            format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}"),
            "413",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc".to_owned(),
            "408",
        ),
    ] {
        let answer = rest(send(&server.path, &request).await).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{request}: {answer}"
        );
        assert!(
            answer.to_lowercase().contains("connection: close"),
            "{answer}"
        );
        assert!(answer.contains(r#"{"error":{"message":"#), "{answer}");
    }
    let fits = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 1000\r\n\r\n{}",
        "x".repeat(1000)
    );
    assert!(
        rest(send(&server.path, &fits).await)
            .await
            .ends_with("\r\n\r\n1000")
    );
}

const SLOW: &str = "GET /slow HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
const ONCE: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn connections_beyond_the_cap_hear_so() {
    let server = start(Settings {
        max_connections_per_uid: 2,
        ..settings()
    });
    let running = || server.echo.running.load(Ordering::SeqCst);
    let held = [
        send(&server.path, SLOW).await,
        send(&server.path, SLOW).await,
    ];
    until("answers", || running() == 2).await;
    let answer = rest(send(&server.path, ONCE).await).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("retry-after: 1\r\n"), "{answer}");
    assert!(
        answer.contains(r#""code":"too_many_connections""#),
        "{answer}"
    );
    assert_eq!(server.echo.turned_away.load(Ordering::SeqCst), 1);

    drop(held);
    until("end of the answers", || running() == 0).await;
    let answer = rest(send(&server.path, ONCE).await).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// Reads one answer of a connection that stays open.
async fn kept_alive(path: &Path) -> UnixStream {
    let mut stream = send(path, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n0") {
        let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut answer)).await;
        assert!(read.unwrap().unwrap() > 0, "{answer:?}");
    }
    stream
}

#[tokio::test]
async fn who_waits_makes_room_for_a_newcomer_and_who_is_answered_does_not() {
    let server = start(Settings {
        max_connections_per_uid: 4,
        ..settings()
    });
    let running = || server.echo.running.load(Ordering::SeqCst);
    let answered = send(&server.path, SLOW).await;
    until("answer", || running() == 1).await;
    let silent = send(&server.path, "").await;
    let begun = send(&server.path, "GET / HTTP/1.1\r\nHost: a\r\n").await;
    let idle = kept_alive(&server.path).await;
    let body = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc";
    let mut newer = Vec::new();
    for _ in 0..3 {
        newer.push(send(&server.path, body).await);
    }
    for waits in [silent, begun, idle] {
        assert_eq!(rest(waits).await, "", "closed without a word");
    }
    // A body that doesn't come whole is waited for no longer than a head.
    let newest = send(&server.path, ONCE).await;
    assert_eq!(rest(newer.remove(0)).await, "");
    assert!(rest(newest).await.starts_with("HTTP/1.1 200"));
    assert_eq!(server.echo.turned_away.load(Ordering::SeqCst), 0);
    server.echo.release.notify_one();
    assert!(rest(answered).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_request_on_its_way_is_answered_on_a_connection_that_must_make_room() {
    let server = start(Settings {
        max_connections_per_uid: 1,
        ..settings()
    });
    let mut begun = send(&server.path, "GET / HTTP/1.1\r\nHost: a\r\n").await;
    let newest = kept_alive(&server.path).await;
    begun.write_all(b"\r\n").await.unwrap();
    let answer = rest(begun).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(newest);
}

#[tokio::test]
async fn leaving_and_stalled_clients_end_their_answers() {
    let server = start(Settings {
        body_timeout: TICK * 10,
        ..settings()
    });
    let running = || server.echo.running.load(Ordering::SeqCst);
    let leaving = send(&server.path, SLOW).await;
    until("answer", || running() == 1).await;
    drop(leaving);
    until("end of the answer that nobody waits for", || running() == 0).await;

    let _stalled = send(&server.path, "GET /flood HTTP/1.1\r\nHost: a\r\n\r\n").await;
    until("answer", || running() == 1).await;
    until("end of the answer that nobody reads", || running() == 0).await;
}

#[tokio::test]
async fn drain_lets_answers_finish_and_takes_no_more() {
    let server = start(settings());
    let stream = send(&server.path, SLOW).await;
    let idle = send(&server.path, "").await;
    until("answer", || server.echo.running.load(Ordering::SeqCst) == 1).await;
    server.shutdown.drain();
    assert_eq!(rest(idle).await, "");
    until("closed door", || {
        std::os::unix::net::UnixStream::connect(&server.path).is_err()
    })
    .await;
    server.echo.release.notify_one();
    assert!(rest(stream).await.starts_with("HTTP/1.1 200"));
    tokio::time::timeout(PATIENCE, server.task)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn the_end_of_the_drain_cuts_what_is_left() {
    let server = start(settings());
    let stream = send(&server.path, SLOW).await;
    until("answer", || server.echo.running.load(Ordering::SeqCst) == 1).await;
    server.shutdown.end();
    assert_eq!(rest(stream).await, "");
    tokio::time::timeout(PATIENCE, server.task)
        .await
        .unwrap()
        .unwrap();
}
