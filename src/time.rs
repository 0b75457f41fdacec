//! The only module that reads a clock. Everybody else gets time as a parameter.
//!
//! The wall clock ([`Clocks::now`]) says what time it is, and may be wrong, and may step.
//! [`Clocks::uptime`] never steps and also counts while the machine sleeps, but says nothing of another boot; `Instant` is for
//! waits, and may stand still during a sleep. No two of them can be subtracted: what needs an age
//! keeps a [`Mark`] and asks it with a [`Moment`], which has both clocks.

use std::fmt;
use std::ops::Add;
use std::str::FromStr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

/// The latest time that is believed of anybody, 9999-12-31T23:59:59Z: later ones are mistakes, and
/// sums of earlier ones can't overflow.
pub const MAX_SECS: u64 = 253_402_300_799;

impl Timestamp {
    pub fn from_secs(secs: u64) -> Timestamp {
        Timestamp(secs.saturating_mul(1000))
    }

    pub fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    pub fn saturating_add(self, duration: Duration) -> Timestamp {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Timestamp(self.0.saturating_add(millis))
    }

    /// Year, month (1 to 12) and day in UTC.
    pub fn date(self) -> (u64, u64, u64) {
        civil(self.as_secs() / 86_400)
    }

    /// `2026-01-03 00:00 UTC`, for people.
    pub fn minute(self) -> String {
        let text = self.to_string();
        let text = text.rsplit_once(':').map_or(&*text, |(minutes, _)| minutes);
        format!("{} UTC", text.replace('T', " "))
    }

    pub fn saturating_sub(self, duration: Duration) -> Timestamp {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Timestamp(self.0.saturating_sub(millis))
    }

    /// Zero when `earlier` is later. For two times from one source only, such as two claims of one
    /// token; the age of what happened here is a [`Mark`]'s to tell.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// RFC 3339 in UTC with milliseconds.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of_day = self.as_secs() % 86_400;
        let (year, month, day) = self.date();
        let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
        let millis = self.0 % 1000;
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z"
        )
    }
}

/// What [`Display`](fmt::Display) writes, and nothing else.
impl FromStr for Timestamp {
    type Err = ();

    fn from_str(text: &str) -> Result<Timestamp, ()> {
        let number = |from: usize, to: usize| {
            let digits = text.get(from..to).ok_or(())?;
            digits.parse::<u64>().map_err(|_| ())
        };
        let day = days(number(0, 4)?, number(5, 7)?, number(8, 10)?).ok_or(())?;
        let of_day = number(11, 13)? * 3600 + number(14, 16)? * 60 + number(17, 19)?;
        let read = Timestamp((day * 86_400 + of_day) * 1000 + number(20, 23)?);
        // A date that there isn't, or other separators, would be written otherwise.
        (read.to_string() == text).then_some(read).ok_or(())
    }
}

/// Year, month and day of a day since the epoch (H. Hinnant, "chrono-compatible low-level date
/// algorithms", `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + u64::from(month <= 2), month, day)
}

/// The other way (`days_from_civil`); `None` before 1970 and for no month.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let from_march = match month {
        1..=2 => month + 9,
        3..=12 => month - 3,
        _ => return None,
    };
    let year = year.checked_sub(u64::from(month <= 2))?;
    let (era, yoe) = (year / 400, year % 400);
    let doy = ((153 * from_march + 2) / 5 + day).checked_sub(1)?;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    (era * 146_097 + doe).checked_sub(719_468)
}

/// Milliseconds since this boot, those in which the machine slept included (`CLOCK_BOOTTIME`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Uptime(pub u64);

impl Uptime {
    pub fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// Zero when `earlier` is later.
    pub fn since(self, earlier: Uptime) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Uptime {
    type Output = Uptime;

    fn add(self, duration: Duration) -> Uptime {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Uptime(self.0.saturating_add(millis))
    }
}

/// An uptime that can be told from another boot's: what is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Booted {
    pub boot: u64,
    pub uptime: Uptime,
}

impl Booted {
    /// How long ago `earlier` was, if it was in this boot.
    pub fn since(self, earlier: Booted) -> Option<Duration> {
        (self.boot == earlier.boot).then(|| self.uptime.since(earlier.uptime))
    }
}

/// One moment by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moment {
    /// The wall clock, held up by the time that has certainly passed.
    pub known: Timestamp,
    pub uptime: Uptime,
}

/// When something happened, so that its age can be told later. What this process saw is as old as
/// the uptime says, whatever becomes of the wall clock; what an earlier one saw is as old as the wall
/// clocks of then and now say, and no younger than the time that the daemon has run since: a time in
/// the future, or a clock that is set back, makes nothing young.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    at: Timestamp,
    seen: Seen,
    /// Since when it would have had to happen again.
    ended: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Here(Uptime),
    /// By an earlier process; for how long the daemon had run since when this one began.
    Before {
        ran: Duration,
        begun: Uptime,
    },
}

impl Mark {
    pub fn here(now: Moment) -> Mark {
        Mark {
            at: now.known,
            seen: Seen::Here(now.uptime),
            ended: None,
        }
    }

    /// What an earlier process saw at `at`; the daemon had run for `ran` since then when this one
    /// began.
    pub fn before(at: Timestamp, ran: Duration, begun: Uptime) -> Mark {
        Mark {
            at,
            seen: Seen::Before { ran, begun },
            ended: None,
        }
    }

    /// No younger than what has passed since `end`.
    #[must_use]
    pub fn ended(self, end: Timestamp) -> Mark {
        let ended = Some(end);
        Mark { ended, ..self }
    }

    /// The time to store.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    pub fn age(&self, now: Moment) -> Duration {
        let age = match self.seen {
            Seen::Here(at) => now.uptime.since(at),
            Seen::Before { ran, begun } => {
                let ran = ran.saturating_add(now.uptime.since(begun));
                now.known.since(self.at).max(ran)
            }
        };
        age.max(self.ended.map_or(Duration::ZERO, |at| now.known.since(at)))
    }

    /// When it was, by the clock of `now`.
    pub fn shown(&self, now: Moment) -> Timestamp {
        now.known.saturating_sub(self.age(now))
    }

    /// With the time to store after the clock was set: what this process saw keeps its age, and no
    /// time lies in the future.
    pub fn mended(&self, now: Moment) -> Mark {
        let at = match self.seen {
            Seen::Here(_) => self.shown(now),
            Seen::Before { .. } => self.at.min(now.known),
        };
        Mark { at, ..*self }
    }
}

/// The monotonic clock, for waits: those are never at another time.
#[expect(clippy::disallowed_methods, reason = "this is the module that may")]
pub fn instant() -> Instant {
    Instant::now()
}

/// Both clocks, and whether the wall clock is synchronised, as one reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    pub now: Timestamp,
    pub at: Booted,
    pub synchronised: bool,
}

/// What time it is, as far as is known, for who asks at a time of its own. Cheap to clone.
#[derive(Clone)]
pub struct Known(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Known {
    pub fn new(known: impl Fn() -> Timestamp + Send + Sync + 'static) -> Known {
        Known(Arc::new(known))
    }

    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

/// By the wall clock alone.
impl Default for Known {
    fn default() -> Known {
        Known::new(now)
    }
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Known").field(&self.now()).finish()
    }
}

/// What the machine's clocks are read by. Whoever lives at one time has one, so that tests can have it
/// live at another. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Clocks {
    #[cfg(test)]
    set: Option<Arc<parking_lot::Mutex<Reading>>>,
}

impl Clocks {
    /// The wall clock.
    pub fn now(&self) -> Timestamp {
        self.stopped().map_or_else(now, |at| at.now)
    }

    /// The clock that never steps and never stands still in this boot.
    pub fn uptime(&self) -> Uptime {
        self.booted().uptime
    }

    /// [`Clocks::uptime`] with the kernel's id of this boot, or one of this process where it tells none.
    pub fn booted(&self) -> Booted {
        self.stopped().map_or_else(booted, |at| at.at)
    }

    /// Whether the kernel's clock is kept in step with a time source.
    pub fn synchronised(&self) -> bool {
        self.stopped()
            .map_or_else(crate::sys::clock_synchronised, |at| at.synchronised)
    }

    /// Where tests have them stand.
    fn stopped(&self) -> Option<Reading> {
        #[cfg(test)]
        let stopped = self.set.as_ref().map(|set| *set.lock());
        #[cfg(not(test))]
        let stopped = None;
        stopped
    }

    pub fn reading(&self) -> Reading {
        reading_of(|| self.now(), || self.booted(), || self.synchronised())
    }

    /// Clocks that stand still at `reading`, until they are set again.
    #[cfg(test)]
    pub fn at(reading: Reading) -> Clocks {
        Clocks {
            set: Some(Arc::new(parking_lot::Mutex::new(reading))),
        }
    }

    #[cfg(test)]
    pub fn set(&self, reading: Reading) {
        *self.set.as_ref().expect("made by `at`").lock() = reading;
    }
}

/// The clock is read between two answers: what it said before it was stepped and called
/// synchronised is believed by nobody.
fn reading_of(
    now: impl Fn() -> Timestamp,
    booted: impl Fn() -> Booted,
    synchronised: impl Fn() -> bool,
) -> Reading {
    let before = synchronised();
    let (now, at) = (now(), booted());
    Reading {
        now,
        at,
        synchronised: before && synchronised(),
    }
}

/// A clock before 1970 reads as 1970.
#[expect(clippy::disallowed_methods, reason = "this is the module that may")]
fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn uptime() -> Uptime {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let since = Duration::try_from(time).unwrap_or_default();
    Uptime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn booted() -> Booted {
    static BOOT: LazyLock<u64> = LazyLock::new(|| {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let digits: String = id
            .chars()
            .filter(char::is_ascii_hexdigit)
            .take(16)
            .collect();
        u64::from_str_radix(&digits, 16).unwrap_or_else(|_| {
            use std::hash::{BuildHasher, RandomState};
            RandomState::new().hash_one(())
        })
    });
    Booted {
        boot: *BOOT,
        uptime: uptime(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates() {
        let text = |secs| Timestamp::from_secs(secs).to_string();
        assert_eq!(text(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(text(951_782_400), "2000-02-29T00:00:00.000Z");
        assert_eq!(text(1_795_500_799), "2026-11-24T06:13:19.000Z");
        assert_eq!(text(MAX_SECS), "9999-12-31T23:59:59.000Z");
        let at = Timestamp::from_secs(1_795_500_799);
        assert_eq!(at.minute(), "2026-11-24 06:13 UTC");
    }

    #[test]
    fn what_is_written_can_be_read() {
        for secs in [0, 951_782_400, 1_795_500_799, 4_107_542_399, MAX_SECS] {
            let time = Timestamp(secs * 1000 + 7);
            assert_eq!(time.to_string().parse(), Ok(time));
        }
        for wrong in [
            "",
            "2026-11-24",
            "2026-11-24T06:13:19Z",
            "2026-02-29T00:00:00.000Z",
            "2026-00-01T00:00:00.000Z",
            "2026-01-00T00:00:00.000Z",
            "1969-12-31T23:59:59.000Z",
            "2026-11-24T24:00:00.000Z",
            "2026-11-24T06:13:19.000+",
            "2026-11-24T06:13:+9.000Z",
            "٢٠٢٦-11-24T06:13:19.000Z",
        ] {
            assert!(wrong.parse::<Timestamp>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn never_before_the_epoch() {
        assert_eq!(Timestamp(5).since(Timestamp(9)), Duration::ZERO);
    }

    fn moment(known: u64, uptime: u64) -> Moment {
        Moment {
            known: Timestamp(known),
            uptime: Uptime(uptime),
        }
    }

    #[test]
    fn what_this_process_saw_ages_by_its_uptime_whatever_the_wall_clock_does() {
        let mark = Mark::here(moment(1_000_000, 50));
        for known in [0, 1_000_000, 9_000_000] {
            assert_eq!(mark.age(moment(known, 70)), Duration::from_millis(20));
        }
        assert_eq!(mark.shown(moment(9_000_000, 70)), Timestamp(8_999_980));
    }

    #[test]
    fn what_an_earlier_process_saw_is_no_younger_than_the_daemon_has_run_since() {
        let ran = Duration::from_millis(5);
        let mark = Mark::before(Timestamp(1000), ran, Uptime(50));
        let age = |known, uptime| mark.age(moment(known, uptime)).as_millis();
        assert_eq!(age(1500, 60), 500);
        assert_eq!(age(900, 60), 15, "from the future");
        assert_eq!(age(1000, 50), 5);
    }

    #[test]
    fn what_had_to_happen_again_is_no_younger_than_what_has_passed_since() {
        let mark = Mark::here(moment(1000, 50)).ended(Timestamp(900));
        assert_eq!(mark.age(moment(1000, 50)).as_millis(), 100);
        assert_eq!(mark.age(moment(800, 70)).as_millis(), 20);
        assert_eq!(mark.at(), Timestamp(1000));
    }

    #[test]
    fn a_clock_that_was_mended_mends_what_is_stored() {
        let before = Mark::before(Timestamp(9000), Duration::ZERO, Uptime(50));
        assert_eq!(before.mended(moment(700, 60)).at(), Timestamp(700));
        let before = Mark::before(Timestamp(600), Duration::ZERO, Uptime(50));
        assert_eq!(before.mended(moment(700, 60)).at(), Timestamp(600));
        let here = Mark::here(moment(9000, 50));
        assert_eq!(here.mended(moment(700, 60)).at(), Timestamp(690));
    }

    #[test]
    fn a_clock_that_is_stepped_and_kept_while_it_is_read_was_not_synchronised() {
        let stepped = std::cell::Cell::new(false);
        let read = |kept_before: bool, kept_after: bool| {
            stepped.set(false);
            let now = || {
                stepped.set(true);
                Timestamp(5)
            };
            let synchronised = || match stepped.get() {
                true => kept_after,
                false => kept_before,
            };
            let reading = reading_of(now, booted, synchronised);
            (reading.now, reading.synchronised)
        };
        assert_eq!(read(true, true), (Timestamp(5), true));
        for (before, after) in [(false, true), (true, false), (false, false)] {
            assert_eq!(read(before, after), (Timestamp(5), false));
        }
    }

    #[test]
    fn another_boots_uptime_has_no_distance() {
        let at = |boot, uptime| Booted {
            boot,
            uptime: Uptime(uptime),
        };
        assert_eq!(at(1, 9).since(at(1, 4)), Some(Duration::from_millis(5)));
        assert_eq!(at(1, 9).since(at(2, 4)), None);
        assert_eq!(booted().boot, booted().boot);
        assert!(uptime() >= Uptime(1));
    }
}
