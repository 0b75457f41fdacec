//! What a fleet's managers have signed, in force: what it makes of what was, and where it comes from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::force::{Next, Note};
use super::{Authority, Change, Force, Refused};
use crate::audit;
use crate::auth::{Policy, Revocations};
use crate::digest::{hex, sha256};
use crate::fleet::{Follower, Held, Lane, MirrorReport, Signed, Wanted};
use crate::keysync::{Difference, History, Pinned, Set};
use crate::prompt::Origin;
use crate::time::{self, Mark, Moment, Timestamp, Uptime};
use crate::trust::targets::{self, Lifted};
use crate::trust::{TrustError, Versions};

/// A mirror's refusal is recorded again after so long at the earliest: anybody may write to a broker.
const TELL_AGAIN: Duration = Duration::from_secs(6 * 3600);

/// A look that another lane's has overtaken begins anew, so often.
const AGAIN: usize = 3;

/// What the fleet has in force.
#[derive(Debug, Clone)]
pub struct Fleet {
    pub signed: Signed,
    /// By realm: what was ever revoked, and has neither ended nor been lifted.
    pub denied: BTreeMap<String, Revocations>,
}

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

impl Fleet {
    /// As it was kept. What can't be read of it is told and left out, but for what is revoked.
    pub(super) fn kept(held: &Held) -> Fleet {
        let signed = Signed::kept(held).unwrap_or_else(|error| {
            tracing::error!(%error, "what is kept of the fleet's trust can't be used");
            Signed::unread(held)
        });
        let denied =
            held.denied
                .iter()
                .filter_map(|(realm, file)| match Revocations::parse(file) {
                    Ok(list) => Some((realm.clone(), list)),
                    Err(why) => {
                        tracing::error!(realm, why, "what the fleet has revoked can't be read");
                        None
                    }
                });
        Fleet {
            signed,
            denied: denied.collect(),
        }
    }

    /// Signed lists and the local one: what either revokes is.
    pub(super) fn denied(&self, realm: &str, local: Option<&Revocations>) -> Option<Revocations> {
        match (self.denied.get(realm), local) {
            (None, local) => local.cloned(),
            (Some(signed), None) => Some(signed.clone()),
            (Some(signed), Some(local)) => {
                let mut both = local.clone();
                both.join(signed);
                Some(both)
            }
        }
    }

    pub(super) fn narrow(&self, realm: &str, policy: &Policy) -> Policy {
        match self.signed.policy.get(realm) {
            Some(fleet) => policy.narrowed_by(fleet),
            None => policy.clone(),
        }
    }

    /// A confirmation as it counts for keys that the fleet has signed: none is younger than what
    /// has passed since the timestamp's end, or whoever withholds a newer one would win time.
    pub(super) fn confirmed(&self, realm: &str, confirmed: Mark) -> Mark {
        match (self.signed.keys.contains_key(realm), self.signed.expires) {
            (true, Some(end)) => confirmed.ended(end),
            _ => confirmed,
        }
    }

    /// Whether the fleet's list names the bundle.
    fn lists(&self, model: &str, digest: &str) -> bool {
        let listed = self.signed.models.get(model);
        listed.is_some_and(|digests| digests.contains(&format!("sha256:{digest}")))
    }
}

impl Next {
    /// The fleet's managers have signed it, above thresholds of theirs: nobody else has to vouch.
    pub(super) fn signed(&mut self, signed: &Signed, now: Moment) -> Result<(), Refused> {
        let before = self.force.fleet.clone().ok_or(Refused::NoRoot)?;
        if before.signed.held != signed.over {
            return Err(Refused::Overtaken);
        }
        let denied = revoked(&before, signed, now)?;
        let mut keys = Map::new();
        for (realm, set) in &signed.keys {
            if self.signed_keys(&before, signed, (realm, set), now) {
                let Difference { added, removed } = &self.done.difference;
                keys.insert(realm.clone(), json!({"added": added, "removed": removed}));
            }
        }
        // What was interrupted has no record yet.
        let again = signed.again;
        let mut signed = signed.clone();
        signed.again = false;
        signed.held.denied = denied
            .iter()
            .map(|(realm, list)| (realm.clone(), list.to_file()))
            .collect();
        let after = Fleet { signed, denied };
        let detail = after.told(&before, keys);
        if again || after.is_news(&before) {
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
        let is_new =
            signed.again || before.signed.held.targets.get(&path) != signed.held.targets.get(&path);
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
        };
        let detail = json!({"version": signed.versions.root, "fingerprint": fingerprint});
        self.note(audit::Change::TrustPinned, Some(detail));
        self.force.fleet = Some(Arc::new(fleet));
    }
}

/// What the fleet has revoked: a list that lacks an entry lifts nothing. Its end is judged by the
/// fleet's own clock: ours may be wrong.
fn revoked(
    before: &Fleet,
    signed: &Signed,
    now: Moment,
) -> Result<BTreeMap<String, Revocations>, Refused> {
    let mut denied = before.denied.clone();
    for (realm, list) in &signed.denied {
        denied.entry(realm.clone()).or_default().join(list);
    }
    let nothing = BTreeSet::<Lifted>::new();
    for (realm, list) in &mut denied {
        list.lift(signed.lifted.get(realm).unwrap_or(&nothing));
        list.expire(signed.issued.unwrap_or_default());
        if !list.fits() {
            list.expire(now.known);
        }
        if !list.fits() {
            return Err(Refused::TooManyRevoked(realm.clone()));
        }
    }
    Ok(denied)
}

impl Fleet {
    /// Whether there is more to tell than that the same was signed anew.
    fn is_news(&self, before: &Fleet) -> bool {
        let versions = |fleet: &Fleet| (fleet.signed.versions.root, fleet.signed.versions.targets);
        let (old, new) = (&before.signed, &self.signed);
        versions(before) != versions(self)
            || old.held.targets != new.held.targets
            || before.denied != self.denied
    }

    fn told(&self, before: &Fleet, keys: Map<String, Value>) -> Value {
        let Versions {
            root,
            timestamp,
            snapshot,
            targets,
            revocation,
        } = self.signed.versions;
        let denied = self.denied.iter();
        let denied = denied.filter(|(realm, list)| before.denied.get(*realm) != Some(list));
        let denied: BTreeMap<&String, usize> = denied
            .map(|(realm, list)| (realm, list.entries()))
            .collect();
        let models = self.signed.models.iter();
        let models = models.filter(|(name, list)| before.signed.models.get(*name) != Some(list));
        let models: Vec<&String> = models.map(|(name, _)| name).collect();
        json!({
            "root": root,
            "timestamp": timestamp,
            "snapshot": snapshot,
            "targets": targets,
            "revocation": revocation,
            "keys": keys,
            "denied": denied,
            "policy": self.signed.policy != before.signed.policy,
            "models": models,
        })
    }
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
        let signed = Signed::kept(&Held::rooted(root))?;
        let version = signed.versions.root;
        let force = self.force();
        let known = force.fleet.as_ref();
        if known.is_some_and(|fleet| fleet.signed.held.root() == root) {
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

    /// Asks the lane's mirrors, and puts in force what is new. Blocks, within bounds; to be called
    /// once at a time for each lane.
    pub fn look_at_fleet(&self, lane: Lane) {
        for _ in 0..AGAIN {
            match self.look_once(lane) {
                Ok(()) => return,
                Err(Refused::Overtaken) => {}
                Err(error) => {
                    tracing::error!(%error, "what the fleet has signed isn't in force");
                    return;
                }
            }
        }
    }

    fn look_once(&self, lane: Lane) -> Result<(), Refused> {
        let follower = self.0.following.follower.lock().clone();
        let force = self.force();
        let (Some(follower), Some(fleet)) = (follower, &force.fleet) else {
            return Ok(());
        };
        let now = self.moment().known;
        let found = follower.look(&fleet.signed.held, &force.wanted(), now, lane);
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
        Ok(())
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
        if vault.is_unfinished()? {
            let mut signed = fleet.signed.clone();
            signed.over = signed.held.clone();
            signed.again = true;
            self.apply(&Change::Signed(Box::new(signed)), &Origin::Daemon)?;
        }
        Ok(())
    }

    /// Since when the clock can't be before: the fleet's word, where nothing better tells the time.
    pub(super) fn issued(&self, change: &Change) -> Option<Timestamp> {
        match change {
            Change::Signed(signed) if !self.clocks().synchronised() => signed.issued,
            _ => None,
        }
    }
}
