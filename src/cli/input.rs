//! Files that people name, read whole and bounded.

use std::io::Read;
use std::path::Path;

use zeroize::Zeroizing;

use super::exit::Failure;
use crate::files::{self, Care, FileError};
use crate::secret::Secret;

/// The daemon refuses larger tokens anyway.
const MAX_TOKEN: u64 = 64 << 10;

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

/// The token in `file`. One that others can read or change may be theirs by now: that is said, and
/// no reason to refuse, because it is its owner's and lives minutes.
pub(super) fn token(file: &Path) -> Result<Secret<String>, Failure> {
    if let Err(FileError::Open { .. } | FileError::Writable { .. }) =
        files::check(file, Care::Secret)
    {
        let file = file.display();
        eprintln!("slmd: warning: others can use the token in {file}; run chmod 0600 {file}");
    }
    let bytes = Zeroizing::new(read(file, MAX_TOKEN)?);
    let text = std::str::from_utf8(&bytes);
    let text =
        text.map_err(|_| Failure::failed(format!("token file {} isn't text", file.display())))?;
    Ok(Secret::new(text.trim().to_owned()))
}
