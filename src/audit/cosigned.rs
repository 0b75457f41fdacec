//! What witnesses have cosigned of the log: which of its checkpoints to show to whom.
//!
//! A checkpoint is signed by the minute, and a witness may cosign once a day. So the newest is shown as
//! it is, and what is proven is proven by one that a witness has seen, where that covers it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::Log;
use super::checkpoint::Signed;
use crate::tlog::note::{Note, VerifierKey};

/// A witness, as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    pub key: VerifierKey,
    /// Where it takes checkpoints; one without is a fleet's, over the broker.
    pub url: Option<String>,
    pub ca_file: Option<PathBuf>,
}

/// By the witness's name, the last that it has cosigned.
pub(super) type Cosigned = BTreeMap<String, Arc<Signed>>;

impl Log {
    /// `witness` has cosigned `signed`, whose note now says so. What others have said of the same is
    /// taken over.
    pub fn set_cosigned(&self, witness: &VerifierKey, signed: Signed) {
        let mut cosigned = self.0.cosigned.lock();
        let same = cosigned.values().find(|other| other.is_same(&signed));
        let note = same.and_then(|other| joined(&other.note, &signed.note));
        let joined = Arc::new(Signed {
            note: note.unwrap_or_else(|| signed.note.clone()),
            ..signed
        });
        for other in cosigned.values_mut().filter(|other| other.is_same(&joined)) {
            *other = Arc::clone(&joined);
        }
        cosigned.insert(witness.name().to_owned(), joined);
    }

    /// The newest checkpoint, with what witnesses have said of it.
    pub fn shown(&self) -> Option<Arc<Signed>> {
        let newest = self.checkpoint()?;
        let cosigned = self.0.cosigned.lock();
        let same = cosigned.values().find(|other| other.is_same(&newest));
        Some(same.cloned().unwrap_or(newest))
    }

    /// What to prove by that the record with this index is in the log: what most witnesses have
    /// cosigned of what covers it, or else the newest.
    pub fn proving(&self, index: u64) -> Option<Arc<Signed>> {
        let newest = self.checkpoint()?;
        let cosigned = self.0.cosigned.lock();
        let covering = cosigned.values().filter(|signed| {
            (signed.epoch, signed.base) == (newest.epoch, newest.base) && signed.covers(index)
        });
        let best = covering.max_by_key(|signed| {
            let by = cosigned.values().filter(|other| other.is_same(signed));
            (by.count(), signed.size)
        });
        best.cloned()
            .or_else(|| newest.covers(index).then_some(newest))
    }
}

impl Signed {
    fn is_same(&self, other: &Signed) -> bool {
        (self.epoch, self.size, self.root) == (other.epoch, other.size, other.root)
    }
}

/// The signatures of both, where both are of one text.
fn joined(one: &str, other: &str) -> Option<String> {
    let mut joined = Note::parse(one.as_bytes()).ok()?;
    let added = joined.join(&Note::parse(other.as_bytes()).ok()?);
    added.then(|| joined.to_string())
}
