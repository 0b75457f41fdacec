//! What a fleet's managers have signed, in force: what it makes of what was, and where it comes from.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use serde_json::{Map, json};
use tokio::sync::watch;

use super::force::{Next, Note};
use super::trusted::{Fleet, revoked};
use super::{Authority, Change, Force, Refused};
use crate::audit;
use crate::digest::{hex, sha256};
use crate::fleet::{Follower, Lane, MirrorReport, Signed, Unread, Vault, Wanted};
use crate::keysync::{Difference, History, Pinned, Set};
use crate::prompt::Origin;
use crate::store::StoreError;
use crate::time::{self, Known, Mark, Moment, Timestamp, Uptime};
use crate::trust::TrustError;
use crate::trust::targets;

/// A mirror's refusal is recorded again after so long at the earliest: anybody may write to a broker.
const TELL_AGAIN: Duration = Duration::from_secs(6 * 3600);

/// Realms that the record of what can't be read names.
const MOST_NAMED: usize = 16;

/// A look that another lane's has overtaken begins anew, so often.
const AGAIN: usize = 3;

/// Following the mirrors.
#[derive(Debug, Default)]
pub(super) struct Following {
    follower: parking_lot::Mutex<Option<Arc<Follower>>>,
    /// When a mirror was last found to be good and up to date.
    heard: parking_lot::Mutex<Option<Uptime>>,
    /// Changes when the mirrors have to be asked at once.
    due: watch::Sender<u64>,
    /// When a mirror's refusal was recorded last.
    told: parking_lot::Mutex<BTreeMap<(String, &'static str), Instant>>,
    pub(super) refused: Family<OfReason, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfReason {
    reason: &'static str,
}

/// What was in force; `None`: no root is pinned.
pub(super) fn kept(vault: &Vault) -> Result<Option<Arc<Fleet>>, StoreError> {
    let unfinished = vault.is_unfinished()?;
    let fleet = vault.load()?.map(|held| Fleet::kept(&held, unfinished));
    Ok(fleet.map(Arc::new))
}

impl Next {
    /// The fleet's managers have signed it, above thresholds of theirs: nobody else has to vouch.
    pub(super) fn signed(&mut self, signed: &Signed, now: Moment) -> Result<(), Refused> {
        let before = self.force.fleet.clone().ok_or(Refused::NoRoot)?;
        if before.signed.held != signed.over {
            return Err(Refused::Overtaken);
        }
        if !signed.fresh && !before.unread.is_empty() {
            return Err(Refused::Unread);
        }
        let denied = revoked(&before, signed, now)?;
        let mut keys = Map::new();
        for (realm, set) in &signed.keys {
            if self.signed_keys(&before, signed, (realm, set), now) {
                let Difference { added, removed } = &self.done.difference;
                keys.insert(realm.clone(), json!({"added": added, "removed": removed}));
            }
        }
        let after = before.followed_by(signed.clone(), denied);
        let detail = after.told(&before, &keys);
        if is_unfinished(&before, signed) || after.is_news(&before) {
            self.note(audit::Change::TrustUpdated, Some(detail));
        }
        self.force.fleet = Some(Arc::new(after));
        Ok(())
    }

    /// Whether the realm's keys are others than before. A set that was in force already replaces
    /// nothing that a person has pinned since.
    fn signed_keys(
        &mut self,
        before: &Fleet,
        signed: &Signed,
        (realm, set): (&String, &Set),
        now: Moment,
    ) -> bool {
        let path = targets::jwks(realm);
        let is_new = is_unfinished(before, signed)
            || before.signed.held.targets.get(&path) != signed.held.targets.get(&path);
        let old = self.force.keys.get(realm);
        let confirmed = match (signed.fresh, old) {
            (true, _) => Mark::here(now),
            (false, Some(old)) => old.confirmed,
            // Nobody says when they were; the next round does.
            (false, None) => {
                let at = signed.issued.unwrap_or_default();
                Mark::before(at, Duration::ZERO, now.uptime)
            }
        };
        if !is_new {
            let same = old.is_some_and(|old| old.keys.same_keys(&set.keys));
            if let Some(pinned) = self.force.keys.get_mut(realm).filter(|_| same) {
                pinned.confirmed = confirmed;
            }
            return false;
        }
        let pinned = Pinned {
            keys: set.keys.clone(),
            jwks: set.jwks(),
            confirmed,
            history: History::by_hand(&set.keys.thumbprints()),
            changed: None,
        };
        self.put(realm, pinned, now);
        !self.done.difference.is_empty()
    }

    /// A person has chosen whom to trust. What another fleet has signed counts no more.
    pub(super) fn rooted(&mut self, signed: &Signed, fingerprint: &str) {
        let fleet = Fleet {
            signed: signed.clone(),
            denied: BTreeMap::new(),
            unread: Unread::default(),
        };
        let detail = json!({"version": signed.versions.root, "fingerprint": fingerprint});
        self.note(audit::Change::TrustPinned, Some(detail));
        self.force.fleet = Some(Arc::new(fleet));
    }
}

/// Whether what follows from what was trusted before may not be written.
fn is_unfinished(before: &Fleet, signed: &Signed) -> bool {
    signed.again || before.signed.again
}

impl Force {
    /// With what `next` revokes beside: what may count while `next` isn't written yet.
    pub(super) fn with_what_is_revoked(&self, next: &Force) -> Option<(Force, Vec<Note>)> {
        let (old, new) = (self.fleet.as_ref()?, next.fleet.as_ref()?);
        let (mut more, mut notes) = (Fleet::clone(old), Vec::new());
        for (realm, list) in &new.denied {
            let known = more.denied.entry(realm.clone()).or_default();
            let before = known.clone();
            known.join(list);
            if *known != before {
                let detail = json!({"realm": realm, "entries": known.entries(), "by": "fleet"});
                notes.push(Note {
                    what: audit::Change::DenyListReplaced,
                    detail,
                });
            }
        }
        let more = Force {
            fleet: Some(Arc::new(more)),
            ..self.clone()
        };
        (!notes.is_empty()).then_some((more, notes))
    }

    /// What this device needs of the fleet.
    fn wanted(&self) -> Wanted {
        let models = self.realms.iter().flat_map(|realm| &realm.endpoints);
        Wanted {
            realms: self.realms.iter().map(|realm| realm.name.clone()).collect(),
            models: models.map(|endpoint| endpoint.model.clone()).collect(),
        }
    }

    /// Whether an endpoint may answer with this bundle.
    pub fn may_run(&self, model: &str, digest: &str) -> bool {
        let listed = || {
            self.fleet
                .as_ref()
                .is_some_and(|fleet| fleet.lists(model, digest))
        };
        !self.listed_models_only || listed()
    }
}

/// What is signed, and by whom.
impl Authority {
    /// Follows these mirrors from now on.
    pub fn follow_fleet(&self, follower: Follower) {
        *self.0.following.follower.lock() = Some(Arc::new(follower));
    }

    /// Tells when the mirrors have to be asked at once.
    pub fn fleet_is_due(&self) -> watch::Receiver<u64> {
        self.0.following.due.subscribe()
    }

    pub(super) fn ask_fleet(&self) {
        self.0.following.due.send_modify(|count| *count += 1);
    }

    /// What is known of the fleet's mirrors; `None`: none is followed.
    pub fn mirrors(&self) -> Option<Vec<MirrorReport>> {
        let follower = self.0.following.follower.lock();
        follower.as_ref().map(|follower| follower.reports())
    }

    /// A person trusts this root, and whatever follows from it. Returns its version.
    pub fn pin_root(&self, root: &[u8], by: &Origin) -> Result<u64, Refused> {
        let signed = Signed::pinned(root)?;
        let version = signed.versions.root;
        let force = self.force();
        let known = force.fleet.as_ref();
        let is_root = |fleet: &&Arc<Fleet>| fleet.signed.held.root() == root;
        if known.is_some_and(|fleet| is_root(&fleet) && fleet.unread.is_empty()) {
            return Ok(version);
        }
        let change = Change::Rooted {
            fingerprint: hex(&sha256(root)),
            signed: Box::new(signed),
        };
        self.apply(&change, by)?;
        self.ask_fleet();
        Ok(version)
    }

    /// Asks the lane's mirrors, and puts in force what is new. Whether all of them were good; there
    /// is nothing to ask them before a root is pinned. Blocks, within bounds; to be called once at a
    /// time for each lane.
    pub fn look_at_fleet(&self, lane: Lane) -> bool {
        for _ in 0..AGAIN {
            match self.look_once(lane) {
                Ok(good) => return good,
                Err(Refused::Overtaken) => {}
                Err(error) => {
                    tracing::error!(%error, "what the fleet has signed isn't in force");
                    return false;
                }
            }
        }
        false
    }

    fn look_once(&self, lane: Lane) -> Result<bool, Refused> {
        let follower = self.0.following.follower.lock().clone();
        let force = self.force();
        let (Some(follower), Some(fleet)) = (follower, &force.fleet) else {
            return Ok(true);
        };
        let now = self.moment();
        let found = follower.look(&fleet.signed.held, &force.wanted(), now, lane);
        let good = found.refused.is_empty();
        for (mirror, error) in &found.refused {
            self.mirror_refused(mirror, error);
        }
        if let Some(signed) = found.signed {
            let fresh = signed.fresh;
            self.apply(&Change::Signed(Box::new(signed)), &Origin::Daemon)?;
            if fresh {
                *self.0.following.heard.lock() = Some(self.clocks().uptime());
            }
        }
        Ok(good)
    }

    /// When a mirror of the fleet was last found to be good and up to date.
    pub fn fleet_heard(&self) -> Option<Uptime> {
        *self.0.following.heard.lock()
    }

    /// Told, counted, and recorded at a bounded rate.
    fn mirror_refused(&self, mirror: &str, error: &TrustError) {
        let (following, reason) = (&self.0.following, error.name());
        following.refused.get_or_create(&OfReason { reason }).inc();
        tracing::warn!(mirror, reason, %error, "a mirror of the fleet has nothing good");
        if matches!(error, TrustError::Unreachable(_)) {
            return;
        }
        let now = time::instant();
        let mut told = following.told.lock();
        let last = told.insert((mirror.to_owned(), reason), now);
        if let Some(last) = last
            && now.saturating_duration_since(last) < TELL_AGAIN
        {
            told.insert((mirror.to_owned(), reason), last);
            return;
        }
        let detail = json!({"mirror": mirror, "reason": reason, "why": error.to_string()});
        if let Err(error) = self.record(audit::Change::TrustRefused, detail) {
            tracing::error!(mirror, %error, "a refused mirror could not be recorded");
        }
    }

    /// What was kept, with what follows from it where a crash came in between.
    pub(super) fn begin_fleet(&self) -> Result<(), Refused> {
        let vault = &self.0.vault;
        if vault.restored() {
            tracing::warn!("the fleet's trust was restored from its copy");
            self.record(audit::Change::TrustRestored, json!({}))?;
        }
        let force = self.force();
        let Some(fleet) = &force.fleet else {
            return Ok(());
        };
        if !fleet.unread.is_empty() {
            let why = fleet.unread.to_string();
            tracing::error!(why, "what is kept of the fleet's trust can't be read");
            let realms: Vec<&String> = fleet.unread.realms.keys().take(MOST_NAMED).collect();
            let anywhere = fleet.unread.anywhere.is_some();
            let detail = json!({"why": why, "all_realms": anywhere, "realms": realms});
            return self.record(audit::Change::TrustUnread, detail);
        }
        if fleet.signed.again {
            let mut signed = fleet.signed.clone();
            signed.over = signed.held.clone();
            self.apply(&Change::Signed(Box::new(signed)), &Origin::Daemon)?;
        }
        Ok(())
    }

    /// For certificates: by the clock while something keeps it, and else no earlier than the floor.
    pub fn known(&self) -> Known {
        let authority = self.clone();
        Known::new(move || {
            let clocks = authority.clocks();
            match clocks.synchronised() {
                true => clocks.now(),
                false => authority.moment().known,
            }
        })
    }

    /// Since when the clock can't be before: the fleet's word, where nothing better tells the time.
    pub(super) fn issued(&self, change: &Change) -> Option<Timestamp> {
        match change {
            Change::Signed(signed) if !self.clocks().synchronised() => signed.issued,
            _ => None,
        }
    }
}
