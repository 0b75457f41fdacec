//! Where records go besides the log: how far each way has come, and what keeps it.

use crate::admin::{ExportStatus, Status};
use crate::cli::output::printable;
use crate::cli::terminal::count;

pub(super) fn lines(status: &Status) -> impl Iterator<Item = String> {
    let next = status.audit.next_index;
    status.audit.exports.iter().map(move |export| {
        let place = place(export, status);
        let left = match next.saturating_sub(export.confirmed_index) {
            0 => "has all records".to_owned(),
            left => format!("lacks the last {}", count(left, "record")),
        };
        format!("  {place} {left}{}", missing(export))
    })
}

/// What wants somebody.
pub(super) fn actions(status: &Status) -> impl Iterator<Item = String> {
    status.audit.exports.iter().filter_map(|export| {
        let problem = printable(export.problem.as_ref()?);
        let (place, left) = (
            place(export, status),
            status.audit.next_index.saturating_sub(export.confirmed_index),
        );
        let check = match export.to.as_str() {
            "syslog" => "check it, the network and [audit.syslog] of the configuration",
            _ => "check systemd-journald",
        };
        Some(format!(
            "{place} takes no audit records: {problem}; {} wait in the log, and it is tried again and \
             again: {check}",
            count(left, "record")
        ))
    })
}

fn place(export: &ExportStatus, status: &Status) -> String {
    let collector = status.inside.as_ref().and_then(|i| i.collector.as_ref());
    match (export.to.as_str(), collector) {
        ("syslog", Some(at)) => format!("the log collector {}", printable(at)),
        ("syslog", None) => "the log collector".to_owned(),
        ("journald", _) => "the journal".to_owned(),
        (other, _) => printable(other),
    }
}

fn missing(export: &ExportStatus) -> String {
    match export.missing {
        0 => String::new(),
        missing => format!(
            "; {} had been removed before they could be sent",
            count(missing, "record")
        ),
    }
}
