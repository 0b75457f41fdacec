//! What every system test needs: a token issuer, the daemon, a broker, clients.
//!
//! Nothing here is a mock, every wait is bounded, and what is missing on the machine fails the
//! test with the command that installs it. Tokens and prompts that pass through here are noted
//! for `secrets`, which looks for them in the daemons' logs.

// Each subject uses its own part of the toolbox.
#![allow(dead_code, unused_imports)]

mod certs;
mod clock;
mod collector;
mod daemon;
mod disk;
mod dpop;
pub mod fleet;
mod http;
mod issuer;
mod journal;
mod left;
mod mqtt;
pub mod prometheus;
mod python;
mod report;
mod retain;
mod rsyslog;
pub mod secrets;
mod state;
mod wait;

pub use certs::{Ca, Certificate};
pub use clock::{Clock, Kept};
pub use collector::{Collector, Span};
pub use daemon::{Daemon, Setup, signal};
pub use disk::Disk;
pub use dpop::{Holder, bound, message_hash, thumbprint};
pub use fleet::Fleet;
pub use http::{Exchange, Response, exchange, http, send};
pub use issuer::{Issuer, claims};
pub use journal::Journal;
pub use left::assert_nothing_stays;
pub use mqtt::{Message, Mosquitto, Publish, Subscriber, free_port};
pub use python::python;
pub use report::report;
pub use retain::{options, retain_all};
pub use rsyslog::{Received, Rsyslog};
pub use state::{log_of, store_of, verified, verify};
pub use wait::{exit, run, within};

use std::path::{Path, PathBuf};

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The build folder, where the model, the logs and the Python clients are.
pub fn target() -> PathBuf {
    root().join("target")
}

/// A body for `POST /v1/chat/completions` with greedy sampling.
pub fn chat(prompt: &str, max_tokens: u32, stream: bool) -> String {
    serde_json::json!({
        "model": "slm",
        "messages": [{"role": "user", "content": prompt}],
        "max_completion_tokens": max_tokens,
        "temperature": 0,
        "stream": stream,
    })
    .to_string()
}
