//! `slmd`: see [`slmd::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    slmd::cli::main()
}
