//! What the running daemon tells administrators of itself, and nobody else.

use super::core::Core;
use crate::admin::{Answers, ExportStatus, Inside, Requests};
use crate::audit::export::Standing;
use crate::config::Config;
use crate::process;

impl Core {
    /// May wait for the disk.
    pub(super) fn inside(&self) -> Inside {
        let config = self.config.load();
        let (family, threads) = self.engine.kernels();
        let (permitted, refused) = self.admission.requests();
        let done = self.engine.done();
        let log = &self.state.log;
        let syslog = config.audit.export.syslog.as_ref();
        // Where the log can't be read, status says so by other words.
        let (audit_fill, oldest) = log.fill().unwrap_or_default();
        Inside {
            listeners: listeners(&config),
            broker: config.mqtt.as_ref().map(|mqtt| mqtt.broker.to_string()),
            collector: syslog.map(|syslog| syslog.address.to_string()),
            certificate_ends_at: self.certificates.ends_at().map(|at| at.to_string()),
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
            audit_fill,
            audit_max_bytes: config.audit.max_bytes,
            audit_oldest_at: oldest.map(|at| at.to_string()),
        }
    }
}

/// Where else records go.
pub(super) fn export_status(standing: Standing) -> ExportStatus {
    ExportStatus {
        to: standing.to.to_owned(),
        confirmed_index: standing.confirmed,
        missing: standing.missing,
        problem: standing.problem,
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
