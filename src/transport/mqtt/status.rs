//! What is said of the broker connection: to `slmd status`, to the broker, to the audit log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use serde_json::{Value, json};

use super::untold::{self, Kinds, Why};
use crate::admin::MqttStatus;
use crate::audit::{Change, Log};
use crate::prompt::Origin;
use crate::reason::Reason;
use crate::time::Timestamp;

/// How long a takeover is shown after the last one, though the connection stands again.
const TAKEOVER_SHOWN: Duration = Duration::from_secs(600);
/// Audit records of one kind are at least so far apart.
const NOTICE_EVERY: Duration = Duration::from_secs(600);

/// Shared by the session and whoever asks.
#[derive(Debug, Clone, Default)]
pub(super) struct Cell(Arc<Mutex<Condition>>);

#[derive(Debug, Default)]
struct Condition {
    connected: bool,
    reconnects: u64,
    /// Why there is no connection.
    lost: Option<String>,
    /// Filters that the broker denies, and why.
    denied: Option<String>,
    taken_over: Option<(Instant, String)>,
    /// Why the broker didn't take an answer.
    refused: Option<String>,
    untold: untold::Tally,
}

impl Cell {
    pub(super) fn connected(&self, reconnect: bool) {
        let mut state = self.lock();
        state.connected = true;
        state.reconnects += u64::from(reconnect);
        state.lost = None;
        state.refused = None;
    }

    pub(super) fn lost(&self, why: String) {
        let mut state = self.lock();
        state.connected = false;
        state.lost = Some(why);
    }

    pub(super) fn denied(&self, filters: Option<String>) {
        self.lock().denied = filters;
    }

    pub(super) fn taken_over(&self, what: &str, now: Instant) {
        self.lock().taken_over = Some((now, what.to_owned()));
    }

    pub(super) fn answer_refused(&self, why: String) {
        self.lock().refused = Some(why);
    }

    pub(super) fn untold(&self, reason: Reason, topic: &str, why: Why, now: Instant) {
        self.lock().untold.note(reason, topic, why, now);
    }

    pub(super) fn get(&self, now: Instant) -> MqttStatus {
        let state = self.lock();
        let recent = |at: &Instant| now.saturating_duration_since(*at) < TAKEOVER_SHOWN;
        let taken_over = state.taken_over.as_ref().filter(|(at, _)| recent(at));
        let problems = [
            taken_over.map(|(_, what)| what),
            state.lost.as_ref(),
            state.denied.as_ref(),
            state.refused.as_ref(),
        ];
        let problems: Vec<&str> = problems.into_iter().flatten().map(String::as_str).collect();
        MqttStatus {
            connected: state.connected,
            problem: (!problems.is_empty()).then(|| problems.join("; ")),
            reconnects: state.reconnects,
            untold: state.untold.get(now),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Condition> {
        self.0.lock()
    }
}

/// The retained message while the appliance listens.
pub(super) fn up(now: Timestamp) -> Vec<u8> {
    let body =
        json!({"status": "up", "time": now.to_string(), "version": env!("CARGO_PKG_VERSION")});
    body.to_string().into_bytes()
}

/// The retained message after it has left in order.
pub(super) fn down(now: Timestamp) -> Vec<u8> {
    let body = json!({"status": "down", "time": now.to_string()});
    body.to_string().into_bytes()
}

/// The Last Will. It has no time: it is written when the connection is made.
pub(super) fn will() -> Vec<u8> {
    json!({"status": "down"}).to_string().into_bytes()
}

/// Tells the audit log what an operator should know, at a bounded rate for each kind.
pub(super) struct Notices {
    audit: Log,
    kinds: Kinds<Change>,
}

impl Notices {
    pub(super) fn new(audit: Log) -> Notices {
        Notices {
            audit,
            kinds: Kinds::default(),
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.audit.clocks().now()
    }

    /// `what` is the record's name; `detail` gets a count of what was left out since the last.
    pub(super) fn tell(&mut self, what: Change, mut detail: Value, now: Instant) {
        let Some(unrecorded) = self.kinds.due(what, now, NOTICE_EVERY) else {
            return;
        };
        tracing::warn!(%what, %detail, "mqtt");
        detail["unrecorded"] = unrecorded.into();
        let audit = self.audit.clone();
        let at = self.now();
        let record = move || audit.change(Origin::Daemon, what, detail, at);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = record() {
                tracing::error!(%what, %error, "not audited");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takeover_stays_in_sight_for_a_while() {
        let (cell, now) = (Cell::default(), crate::time::instant());
        cell.lost("gone".to_owned());
        assert_eq!(cell.get(now).problem.as_deref(), Some("gone"));
        cell.taken_over("cloned", now);
        cell.connected(true);
        assert_eq!(cell.get(now).problem.as_deref(), Some("cloned"));
        assert_eq!(cell.get(now).reconnects, 1);
        assert_eq!(cell.get(now + TAKEOVER_SHOWN).problem, None);
    }

    #[test]
    fn statuses_are_json() {
        for body in [up(Timestamp(0)), down(Timestamp(0)), will()] {
            let value: Value = serde_json::from_slice(&body).unwrap();
            assert!(value["status"] == "up" || value["status"] == "down");
        }
    }
}
