//! Witnesses of the audit log: they see each checkpoint that this device signs, and cosign it while the
//! log has only grown. So a log that was rewritten, or cut, is found out, whoever holds the device's key.
//!
//! A witness takes checkpoints over HTTPS ([`push`]), or it is the fleet's own, which reads this device's
//! reports ([`Witnesses::statement`]) and brings what it has cosigned over the broker. [`kept`] judges
//! what comes back, and keeps it. That a witness knows a log that this one can't have grown from is an
//! alarm, and on record.

mod kept;
mod metrics;
mod push;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Map;

use self::kept::{Cosigned, Published};
use self::metrics::Metrics;
use crate::audit::{self, AuditError, Change, Log};
use crate::https::{Https, HttpsError};
use crate::identity::PublicKey;
use crate::prompt::Origin;
use crate::store::{Store, Tree};
use crate::telemetry::Registry;
use crate::time::Timestamp;
use crate::tlog::note::NoteError;
use crate::tlog::text;
use crate::trust::report::{Audit, Consistency};

/// For one checkpoint.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of proofs in a report; those that witnesses need come first.
const MAX_PROOFS: usize = 10 * 1024;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Witnesses(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    log: Log,
    store: Store,
    tree: Tree,
    device: PublicKey,
    watchers: Vec<Watcher>,
    /// Sizes of the log that were reported to the fleet.
    published: Mutex<Published>,
    metrics: Metrics,
}

/// One of them.
#[derive(Debug)]
struct Watcher {
    witness: audit::Witness,
    /// `None`: it isn't asked, but brings what it has cosigned.
    https: Option<Https>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What it has cosigned last.
    cosigned: Option<Cosigned>,
    /// The epoch, and the size that it says it knows of it, where that is something else.
    known: Option<(u64, u64)>,
    /// A size that this device has signed and the log can't have grown from.
    disputed: Option<u64>,
    refused: Option<Refused>,
}

/// Why a witness's word, or ours to it, wasn't taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("it can't be reached: {0}")]
    Unreachable(String),
    #[error("it doesn't know the log {0}; add it there, with this device's key")]
    UnknownLog(String),
    #[error("it doesn't take this device's signature, or doesn't know the log {0}; add it there")]
    Denied(String),
    #[error("it answered with status {0}")]
    Status(u16),
    #[error("it says that it has seen something else each time it is asked")]
    Unsteady,
    #[error("what it answered is no checkpoint with its signature: {0}")]
    Malformed(NoteError),
    #[error("what it answered isn't signed by the key that is configured")]
    NotCosigned,
    #[error("what it has cosigned isn't this device's log")]
    Foreign,
    #[error("what it has cosigned is older than what is kept")]
    Old,
    #[error("it has seen {0} records of this log, which has {1}: the log was set back or cut")]
    Ahead(u64, u64),
    #[error("it has seen epoch {0} of this log, which is at epoch {1}: the log was set back")]
    LaterEpoch(u64, u64),
    #[error("it has seen others than the first {0} records of this log: the log was rewritten")]
    Rewritten(u64),
    #[error("the log can't prove what it has to: {0}")]
    Log(String),
}

impl Refused {
    pub fn name(&self) -> &'static str {
        match self {
            Refused::Unreachable(_) => "unreachable",
            Refused::UnknownLog(_) => "unknown_log",
            Refused::Denied(_) => "denied",
            Refused::Status(_) => "status",
            Refused::Unsteady => "unsteady",
            Refused::Malformed(_) => "malformed",
            Refused::NotCosigned => "not_cosigned",
            Refused::Foreign => "foreign",
            Refused::Old => "old",
            Refused::Ahead(..) => "ahead",
            Refused::LaterEpoch(..) => "later_epoch",
            Refused::Rewritten(_) => "rewritten",
            Refused::Log(_) => "log",
        }
    }

    /// Whether the log isn't what this device has signed before.
    pub fn is_alarm(&self) -> bool {
        self.seen().is_some()
    }

    /// Of an alarm, what the witness has seen: the same is one alarm, however the log goes on.
    fn seen(&self) -> Option<(&'static str, u64)> {
        match self {
            Refused::Ahead(seen, _) | Refused::LaterEpoch(seen, _) | Refused::Rewritten(seen) => {
                Some((self.name(), *seen))
            }
            _ => None,
        }
    }

    /// The size that the log would have to grow from, and can't: what is reported from now on shows it.
    fn disputed(&self) -> Option<u64> {
        match self {
            Refused::Ahead(seen, _) | Refused::Rewritten(seen) => Some(*seen),
            _ => None,
        }
    }
}

/// How a witness does.
#[derive(Debug, Clone)]
pub struct Standing {
    pub name: String,
    pub url: Option<String>,
    /// Epoch, records, and when.
    pub cosigned: Option<(u64, u64, Timestamp)>,
    pub refused: Option<Refused>,
}

impl Witnesses {
    /// With what was kept of them.
    pub fn open(
        witnesses: &[audit::Witness],
        log: &Log,
        store: &Store,
        device: &PublicKey,
        registry: &mut Registry,
    ) -> Result<Witnesses, OpenError> {
        let mut watchers = Vec::new();
        for witness in witnesses {
            let https = witness.url.as_ref();
            let https = https.map(|_| Https::new(witness.ca_file.as_deref(), TIMEOUT));
            watchers.push(Watcher {
                witness: witness.clone(),
                https: https.transpose()?,
                state: Mutex::default(),
            });
        }
        let opened = Witnesses(Arc::new(Shared {
            log: log.clone(),
            store: store.clone(),
            tree: store.tree("audit_witnesses").map_err(AuditError::Store)?,
            device: device.clone(),
            watchers,
            published: Mutex::default(),
            metrics: Metrics::register(registry),
        }));
        opened.0.recall()?;
        Ok(opened)
    }

    /// Those that bring what they have cosigned, by number, with their names.
    pub fn heard(&self) -> impl Iterator<Item = (usize, &str)> {
        let watchers = self.0.watchers.iter().enumerate();
        let heard = watchers.filter(|(_, watcher)| watcher.https.is_none());
        heard.map(|(number, watcher)| (number, watcher.name()))
    }

    /// A witness has brought a note. Blocks.
    pub fn take(&self, number: usize, note: &[u8]) {
        let Some(watcher) = self.0.watchers.get(number) else {
            return;
        };
        let taken = self.0.take(watcher, note);
        self.0.told(watcher, taken);
    }

    pub fn standing(&self) -> Vec<Standing> {
        let watchers = self.0.watchers.iter().map(|watcher| {
            let state = watcher.state.lock();
            let cosigned = state.cosigned.as_ref();
            Standing {
                name: watcher.name().to_owned(),
                url: watcher.witness.url.clone(),
                cosigned: cosigned.map(|last| (last.epoch, last.size, last.at)),
                refused: state.refused.clone(),
            }
        });
        watchers.collect()
    }

    /// Sizes that witnesses have seen of this log, and that it can't have grown from: those of which a
    /// report shows it.
    pub fn disputed(&self) -> Vec<u64> {
        let size = self.0.log.checkpoint().map_or(0, |signed| signed.size);
        let watchers = self.0.watchers.iter();
        let disputed = watchers.filter_map(|watcher| watcher.state.lock().disputed);
        disputed.filter(|seen| *seen < size).collect()
    }

    pub fn set_metrics(&self, now: Timestamp) {
        self.0.metrics.set(&self.standing(), now);
    }

    /// What a report says of the log; `None` before anything is signed. May wait for the disk.
    pub fn statement(&self) -> Option<Audit> {
        let signed = self.0.log.checkpoint()?;
        let mut left = MAX_PROOFS;
        let proofs = self.0.proof_sizes(signed.epoch).into_iter();
        let proofs = proofs.filter(|from| (1..signed.size).contains(from));
        let proofs = proofs.filter_map(|from| {
            let proof = self.0.log.consistency(from, &signed);
            let proof = proof.inspect_err(|error| {
                tracing::warn!(from, %error, "the log can't prove how it has grown");
            });
            let proof: Vec<String> = proof.ok()?.iter().map(|hash| text::base64(hash)).collect();
            left = left.checked_sub(proof.iter().map(|hash| hash.len() + 3).sum())?;
            Some(Consistency { from, proof })
        });
        Some(Audit {
            consistency: proofs.collect(),
            checkpoint: signed.note.clone(),
            more: Map::new(),
        })
    }

    /// This checkpoint was reported, so the next reports prove that the log has grown from there.
    pub fn reported(&self, checkpoint: &str) -> Result<(), AuditError> {
        match self.0.own(checkpoint.as_bytes()) {
            Ok((checkpoint, _)) => self.0.published(&checkpoint),
            Err(_) => Ok(()),
        }
    }
}

impl Shared {
    /// Sizes of this epoch that proofs may begin at: those that witnesses know, then the newest of those
    /// that were reported.
    fn proof_sizes(&self, epoch: u64) -> Vec<u64> {
        let mut sizes = Vec::new();
        for watcher in &self.watchers {
            let state = watcher.state.lock();
            let cosigned = state.cosigned.as_ref();
            let cosigned = cosigned.filter(|last| last.epoch == epoch);
            sizes.extend(cosigned.map(|last| last.size));
            sizes.extend(state.disputed);
        }
        sizes.extend(self.published.lock().of(epoch).rev());
        let mut seen = BTreeSet::new();
        sizes.retain(|size| seen.insert(*size));
        sizes
    }

    /// Keeps what came of it; an alarm is recorded when it begins.
    fn told(&self, watcher: &Watcher, taken: Result<(), Refused>) {
        let refused = taken.err();
        if let Some(refused) = &refused {
            self.metrics.refused(watcher.name(), refused.name());
        }
        let mut state = watcher.state.lock();
        let alarmed = state.refused.as_ref().is_some_and(Refused::is_alarm);
        match refused {
            // Whoever can write to the topic can bring an old one, which says nothing new.
            Some(Refused::Old) => {}
            Some(refused) if refused.is_alarm() => {
                let before = state.refused.as_ref().and_then(Refused::seen);
                let news = before != refused.seen();
                state.disputed = refused.disputed();
                state.refused = Some(refused.clone());
                drop(state);
                if let Err(error) = self.hold() {
                    tracing::warn!(%error, "the log keeps nothing to prove that by");
                }
                if news {
                    self.alarm(watcher, &refused);
                }
            }
            // Only a new cosignature ends an alarm.
            Some(_) if alarmed => {}
            Some(refused) => {
                if state.refused.as_ref() != Some(&refused) {
                    let witness = watcher.name();
                    tracing::warn!(witness, why = %refused, "the audit log isn't witnessed");
                }
                state.refused = Some(refused);
            }
            None => state.refused = None,
        }
    }

    fn alarm(&self, watcher: &Watcher, refused: &Refused) {
        let witness = watcher.name();
        tracing::error!(witness, why = %refused, "ALARM: the audit log isn't what it was");
        let signed = self.log.checkpoint();
        let detail = serde_json::json!({
            "witness": witness,
            "reason": refused.name(),
            "why": refused.to_string(),
            "epoch": signed.as_ref().map(|signed| signed.epoch),
            "size": signed.as_ref().map(|signed| signed.size),
        });
        let now = self.log.clocks().now();
        let what = Change::AuditWitnessRefused;
        if let Err(error) = self.log.change(Origin::Daemon, what, detail, now) {
            tracing::error!(%error, "that couldn't be recorded");
        }
    }
}

impl Watcher {
    fn name(&self) -> &str {
        self.witness.key.name()
    }
}

/// Why the daemon can't begin with its witnesses.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Https(#[from] HttpsError),
    #[error(transparent)]
    Log(#[from] AuditError),
}
