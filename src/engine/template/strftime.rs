//! `strftime_now` of Hugging Face's templates: C's `strftime` in its own locale, in UTC.
//!
//! UTC, so that a chat at a given time is the same tokens on every device. Python's `now()` there
//! knows no zone, so `%z` and `%Z` are empty.

use std::fmt::Write;

use crate::time::Timestamp;

const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
/// Letters of an abbreviated name.
const SHORT: usize = 3;

/// The parts of a point in time.
struct Parts {
    year: u64,
    month: u64,
    day: u64,
    /// From 0, which is Sunday.
    weekday: u64,
    /// From 1.
    of_year: u64,
    hour: u64,
    minute: u64,
    second: u64,
    micros: u64,
}

/// Fails with a directive that isn't known.
pub(super) fn strftime(format: &str, time: Timestamp) -> Result<String, String> {
    let parts = Parts::of(time);
    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(letter) = rest.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let mut directive = rest.next();
        // glibc's flag: without padding.
        let bare = directive == Some('-');
        if bare {
            directive = rest.next();
        }
        let known = directive.and_then(|directive| parts.show(directive, bare));
        let shown = known.ok_or_else(|| {
            let flag = if bare { "-" } else { "" };
            let name = directive.map(String::from).unwrap_or_default();
            format!("strftime_now doesn't know %{flag}{name}")
        })?;
        out.push_str(&shown);
    }
    Ok(out)
}

impl Parts {
    fn of(time: Timestamp) -> Parts {
        let (year, month, day) = time.date();
        let days = time.as_secs() / 86_400;
        let leap = u64::from(
            year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)),
        );
        // Days before a month (1 to 12) of a year that isn't a leap year.
        let before = (367 * month - 362) / 12 - if month > 2 { 2 - leap } else { 0 };
        Parts {
            year,
            month,
            day,
            // 1970-01-01 was a Thursday.
            weekday: (days + 4) % 7,
            of_year: before + day,
            hour: time.as_secs() / 3600 % 24,
            minute: time.as_secs() / 60 % 60,
            second: time.as_secs() % 60,
            micros: time.0 % 1000 * 1000,
        }
    }

    fn show(&self, directive: char, bare: bool) -> Option<String> {
        let padded = |number: u64, width: usize| match bare {
            true => number.to_string(),
            false => format!("{number:0width$}"),
        };
        let spaced = |number: u64| match bare {
            true => number.to_string(),
            false => format!("{number:2}"),
        };
        Some(match directive {
            'Y' => padded(self.year, 4),
            'C' => padded(self.year / 100, 2),
            'y' => padded(self.year % 100, 2),
            'm' => padded(self.month, 2),
            'd' => padded(self.day, 2),
            'e' => spaced(self.day),
            'j' => padded(self.of_year, 3),
            'H' => padded(self.hour, 2),
            'k' => spaced(self.hour),
            'I' => padded(self.half_day_hour(), 2),
            'l' => spaced(self.half_day_hour()),
            'M' => padded(self.minute, 2),
            'S' => padded(self.second, 2),
            'f' => padded(self.micros, 6),
            'u' => ((self.weekday + 6) % 7 + 1).to_string(),
            'w' => self.weekday.to_string(),
            'U' => padded((self.of_year + 6 - self.weekday) / 7, 2),
            'W' => padded((self.of_year + 6 - (self.weekday + 6) % 7) / 7, 2),
            _ if bare => return None,
            _ => return self.named(directive),
        })
    }

    /// Names, and formats made of others.
    fn named(&self, directive: char) -> Option<String> {
        // INVARIANT: a weekday is below 7 and a month from 1 to 12.
        let (day, month) = (DAYS[self.weekday as usize], MONTHS[self.month as usize - 1]);
        let all = |directives: &[char]| {
            let mut text = String::new();
            for directive in directives {
                match directive {
                    '/' | ':' | ' ' | '-' => text.push(*directive),
                    _ => text.write_str(&self.show(*directive, false)?).ok()?,
                }
            }
            Some(text)
        };
        Some(match directive {
            'A' => day.to_owned(),
            'a' => day[..SHORT].to_owned(),
            'B' => month.to_owned(),
            'b' | 'h' => month[..SHORT].to_owned(),
            'p' => if self.hour < 12 { "AM" } else { "PM" }.to_owned(),
            'P' => if self.hour < 12 { "am" } else { "pm" }.to_owned(),
            'D' | 'x' => return all(&['m', '/', 'd', '/', 'y']),
            'F' => return all(&['Y', '-', 'm', '-', 'd']),
            'R' => return all(&['H', ':', 'M']),
            'T' | 'X' => return all(&['H', ':', 'M', ':', 'S']),
            'r' => return all(&['I', ':', 'M', ':', 'S', ' ', 'p']),
            'c' => return all(&['a', ' ', 'b', ' ', 'e', ' ', 'T', ' ', 'Y']),
            'z' | 'Z' => String::new(),
            'n' => "\n".to_owned(),
            't' => "\t".to_owned(),
            '%' => "%".to_owned(),
            _ => return None,
        })
    }

    fn half_day_hour(&self) -> u64 {
        (self.hour + 11) % 12 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What glibc says (by Python's `strftime`, which takes its format from there).
    #[test]
    fn every_directive_is_glibcs() {
        let all = "%Y|%C|%y|%m|%d|%e|%j|%H|%k|%I|%l|%M|%S|%f|%u|%w|%U|%W|%A|%a|%B|%b|%h|%p|%P|%D|%x|%F|%R|%T|%X|%r|%c|%z|%Z|%%|%-d|%-m|%-j|%-I|%-H";
        for (secs, expected) in [
            (
                951_782_405,
                "2000|20|00|02|29|29|060|00| 0|12|12|00|05|000000|2|2|09|09|Tuesday|Tue|February|Feb|Feb|AM|am|02/29/00|02/29/00|2000-02-29|00:00|00:00:05|00:00:05|12:00:05 AM|Tue Feb 29 00:00:05 2000|||%|29|2|60|12|0",
            ),
            (
                1_798_757_999,
                "2026|20|26|12|31|31|365|22|22|10|10|59|59|000000|4|4|52|52|Thursday|Thu|December|Dec|Dec|PM|pm|12/31/26|12/31/26|2026-12-31|22:59|22:59:59|22:59:59|10:59:59 PM|Thu Dec 31 22:59:59 2026|||%|31|12|365|10|22",
            ),
        ] {
            assert_eq!(strftime(all, Timestamp::from_secs(secs)).unwrap(), expected);
        }
    }

    #[test]
    fn unknown_directives_are_named() {
        for (format, named) in [("a %Q", "%Q"), ("%", "%"), ("%-p", "%-p"), ("%-", "%-")] {
            let error = strftime(format, Timestamp::default()).unwrap_err();
            assert!(error.ends_with(named), "{error}");
        }
    }
}
