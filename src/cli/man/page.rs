//! A manual page as it is written, and what clap_mangen's parts of it lack.

use clap_mangen::roff::{Inline, Roff, bold, roman};

/// The lines that roff begins each text with.
const PREAMBLE: usize = 2;

/// One page. Texts have their code between backticks, as everywhere; [`Page::finished`] sets it.
pub(super) struct Page {
    pub(super) name: String,
    pub(super) section: u8,
    roff: Vec<u8>,
}

impl Page {
    /// `what` it is about, in a line: `whatis` and `apropos` show it.
    pub(super) fn new(name: &str, section: u8, what: &str) -> Page {
        let mut page = Page {
            name: name.to_owned(),
            section,
            roff: Vec::new(),
        };
        let release = format!("slmd {}", env!("CARGO_PKG_VERSION"));
        let number = section.to_string();
        // No date: the release says how old it is.
        page.control("TH", &[name, &number, r#""""#, &release]);
        page.section("NAME");
        page.line([roman(format!("{name} - {what}"))]);
        page
    }

    /// Takes what writes a part.
    pub(super) fn part(&mut self, write: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) {
        // INVARIANT: nothing that is written to memory fails.
        write(&mut self.roff).expect("memory takes it");
    }

    fn control(&mut self, name: &str, arguments: &[&str]) {
        let mut roff = Roff::new();
        roff.control(name, arguments.iter().copied());
        self.part(|into| roff.to_writer(into));
    }

    fn line(&mut self, inlines: impl Into<Vec<Inline>>) {
        let mut roff = Roff::new();
        roff.text(inlines);
        self.part(|into| roff.to_writer(into));
    }

    pub(super) fn section(&mut self, title: &str) {
        self.control("SH", &[title]);
    }

    pub(super) fn subsection(&mut self, title: &str) {
        self.control("SS", &[title]);
    }

    /// Paragraphs, with an empty line between.
    pub(super) fn paragraphs(&mut self, text: &str) {
        for (at, paragraph) in text.trim().split("\n\n").enumerate() {
            if at > 0 {
                self.control("PP", &[]);
            }
            let words: Vec<&str> = paragraph.split_whitespace().collect();
            self.line([roman(words.join(" "))]);
        }
    }

    /// Paragraphs after others.
    pub(super) fn more(&mut self, text: &str) {
        self.control("PP", &[]);
        self.paragraphs(text);
    }

    /// What a name means.
    pub(super) fn entry(&mut self, name: &str, what: &str) {
        self.control("TP", &[]);
        self.line([bold(name)]);
        self.paragraphs(what);
    }

    /// Lines as they are.
    pub(super) fn verbatim(&mut self, text: &str) {
        self.control("nf", &[]);
        for line in text.lines() {
            match line {
                "" => self.control("sp", &[]),
                line => self.line([roman(line)]),
            }
        }
        self.control("fi", &[]);
    }

    /// Other pages, as `slmd(1)`.
    pub(super) fn see_also(&mut self, pages: &[String]) {
        self.section("SEE ALSO");
        for (at, page) in pages.iter().enumerate() {
            let (name, section) = page.split_once('(').unwrap_or((page, ""));
            let comma = if at + 1 < pages.len() { "," } else { "" };
            self.line([bold(name), roman(format!("({section}{comma}"))]);
        }
    }

    /// With one preamble, though each part came with its own, without blanks at lines' ends, empty
    /// lines and repeated breaks, which the formatters complain about, and with code in bold.
    pub(super) fn finished(&self) -> String {
        let roff = String::from_utf8_lossy(&self.roff);
        let mut lines: Vec<&str> = roff.lines().take(PREAMBLE).collect();
        for line in roff.lines().map(str::trim_end) {
            let again = lines[..PREAMBLE.min(lines.len())].contains(&line);
            let repeated = line == ".br" && lines.last() == Some(&line);
            if !again && !repeated && !line.is_empty() {
                lines.push(line);
            }
        }
        lines.iter().map(|line| bold_code(line) + "\n").collect()
    }
}

/// `code` in bold where a line of text has backticks in pairs.
fn bold_code(line: &str) -> String {
    let parts: Vec<&str> = line.split('`').collect();
    if line.starts_with('.') || parts.len().is_multiple_of(2) {
        return line.to_owned();
    }
    let code = |(at, part): (usize, &&str)| match at % 2 {
        0 => (*part).to_owned(),
        _ => format!(r"\fB{part}\fR"),
    };
    parts.iter().enumerate().map(code).collect()
}
