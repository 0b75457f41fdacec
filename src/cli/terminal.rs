//! What a person's terminal shows: colours, lines that fit, and times as people count them.

use std::borrow::Cow;
use std::io::IsTerminal;
use std::time::Duration;

use crate::time::Timestamp;

/// Lines for a pipe or a file too, so that they can be read wherever they end up.
const WIDTH: usize = 80;
/// Longer lines are hard to read, whatever the terminal has room for.
const MOST: usize = 100;
/// Fewer columns than these aren't a width.
const LEAST: usize = 40;
const ELLIPSIS: &str = "...";

/// What a text is to whoever looks at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Good,
    Warning,
    Bad,
    Strong,
    Quiet,
}

/// Where lines go, and what it can show.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terminal {
    colour: bool,
    width: usize,
}

impl Terminal {
    /// Standard output: in colour only on a terminal, and not where `NO_COLOR` is set
    /// (no-color.org).
    pub(super) fn stdout() -> Terminal {
        let out = std::io::stdout();
        if !out.is_terminal() {
            return Terminal::plain(WIDTH);
        }
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let dumb = set("TERM").is_some_and(|term| term == "dumb");
        let size = rustix::termios::tcgetwinsize(&out);
        let columns = size.map_or(0, |size| usize::from(size.ws_col));
        Terminal {
            colour: set("NO_COLOR").is_none() && !dumb,
            width: match columns {
                0 => WIDTH,
                columns => columns.clamp(LEAST, MOST),
            },
        }
    }

    /// Without colour.
    pub(super) const fn plain(width: usize) -> Terminal {
        Terminal {
            colour: false,
            width,
        }
    }

    pub(super) fn paint(self, style: Style, text: &str) -> String {
        let code = match style {
            Style::Good => 32,
            Style::Warning => 33,
            Style::Bad => 31,
            Style::Strong => 1,
            Style::Quiet => 2,
        };
        match self.colour && !text.is_empty() {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }

    /// The text in lines that fit, broken between words; those after the first are indented. A word
    /// that is longer than a line stays whole, so that it can be copied.
    pub(super) fn fit(self, text: &str, indent: usize) -> Vec<String> {
        let leading = text.len() - text.trim_start_matches(' ').len();
        let (start, words) = text.split_at(leading);
        let mut lines = Vec::new();
        let mut line = start.to_owned();
        let mut filled = false;
        for word in words.split(' ') {
            if filled && columns(&line) + 1 + columns(word) > self.width {
                lines.push(std::mem::replace(&mut line, " ".repeat(indent)));
                filled = false;
            }
            if filled {
                line.push(' ');
            }
            line.push_str(word);
            filled = true;
        }
        lines.push(line);
        lines
    }

    /// Likewise, but a word that is longer than a line loses its middle.
    pub(super) fn squeeze(self, text: &str, indent: usize) -> Vec<String> {
        let room = self.width.saturating_sub(indent);
        let words = text.split(' ').map(|word| shortened(word, room));
        let words: Vec<_> = words.collect();
        self.fit(&words.join(" "), indent)
    }
}

fn shortened(word: &str, room: usize) -> Cow<'_, str> {
    let length = columns(word);
    if length <= room || word.contains('\x1b') {
        return word.into();
    }
    let kept = room.saturating_sub(ELLIPSIS.len());
    let head = word.chars().take(kept.div_ceil(2));
    let tail = word.chars().skip(length - kept / 2);
    head.chain(ELLIPSIS.chars()).chain(tail).collect()
}

/// How wide a text is, [`Terminal::paint`]'s codes not counted.
pub(super) fn columns(text: &str) -> usize {
    let mut in_code = false;
    let seen = text.chars().filter(|&c| {
        let was_in_code = in_code;
        in_code = match in_code {
            true => c != 'm',
            false => c == '\x1b',
        };
        !was_in_code && !in_code
    });
    seen.count()
}

/// `29 days`: a time in its largest unit, as one says it.
pub(super) fn rough(span: Duration) -> String {
    let seconds = span.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (730.., ..) => format!("{} years", days / 365),
        (2.., ..) => format!("{days} days"),
        (_, 2.., _) => format!("{hours} hours"),
        (.., 2..) => format!("{minutes} min"),
        _ => format!("{seconds} s"),
    }
}

/// `29 days ago`.
pub(super) fn ago(span: Duration) -> String {
    match span.as_secs() {
        0 => "just now".to_owned(),
        _ => format!("{} ago", rough(span)),
    }
}

/// `in 29 days`.
pub(super) fn in_(span: Duration) -> String {
    match span.as_secs() {
        0 => "now".to_owned(),
        _ => format!("in {}", rough(span)),
    }
}

/// [`ago`] or [`in_`], as `at` lies.
pub(super) fn when(at: Timestamp, now: Timestamp) -> String {
    match at > now {
        true => in_(at.since(now)),
        false => ago(now.since(at)),
    }
}

/// A number with its noun, which takes an s where there isn't one of it.
pub(super) fn count(number: u64, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}

/// `1.2 GB`: bytes as `ls -h --si` and disks count them.
pub(super) fn bytes(bytes: u64) -> String {
    let units = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    let unit = units.into_iter().find(|(unit, _)| bytes >= *unit);
    let Some((unit, name)) = unit else {
        return format!("{bytes} B");
    };
    match (bytes / unit, bytes % unit * 10 / unit) {
        (whole @ 0..10, tenths) => format!("{whole}.{tenths} {name}"),
        (whole, _) => format!("{whole} {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLOURED: Terminal = Terminal {
        colour: true,
        width: 20,
    };

    #[test]
    fn only_what_shows_colours_gets_them() {
        assert_eq!(COLOURED.paint(Style::Bad, "no"), "\x1b[31mno\x1b[0m");
        assert_eq!(COLOURED.paint(Style::Bad, ""), "");
        assert_eq!(Terminal::plain(80).paint(Style::Bad, "no"), "no");
    }

    #[test]
    fn lines_break_between_words_and_colours_take_no_room() {
        let fit = |text: &str| COLOURED.fit(text, 4).join("\n");
        assert_eq!(
            fit("  one two three four five"),
            "  one two three four\n    five"
        );
        let painted = COLOURED.paint(Style::Good, "four");
        assert_eq!(
            fit(&format!("  one two three {painted} five")),
            format!("  one two three {painted}\n    five")
        );
        let long = "https://keycloak.example/realms/prod";
        assert_eq!(
            fit(&format!("see {long} now")),
            format!("see\n    {long}\n    now")
        );
        assert_eq!(fit(""), "");
        assert_eq!(columns("\x1b[31mäé\x1b[0m"), 2);
        let squeezed = COLOURED.squeeze(&format!("see {long} now"), 4).join("\n");
        assert_eq!(squeezed, "see https:/...s/prod\n    now");
    }

    #[test]
    fn times_are_told_as_people_say_them() {
        let said = |seconds| rough(Duration::from_secs(seconds));
        assert_eq!(said(119), "119 s");
        assert_eq!(said(120), "2 min");
        assert_eq!(said(7_199), "119 min");
        assert_eq!(said(7_200), "2 hours");
        assert_eq!(said(172_799), "47 hours");
        assert_eq!(said(29 * 86_400), "29 days");
        assert_eq!(said(315_360_000), "10 years");
        let (earlier, later) = (Timestamp::from_secs(1000), Timestamp::from_secs(1090));
        assert_eq!(when(earlier, later), "90 s ago");
        assert_eq!(when(later, earlier), "in 90 s");
        assert_eq!(when(later, later), "just now");
        assert_eq!(in_(Duration::ZERO), "now");
    }

    #[test]
    fn numbers_have_their_nouns_and_units() {
        assert_eq!(count(0, "refusal"), "0 refusals");
        assert_eq!(count(1, "realm"), "1 realm");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_250_000), "1.2 MB");
        assert_eq!(bytes(412_000_000), "412 MB");
        assert_eq!(bytes(1_999_999_999), "1.9 GB");
    }
}
