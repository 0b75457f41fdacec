//! Reports of long runs, which are committed: what came of it, when, of what, and how to have it again.

use std::fs;
use std::process::Command;
use std::time::Instant;

use super::root;

/// Writes `tests/reports/NAME` where `SLMD_TEST_MORE` asks for a long run. `test` is its name among
/// the system tests, `facts` are lines, and it began at `begun`.
pub fn report(name: &str, test: &str, facts: &str, begun: Instant) {
    if std::env::var_os("SLMD_TEST_MORE").is_none() {
        return;
    }
    let git = Command::new("git")
        .args(["describe", "--always", "--dirty"])
        .current_dir(root())
        .output()
        .expect("the machine has git");
    let commit = String::from_utf8(git.stdout).expect("text");
    let text = format!(
        "{facts}seconds: {}\ndate: {}\ncommit: {}\n\
         command: SLMD_TEST_MORE=1 cargo test --test system -- --exact {test}\n",
        begun.elapsed().as_secs(),
        slmd::for_tests::time::now(),
        commit.trim(),
    );
    let path = root().join("tests/reports").join(name);
    fs::write(path, text).expect("the repository can be written");
}
