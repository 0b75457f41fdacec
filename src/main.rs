//! `slmd`: a person's way into the library.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    slmd::main()
}
