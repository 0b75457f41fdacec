//! Logs, metrics and traces: set-up, and where they go. Each module owns its own metrics and registers
//! them here.

mod export;
mod exposition;
mod filter;
mod journal;
mod line;
mod logs;
mod otlp;
mod outgoing;
mod process;

pub use export::{ExportError, Exporter, TraceSettings, check_headers};
pub use exposition::{Exposition, Format, Registry};
pub use filter::{check_filter, filter_of_environment};
pub use journal::{Entry, Journal};
pub use logs::{LogFormat, init_logs, say};

use tokio::task::{JoinHandle, spawn_blocking};
use tracing::Span;

/// Runs what may wait for the disk or the network, for the request whose log lines this is in.
pub fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let lines = Span::current();
    spawn_blocking(move || lines.in_scope(work))
}
