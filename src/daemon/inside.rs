//! What the running daemon tells of itself: everybody who may look, and administrators alone.

use super::State;
use super::core::Core;
use crate::admin::{
    self, Answers, AuditStatus, DiskStatus, EngineStatus, ExportStatus, Inside, ModelStatus,
    Requests, Status, StoreStatus,
};
use crate::audit::export::Standing;
use crate::config::Config;
use crate::store::StoreError;
use crate::transport::http::Control;
use crate::transport::mqtt;
use crate::{process, time};

impl Core {
    /// What is wrong as well, and since when.
    pub(super) fn diagnosed(&self, mut status: Status) -> Status {
        let problems = admin::problems(&status);
        let now = self.state.authority.moment();
        status.problems = Some(self.noticed.dated(problems, now));
        status
    }

    /// Takes note of what has come and gone. Reads no file and no record for it.
    pub(super) fn notice(&self) {
        let now = self.state.authority.moment();
        let status = Status {
            inside: Some(self.limits()),
            ..self.outside()
        };
        self.noticed.keep(admin::problems(&status), now);
    }

    pub(super) fn whole(&self) -> Status {
        let inside = Some(self.inside());
        Status {
            inside,
            ..self.outside()
        }
    }

    pub(super) fn outside(&self) -> Status {
        let (waiting, running) = self.engine.load();
        let (ready, snapshot) = (self.ready(), self.state.authority.snapshot());
        let up = time::instant().saturating_duration_since(self.started);
        let force = self.state.authority.force();
        let models = self.engine.digests().map(|(name, digest)| ModelStatus {
            name: name.to_owned(),
            listed: force.may_run(name, digest),
        });
        let exports = self.exports.standings().into_iter();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            device: self.config.load().identity.device.clone(),
            ready: ready.is_ok(),
            not_ready_because: ready.err(),
            problems: None,
            draining: self.shutdown.is_draining(),
            store: self.state.store_status(),
            uptime_seconds: up.as_secs(),
            clock: self.state.clock_status(&snapshot),
            realms: self.state.realm_statuses(&snapshot),
            engine: EngineStatus {
                running,
                waiting,
                models: models.collect(),
            },
            mqtt: self.mqtt.as_ref().map(mqtt::Handle::status),
            fleet: self.trust().fleet,
            audit: AuditStatus {
                next_index: self.state.log.next_index(),
                exports: exports.map(export_status).collect(),
                witnesses: self.witnessed(),
            },
            inside: None,
        }
    }

    /// Of the inside what problems are found in, and nothing that takes longer.
    fn limits(&self) -> Inside {
        let config = self.config.load();
        let syslog = config.audit.export.syslog.as_ref();
        Inside {
            broker: config.mqtt.as_ref().map(|mqtt| mqtt.broker.to_string()),
            collector: syslog.map(|syslog| syslog.address.to_string()),
            certificate_ends_at: self.certificates.ends_at().map(|at| at.to_string()),
            audit_fill: self.state.log.fill(),
            audit_max_bytes: config.audit.max_bytes,
            disk: self.state.disk_status(),
            ..Inside::default()
        }
    }

    /// May wait for the disk.
    fn inside(&self) -> Inside {
        let (family, threads) = self.engine.kernels();
        let (permitted, refused) = self.admission.requests();
        let done = self.engine.done();
        // Where the log can't be read, status says so by other words.
        let oldest = self.state.log.oldest().unwrap_or_default();
        Inside {
            listeners: listeners(&self.config.load()),
            memory_bytes: process::resident_bytes(),
            kernels: family.as_str().to_owned(),
            threads,
            requests: Requests { permitted, refused },
            answers: Answers {
                count: done.answers,
                prompt_tokens: done.prompt_tokens,
                completion_tokens: done.completion_tokens,
                tokens_per_second: done.tokens_per_second,
            },
            audit_oldest_at: oldest.map(|at| at.to_string()),
            ..self.limits()
        }
    }
}

impl State {
    /// `None`: records can be written.
    pub(super) fn store_status(&self) -> Option<StoreStatus> {
        let error = self.store.problem()?;
        Some(StoreStatus {
            folder: self.folder.display().to_string(),
            full: matches!(error, StoreError::Full),
            why: error.to_string(),
        })
    }

    fn disk_status(&self) -> Option<DiskStatus> {
        let (free_bytes, size_bytes) = self.store.disk()?;
        let folder = self.folder.display().to_string();
        Some(DiskStatus {
            folder,
            free_bytes,
            size_bytes,
        })
    }
}

fn listeners(config: &Config) -> Vec<String> {
    let http = &config.http;
    let sockets = [&http.socket, &http.admin_socket];
    let sockets = sockets.map(|path| path.display().to_string());
    let tcp = http.listen.map(|at| format!("http://{at}"));
    let tls = http
        .tls
        .as_ref()
        .map(|tls| format!("https://{}", tls.listen));
    sockets.into_iter().chain(tcp).chain(tls).collect()
}

/// Where else records go.
fn export_status(standing: Standing) -> ExportStatus {
    ExportStatus {
        to: standing.to.to_owned(),
        confirmed_index: standing.confirmed,
        missing: standing.missing,
        problem: standing.problem,
    }
}
