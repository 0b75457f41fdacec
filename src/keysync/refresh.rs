//! Fetching the realms' keys over HTTPS: seldom, one at a time, and never at the cost of a good set.
//!
//! This only fetches. A set that nobody vouches for ([`super::vouch`]) is *held*: kept in memory and
//! shown, until a person pins it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use super::vouch::Verdict;
use super::{KeysError, MAX_JWKS, Set};
use crate::https::{Https, HttpsError};
use crate::identity::random;
use crate::time::{self, Timestamp};

/// Where a realm's keys are fetched from, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub uri: String,
    /// The CA to trust; without one only this machine can be asked.
    pub ca_file: Option<PathBuf>,
    /// Every user of this machine may serve the keys: whoever has the port while the issuer is away.
    pub plain_http_trusts_this_host: bool,
    pub refresh_interval: Duration,
    /// Keys of the issuer's come into force beside what a fleet has signed; otherwise it only
    /// confirms those. Without a fleet it makes no difference.
    pub adds: bool,
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

/// What is known of a realm's refreshes.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub last: Option<(Outcome, Timestamp)>,
    /// Until the next regular fetch.
    pub next_in: Duration,
    /// A fetched set that isn't in force.
    pub held: Option<Set>,
}

/// The realms' lines to their issuers. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Refresher(Arc<Mutex<BTreeMap<String, Arc<Line>>>>);

/// The lines of a configuration, for [`Refresher::follow`].
#[derive(Debug, Default)]
pub struct Lines(BTreeMap<String, Arc<Line>>);

/// One realm's line to its issuer.
pub struct Line {
    source: Source,
    https: Https,
    /// Held during a fetch: there is never more than one.
    flight: Mutex<()>,
    state: Mutex<Attempts>,
}

/// A fetch: as long as it is held, there is no other of the realm's.
#[must_use]
pub struct Flight<'l> {
    line: &'l Line,
    _turn: MutexGuard<'l, ()>,
}

struct Attempts {
    fetches: u64,
    failures: u32,
    last_fetch: Option<Instant>,
    next: Instant,
    last: Option<(Outcome, Timestamp)>,
    held: Option<Set>,
    /// The fingerprint of the set that was reported as held last.
    told: Option<String>,
    /// When an answer of the realm's own came last.
    heard: Option<Instant>,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

impl Refresher {
    /// Makes what asking `sources` needs, and changes nothing. A realm whose source is the same
    /// keeps its state.
    pub fn prepare(&self, sources: &BTreeMap<String, Source>) -> Result<Lines, HttpsError> {
        let mut lines = BTreeMap::new();
        let old = self.realms().clone();
        for (realm, source) in sources {
            let same = old.get(realm).filter(|line| line.source == *source);
            let line = match same {
                Some(line) => Arc::clone(line),
                None => Arc::new(Line::new(source.clone())?),
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
        let now = time::instant();
        let lines = self.realms();
        let due = lines
            .iter()
            .filter(|(_, line)| line.state().next <= now && !line.is_under_way());
        due.map(|(realm, _)| realm.clone()).collect()
    }

    /// `None`: the realm isn't refreshed.
    pub fn line(&self, realm: &str) -> Option<Arc<Line>> {
        self.realms().get(realm).cloned()
    }

    fn realms(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Line>>> {
        self.0.lock()
    }
}

impl Line {
    fn new(source: Source) -> Result<Line, HttpsError> {
        let https = Https::new(source.ca_file.as_deref(), source.timeout)?;
        Ok(Line {
            source,
            https,
            flight: Mutex::new(()),
            state: Mutex::new(Attempts {
                fetches: 0,
                failures: 0,
                last_fetch: None,
                next: time::instant(),
                last: None,
                held: None,
                told: None,
                heard: None,
            }),
        })
    }

    /// A turn to fetch the realm's keys; or what came of a fetch that served as well, or why there
    /// is none. Blocks until the one under way has ended.
    pub fn begin(&self, why: Why) -> Result<Flight<'_>, Outcome> {
        let before = self.state().fetches;
        let flight = self.take();
        let now = time::instant();
        let state = self.state();
        // Somebody else's fetch, which began later than this question or was under way.
        if let (true, Some((outcome, _))) = (state.fetches != before, &state.last) {
            return Err(outcome.clone());
        }
        let wait = state.cooldown(self.source.min_interval, now);
        match (why, wait) {
            (Why::UnknownKey, Some(wait)) => Err(Outcome::Cooldown(wait)),
            _ => Ok(flight),
        }
    }

    /// A turn to fetch the realm's keys for a person to look at.
    pub fn take(&self) -> Flight<'_> {
        Flight {
            line: self,
            _turn: self.flight.lock(),
        }
    }

    pub fn held(&self) -> Option<Set> {
        self.state().held.clone()
    }

    /// What was held is settled.
    pub fn settle(&self) {
        self.state().forget_held();
    }

    pub fn report(&self) -> Report {
        let (state, now) = (self.state(), time::instant());
        Report {
            last: state.last.clone(),
            next_in: state.next.saturating_duration_since(now),
            held: state.held.clone(),
        }
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
        self.flight.try_lock().is_none()
    }

    fn state(&self) -> MutexGuard<'_, Attempts> {
        self.state.lock()
    }
}

impl Flight<'_> {
    pub fn fetch(&self) -> Result<Set, String> {
        let line = self.line;
        let answer = line.https.get(&line.source.uri, MAX_JWKS as u64);
        let answer = answer.map_err(|error| error.to_string())?;
        if answer.status != 200 {
            return Err(format!("the issuer answered with status {}", answer.status));
        }
        Set::parse(&answer.body).map_err(|error| match error {
            KeysError::Invalid(why) => why,
            other => other.to_string(),
        })
    }

    /// Since the answer before, where that was one of the realm's own: how long one silence may
    /// count, about as long as there is one while all goes well. Whoever can cut the line shall not
    /// age keys by that.
    pub fn passed(&self) -> Duration {
        let heard = self.line.state().heard;
        let passed = heard.map(|heard| time::instant().saturating_duration_since(heard));
        let most = self.line.source.refresh_interval.saturating_mul(2);
        passed.unwrap_or_default().min(most)
    }

    /// What has become of the fetched set.
    pub fn judged(&self, set: Set, verdict: Verdict) -> Outcome {
        let mut state = self.line.state();
        if verdict != Verdict::Foreign {
            state.heard = Some(time::instant());
        }
        match verdict {
            Verdict::Held | Verdict::Foreign => {
                state.held = Some(set);
                return Outcome::Held;
            }
            Verdict::Confirmed | Verdict::Taken => state.forget_held(),
        }
        match verdict {
            Verdict::Taken => Outcome::Replaced,
            _ => Outcome::Confirmed,
        }
    }

    /// Keeps the set for whoever has asked for it and sees it, so that it is no news.
    pub fn hold(&self, set: Set) {
        let mut state = self.line.state();
        state.told = Some(set.keys.fingerprint());
        state.held = Some(set);
    }

    /// The fetch came to this. Returns the set that is held and wasn't, by its fingerprint.
    pub fn end(&self, outcome: &Outcome, wall: Timestamp) -> Option<String> {
        self.line.note(outcome.clone(), wall, time::instant());
        let mut state = self.line.state();
        let news = *outcome == Outcome::Held && state.is_held_news();
        state.told.clone().filter(|_| news)
    }
}

impl Attempts {
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
