//! The OpenAI-compatible API on a Unix socket, TCP and TLS, and the admin socket.
//!
//! A request's way: `door` greets, `seats` bounds, `connections` serves, `route` finds what is meant, `public` answers it, `request` reads,
//! `wire` parses, `admission` decides, `answer` brings the answer, `reply` writes what else is
//! said. `admin` is the other socket. hyper is used directly, because its own builder has the
//! timers that an idle or slow client needs.

mod accept;
mod admin;
#[cfg(test)]
mod admin_tests;
mod answer;
mod auditor;
mod certificates;
mod connections;
mod door;
mod evidence;
mod host;
mod metrics;
mod public;
mod query;
mod records;
mod reply;
mod request;
mod reserve;
mod route;
mod seats;
mod socket;
mod spans;
mod stall;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};

pub use certificates::{Certificates, TlsSettings};
pub use metrics::Metrics;
#[cfg(any(test, feature = "for-tests"))]
pub use metrics::fill as fill_metrics;
pub use socket::bind;

use door::{Listening, TlsDoor};
use reserve::Reserved;

use crate::admin::{
    Fetched, Listed, Pinned, Refreshed, Reloaded, ResetTo, RootPinned, Status, TimeReset, Trusted,
};
use crate::admission::Admission;
use crate::audit::{Log, What};
use crate::auth::{Explanation, ToExplain};
use crate::authority::Refused;
use crate::prompt::Origin;
use crate::reason::Refusal;
use crate::shutdown::Shutdown;
use crate::telemetry::Format;
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub socket: PathBuf,
    pub admin_socket: PathBuf,
    pub max_body: usize,
    /// From the wait for a request to its whole head: bounds idle connections too.
    pub header_timeout: Duration,
    /// From a request's head to its whole body; also how long a reader may stop reading.
    pub body_timeout: Duration,
    pub max_connections: usize,
    pub max_connections_per_uid: usize,
    /// A comment line in a stream that is silent for this long.
    pub keep_alive: Duration,
    /// Plain TCP, on loopback only.
    pub listen: Option<SocketAddr>,
    pub tls: Option<TlsSettings>,
    /// What `Host` and `Origin` may name over TCP, besides the address that a client came to.
    pub hosts: Vec<String>,
    /// The origins that `htu` of a DPoP proof may name.
    pub public_urls: Vec<String>,
}

impl Settings {
    /// With the device's own name, and the URLs that its ports have under it and, where only this
    /// machine reaches them, under loopback's.
    #[must_use]
    pub fn of(mut self, device: &str) -> Settings {
        self.hosts.push(device.to_owned());
        let tls = self.tls.as_ref().map(|tls| tls.listen);
        for (scheme, address) in [("http", self.listen), ("https", tls)] {
            let Some(at) = address else { continue };
            let names: &[&str] = match at.ip().is_loopback() {
                true => &[device, "localhost", "127.0.0.1", "[::1]"],
                false => &[device],
            };
            let urls = names
                .iter()
                .map(|name| format!("{scheme}://{name}:{}", at.port()));
            self.public_urls.extend(urls);
        }
        self
    }

    /// The files that connections may keep open: each door has as much room as the others.
    pub fn descriptors(&self) -> u64 {
        let doors = 2 + usize::from(self.listen.is_some()) + usize::from(self.tls.is_some());
        let each = self.max_connections.saturating_add(seats::FAREWELLS);
        each.saturating_mul(doors).saturating_add(reserve::KEPT) as u64
    }
}

/// The listening sockets of the public API.
pub struct Listeners {
    pub unix: UnixListener,
    pub tcp: Option<TcpListener>,
    pub tls: Option<TcpListener>,
}

/// What the daemon offers behind its sockets besides prompts. Implemented by `daemon`. All but
/// `ready`, `status` and `audit` may wait for the disk or the network: they are called on the
/// blocking pool.
pub trait Control: Send + Sync + 'static {
    /// `Err`: why the socket can't serve yet.
    fn ready(&self) -> Result<(), String>;
    /// As anybody on the public socket may know it.
    fn status(&self) -> Status;
    /// With what is for administrators only.
    fn whole_status(&self) -> Status;
    /// Prometheus text.
    fn metrics(&self, format: Format) -> String;
    fn reload(&self) -> Result<Reloaded, Vec<String>>;
    fn keys(&self) -> Listed;
    fn pin_keys(&self, realm: &str, jwks: &[u8]) -> Result<Pinned, Refused>;
    fn trust(&self) -> Trusted;
    fn pin_root(&self, root: &[u8]) -> Result<RootPinned, Refused>;
    /// Fetches the realm's keys without pinning them.
    fn fetch_keys(&self, realm: &str) -> Result<Fetched, Refused>;
    /// Pins the fetched keys that `fingerprint` names.
    fn pin_held_keys(&self, realm: &str, fingerprint: &str) -> Result<Pinned, Refused>;
    /// Refreshes the realm's keys now.
    fn refresh_keys(&self, realm: &str) -> Result<Refreshed, Refused>;
    fn explain_token(&self, asked: &ToExplain) -> Explanation;
    /// Sets the time floor, also back.
    fn reset_time(&self, to: ResetTo) -> Result<TimeReset, Refused>;
    fn audit(&self) -> Log;
    /// Records a use of the admin socket before it is carried out. A look, which changes nothing,
    /// may be counted instead, and goes on also where the log can't be written: who mends a full
    /// disk has to see what is wrong.
    fn record(&self, origin: Origin, what: &What, is_look: bool) -> Result<(), Refusal>;
    /// Records or counts a refused use of the admin socket; says whether it is recorded by itself.
    fn record_refused(&self, origin: Origin, what: String, refusal: &Refusal) -> bool;
}

/// Serves the public sockets until `shutdown` drains; running answers may finish until it ends.
pub async fn serve(
    listeners: Listeners,
    certificates: Arc<Certificates>,
    settings: Arc<Settings>,
    admission: Admission,
    control: Arc<dyn Control>,
    metrics: Metrics,
    shutdown: Shutdown,
) {
    let public = Arc::new(public::Public {
        settings: Arc::clone(&settings),
        admission,
        control,
        metrics: metrics.clone(),
    });
    let Listeners { unix, tcp, tls } = listeners;
    let unix = connections::run(
        Listening::new(unix),
        Arc::clone(&settings),
        metrics.connections("unix"),
        Arc::clone(&public),
        shutdown.clone(),
    );
    let tcp = async {
        if let Some(tcp) = tcp {
            let (settings, public) = (Arc::clone(&settings), Arc::clone(&public));
            let (own, shutdown) = (metrics.connections("tcp"), shutdown.clone());
            connections::run(Listening::new(tcp), settings, own, public, shutdown).await;
        }
    };
    let tls = async {
        if let Some(tls) = tls {
            let tcp = Listening::new(tls);
            let door = TlsDoor { tcp, certificates };
            let (settings, public) = (Arc::clone(&settings), Arc::clone(&public));
            let (own, shutdown) = (metrics.connections("tls"), shutdown.clone());
            connections::run(door, settings, own, public, shutdown).await;
        }
    };
    tokio::join!(unix, tcp, tls);
}

/// Serves the admin socket: `GET /status`, `GET /metrics`, `POST /reload`, `GET /keys`,
/// `PUT /keys/{realm}` (JWKS body), `POST /keys/{realm}/fetch`, `POST /keys/{realm}/pin-held`
/// (`{"fingerprint": …}`), `POST /keys/{realm}/refresh`, `POST /keys/explain` (`{"token": …}`), `POST /time/reset` (`{"to": "now"}` or
/// seconds since 1970), `GET /audit?from=N&limit=M&follow=true` (JSON lines; `last=N` instead of
/// `from` for the last records, before an index where `before` says so). There `since`, `client`,
/// `user`, `uid`, `decision` and `request` ask for records that match all of them; a last line
/// `{"left_out": N}` counts those of a newer release, which can't be judged. While it waits or
/// searches, an empty line is a sign of life.
pub async fn serve_admin(
    listener: UnixListener,
    settings: Arc<Settings>,
    control: Arc<dyn Control>,
    metrics: Metrics,
    shutdown: Shutdown,
) {
    let admin = Arc::new(admin::Admin {
        settings: Arc::clone(&settings),
        control,
        metrics: metrics.clone(),
        shutdown: shutdown.clone(),
    });
    let door = Reserved::new(Listening::new(listener));
    let own = metrics.connections("admin");
    connections::run(door, settings, own, admin, shutdown).await;
}
