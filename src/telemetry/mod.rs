//! Logs and metrics: set-up only. Each module owns its own metrics and registers them here.

mod exposition;
mod filter;
mod journal;
mod line;
mod logs;
mod process;

pub use exposition::{Exposition, Format, Registry};
pub use filter::{check_filter, filter_of_environment};
pub use journal::{Entry, Journal};
pub use logs::{LogFormat, init_logs, say};
