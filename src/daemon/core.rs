//! The running daemon: its housekeeping, and what changes in it while it runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::State;
use super::health::Noticed;
use super::report::Reporter;
use crate::admission::Admission;
use crate::audit::export::Exports;
use crate::config::Config;
use crate::engine::Engine;
use crate::keysync::Why;
use crate::shutdown::Shutdown;
use crate::telemetry::Exposition;
use crate::time::{Reading, Timestamp};
use crate::transport::{http, mqtt};
use crate::witness::Witnesses;

pub(super) struct Core {
    pub(super) admission: Admission,
    pub(super) engine: Engine,
    pub(super) mqtt: Option<mqtt::Handle>,
    pub(super) reporter: Reporter,
    pub(super) exports: Exports,
    pub(super) witnesses: Witnesses,
    pub(super) certificates: Arc<http::Certificates>,
    pub(super) shutdown: Shutdown,
    pub(super) source: Option<PathBuf>,
    pub(super) state: State,
    pub(super) exposition: Exposition,
    pub(super) started: Instant,
    pub(super) config: ArcSwap<Config>,
    pub(super) noticed: Noticed,
    /// Held during a reload.
    pub(super) reloading: Mutex<()>,
    pub(super) last_reload: Mutex<LastReload>,
}

/// What came of reading the configuration.
#[derive(Debug, Clone, Copy)]
pub(super) struct LastReload {
    /// The last time that it was read.
    pub(super) taken: bool,
    pub(super) in_force_since: Timestamp,
}

impl LastReload {
    pub(super) fn begun(now: Timestamp) -> LastReload {
        LastReload {
            taken: true,
            in_force_since: now,
        }
    }
}

impl Core {
    /// Once a second. A part that fails says so and is tried again.
    pub(super) fn tick(&self) {
        self.check_store();
        let reading = self.state.authority.clocks().reading();
        let Reading {
            now,
            at,
            synchronised,
        } = reading;
        if let Err(error) = self.state.authority.floor().advance(now, synchronised, at) {
            tracing::error!(%error, "the time floor could not be saved");
        }
        if let Err(error) = self.state.log.tick(now, synchronised) {
            tracing::error!(%error, "audit housekeeping failed");
        }
        if let Err(error) = self.admission.tick(&self.state.authority.clock_at(reading)) {
            tracing::error!(%error, "delivery housekeeping failed");
        }
        self.refresh_due();
        self.report();
        if self.noticed.is_due(self.state.authority.moment()) {
            self.notice();
        }
    }

    /// Says when the store breaks, and when it is whole again.
    fn check_store(&self) {
        let known = self.state.store.problem();
        match (known, self.state.store.check()) {
            (None, Err(error)) => tracing::error!(%error, "nothing can be recorded"),
            (Some(_), Ok(())) => tracing::info!("records can be written again"),
            _ => {}
        }
    }

    /// A thread for each fetch that is due: an issuer that hangs delays neither another realm nor
    /// the housekeeping. One a realm at most.
    fn refresh_due(&self) {
        for realm in self.state.authority.due() {
            let (authority, name) = (self.state.authority.clone(), realm.clone());
            let fetch = move || drop(authority.refresh(&name, Why::Due));
            let thread = std::thread::Builder::new().name("keys".to_owned());
            if let Err(error) = thread.spawn(fetch) {
                tracing::error!(realm, %error, "no thread to refresh keys with");
            }
        }
    }
}
