//! Runs the third-party clients in `tests/clients` with the libraries that people really use.

use std::process::{Command, Output};
use std::time::Duration;

use super::wait::run;
use super::{root, target};

/// Runs `tests/clients/{script}` in the tests' Python environment.
pub fn python(script: &str, args: &[&str], env: &[(&str, &str)]) -> Output {
    let python = target().join("venv/bin/python");
    assert!(
        python.exists(),
        "the Python clients aren't installed; run `make venv`"
    );
    let mut command = Command::new(python);
    command.arg(root().join("tests/clients").join(script));
    command.args(args).envs(env.iter().copied());
    run(&mut command, b"", Duration::from_secs(300))
}
