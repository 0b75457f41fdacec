//! Why an export doesn't get on: one name for metric and log, one sentence for people.

use std::io;
use std::time::Duration;

use crate::audit::AuditError;
use crate::tls::TlsError;

#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Files(#[from] TlsError),
    #[error("it can't be reached: {0}")]
    Unreachable(String),
    #[error("TLS: {0}")]
    Tls(io::Error),
    #[error("it has taken nothing for {0:?}")]
    Stalled(Duration),
    #[error("it closed the connection")]
    Closed,
    #[error("it answers, which syslog's collectors don't; is this the right port?")]
    Answers,
    #[error("the connection broke: {0}")]
    Broken(io::Error),
    #[error(
        "it hasn't closed a connection that was ended for {0:?}, so it may not have read it all"
    )]
    Unconfirmed(Duration),
    #[error("the journal: {0}")]
    Journal(io::Error),
    #[error("the log can't be read: {0}")]
    Log(#[from] AuditError),
}

impl Failure {
    pub(super) const REASONS: [&str; 10] = [
        "files",
        "unreachable",
        "tls",
        "stalled",
        "closed",
        "answers",
        "broken",
        "unconfirmed",
        "journal",
        "log",
    ];

    /// Of metrics.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Failure::Files(_) => "files",
            Failure::Unreachable(_) => "unreachable",
            Failure::Tls(_) => "tls",
            Failure::Stalled(_) => "stalled",
            Failure::Closed => "closed",
            Failure::Answers => "answers",
            Failure::Broken(_) => "broken",
            Failure::Unconfirmed(_) => "unconfirmed",
            Failure::Journal(_) => "journal",
            Failure::Log(_) => "log",
        }
    }
}
