//! What people give: files that they name, read whole and bounded, and answers on the terminal.

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::Path;

use super::exit::{Done, Exit, Failure};

/// At most `max` bytes of `file`; `-` is standard input.
pub(super) fn read(file: &Path, max: u64) -> Result<Vec<u8>, Failure> {
    let read = || {
        let mut bytes = Vec::new();
        let input: Box<dyn Read> = if file == Path::new("-") {
            Box::new(io::stdin().lock())
        } else {
            Box::new(std::fs::File::open(file)?)
        };
        input.take(max).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|error: io::Error| Failure::failed(format!("{}: {error}", file.display())))
}

/// Asks on the terminal whether to go on. `instead`: what to do where there is none.
pub(super) fn confirm(question: &str, instead: &str) -> Done {
    if !io::stdin().is_terminal() {
        let what = "nothing was changed: there is no terminal to confirm on";
        return Err(Failure::new(Exit::Usage, format!("{what}; {instead}")));
    }
    match answer(&format!("{question} [y/N] "), 16)?.as_str() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::failed("nothing was changed")),
    }
}

/// At most `max` bytes of the line that is typed after `prompt`.
pub(super) fn answer(prompt: &str, max: u64) -> io::Result<String> {
    let mut out = io::stderr().lock();
    write!(out, "{prompt}")?;
    out.flush()?;
    let mut line = String::new();
    io::stdin().lock().take(max).read_line(&mut line)?;
    Ok(line.trim().to_owned())
}
