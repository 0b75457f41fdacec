//! A terminal's screen for a page that is drawn again and again; the terminal is left as it was found.
//!
//! The alternate screen, so that what stood there before comes back, without line wrapping, so that a
//! window that gets narrower moves nothing. Each page is one write between two marks of "synchronized
//! output", which terminals show at once, and which those that don't know it pass over.

use std::io::IsTerminal;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use super::exit::{Done, Failure};
use super::output;
use super::terminal::columns;

const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";
const BEGIN: &str = "\x1b[?2026h\x1b[H";
const END: &str = "\x1b[?2026l";
/// Where a terminal doesn't say.
const ROWS: usize = 24;

pub(super) struct Screen {
    /// How the keyboard was set, where there is one.
    found: Option<Termios>,
}

impl Screen {
    /// `None` where standard output is no terminal, or one that can't move its cursor.
    pub(super) fn open() -> Result<Option<Screen>, Failure> {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        if dumb || !std::io::stdout().is_terminal() {
            return Ok(None);
        }
        let mut screen = Screen { found: None };
        screen.enter()?;
        Ok(Some(screen))
    }

    pub(super) fn enter(&mut self) -> Done {
        let keyboard = std::io::stdin();
        self.found = tcgetattr(&keyboard).ok();
        if let Some(mut quiet) = self.found.clone() {
            // What is typed would stand in the page.
            quiet.local_modes -= LocalModes::ECHO | LocalModes::ICANON;
            let _ = tcsetattr(&keyboard, OptionalActions::Now, &quiet);
        }
        output::piece(ENTER)
    }

    /// Also what was typed meanwhile is gone.
    pub(super) fn leave(&mut self) {
        if let Some(found) = self.found.take() {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, &found);
        }
        // A terminal that is gone is as good as left.
        let _ = output::piece(LEAVE);
    }

    /// As many of the lines as there is room for.
    pub(super) fn draw(&self, lines: &[String]) -> Done {
        let size = tcgetwinsize(std::io::stdout());
        let (rows, width) = size.map_or((0, 0), |size| (size.ws_row.into(), size.ws_col.into()));
        let rows = if rows == 0 { ROWS } else { rows };
        output::piece(&frame(lines, rows, width))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.leave();
    }
}

/// One page over the last one, of which nothing stays.
fn frame(lines: &[String], rows: usize, width: usize) -> String {
    let left = lines.len().saturating_sub(rows);
    let mut shown = lines[..lines.len() - left].to_vec();
    if left > 0 {
        shown.pop();
        shown.push(format!("... and {} lines more", left + 1));
    }
    let mut text = BEGIN.to_owned();
    for (at, line) in shown.iter().enumerate() {
        if at > 0 {
            text.push_str("\r\n");
        }
        text.push_str(line);
        // Behind a line that fills the row this would take its last character.
        if columns(line) < width {
            text.push_str("\x1b[K");
        }
    }
    if shown.len() < rows {
        text.push_str("\r\n\x1b[J");
    }
    text.push_str(END);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: usize = 3;
    const WIDTH: usize = 20;

    /// A terminal that wraps no lines, with the codes that a frame has.
    struct Glass([[char; WIDTH]; ROWS]);

    impl Glass {
        fn write(&mut self, written: &str) {
            let (mut row, mut column) = (0, 0);
            let mut chars = written.chars();
            while let Some(c) = chars.next() {
                match c {
                    '\x1b' => {
                        let last = chars.by_ref().find(char::is_ascii_alphabetic);
                        let here = column.min(WIDTH - 1);
                        match last {
                            Some('H') => (row, column) = (0, 0),
                            Some('K') => self.0[row][here..].fill(' '),
                            Some('J') => self.0[row..].fill([' '; WIDTH]),
                            _ => {}
                        }
                    }
                    '\r' => column = 0,
                    '\n' => row += 1,
                    c => {
                        self.0[row][column.min(WIDTH - 1)] = c;
                        column += 1;
                    }
                }
            }
            assert!(row < ROWS, "it scrolls: {written:?}");
        }

        fn shows(&self) -> Vec<String> {
            let rows = self.0.iter().map(|row| row.iter().collect::<String>());
            rows.map(|row| row.trim_end().to_owned()).collect()
        }
    }

    #[test]
    fn nothing_of_a_page_stays_in_the_next() {
        let mut glass = Glass([['x'; WIDTH]; ROWS]);
        let full = "12345678901234567890";
        for (page, shown) in [
            (
                &["one line", "another one"][..],
                ["one line", "another one", ""],
            ),
            (&[full, "b", "c"], [full, "b", "c"]),
            (&["a", "\x1b[31mb\x1b[0m", full], ["a", "b", full]),
            (&["1", "2", "3", "4"], ["1", "2", "... and 2 lines more"]),
            (&["", "d"], ["", "d", ""]),
        ] {
            let lines: Vec<String> = page.iter().map(|line| (*line).to_owned()).collect();
            glass.write(&frame(&lines, ROWS, WIDTH));
            assert_eq!(glass.shows(), shown);
        }
    }

    #[test]
    fn a_page_is_one_write_that_is_shown_at_once() {
        let frame = frame(&["a".to_owned()], ROWS, WIDTH);
        assert!(frame.starts_with(BEGIN) && frame.ends_with(END));
        assert_eq!(frame.matches("2026").count(), 2);
    }
}
