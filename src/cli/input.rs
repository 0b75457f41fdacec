//! Files that people name, read whole and bounded.

use std::io::Read;
use std::path::Path;

use super::exit::Failure;

/// At most `max` bytes of `file`; `-` is standard input.
pub(super) fn read(file: &Path, max: u64) -> Result<Vec<u8>, Failure> {
    let read = || {
        let mut bytes = Vec::new();
        let input: Box<dyn Read> = if file == Path::new("-") {
            Box::new(std::io::stdin().lock())
        } else {
            Box::new(std::fs::File::open(file)?)
        };
        input.take(max).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|error: std::io::Error| Failure::failed(format!("{}: {error}", file.display())))
}
