//! The OpenAI-compatible API on a Unix socket, and the admin socket.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::reason::Refusal;

#[derive(Debug, Clone)]
pub struct Settings {
    pub socket: PathBuf,
    pub admin_socket: PathBuf,
    pub max_body: usize,
    pub header_timeout: Duration,
    /// From the first byte of a request to its whole body.
    pub body_timeout: Duration,
    pub max_connections: usize,
    pub max_connections_per_uid: usize,
    /// A comment line in a stream that is silent for this long.
    pub keep_alive: Duration,
}

/// What the daemon offers behind its sockets besides prompts. Implemented by `daemon`.
pub trait Control: Send + Sync + 'static {
    /// `Err`: why the socket can't serve yet.
    fn ready(&self) -> Result<(), String>;
    /// For `/readyz?verbose` and `slmd status`.
    fn status(&self) -> Value;
    /// Prometheus text.
    fn metrics(&self) -> String;
    /// Blocks (called on the blocking pool).
    fn reload(&self) -> Result<Value, Vec<String>>;
    fn keys(&self) -> Value;
    fn pin_keys(&self, realm: &str, jwks: &[u8]) -> Result<Value, String>;
    fn audit(&self) -> crate::audit::Log;
    /// Records a use of the admin socket, before it is carried out.
    fn record_admin(&self, origin: crate::prompt::Origin, what: &str) -> Result<(), Refusal>;
}

/// CONTRACT: `pub async fn serve(listener: tokio::net::UnixListener, settings: Arc<Settings>,
/// admission: Admission, control: Arc<dyn Control>, shutdown: Shutdown)` for the public socket,
/// `serve_admin` with the same arguments but `admission` for the admin socket, and
/// `bind(path, mode) -> io::Result<UnixListener>` that replaces a stale socket file, refuses one in
/// use with a clear error. Routes of the admin socket: `GET /status`, `GET /metrics`, `POST /reload`,
/// `GET /keys`, `PUT /keys/{realm}` (JWKS body), `GET /audit?from=N&limit=M&follow=true` (JSON lines).
pub struct Contract;
