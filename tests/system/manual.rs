//! What `make install` lays down to be read and typed: manual pages as the formatters want them,
//! completions as the shells themselves take them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::install::{UNITS, installed};
use crate::support::run;

const PATIENCE: Duration = Duration::from_secs(60);
const BASH: &str = "usr/share/bash-completion/completions/slmd";
const FISH: &str = "usr/share/fish/vendor_completions.d/slmd.fish";
const ZSH: &str = "usr/share/zsh/vendor-completions";

/// What a program says that is there and does as it should.
fn output(program: &str, arguments: &[&str]) -> String {
    let ran = run(Command::new(program).args(arguments), b"", PATIENCE);
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{program} {arguments:?}: {said}");
    format!("{}{said}", String::from_utf8_lossy(&ran.stdout))
}

fn path(folder: &TempDir, beneath: &str) -> String {
    folder.path().join(beneath).display().to_string()
}

fn pages(manual: &Path) -> Vec<PathBuf> {
    let folders = ["man1", "man5"].map(|section| fs::read_dir(manual.join(section)));
    let entries = folders
        .into_iter()
        .flat_map(|folder| folder.expect("it is laid down"));
    entries
        .map(|entry| entry.expect("it can be read").path())
        .collect()
}

#[test]
fn the_formatters_have_nothing_to_complain_about() {
    let installed = installed();
    let pages = pages(&installed.path().join("usr/share/man"));
    assert!(pages.len() > 20, "{pages:?}");
    for page in pages {
        let page = page.display().to_string();
        // It ends with 2 where it warns.
        let mut mandoc = Command::new("mandoc");
        mandoc.args(["-T", "lint", "-W", "warning", &page]);
        let lint = run(&mut mandoc, b"", PATIENCE).stdout;
        let lint = String::from_utf8_lossy(&lint);
        // The pages have their release instead.
        let mut complaints = lint.lines().filter(|line| !line.contains("missing date"));
        assert_eq!(complaints.next(), None, "{lint}");
        let warnings = ["-man", "-Tutf8", "-Kutf8", "-ww", "-z", &page];
        assert_eq!(output("groff", &warnings), "");
    }
}

/// systemctl shows them.
#[test]
fn units_name_pages_that_are_there() {
    let installed = installed();
    let mut named = 0;
    for unit in [
        "slmd.service",
        "slmd.socket",
        "slmd-fleet-timestamp.service",
        "slmd-fleet-timestamp.timer",
        "slmd-fleet-audit.service",
        "slmd-fleet-audit.timer",
    ] {
        let unit = fs::read_to_string(path(&installed, &format!("{UNITS}/{unit}"))).unwrap();
        for page in unit.split("man:").skip(1) {
            let (name, rest) = page.split_once('(').expect("a section");
            let section = rest.split(')').next().unwrap_or_default();
            let page = format!("usr/share/man/man{section}/{name}.{section}");
            assert!(installed.path().join(&page).exists(), "{page}");
            named += 1;
        }
    }
    assert_eq!(named, 7);
}

/// Whoever asks `whatis` or `apropos` sees the first line, `slmd-ask - what it does`.
#[test]
fn a_page_reads_as_one() {
    let installed = installed();
    let page = path(&installed, "usr/share/man/man1/slmd-ask.1");
    let shown = output("mandoc", &["-T", "ascii", "-O", "width=80", &page]);
    // As a terminal without bold shows it.
    let mut plain = String::new();
    for c in shown.chars() {
        match c {
            '\u{8}' => drop(plain.pop()),
            c => plain.push(c),
        }
    }
    for line in [
        "     slmd-ask - Ask the model and print the answer as it is generated",
        "     --token-file <FILE>",
        "     SLMD_TOKEN_FILE",
        "     /run/slmd/slmd.sock",
        "     slmd ask --token-file token 'Why is the sky blue?'",
    ] {
        let there = plain.lines().any(|shown| shown.trim() == line.trim());
        assert!(there, "no {line:?} in {plain}");
    }
}

/// What a shell, given its completions, offers for what is typed.
fn offered(program: &str, arguments: &[&str]) -> Vec<String> {
    let lines = output(program, arguments);
    // fish tells after a tab what it is.
    let words = lines.lines().filter_map(|line| line.split('\t').next());
    let mut words: Vec<String> = words.map(str::to_owned).collect();
    words.sort_unstable();
    words
}

fn in_bash(script: &str, typed: &[&str]) -> Vec<String> {
    const COMPLETE: &str = r#"
source "$1"
shift
[[ $(complete -p slmd) =~ -F\ ([^ ]+) ]]
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
"${BASH_REMATCH[1]}" slmd "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
"#;
    offered("bash", &[&["-c", COMPLETE, "bash", script], typed].concat())
}

fn in_fish(script: &str, typed: &[&str]) -> Vec<String> {
    const COMPLETE: &str = "source $argv[1]; complete --do-complete \"$argv[2]\"";
    let line = typed.join(" ");
    let arguments = ["--no-config", "--command", COMPLETE, script, &line];
    offered("fish", &arguments)
}

#[test]
fn shells_complete_commands_options_and_values() {
    let installed = installed();
    let (bash, fish) = (path(&installed, BASH), path(&installed, FISH));
    for (typed, expected) in [
        (&["slmd", "m"][..], &["model"][..]),
        (&["slmd", "keys", "re"], &["refresh", "reset-time"]),
        (&["slmd", "ask", "--top"], &["--top-k", "--top-p"]),
    ] {
        assert_eq!(in_bash(&bash, typed), expected, "{typed:?}");
        assert_eq!(in_fish(&fish, typed), expected, "{typed:?}");
    }
    assert_eq!(in_bash(&bash, &["slmd", "completions", "f"]), ["fish"]);
}

#[test]
fn zsh_takes_its_completions() {
    const IN_ZSH: &str = "fpath=($1 $fpath); autoload -Uz compinit; compinit -u -D; \
        autoload -Uz +X _slmd; print -r -- $_comps[slmd]";
    let installed = installed();
    let folder = path(&installed, ZSH);
    let name = output("zsh", &["-f", "-c", IN_ZSH, "zsh", &folder]);
    assert_eq!(name, "_slmd\n");
}
