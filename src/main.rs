//! `slmd`: see [`slmd::cli`].

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    slmd::cli::main()
}
