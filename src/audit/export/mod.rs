//! Records go where people look at them: to a syslog collector and to this machine's journal.
//!
//! Each way has a task of its own and reads the log as [`feed`] has it, so that none delays a prompt or
//! the other. A receiver that is away costs nothing but its lag: the log is the buffer, and what cap or
//! retention take before it was sent is told.

mod address;
mod collector;
mod deliver;
mod failure;
mod feed;
mod journal;
mod outline;
mod progress;
mod syslog;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::timeout;

pub use self::address::Address;
use self::deliver::Delivery;
use self::feed::Feed;
pub use self::progress::Standing;
use self::progress::{Metrics, Progress};
pub use self::syslog::Facility;
use super::{AuditError, Log};
use crate::shutdown::Shutdown;
use crate::telemetry::Registry;
use crate::time::Known;
use crate::tls::KeyPair;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    pub journald: bool,
    pub syslog: Option<Syslog>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Syslog {
    pub address: Address,
    /// With TLS, under this CA alone; without one, in plain within this machine.
    pub ca_file: Option<PathBuf>,
    /// What the certificate has to be for; the address's host unless set.
    pub server_name: Option<String>,
    pub own: Option<KeyPair>,
    pub facility: Facility,
    /// The owner's number with IANA, for an element of structured data of our own.
    pub enterprise: Option<u32>,
}

/// The exports that run.
#[derive(Debug, Default)]
pub struct Exports {
    ways: Vec<Arc<Progress>>,
    tasks: Mutex<JoinSet<()>>,
}

/// What exports work with.
#[derive(Debug)]
pub struct Parts {
    pub log: Log,
    pub device: String,
    pub known: Known,
    pub shutdown: Shutdown,
}

impl Exports {
    /// Begins with what is configured. To be called on the runtime.
    pub fn start(
        settings: &Settings,
        parts: &Parts,
        registry: &mut Registry,
    ) -> Result<Exports, AuditError> {
        let metrics = Metrics::default();
        if *settings != Settings::default() {
            metrics.register(registry);
        }
        let (mut ways, mut tasks) = (Vec::new(), JoinSet::new());
        let mut open = |to| {
            let way = Arc::new(Progress::new(to, &metrics));
            ways.push(Arc::clone(&way));
            Feed::open(&parts.log, way)
        };
        if settings.journald {
            let feed = open("journald")?;
            tasks.spawn(journal::run(feed, parts.shutdown.clone()));
        }
        if let Some(syslog) = &settings.syslog {
            let feed = open("syslog")?;
            tasks.spawn(Delivery::new(feed, syslog.clone(), parts).run());
        }
        let tasks = Mutex::new(tasks);
        Ok(Exports { ways, tasks })
    }

    pub fn standings(&self) -> Vec<Standing> {
        self.ways.iter().map(|way| way.standing()).collect()
    }

    /// Before metrics are read.
    pub fn measure(&self, log: &Log) {
        let next = log.next_index();
        self.ways.iter().for_each(|way| way.measure(next));
    }

    /// Waits until they have ended, which they do with the shutdown.
    pub async fn join(&self, limit: Duration) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        let all = async { while tasks.join_next().await.is_some() {} };
        if timeout(limit, all).await.is_err() {
            tracing::warn!("an export didn't end in time");
        }
    }
}
