//! Bringing checkpoints to a witness that is asked over HTTPS (C2SP tlog-witness).

use std::sync::Arc;
use std::time::Duration;

use super::{Refused, Shared, Watcher, Witnesses};
use crate::audit::Signed;
use crate::https::Https;
use crate::identity::chance;
use crate::shutdown::Shutdown;
use crate::tlog::note::Note;
use crate::tlog::witness::{add_checkpoint, cosigned, known_size};

/// Between two checkpoints, however fast they are signed.
const PACE: Duration = Duration::from_secs(2);
/// The longest pause after failures, each of which doubles it.
const MAX_PAUSE: Duration = Duration::from_secs(600);
/// Signatures of a checkpoint, or a size.
const MAX_ANSWER: u64 = 64 * 1024;

const TEXT: (&str, &str) = ("content-type", "text/plain; charset=utf-8");

impl Witnesses {
    /// Brings each new checkpoint to those that are asked, until `shutdown` ends. To be called on the
    /// runtime.
    pub fn follow(&self, shutdown: &Shutdown) {
        for (number, watcher) in self.0.watchers.iter().enumerate() {
            if watcher.https.is_some() {
                let (witnesses, shutdown) = (self.clone(), shutdown.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = witnesses.bring(number) => {}
                        () = shutdown.ended() => {}
                    }
                });
            }
        }
    }

    async fn bring(self, number: usize) {
        let mut checkpoints = self.0.log.checkpoints();
        let mut failures = 0;
        loop {
            let news = checkpoints.wait_for(|signed| {
                let signed = signed.as_deref();
                signed.is_some_and(|signed| !self.0.has_seen(number, signed))
            });
            if news.await.is_err() {
                return;
            }
            let this = self.clone();
            let pushed = tokio::task::spawn_blocking(move || this.push(number)).await;
            failures = match pushed {
                Ok(true) => 0,
                _ => failures + 1,
            };
            tokio::time::sleep(pause(failures, chance())).await;
        }
    }

    /// Whether the newest checkpoint is cosigned now. Blocks.
    pub(super) fn push(&self, number: usize) -> bool {
        let Some(watcher) = self.0.watchers.get(number) else {
            return false;
        };
        let pushed = match (&watcher.https, &watcher.witness.url) {
            (Some(https), Some(url)) => self.0.push(watcher, https, url),
            _ => return false,
        };
        let seen = pushed.is_ok();
        self.0.told(watcher, pushed);
        seen
    }
}

/// After so many failures in a row; `chance` is uniform in 0..1.
fn pause(failures: u32, chance: f64) -> Duration {
    let doubled = PACE.saturating_mul(2_u32.saturating_pow(failures));
    match failures {
        0 => PACE,
        // Devices that have lost their witness at one moment don't come back at one.
        _ => doubled.min(MAX_PAUSE).mul_f64(0.5 + 0.5 * chance),
    }
}

impl Shared {
    fn has_seen(&self, number: usize, signed: &Signed) -> bool {
        let Some(watcher) = self.watchers.get(number) else {
            return true;
        };
        let state = watcher.state.lock();
        let last = state.cosigned.as_ref();
        last.is_some_and(|last| (last.epoch, last.size) == (signed.epoch, signed.size))
    }

    fn push(&self, watcher: &Watcher, https: &Https, url: &str) -> Result<(), Refused> {
        let Some(signed) = self.log.checkpoint() else {
            return Ok(());
        };
        let url = format!("{}/add-checkpoint", url.trim_end_matches('/'));
        // A witness that has seen something else says what; then it is asked once more.
        for _ in 0..2 {
            let old = watcher.known(&signed);
            if old > signed.size {
                return Err(Refused::Ahead(old, signed.size));
            }
            let proof = self.log.consistency(old, &signed);
            let proof = proof.map_err(|error| Refused::Log(error.to_string()))?;
            let body = add_checkpoint(old, &proof, &signed.note);
            let answer = https.post(&url, body.into(), &[TEXT], MAX_ANSWER);
            let answer = answer.map_err(|error| Refused::Unreachable(error.to_string()))?;
            match answer.status {
                200 => return self.answered(watcher, &signed, &answer.body),
                409 => {
                    let known = known_size(&answer.body).ok_or(Refused::Status(409))?;
                    watcher.state.lock().known = Some((signed.epoch, known));
                }
                422 => return Err(Refused::Rewritten(old)),
                404 => return Err(Refused::UnknownLog(signed.origin.clone())),
                403 => return Err(Refused::Denied(signed.origin.clone())),
                status => return Err(Refused::Status(status)),
            }
        }
        match watcher.known(&signed) {
            known if known > signed.size => Err(Refused::Ahead(known, signed.size)),
            _ => Err(Refused::Unsteady),
        }
    }

    fn answered(
        &self,
        watcher: &Watcher,
        signed: &Arc<Signed>,
        body: &[u8],
    ) -> Result<(), Refused> {
        let note = Note::parse(signed.note.as_bytes()).map_err(Refused::Malformed)?;
        let note = cosigned(&note, body).map_err(Refused::Malformed)?;
        self.take(watcher, note.to_string().as_bytes())
    }
}

impl Watcher {
    /// The size of this log that the witness has seen, as far as we know.
    fn known(&self, signed: &Signed) -> u64 {
        let state = self.state.lock();
        let told = state.known.filter(|(epoch, _)| *epoch == signed.epoch);
        let cosigned = state.cosigned.as_ref();
        let cosigned = cosigned.filter(|last| last.epoch == signed.epoch);
        let told = told.map(|(_, size)| size);
        told.or(cosigned.map(|last| last.size)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_witness_that_is_away_is_asked_ever_more_seldom() {
        assert_eq!(pause(0, 0.9), PACE);
        for (failures, most) in [(1, 4), (2, 8), (5, 64), (9, 600), (u32::MAX, 600)] {
            let most = Duration::from_secs(most);
            assert_eq!(pause(failures, 1.0), most, "{failures}");
            assert_eq!(pause(failures, 0.0), most / 2, "{failures}");
        }
    }
}
