//! Fetching the realms' keys over HTTPS: seldom, one at a time, and never at the cost of a good set.
//!
//! A fetched set counts only when it is vouched for ([`super::vouch`]). Any other is *held*: kept in
//! memory and shown, until a person pins it. Whatever else goes wrong changes nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use super::vouch::{Circumstances, Next, Verdict};
use super::{Change, DenyFiles, Keyring, KeysError, MAX_JWKS, Pinned};
use crate::auth::KeySet;
use crate::https::{Https, HttpsError};
use crate::identity::random;
use crate::time::{Mark, Moment, Timestamp};

/// Where a realm's keys are fetched from, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub uri: String,
    /// The CA to trust; without one only this machine can be asked.
    pub ca_file: Option<PathBuf>,
    /// Every user of this machine may serve the keys: whoever has the port while the issuer is away.
    pub plain_http_trusts_this_host: bool,
    pub refresh_interval: Duration,
    /// How long a key must be in force until it vouches for others.
    pub vouch_after: Duration,
    /// Least time between fetches for unknown keys; also the first pause after a failure.
    pub min_interval: Duration,
    pub timeout: Duration,
}

/// Why a set is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    Due,
    /// A token names a key that isn't known. Anybody can write one, so the cooldown binds.
    UnknownKey,
    /// A person asked.
    Asked,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The pinned keys, again.
    Confirmed,
    /// A set that is vouched for has taken their place.
    Replaced,
    /// A set that nobody vouches for, or nothing is pinned yet: a person must look at it. Keys that
    /// it lacks may have left all the same.
    Held,
    Failed(String),
    Cooldown(Duration),
}

impl Outcome {
    pub fn as_str(&self) -> &'static str {
        match self {
            Outcome::Confirmed => "confirmed",
            Outcome::Replaced => "replaced",
            Outcome::Held => "held",
            Outcome::Failed(_) => "failed",
            Outcome::Cooldown(_) => "cooldown",
        }
    }
}

/// A fetched set that isn't pinned.
#[derive(Debug, Clone)]
pub struct Held {
    pub keys: KeySet,
    jwks: Vec<u8>,
}

/// What is known of a realm's refreshes.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub last: Option<(Outcome, Timestamp)>,
    /// Until the next regular fetch.
    pub next_in: Duration,
    /// Keys that vouch for a fetched set, in force or not, by thumbprint.
    pub vouching: Vec<String>,
    pub held: Option<Held>,
}

/// What came of a realm's fetch.
#[derive(Debug)]
pub struct Told<'t> {
    pub realm: &'t str,
    pub outcome: &'t Outcome,
    /// What is in force now and wasn't, and the other way round.
    pub change: &'t Change,
    /// A set that is held already is none.
    pub news: bool,
}

/// Called within the flight, so that whoever waited for it sees its effect.
type Changed = Box<dyn Fn(&Told<'_>) + Send + Sync>;

/// Both clocks, and the instant for waits.
type Clock = Box<dyn Fn() -> (Moment, Instant) + Send + Sync>;

/// What an explicit fetch has found.
#[derive(Debug, Clone)]
pub struct Fetched {
    pub set: Held,
    /// It is the pinned one: there is nothing to hold.
    pub pinned: bool,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Refresher(Arc<Inner>);

struct Inner {
    keyring: Keyring,
    deny_files: DenyFiles,
    /// Read when a fetch ends.
    clock: Clock,
    changed: OnceLock<Changed>,
    realms: Mutex<BTreeMap<String, Arc<Line>>>,
}

/// The lines of a configuration, for [`Refresher::follow`].
pub struct Lines(BTreeMap<String, Arc<Line>>);

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

/// One realm's line to its issuer.
struct Line {
    source: Source,
    https: Https,
    /// Held during a fetch: there is never more than one.
    flight: Mutex<()>,
    state: Mutex<State>,
}

struct State {
    fetches: u64,
    failures: u32,
    last_fetch: Option<Instant>,
    next: Instant,
    last: Option<(Outcome, Timestamp)>,
    held: Option<Held>,
    /// The fingerprint of the set that was reported as held last.
    told: Option<String>,
    /// When an answer of the realm's own came last.
    heard: Option<Instant>,
}

impl std::fmt::Debug for Refresher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Refresher").finish_non_exhaustive()
    }
}

impl Refresher {
    pub fn new(keyring: Keyring, deny_files: DenyFiles, clock: Clock) -> Refresher {
        Refresher(Arc::new(Inner {
            keyring,
            deny_files,
            clock,
            changed: OnceLock::new(),
            realms: Mutex::default(),
        }))
    }

    /// Whom to tell of outcomes; the first call counts.
    pub fn on_change(&self, changed: Changed) {
        let _ = self.0.changed.set(changed);
    }

    /// Makes what asking `sources` needs, and changes nothing. A realm whose source is the same
    /// keeps its state.
    pub fn prepare(&self, sources: &BTreeMap<String, Source>) -> Result<Lines, HttpsError> {
        let (_, now) = (self.0.clock)();
        let mut lines = BTreeMap::new();
        let old = self.realms().clone();
        for (realm, source) in sources {
            let same = old.get(realm).filter(|line| line.source == *source);
            let line = match same {
                Some(line) => Arc::clone(line),
                None => Arc::new(Line::new(source.clone(), now)?),
            };
            lines.insert(realm.clone(), line);
        }
        Ok(Lines(lines))
    }

    /// Asks these issuers from now on, and no others. Can't fail.
    pub fn follow(&self, lines: Lines) {
        *self.realms() = lines.0;
    }

    /// Realms whose regular fetch is due and not under way.
    pub fn due(&self) -> Vec<String> {
        let (_, now) = (self.0.clock)();
        let lines = self.realms();
        let due = lines
            .iter()
            .filter(|(_, line)| line.state().next <= now && !line.is_under_way());
        due.map(|(realm, _)| realm.clone()).collect()
    }

    /// `None`: the realm isn't refreshed. Blocks until the fetch, or the one under way, has ended.
    pub fn refresh(&self, realm: &str, why: Why) -> Option<Outcome> {
        let line = self.line(realm)?;
        let before = line.state().fetches;
        let flight = line.flight.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, now) = (self.0.clock)();
        {
            let state = line.state();
            // Somebody else's fetch, which began later than this question or was under way.
            if let (true, Some((outcome, _))) = (state.fetches != before, &state.last) {
                return Some(outcome.clone());
            }
            let wait = state.cooldown(line.source.min_interval, now);
            if let (Why::UnknownKey, Some(wait)) = (why, wait) {
                return Some(Outcome::Cooldown(wait));
            }
        }
        let fetched = line.fetch().map(|(keys, jwks)| Held { keys, jwks });
        let judged = fetched.and_then(|set| self.judge(realm, &line, set));
        let (outcome, change) = match judged {
            Ok(judged) => judged,
            Err(why) => (Outcome::Failed(why), Change::default()),
        };
        let (moment, now) = (self.0.clock)();
        line.note(outcome.clone(), moment.known, now);
        self.tell(realm, &line, &outcome, &change);
        drop(flight);
        Some(outcome)
    }

    /// Fetches the realm's set and holds it, unless it is pinned: then it is confirmed.
    pub fn fetch(&self, realm: &str) -> Option<Result<Fetched, String>> {
        let line = self.line(realm)?;
        let _flight = line.flight.lock().unwrap_or_else(PoisonError::into_inner);
        let fetched = line.fetch().map(|(keys, jwks)| Held { keys, jwks });
        Some(fetched.and_then(|set| self.looked_at(realm, &line, set)))
    }

    fn looked_at(&self, realm: &str, line: &Line, set: Held) -> Result<Fetched, String> {
        let keyring = &self.0.keyring;
        let known = keyring.get(realm).map_err(|error| error.to_string())?;
        let pinned = known.is_some_and(|known| known.keys.same_keys(&set.keys));
        if pinned {
            let (now, _) = (self.0.clock)();
            let confirmed = keyring.confirm(realm, now);
            confirmed.map_err(|error| error.to_string())?;
            line.state().forget_held();
            self.tell(realm, line, &Outcome::Confirmed, &Change::default());
        } else {
            // Whoever fetches sees it, so it is no news.
            let mut state = line.state();
            state.told = Some(set.keys.fingerprint());
            state.held = Some(set.clone());
        }
        Ok(Fetched { set, pinned })
    }

    /// The realm's keys have been pinned by hand: what was held is settled.
    pub fn settle(&self, realm: &str) {
        if let Some(line) = self.line(realm) {
            line.state().forget_held();
        }
    }

    /// Pins the set that `fingerprint` names: the held one, or the one in force, whose keys then
    /// count as a person's choice. `None`: there is no such set.
    pub fn pin_held(
        &self,
        realm: &str,
        fingerprint: &str,
        now: Moment,
    ) -> Option<Result<(KeySet, Change), KeysError>> {
        let line = self.line(realm)?;
        let held = line.state().held.clone();
        let held = held.filter(|held| held.keys.fingerprint() == fingerprint);
        let pinned = match held {
            Some(held) => self.0.keyring.pin(realm, &held.jwks, now),
            None => self.0.keyring.pin_again(realm, fingerprint, now)?,
        };
        if pinned.is_ok() {
            line.state().forget_held();
        }
        Some(pinned)
    }

    pub fn report(&self, realm: &str) -> Option<Report> {
        let line = self.line(realm)?;
        let (_, now) = (self.0.clock)();
        let pinned = self.0.keyring.get(realm).ok().flatten();
        let vouching = pinned.map(|pinned| pinned.history.vouching(line.source.vouch_after));
        let state = line.state();
        Some(Report {
            last: state.last.clone(),
            next_in: state.next.saturating_duration_since(now),
            vouching: vouching.unwrap_or_default(),
            held: state.held.clone(),
        })
    }

    fn tell(&self, realm: &str, line: &Line, outcome: &Outcome, change: &Change) {
        let news = *outcome != Outcome::Held || line.state().is_held_news();
        if let Some(changed) = self.0.changed.get() {
            changed(&Told {
                realm,
                outcome,
                change,
                news,
            });
        }
    }

    /// What becomes of a sound set.
    fn judge(&self, realm: &str, line: &Line, set: Held) -> Result<(Outcome, Change), String> {
        let said = |error: KeysError| error.to_string();
        let Some(pinned) = self.0.keyring.get(realm).map_err(said)? else {
            line.state().held = Some(set);
            return Ok((Outcome::Held, Change::default()));
        };
        let (now, instant) = (self.0.clock)();
        let denied = self.0.deny_files.list(realm).unwrap_or_default();
        let circumstances = Circumstances {
            passed: line.since_heard(instant),
            vouch_after: line.source.vouch_after,
            denied: &|thumbprint| denied.revokes_key(thumbprint, now.known),
        };
        let (was, fetched) = (pinned.keys.thumbprints(), set.keys.thumbprints());
        let next = pinned.history.next(&was, &fetched, &circumstances);
        let verdict = next.verdict;
        let change = self
            .put_in_force(realm, &pinned, &set, next, now)
            .map_err(said)?;
        let mut state = line.state();
        if verdict != Verdict::Foreign {
            state.heard = Some(instant);
        }
        if matches!(verdict, Verdict::Held | Verdict::Foreign) {
            state.held = Some(set);
            return Ok((Outcome::Held, change));
        }
        state.forget_held();
        let same = pinned.keys.same_keys(&set.keys);
        let outcome = if same {
            Outcome::Confirmed
        } else {
            Outcome::Replaced
        };
        Ok((outcome, change))
    }

    /// Puts in force what the history says.
    fn put_in_force(
        &self,
        realm: &str,
        pinned: &Pinned,
        set: &Held,
        next: Next,
        now: Moment,
    ) -> Result<Change, KeysError> {
        let keyring = &self.0.keyring;
        let none = |()| Change::default();
        match next.verdict {
            Verdict::Foreign => Ok(Change::default()),
            Verdict::Held if next.in_force == pinned.keys.thumbprints() => {
                keyring.note(realm, None, Some(next.history), now).map(none)
            }
            Verdict::Held => keyring.reduce(realm, &next.in_force, next.history, now),
            _ if pinned.keys.same_set(&set.keys) => {
                let noted = keyring.note(realm, Some(Mark::here(now)), Some(next.history), now);
                noted.map(none)
            }
            // The same keys by other names or beside others that are left out, too.
            _ => {
                let (keys, confirmed) = (set.keys.clone(), Mark::here(now));
                keyring.replace(realm, keys, &set.jwks, next.history, confirmed, now)
            }
        }
    }

    fn line(&self, realm: &str) -> Option<Arc<Line>> {
        self.realms().get(realm).cloned()
    }

    fn realms(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Line>>> {
        self.0.realms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn new(source: Source, now: Instant) -> Result<Line, HttpsError> {
        let https = Https::new(source.ca_file.as_deref(), source.timeout)?;
        Ok(Line {
            source,
            https,
            flight: Mutex::new(()),
            state: Mutex::new(State {
                fetches: 0,
                failures: 0,
                last_fetch: None,
                next: now,
                last: None,
                held: None,
                told: None,
                heard: None,
            }),
        })
    }

    fn fetch(&self) -> Result<(KeySet, Vec<u8>), String> {
        let answer = self.https.get(&self.source.uri, MAX_JWKS as u64);
        let answer = answer.map_err(|error| error.to_string())?;
        if answer.status != 200 {
            return Err(format!("the issuer answered with status {}", answer.status));
        }
        let keys = KeySet::parse(&answer.body).map_err(|error| error.0)?;
        Ok((keys, answer.body))
    }

    /// Plans the next regular fetch: after the interval, or after a pause that doubles up to it.
    fn note(&self, outcome: Outcome, wall: Timestamp, now: Instant) {
        let (least, most) = (self.source.min_interval, self.source.refresh_interval);
        let mut state = self.state();
        let pause = match &outcome {
            Outcome::Failed(_) => {
                let pause = least.saturating_mul(1 << state.failures.min(16)).min(most);
                state.failures = state.failures.saturating_add(1);
                pause
            }
            _ => {
                state.failures = 0;
                most
            }
        };
        state.fetches += 1;
        state.last_fetch = Some(now);
        state.next = now + jittered(pause);
        state.last = Some((outcome, wall));
    }

    /// A fetch that panicked isn't: the realm goes on being refreshed.
    fn is_under_way(&self) -> bool {
        matches!(self.flight.try_lock(), Err(TryLockError::WouldBlock))
    }

    /// How long one silence may count: about as long as there is one while all goes well. Whoever
    /// can cut the line shall not age keys by that.
    fn since_heard(&self, now: Instant) -> Duration {
        let heard = self.state().heard;
        let passed = heard.map(|heard| now.saturating_duration_since(heard));
        let most = self.source.refresh_interval.saturating_mul(2);
        passed.unwrap_or_default().min(most)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget_held(&mut self) {
        self.held = None;
        self.told = None;
    }

    /// Once for each set.
    fn is_held_news(&mut self) -> bool {
        let held = self.held.as_ref().map(|held| held.keys.fingerprint());
        let news = held != self.told;
        self.told = held;
        news
    }

    fn cooldown(&self, least: Duration, now: Instant) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.last_fetch?);
        least.checked_sub(passed).filter(|wait| !wait.is_zero())
    }
}

/// ±10 %, so that a fleet that was started together doesn't ask together.
fn jittered(pause: Duration) -> Duration {
    let draw = u32::from(u16::from_be_bytes(random()));
    pause.mul_f64(0.9 + 0.2 * f64::from(draw) / f64::from(u16::MAX))
}
