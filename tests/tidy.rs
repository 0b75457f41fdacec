//! The rules of the house that no compiler checks: layers, headers, lengths, proofs of `expect`.
//!
//! Each rule is a function from a file to complaints, tried below on sources that break it.

#[path = "tidy/cycles.rs"]
mod cycles;
#[path = "tidy/source.rs"]
mod source;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use cycles::{cycles, rings};
use source::{Source, blank, is_word, item_end, test_modules, words};

/// From the bottom. A module imports only from the layers before its own.
const LAYERS: &[&[&str]] = &[
    &[
        "algorithm",
        "digest",
        "process",
        "secret",
        "spelling",
        "sys",
    ],
    &["files", "time"],
    &["https", "identity", "json", "reason", "share", "shutdown"],
    &["age", "trace"],
    &["delivery", "oauth", "prompt", "systemd", "tls"],
    &["link"],
    &["telemetry"],
    &["tlog"],
    &["trust"],
    &["auth", "store", "wire"],
    &["audit", "quota", "repository"],
    &["catalog", "witness"],
    &["engine", "keysync"],
    &["fleet"],
    &["authority"],
    &["admin", "admission"],
    &["transport"],
    &["config"],
    &["daemon"],
    &["cli"],
    &["for_tests"],
];

/// Where ARCHITECTURE's table of layers says something else than [`LAYERS`]: it may join some of
/// them, but names each module once and in their order, highest first.
fn documented(text: &str) -> Vec<String> {
    let table = text
        .lines()
        .skip_while(|line| !line.starts_with("| layer |"));
    let rows = table.skip(2).take_while(|line| line.starts_with('|'));
    let mut complaints = Vec::new();
    let mut missing: BTreeSet<&str> = LAYERS.concat().into_iter().collect();
    let mut lowest = LAYERS.len();
    for row in rows {
        let column = row.split('|').nth(2).unwrap_or_default();
        // What stands in brackets is inside of the module before.
        let top = column
            .split('(')
            .map(|part| part.rsplit(')').next().unwrap_or(part));
        let named: Vec<&str> = top
            .flat_map(|part| part.split('`').skip(1).step_by(2))
            .collect();
        for name in &named {
            if !missing.remove(name) {
                complaints.push(format!(
                    "ARCHITECTURE.md: `{name}` is no module, or there twice"
                ));
            }
        }
        let layers = || named.iter().filter_map(|name| layer(name));
        if layers().max().is_some_and(|highest| highest >= lowest) {
            complaints.push(format!(
                "ARCHITECTURE.md: a row is above its place: {column}"
            ));
        }
        lowest = layers().min().unwrap_or(lowest);
    }
    let missing = missing.into_iter();
    complaints.extend(missing.map(|name| format!("ARCHITECTURE.md: `{name}` is in no layer")));
    complaints
}

/// Crates with sharp edges, and the one module that knows them.
const KEEPERS: &[(&str, &str)] = &[
    ("rumqttc", "link"),
    ("sled", "store"),
    ("sigstore_tuf", "trust"),
    ("jiff", "trust"),
];

/// Modules that only compute, and what they may therefore not name: counting and logging are their
/// callers'.
const PURE: &[&str] = &["auth", "tlog", "trust", "wire"];
const TELLING: &[&str] = &["telemetry", "prometheus_client", "tracing"];

/// What the repository's root holds.
const ROOT: &[&str] = &[
    ".ci",
    ".gitignore",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "clippy.toml",
    "cross",
    "deny.toml",
    "deploy",
    "models",
    "rust-toolchain.toml",
    "src",
    "systemd",
    "tests",
];

const MAX_FILE: usize = 600;
const MAX_FUNCTION: usize = 60;

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

fn layering(source: &Source) -> Vec<String> {
    let Some(module) = source.module() else {
        return Vec::new();
    };
    let Some(own) = layer(module) else {
        return vec![format!(
            "{}: `{module}` is in no layer of tests/tidy.rs",
            source.path
        )];
    };
    imports(source)
        .into_iter()
        .filter(|(_, name)| name != module)
        .filter_map(|(at, name)| {
            let other = layer(&name)?;
            let what = format!("`{module}` is below or beside `{name}` and can't import it");
            (other >= own).then(|| source.complain(at, &what))
        })
        .collect()
}

/// Every mention of a top-level module: `crate::a`, `crate::{a, b::c}`, and `super::a` where that
/// is the same.
fn imports(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let roots: &[&str] = if source.is_module_root() {
        &["crate", "super"]
    } else {
        &["crate"]
    };
    for (at, word) in words(&source.code) {
        if !roots.contains(&word) {
            continue;
        }
        let Some(rest) = source.code[at + word.len()..]
            .trim_start()
            .strip_prefix("::")
        else {
            continue;
        };
        match rest.trim_start().strip_prefix('{') {
            Some(group) => found.extend(heads(group).into_iter().map(|name| (at, name))),
            None => found.extend(words(rest).next().map(|(_, name)| (at, name.to_owned()))),
        }
    }
    found
}

/// The first words of a use group's members: `a, b::{c, d}}` gives a and b.
fn heads(group: &str) -> Vec<String> {
    let mut depth = 0;
    let mut expect = true;
    let mut names = Vec::new();
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => expect = true,
            c if is_word(c) && expect => {
                names.extend(words(&group[at..]).next().map(|(_, name)| name.to_owned()));
                expect = false;
            }
            _ => {}
        }
    }
    names
}

fn keepers(source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    for (name, keeper) in KEEPERS {
        if source.module() == Some(keeper) {
            continue;
        }
        for (at, _) in words(&source.code).filter(|(_, word)| word == name) {
            complaints.push(source.complain(at, &format!("only `{keeper}` names {name}")));
        }
    }
    complaints
}

fn purity(source: &Source) -> Vec<String> {
    let module = source.module().unwrap_or_default();
    if !PURE.contains(&module) {
        return Vec::new();
    }
    let named = words(&source.code).filter(|(at, word)| {
        let is_path = source.code[at + word.len()..]
            .trim_start()
            .starts_with("::");
        let is_used = is_path || source.code[..*at].trim_end().ends_with("::");
        TELLING.contains(word) && is_used
    });
    let told = |(at, name)| source.complain(at, &format!("`{module}` only computes: no {name}"));
    named.map(told).collect()
}

/// What the crate gives away, the compiler can't call dead; so `for_tests` gives away all there is.
fn doors(source: &Source) -> Vec<String> {
    let lines = source.code.lines().map(str::trim).enumerate();
    let open = lines.filter(|(_, line)| line.starts_with("pub "));
    let open =
        open.filter(|(_, line)| !["pub mod for_tests;", "pub use cli::main;"].contains(line));
    let complaint = |(at, line)| format!("{}:{}: a second door: {line}", source.path, at + 1);
    open.map(complaint).collect()
}

fn header(source: &Source) -> Vec<String> {
    let opens = source.text.starts_with("//! ");
    let complaint = || source.complain(0, "doesn't open with a `//!` that says what it owns");
    (!opens).then(complaint).into_iter().collect()
}

fn file_length(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count();
    let complaint = || source.complain(0, &format!("{lines} lines, more than {MAX_FILE}"));
    (lines > MAX_FILE).then(complaint).into_iter().collect()
}

fn function_lengths(source: &Source) -> Vec<String> {
    let code = &source.code;
    let mut complaints = Vec::new();
    for (at, _) in words(code).filter(|(_, word)| *word == "fn") {
        let is_item = code[at + 2..].trim_start().starts_with(is_word);
        if source.is_test(at) || !is_item {
            continue;
        }
        let lines = code[at..item_end(code, at)].lines().count();
        if lines > MAX_FUNCTION {
            let what = format!("a function of {lines} lines, more than {MAX_FUNCTION}");
            complaints.push(source.complain(at, &what));
        }
    }
    complaints
}

fn proofs(source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    for (at, word) in words(&source.code) {
        let call = word == "unwrap" || word == "expect";
        if call && source.code[..at].ends_with('.') && !source.is_test(at) && !proven(source, at) {
            let what = format!("`{word}` without an INVARIANT comment just above");
            complaints.push(source.complain(at, &what));
        }
    }
    complaints
}

/// Whether the statement, or the argument, around `at` stands right under an INVARIANT comment.
fn proven(source: &Source, at: usize) -> bool {
    let line = source.code[..at].matches('\n').count();
    let text: Vec<&str> = source.text.lines().collect();
    let code: Vec<&str> = source.code.lines().collect();
    for above in (0..line).rev() {
        let comment = text[above].trim_start().starts_with("//");
        if comment {
            let block = text[..=above].iter().rev();
            return block
                .take_while(|line| line.trim_start().starts_with("//"))
                .any(|line| line.contains("INVARIANT:"));
        }
        let end = code[above].trim_end();
        if end.is_empty() || end.ends_with([';', '{', '}']) {
            return false;
        }
    }
    false
}

/// Machines have paths of their own; the project has none of them.
fn machine_paths(path: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for folder in ["work", "farm", "root"] {
        let needle = format!("/{folder}/");
        for (at, _) in text.match_indices(&needle) {
            let before = text[..at].chars().next_back();
            let absolute = before.is_none_or(|c| !(is_word(c) || "./-}*".contains(c)));
            if absolute {
                let line = text[..at].matches('\n').count() + 1;
                complaints.push(format!("{path}:{line}: a machine's own path {needle}"));
            }
        }
    }
    complaints
}

fn strangers(paths: &[impl AsRef<str>]) -> Vec<String> {
    let top = |path: &str| path.split('/').next().map(str::to_owned);
    let tops: BTreeSet<String> = paths.iter().filter_map(|path| top(path.as_ref())).collect();
    tops.into_iter()
        .filter(|top| !ROOT.contains(&top.as_str()))
        .map(|top| format!("{top}: the root doesn't hold this; see ROOT in tests/tidy.rs"))
        .collect()
}

/// What git knows or would take in: built and ignored files are nobody's concern.
fn files() -> Vec<String> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("git runs");
    assert!(output.status.success(), "tidy looks at a git work tree");
    let list = String::from_utf8(output.stdout).expect("paths are UTF-8");
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let there = list.lines().filter(|path| here.join(path).is_file());
    there.map(str::to_owned).collect()
}

fn read(path: &str) -> String {
    let bytes = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("git lists it");
    String::from_utf8_lossy(&bytes).into_owned()
}

fn sources(folder: &str) -> Vec<Source> {
    let rust = |path: &String| path.starts_with(folder) && path.ends_with(".rs");
    let paths = files().into_iter().filter(rust);
    paths.map(|path| Source::new(&path, &read(&path))).collect()
}

#[track_caller]
fn none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn sources_keep_the_rules() {
    let sources = sources("src/");
    assert!(sources.len() > LAYERS.len(), "the sources weren't found");
    let tests: Vec<String> = sources.iter().flat_map(test_modules).collect();
    let is_test = |source: &Source| {
        let path = source.path.trim_end_matches(".rs");
        tests
            .iter()
            .any(|t| path == t || path.starts_with(&format!("{t}/")))
    };
    let mut complaints = Vec::new();
    for source in &sources {
        for rule in [layering, keepers, purity, header, file_length] {
            complaints.extend(rule(source));
        }
        if !is_test(source) {
            complaints.extend(function_lengths(source));
            complaints.extend(proofs(source));
        }
    }
    let lib = sources.iter().filter(|source| source.path == "src/lib.rs");
    complaints.extend(lib.flat_map(doors));
    complaints.extend(cycles(&sources));
    none(&complaints);
}

#[test]
fn the_documented_layers_are_those_of_the_rule() {
    none(&documented(&read("ARCHITECTURE.md")));
}

#[test]
fn tests_have_headers_and_lengths() {
    let sources = sources("tests/");
    let rules = |source| [header(source), file_length(source)].concat();
    none(&sources.iter().flat_map(rules).collect::<Vec<_>>());
}

#[test]
fn the_repository_holds_what_it_should() {
    let files = files();
    let mut complaints = strangers(&files);
    for path in files.iter().filter(|path| *path != "Cargo.lock") {
        complaints.extend(machine_paths(path, &read(path)));
    }
    none(&complaints);
}

#[test]
fn a_crossed_layer_is_found() {
    let crossed = |path: &str, text: &str| layering(&Source::new(path, text)).len();
    assert_eq!(
        crossed("src/auth/decide.rs", "use crate::admission::Admission;"),
        1
    );
    assert_eq!(
        crossed(
            "src/auth.rs",
            "use crate::{prompt, engine::{self, Model}, wire};"
        ),
        2
    );
    assert_eq!(crossed("src/auth/mod.rs", "use super::daemon;"), 1);
    assert_eq!(
        crossed("src/quota.rs", "fn f() { crate::audit::open() }"),
        1,
        "beside"
    );
    assert_eq!(crossed("src/newcomer.rs", ""), 1);
    assert_eq!(
        crossed(
            "src/auth/decide.rs",
            "use crate::prompt::Request; use super::cli;"
        ),
        0
    );
    assert_eq!(
        crossed(
            "src/auth/a.rs",
            "// crate::cli\nconst A: &str = \"crate::cli\";"
        ),
        0
    );
    assert_eq!(
        crossed(
            "src/engine/a.rs",
            "use crate::{catalog::Bundle, engine::ops};"
        ),
        0
    );
    assert_eq!(crossed("src/lib.rs", "pub use crate::cli::main;"), 0);
}

#[test]
fn a_ring_of_files_is_found() {
    let found = |files: &[(&str, &str)]| {
        let sources: Vec<Source> = files.iter().map(|(p, t)| Source::new(p, t)).collect();
        rings(&sources)
    };
    let ring = [
        ("src/auth/mod.rs", "mod a; mod b; mod c; pub use c::{C, D};"),
        ("src/auth/a.rs", "use super::b::{self, B};"),
        ("src/auth/b.rs", "use crate::auth::{Other, D};"),
        ("src/auth/c.rs", "fn f() { super::a::g() }"),
    ];
    assert_eq!(found(&ring), [["auth::a", "auth::b", "auth::c"]]);
    let tree = [
        ("src/auth/mod.rs", "mod a; mod b; use a::A;"),
        ("src/auth/a.rs", "use super::{Auth, b::B};"),
        (
            "src/auth/b.rs",
            "#[cfg(test)]\nmod tests { use super::super::a::A; }",
        ),
        ("src/wire.rs", "use crate::auth::a::A;"),
    ];
    assert!(found(&tree).is_empty());
}

#[test]
fn a_wrong_table_of_layers_is_found() {
    let right = read("ARCHITECTURE.md");
    for (from, to) in [
        ("`engine`, `catalog`", "`catalog`"),
        ("| 6 | `config`", "| 6 | `config`, `wire`"),
        ("| 6 | `config`", "| 6 | `config`, `conf`"),
        ("| 8 | `cli`", "| 8 | `quota`"),
    ] {
        assert!(right.contains(from), "{from}");
        assert!(!documented(&right.replacen(from, to, 1)).is_empty(), "{to}");
    }
}

#[test]
fn other_broken_rules_are_found() {
    let broken = |rule: fn(&Source) -> Vec<String>, text: &str| {
        rule(&Source::new("src/auth.rs", text)).len()
    };
    assert_eq!(broken(keepers, "use sled::Db; use rumqttc as mqtt;"), 2);
    assert_eq!(
        broken(keepers, "// sled\nlet unsled = crate::store::open();"),
        0
    );
    let tells = "use crate::telemetry::Registry; fn f() { tracing::info!(\"a\") }";
    assert_eq!(broken(purity, tells), 2);
    let silent = "// crate::telemetry\nlet telemetry = \"tracing::info\";";
    assert_eq!(broken(purity, silent), 0);
    let above = Source::new("src/audit/a.rs", tells);
    assert!(purity(&above).is_empty());
    let lib = "pub mod for_tests;\nmod a;\npub mod b;\npub use cli::main;\npub use a::A;";
    assert_eq!(broken(doors, lib), 2);
    assert_eq!(broken(header, "use std::fmt;"), 1);
    assert_eq!(broken(file_length, &"\n".repeat(MAX_FILE + 1)), 1);
    let long = format!(
        "fn f(a: [u8; 4]) {{\n{}}}\nfn g() {{}}",
        "a();\n".repeat(MAX_FUNCTION)
    );
    assert_eq!(broken(function_lengths, &long), 1);
    assert_eq!(
        broken(
            function_lengths,
            &format!("#[cfg(test)]\nmod tests {{ {long} }}")
        ),
        0
    );
    assert_eq!(broken(function_lengths, &long.replacen("a();\n", "", 2)), 0);
    assert_eq!(strangers(&["src/lib.rs", "junk/a", "TODO"]).len(), 2);
    let path = ["", "root", "x"].join("/");
    assert_eq!(
        machine_paths("a", &format!("cat {path} $(pwd){path} a{path}")).len(),
        2
    );
}

#[test]
fn an_unproven_expect_is_found() {
    let unproven = |text: &str| proofs(&Source::new("src/a.rs", text)).len();
    assert_eq!(unproven("fn f() {\n    a.unwrap();\n}"), 1);
    assert_eq!(unproven("// some comment\na.expect(\"b\");"), 1);
    assert_eq!(
        unproven("// INVARIANT: a is set.\nlet c = 1;\na.expect(\"b\");"),
        1
    );
    assert_eq!(
        unproven("// INVARIANT: a is set\n// since f.\nlet c = a\n    .expect(\"b\");"),
        0
    );
    assert_eq!(
        unproven("#[expect(unused)]\nlet a = b.unwrap_or(1); // .unwrap()"),
        0
    );
    assert_eq!(
        unproven("#[cfg(test)]\nmod tests {\n    fn f() { a.unwrap() }\n}"),
        0
    );
    assert_eq!(
        unproven("#[cfg(test)]\nmod tests;\nfn f() { a.unwrap() }"),
        1
    );
}

#[test]
fn blanking_keeps_code_and_places() {
    let text =
        r##"let a = 'x'; let b = '\''; f::<'a>(r#"c"d"#, b"e\"", "//"); /* g /* h */ i */ j // k"##;
    let code = blank(text);
    assert_eq!(code.len(), text.len());
    let left: Vec<&str> = words(&code).map(|(_, word)| word).collect();
    assert_eq!(left, ["let", "a", "let", "b", "f", "a", "b", "j"]);
    let modules = test_modules(&Source::new("src/a.rs", "#[cfg(test)]\nmod tests;\nmod b;"));
    assert_eq!(modules, ["src/a/tests"]);
}
