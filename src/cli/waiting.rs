//! The line on a terminal that tells a person how far their turn is.

use std::io::{IsTerminal, Stderr, Write};

/// Standard error where that is a terminal: one line, which is gone when it is over.
pub(super) struct Waiting<W: Write = Stderr> {
    terminal: Option<W>,
    /// How many characters of it stand there.
    shown: usize,
}

impl Waiting {
    pub(super) fn new() -> Waiting {
        let terminal = std::io::stderr();
        Waiting {
            terminal: terminal.is_terminal().then_some(terminal),
            shown: 0,
        }
    }
}

impl<W: Write> Waiting<W> {
    /// From 1 for who is next; 0 when the turn has come.
    pub(super) fn at(&mut self, place: u32) {
        match place {
            0 => self.over(),
            place => self.show(&format!("{} in the queue", ordinal(place))),
        }
    }

    pub(super) fn over(&mut self) {
        if self.shown > 0 {
            self.show("");
        }
    }

    /// Writes over what stood there, which every terminal can. One that is gone is no failure.
    fn show(&mut self, text: &str) {
        let Some(terminal) = &mut self.terminal else {
            return;
        };
        let blank = " ".repeat(self.shown);
        let _ = write!(terminal, "\r{blank}\r{text}").and_then(|()| terminal.flush());
        self.shown = text.len();
    }
}

/// However the answer ends.
impl<W: Write> Drop for Waiting<W> {
    fn drop(&mut self) {
        self.over();
    }
}

fn ordinal(number: u32) -> String {
    let ending = match (number % 100, number % 10) {
        (11..=13, _) => "th",
        (_, 1) => "st",
        (_, 2) => "nd",
        (_, 3) => "rd",
        _ => "th",
    };
    format!("{number}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_said_as_people_say_them() {
        let said = [1, 2, 3, 4, 11, 12, 13, 21, 102, 111].map(ordinal);
        let expected = [
            "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "111th",
        ];
        assert_eq!(said, expected);
    }

    /// What a terminal shows of it.
    fn line(written: &[u8]) -> String {
        let (mut line, mut at) = (Vec::new(), 0);
        for byte in written {
            match byte {
                b'\r' => at = 0,
                byte => {
                    line.resize(line.len().max(at + 1), b' ');
                    line[at] = *byte;
                    at += 1;
                }
            }
        }
        String::from_utf8(line).unwrap().trim_end().to_owned()
    }

    #[test]
    fn nothing_of_it_stays() {
        let mut written = Vec::new();
        let mut waiting = Waiting {
            terminal: Some(&mut written),
            shown: 0,
        };
        waiting.at(12);
        waiting.at(2);
        drop(waiting);
        let (before, gone) = written.split_at(written.len() - "\r16 characters..\r".len());
        assert_eq!(line(before), "2nd in the queue");
        assert_eq!(line(&[before, gone].concat()), "");
    }
}
