//! `--since` as people write it: how long ago, a date, or a time.

use std::time::Duration;

use crate::time::Timestamp;

/// Since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Since {
    Ago(Duration),
    At(Timestamp),
}

/// Year, month, day, hour, minute, second.
type Civil = [u32; 6];

const FORM: &str = "write how long ago (90s, 10m, 2h, 3d, 1w), a date (2026-11-24) or a time \
    (2026-11-24T18:05, with Z or +01:00 where it isn't this machine's)";

const UNITS: [(char, u64); 5] = [
    ('s', 1),
    ('m', 60),
    ('h', 3600),
    ('d', 86_400),
    ('w', 7 * 86_400),
];

impl Since {
    pub(super) fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Since::Ago(span) => now.saturating_sub(span),
            Since::At(at) => at,
        }
    }
}

/// `local`: seconds since the epoch of a time in this machine's zone.
pub(super) fn parse(text: &str, local: impl Fn(Civil) -> Option<u64>) -> Result<Since, String> {
    let since = ago(text).map(Since::Ago);
    let since = since.or_else(|| at(text, local).map(Since::At));
    since.ok_or_else(|| FORM.to_owned())
}

fn ago(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let (_, seconds) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let number = digits(text.strip_suffix(unit)?)?;
    number.checked_mul(*seconds).map(Duration::from_secs)
}

/// A date, or an RFC 3339 time with or without seconds and zone.
fn at(text: &str, local: impl Fn(Civil) -> Option<u64>) -> Option<Timestamp> {
    let (date, time) = match text.get(10..)? {
        "" => (text, "00:00"),
        rest => (text.get(..10)?, rest.strip_prefix(['T', 't', ' '])?),
    };
    let (time, zone) = zone(time)?;
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let millis = (0..3).try_fold(0, |millis, place| {
        let digit = fraction.as_bytes().get(place).copied().unwrap_or(b'0');
        digit
            .is_ascii_digit()
            .then(|| millis * 10 + u64::from(digit - b'0'))
    })?;
    digits(fraction)?;
    let clock = match clock.len() {
        5 if !time.contains('.') => format!("{clock}:00"),
        8 => clock.to_owned(),
        _ => return None,
    };
    // Refuses what no calendar and no clock has.
    let utc: Timestamp = format!("{date}T{clock}.000Z").parse().ok()?;
    let seconds = match zone {
        Some(offset) => utc.as_secs().checked_add_signed(-offset)?,
        None => local(civil(&format!("{date}T{clock}"))?)?,
    };
    Some(Timestamp(Timestamp::from_secs(seconds).0 + millis))
}

/// The zone at the end of a time, as seconds that it is ahead of UTC.
fn zone(time: &str) -> Option<(&str, Option<i64>)> {
    if let Some(time) = time.strip_suffix(['Z', 'z']) {
        return Some((time, Some(0)));
    }
    let Some(place) = time.find(['+', '-']) else {
        return Some((time, None));
    };
    let (time, offset) = time.split_at(place);
    let (hours, minutes) = offset.get(1..)?.split_once(':')?;
    if hours.len() != 2 || minutes.len() != 2 {
        return None;
    }
    let (hours, minutes) = (digits(hours)?, digits(minutes)?);
    let fits = hours < 24 && minutes < 60;
    let seconds = i64::try_from(hours * 3600 + minutes * 60)
        .ok()
        .filter(|_| fits)?;
    let seconds = if offset.starts_with('-') {
        -seconds
    } else {
        seconds
    };
    Some((time, Some(seconds)))
}

fn civil(text: &str) -> Option<Civil> {
    let parts = text.split(['-', 'T', ':']).map(|part| part.parse().ok());
    let parts: Option<Vec<u32>> = parts.collect();
    parts?.try_into().ok()
}

fn digits(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A zone two hours ahead of UTC.
    fn local(civil: Civil) -> Option<u64> {
        let [year, month, day, hour, minute, second] = civil;
        let text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.000Z");
        let utc: Timestamp = text.parse().ok()?;
        utc.as_secs().checked_sub(2 * 3600)
    }

    #[test]
    fn how_long_ago() {
        for (text, seconds) in [
            ("90s", 90),
            ("10m", 600),
            ("2h", 7200),
            ("3d", 259_200),
            ("1w", 604_800),
            ("0s", 0),
        ] {
            let span = Duration::from_secs(seconds);
            assert_eq!(parse(text, local), Ok(Since::Ago(span)), "{text}");
        }
        let now = Timestamp::from_secs(1000);
        assert_eq!(
            Since::Ago(Duration::from_secs(90)).at(now),
            Timestamp::from_secs(910)
        );
        assert_eq!(Since::Ago(Duration::MAX).at(now), Timestamp(0));
    }

    #[test]
    fn dates_and_times() {
        for (text, utc) in [
            ("2026-11-24", "2026-11-23T22:00:00.000Z"),
            ("2026-11-24T18:05", "2026-11-24T16:05:00.000Z"),
            ("2026-11-24 18:05", "2026-11-24T16:05:00.000Z"),
            ("2026-11-24t18:05:07.25", "2026-11-24T16:05:07.250Z"),
            ("2026-11-24T18:05:07Z", "2026-11-24T18:05:07.000Z"),
            ("2026-11-24T18:05z", "2026-11-24T18:05:00.000Z"),
            ("2026-11-24T18:05:07.1239+01:30", "2026-11-24T16:35:07.123Z"),
            ("2026-11-24T18:05:07-08:00", "2026-11-25T02:05:07.000Z"),
        ] {
            let at = utc.parse().unwrap();
            assert_eq!(parse(text, local), Ok(Since::At(at)), "{text}");
        }
    }

    #[test]
    fn nothing_is_guessed() {
        for text in [
            "",
            "m",
            "10",
            "-1h",
            "+1h",
            "1.5h",
            "10 m",
            "10M",
            "10min",
            "9999999999999999999w",
            "yesterday",
            "2026-11",
            "2026-02-29",
            "2026-11-24T24:00",
            "2026-11-24T18",
            "2026-11-24T18:05:60",
            "2026-11-24T18:05.5",
            "2026-11-24T18:05:07.",
            "2026-11-24T18:05:07.x",
            "2026-11-24T18:05+1:00",
            "2026-11-24T18:05+24:00",
            "2026-11-24T18:05+01:60",
            "2026-11-24Z",
            "1970-01-01T00:00+01:00",
            "20261124T1805",
            "2026-11-24é",
        ] {
            assert!(parse(text, local).is_err(), "{text}");
        }
    }
}
